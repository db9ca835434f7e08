"""What a call costs: alone, with rests in between, and with many callers at once."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

import attrs

from benchmarks import work
from benchmarks.measure import Figure, interleaved, requests_per_second, timed
from benchmarks.peers import installed

CALLERS = 64
GAP = 0.002


@attrs.frozen
class Row:
    """What was measured of one peer, with one worker."""

    back_to_back: float
    """Seconds for an empty function, median."""
    with_gap: float
    """Likewise, after 2 ms of rest."""
    rate: float
    """Empty functions in a second, with 64 callers."""


async def measure(rounds: int) -> dict[str, Row]:
    """Measure all peers side by side, all with one worker, all open at the same time."""
    async with AsyncExitStack() as stack:
        calls = {
            name: await stack.enter_async_context(peer(1)) for name, peer in installed().items()
        }
        for call in calls.values():
            for _ in range(50):
                await call(work.nothing)
        empty = {name: partial(call, work.nothing) for name, call in calls.items()}
        alone = await interleaved({n: partial(timed, c, 300) for n, c in empty.items()}, rounds)
        gaps = await interleaved({n: partial(timed, c, 40, GAP) for n, c in empty.items()}, rounds)
        rates = await interleaved(
            {n: partial(requests_per_second, c, CALLERS, 0.3) for n, c in empty.items()},
            rounds,
        )
    return {name: Row(alone[name], gaps[name], rates[name]) for name in calls}


def figures(rows: dict[str, Row]) -> list[Figure]:
    """Compare with what must be reached."""
    ours = rows["trioipc"]
    parallel, thread = rows["trio_parallel.run_sync"], rows["trio.to_thread.run_sync"]
    return [
        Figure(
            "empty function, back to back, x trio_parallel",
            ours.back_to_back / parallel.back_to_back,
            0.45,
        ),
        Figure(
            "empty function, back to back, x to_thread",
            ours.back_to_back / thread.back_to_back,
            0.55,
        ),
        Figure(
            "empty function, 2 ms between calls, x trio_parallel",
            ours.with_gap / parallel.with_gap,
            0.65,
        ),
        Figure(
            "empty function, 2 ms between calls, x to_thread", ours.with_gap / thread.with_gap, 0.9
        ),
        Figure(
            "64 callers, requests per second, x trio_parallel",
            ours.rate / parallel.rate,
            5.0,
            at_most=False,
        ),
    ]
