"""Whether hosts answer, and how soon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trioipc._errors import IPCError
from trioipc.bridge.bridge import open_worker_bridge
from trioipc.cli._errors import FAILED, OK
from trioipc.cli._screen import Screen

if TYPE_CHECKING:
    from trioipc.builtin._probe import ConnectivityResult


async def probe(urls: list[str], timeout: float) -> int:
    """Ask all of them at once, and say of each what came; return the exit code.

    Raises:
      OutputError: if that cannot be said.
    """
    screen = Screen(None)
    try:
        async with open_worker_bridge(1, placement="thread") as bridge:
            results = await bridge.network.test_connectivity(urls, timeout=timeout)
    except (IPCError, ValueError) as error:
        screen.complain(str(error))
        return FAILED
    for result in results:
        screen.line(f"{result.url}: {_said_of(result)}")
    return OK if all(result.reachable for result in results) else FAILED


def _said_of(result: ConnectivityResult) -> str:
    if result.latency is None:
        return f"no answer ({result.error})"
    return f"status {result.status} after {1000 * result.latency:.1f} ms"
