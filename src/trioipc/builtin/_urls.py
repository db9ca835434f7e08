"""Which URLs are followed, and where a redirect leads.

One parser for all: the check in the caller's process, the redirects, and the request itself, since
two that differ are how a check is got round.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httpx2

from trioipc.builtin._probe import ProbeError

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMES = ("http", "https")
# RFC 3986 has none of these; clients differ in what they make of them.
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")
# RFC 1035, 2.3.4, as text.
_MAX_HOST = 253

_REDIRECTS = (301, 302, 303, 307, 308)


def url_of(text: object, name: str) -> httpx2.URL:
    """Parse an http or https URL.

    Raises:
      TypeError: if it is no ``str``.
      ValueError: if it is none of those, or holds credentials. The message has no part of it but
        scheme and port: the rest may be secret.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a str, not {type(text).__name__}")
    if _FORBIDDEN.search(text):
        raise ValueError(f"{name} must have no blanks, control characters or backslashes")
    try:
        url = httpx2.URL(text)
        host = url.raw_host.decode("ascii")
    except (httpx2.InvalidURL, UnicodeError):
        raise ValueError(f"{name} is no URL") from None
    if url.scheme not in SCHEMES:
        raise ValueError(f"{name} must begin with http:// or https://, not {url.scheme + ':'!r}")
    if url.userinfo:
        raise ValueError(f"{name} must hold no user name and no password")
    if not host or "%" in host or len(host) > _MAX_HOST:
        raise ValueError(f"{name} must name a host")
    if url.port is not None and not 0 < url.port < 1 << 16:
        raise ValueError(f"{name} must have a port of 1 to 65535, not {url.port}")
    return url


def redirect_of(
    url: httpx2.URL, status: int, headers: Sequence[tuple[bytes, bytes]]
) -> httpx2.URL | None:
    """Return where an answer leads on to; None if it is the last one.

    Raises:
      ProbeError: if that is nothing that is followed.
    """
    if status not in _REDIRECTS:
        return None
    locations = [value for key, value in headers if key.lower() == b"location"]
    if not locations:
        return None
    try:
        location = locations[0].decode("utf-8")
        # Checked before it is joined: a parser in between might mend what is wrong with it.
        if _FORBIDDEN.search(location):
            raise ProbeError("redirect")
        return url_of(str(url.join(location)), "location")
    except (httpx2.InvalidURL, ValueError):
        raise ProbeError("redirect") from None
