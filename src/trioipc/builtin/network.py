"""Probes of the network: asynchronous functions, for workers that run many at once.

What they find out is in `_probe`; what they need is loaded when one of them is awaited: Trio, and
the libraries of the extra ``network``.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from trioipc._errors import MissingExtraError
from trioipc.worker.registry import operation

if TYPE_CHECKING:
    from trioipc.builtin._probe import Bandwidth, ConnectivityResult, IceResult, Latency

_NEEDED = ("httpx2", "httpcore2", "aioice", "ifaddr")


def refuse_missing_extra() -> None:
    """Raise the MissingExtraError if a library is not installed; nothing is loaded."""
    for name in _NEEDED:
        if find_spec(name) is None:
            raise MissingExtraError(
                f"network operations need {name}: pip install 'trioipc[network]'"
            )


@operation(channel="network", idempotent=True)
async def test_connectivity(
    urls: list[str], timeout: float, allow_private: bool
) -> list[ConnectivityResult]:
    """Ask all URLs at once whether they answer.

    Args:
      urls: http or https.
      timeout: Seconds for all of them.
      allow_private: Whether they, and what they redirect to, may be on private networks.

    Returns:
      A result for each, in their order.
    """
    refuse_missing_extra()
    from trioipc.builtin import _rooms

    room = await _rooms.load("_http")
    result: list[ConnectivityResult] = await room.test_connectivity(urls, timeout, allow_private)
    return result


@operation(channel="network", idempotent=True)
async def resolve_ice(stun_servers: list[str], timeout: float, allow_private: bool) -> IceResult:
    """Ask STUN servers how they see each address of this machine.

    Args:
      stun_servers: ``"stun:host"`` or ``"stun:host:port"``.
      timeout: Seconds for all of them.
      allow_private: Whether the servers may be on private networks.

    Returns:
      The candidates.
    """
    refuse_missing_extra()
    from trioipc.builtin import _rooms

    room = await _rooms.load("_ice")
    result: IceResult = await room.resolve_ice(stun_servers, timeout, allow_private)
    return result


@operation(channel="network", idempotent=True)
async def bandwidth_test(
    url: str, payload_size: int | None, timeout: float, allow_private: bool
) -> Bandwidth:
    """Measure how fast a URL's body comes.

    Args:
      url: http or https.
      payload_size: How many bytes of it at most; None for 1 GiB.
      timeout: Seconds.
      allow_private: Whether it, and what it redirects to, may be on private networks.

    Returns:
      The measurement.
    """
    refuse_missing_extra()
    from trioipc.builtin import _rooms

    room = await _rooms.load("_http")
    result: Bandwidth = await room.bandwidth_test(url, payload_size, timeout, allow_private)
    return result


@operation(channel="network", idempotent=True)
async def latency_check(url: str, samples: int, timeout: float, allow_private: bool) -> Latency:
    """Measure how long a URL takes to answer, one request after the other.

    Args:
      url: http or https.
      samples: How many requests.
      timeout: Seconds for all of them.
      allow_private: Whether it may be on a private network.

    Returns:
      The measurement.
    """
    refuse_missing_extra()
    from trioipc.builtin import _rooms

    room = await _rooms.load("_http")
    result: Latency = await room.latency_check(url, samples, timeout, allow_private)
    return result
