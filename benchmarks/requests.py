"""What a request offers, and what that costs: progress, cancelling, more than one worker."""

from __future__ import annotations

import time
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import trio

import trioipc
from benchmarks import work
from benchmarks.measure import Figure, interleaved, timed

if TYPE_CHECKING:
    from trioipc import WorkerPool

# Requests of about 5 ms of pure Python, and how many of them.
_MILLISECONDS = 5
_REQUESTS = 60


async def progress_figures(rounds: int) -> list[Figure]:
    """Measure what `on_progress` adds to a request, and one increment."""
    async with trioipc.open_worker_pool(1) as pool:
        for _ in range(50):
            await pool.run(work.nothing)
        calls = {
            "plain": partial(pool.run, work.advance, 10),
            "heard": partial(pool.run, work.advance, 10, on_progress=lambda progress: None),
        }
        times = await interleaved({n: partial(timed, c, 300) for n, c in calls.items()}, rounds)
        increments = [await pool.run(work.seconds_per_increment, 200_000) for _ in range(5)]
    return [
        Figure("with on_progress, x the plain request", times["heard"] / times["plain"], 1.4),
        Figure("one progress increment, us", median(increments) * 1e6, 0.2),
    ]


async def _control_back(pool: WorkerPool, after: float, *call: object) -> float:
    start = time.perf_counter()
    with trio.move_on_after(after) as scope:
        await pool.run(*call)  # type: ignore[arg-type]
    assert scope.cancelled_caught
    return time.perf_counter() - start


async def cancel_figures(rounds: int) -> list[Figure]:
    """Measure when control is back after a cancel."""
    async with trioipc.open_worker_pool(1) as pool:
        await pool.run(work.nothing)
        worker = await pool.run(work.pid)
        cooperative = [
            await _control_back(pool, 0.05, work.sleep_with_checks, 10, 0.002) - 0.05
            for _ in range(rounds * 3)
        ]
        same = await pool.run(work.pid) == worker
        asleep = [await _control_back(pool, 0.1, time.sleep, 10) for _ in range(rounds)]
    return [
        Figure("move_on_after(0.1) round time.sleep(10), worst, s", max(asleep), 0.3),
        Figure("cancelling what checks every 2 ms, worst, ms", max(cooperative) * 1000, 20),
        Figure("its worker serves the next request (1 for yes)", same, 1, at_most=False),
    ]


async def _seconds_for_all(size: int, turns: int) -> float:
    async with trioipc.open_worker_pool(size) as pool:
        await pool.warm()
        start = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(_REQUESTS):
                nursery.start_soon(pool.run, work.pure_python, turns)
        return time.perf_counter() - start


def _turns() -> int:
    """Find how many turns take about 5 ms on this machine, now."""
    start = time.perf_counter()
    work.pure_python(100_000)
    return int(100_000 * _MILLISECONDS / 1000 / (time.perf_counter() - start))


async def scaling_figures(rounds: int) -> list[Figure]:
    """Compare two workers with one; the median, since the best of noisy ratios is above two."""
    turns = _turns()
    ratios = []
    for _ in range(max(rounds, 5)):
        one, two = await _seconds_for_all(1, turns), await _seconds_for_all(2, turns)
        ratios.append(one / two)
    what = f"5 ms of pure Python, two workers, x one (median of {len(ratios)})"
    return [Figure(what, median(ratios), 1.8, at_most=False)]
