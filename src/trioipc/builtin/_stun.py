"""STUN binding requests and what answers them; no I/O.

The codec is aioice's. What it does not check is checked here before it sees a byte, since what
comes in by UDP comes from anybody: the magic cookie, the two top bits, that the length is a
multiple of four, that every attribute lies within the message and is there once. Source address and
transaction id are the caller's to compare.

Source: RFC 8489, sections 5, 6.2.1, 6.3 and 14.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from typing import TYPE_CHECKING, final

import attrs
from aioice import stun

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_PORT = 3478
# RFC 8489, 6.2.1: RTO, Rc and Rm.
FIRST_TIMEOUT = 0.5
REQUESTS = 7
LAST_FACTOR = 16

_HEADER = struct.Struct("!HHI12s")
_ATTRIBUTE = struct.Struct("!HH")

# RFC 7064, without what a registered name may have in theory only.
_URI = re.compile(r"stun:(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?", re.IGNORECASE)


@final
@attrs.frozen
class Response:
    """A well-formed answer to a binding request."""

    transaction: bytes
    """Of the request that it claims to answer; 12 bytes."""

    mapped: tuple[str, int] | None
    """Where the server saw the request come from; None if it refused."""

    error: int | None
    """Why, 300 to 699; None if it did not."""


def server_of(uri: object, name: str) -> tuple[str, int]:
    """Return host and port of a STUN URI.

    Raises:
      TypeError: if it is no ``str``.
      ValueError: if it is no STUN URI.
    """
    if not isinstance(uri, str):
        raise TypeError(f"{name} must be a str, not {type(uri).__name__}")
    match = _URI.fullmatch(uri)
    port = int(match[2] or DEFAULT_PORT) if match else 0
    if match is None or not 0 < port < 1 << 16:
        raise ValueError(f"{name} must be stun:host or stun:host:port, and this is not")
    return match[1].strip("[]"), port


def binding_request() -> tuple[bytes, bytes]:
    """Return a request, and its transaction id."""
    message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    message.add_fingerprint()
    return bytes(message), message.transaction_id


def timeouts() -> Iterator[float]:
    """Say how long to wait after each time that the request was sent."""
    for number in range(REQUESTS - 1):
        yield FIRST_TIMEOUT * 2**number
    yield FIRST_TIMEOUT * LAST_FACTOR


def parse_response(data: bytes) -> Response | None:
    """Parse a datagram; None for everything that answers no binding request, or not properly."""
    if not _is_well_formed(data):
        return None
    try:
        message = stun.parse_message(data)
    except (ValueError, struct.error):
        return None
    if message.message_method is not stun.Method.BINDING:
        return None
    if message.message_class is stun.Class.RESPONSE:
        mapped = message.attributes.get("XOR-MAPPED-ADDRESS")
        if mapped is None or not _is_usable(*mapped):
            return None
        return Response(message.transaction_id, mapped, None)
    if message.message_class is stun.Class.ERROR:
        code = message.error_code
        if code is None or not 300 <= code <= 699:
            return None
        return Response(message.transaction_id, None, code)
    return None


def _is_well_formed(data: bytes) -> bool:
    if len(data) < _HEADER.size or len(data) % 4:
        return False
    kind, length, cookie, _ = _HEADER.unpack_from(data)
    if kind >> 14 or cookie != stun.COOKIE or length != len(data) - _HEADER.size:
        return False
    kinds = []
    position = _HEADER.size
    while position < len(data):
        kind, length = _ATTRIBUTE.unpack_from(data, position)
        position += _ATTRIBUTE.size + length + -length % 4
        if kind < 0x8000 and kind not in stun.ATTRIBUTES_BY_TYPE:
            return False  # it must be understood, and is not
        kinds.append(kind)
    return position == len(data) and len(set(kinds)) == len(kinds)


def _is_usable(host: str, port: int) -> bool:
    address = ipaddress.ip_address(host)
    return port > 0 and not address.is_multicast and not address.is_unspecified
