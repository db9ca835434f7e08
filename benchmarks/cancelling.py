"""When control is back after a cancel, and when the next call is answered: all peers side by side.

What cannot be cancelled ends by itself: those peers are shown with what is left of it.
"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from statistics import median
from typing import TYPE_CHECKING, Any

import attrs
import trio

from benchmarks import work
from benchmarks.peers import installed

if TYPE_CHECKING:
    from benchmarks.measure import Call

# What is cancelled takes so long by itself, and is cancelled after so long.
SECONDS = 0.5
AFTER = 0.1

# {what it does: a call of it}
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "looks every 2 ms": (work.sleep_with_checks, SECONDS, 0.002),
    "sleeps": (time.sleep, SECONDS),
    "computes": (work.busy, SECONDS),
}


@attrs.frozen
class Cancels:
    """What was measured: seconds from the cancel, by peer and what its function does."""

    back: dict[str, dict[str, float]]
    """Until control was back."""
    again: dict[str, dict[str, float]]
    """Until the next call of an empty function was answered."""


async def measure(rounds: int) -> Cancels:
    """Cancel each function on each peer, in turn, round after round; return the medians."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    async with AsyncExitStack() as stack:
        calls = {
            name: await stack.enter_async_context(peer(1)) for name, peer in installed().items()
        }
        for name, call in calls.items():
            await call(work.nothing)
            found[name] = {what: [] for what in _FUNCTIONS}
        for _ in range(rounds):
            for name, call in calls.items():
                for what, function in _FUNCTIONS.items():
                    found[name][what].append(await _cancelled(call, function))
    back, again = (
        {
            name: {what: median(one[which] for one in many) for what, many in times.items()}
            for name, times in found.items()
        }
        for which in (0, 1)
    )
    return Cancels(back, again)


async def _cancelled(call: Call, function: tuple[Any, ...]) -> tuple[float, float]:
    """Return when control is back, and when the next answer is there."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call, *function)
        await trio.sleep(AFTER)
        start = time.perf_counter()
        nursery.cancel_scope.cancel()
    back = time.perf_counter()
    await call(work.nothing)
    return back - start, time.perf_counter() - start
