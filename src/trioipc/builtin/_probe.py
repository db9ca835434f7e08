"""What network operations find out, and how it may fail; plain records that every process knows."""

from __future__ import annotations

import math
from typing import Literal, final

import attrs

Failure = Literal["timeout", "name", "private", "connect", "tls", "protocol", "redirect"]
"""Why a host is no use:

- ``"timeout"``: it had not answered in time.
- ``"name"``: its name leads to no address.
- ``"private"``: its name leads to a private address, and ``allow_private`` is false.
- ``"connect"``: nothing listens there, or there is no way to it.
- ``"tls"``: TLS could not be agreed on, or its certificate is not trusted.
- ``"protocol"``: what it sent is no HTTP, or too long, or broke off.
- ``"redirect"``: it leads on to what is no http or https URL, or too often.
"""


class ProbeError(Exception):
    """Ends a probe; it becomes the ``error`` of a result and never leaves an operation."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure: Failure = failure


@final
@attrs.frozen
class ConnectivityResult:
    """Whether a URL answers."""

    url: str
    """As it was given."""

    reachable: bool
    """Whether an HTTP answer came, whatever its status."""

    status: int | None
    """Of that answer, after redirects; None without one."""

    latency: float | None
    """Seconds from the start to the end of that answer's header, with looking up the name,
    connecting and redirects; None without one."""

    error: Failure | None
    """Why there was none."""


@final
@attrs.frozen
class Bandwidth:
    """How fast a body came."""

    mbps: float
    """10**6 bits a second; NaN if nothing came."""

    transfer_time: float
    """Seconds from the request, on an open connection, to the last byte; NaN if nothing came."""

    bytes_transferred: int
    """Of the body, as it was sent; nothing is decompressed."""

    error: Failure | None = None
    """Why it came to an end before its time; what had come by then is counted."""


@final
@attrs.frozen
class Latency:
    """How long a host takes to answer."""

    average: float
    """Seconds; NaN if no request was answered, as the next two."""

    minimum: float
    """Seconds."""

    maximum: float
    """Seconds."""

    samples: tuple[float, ...]
    """Seconds from each request, on an open connection, to its answer's header."""

    error: Failure | None = None
    """Why the last request that was not answered was not."""


@final
@attrs.frozen
class IceCandidate:
    """An address at which this machine may be reached; the names are those of RFC 8839."""

    foundation: str
    """The same for candidates of the same type, base address, transport and STUN server."""

    component: int
    """1, since there is one component."""

    transport: Literal["udp"]
    """``"udp"``."""

    priority: int
    """By RFC 8445, 5.1.2.1; higher is better."""

    host: str
    """The IP address."""

    port: int
    """The UDP port."""

    type: Literal["host", "srflx"]
    """``"host"``: of an interface; ``"srflx"``: as a STUN server sees one of them."""

    related_host: str | None
    """For ``"srflx"``, the interface's address."""

    related_port: int | None
    """And its port."""


@final
@attrs.frozen
class IceResult:
    """How this machine can be reached by UDP."""

    candidates: tuple[IceCandidate, ...]
    """Highest priority first."""

    success: bool
    """Whether a STUN server answered; without servers, whether there is an address at all."""


def bandwidth_of(seconds: float, count: int, error: Failure | None) -> Bandwidth:
    """Return what ``count`` bytes in ``seconds`` amount to."""
    if not count:
        return Bandwidth(math.nan, math.nan, 0, error)
    # No clock is finer: what came with the header took no time that could be measured.
    seconds = max(seconds, 1e-9)
    return Bandwidth(count * 8 / seconds / 1e6, seconds, count, error)


def latency_of(samples: list[float], error: Failure | None) -> Latency:
    """Return what the samples amount to."""
    if not samples:
        return Latency(math.nan, math.nan, math.nan, (), error)
    average = math.fsum(samples) / len(samples)
    return Latency(average, min(samples), max(samples), tuple(samples), error)
