"""What it brings to send short requests ahead, and what it costs."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import trio

import trioipc
from benchmarks import work
from benchmarks.measure import Figure, interleaved, requests_per_second, timed
from benchmarks.peers import parallel

if TYPE_CHECKING:
    from trioipc import WorkerPool

_CALLERS = 256

# The mix: many short requests, and now and then one that takes a thousand times as long.
_REQUESTS, _LONG_ONES = 3000, 20
_SHORT_SECONDS, _LONG_SECONDS = 20e-6, 0.03
_MIX_CALLERS = 16
_REST_SECONDS = 0.0005


def _switch_off(pool: WorkerPool) -> None:
    """Send nothing ahead in this pool."""
    pool._dispatcher.scheduler.ahead_nanoseconds = 0


async def _pools(stack: AsyncExitStack, size: int) -> dict[str, WorkerPool]:
    """Open two pools, one of which sends nothing ahead."""
    pools = {}
    for name in ("with", "without"):
        pool = await stack.enter_async_context(trioipc.open_worker_pool(size))
        await pool.warm()
        for _ in range(50):
            await pool.run(work.nothing)
            await pool.run(work.busy, 0.0)
        pools[name] = pool
    _switch_off(pools["without"])
    return pools


async def _p99_of_the_short(pool: WorkerPool) -> float:
    """Return the 99th percentile of the short requests' times in the mix, in seconds."""
    every = _REQUESTS // _LONG_ONES
    jobs = iter(range(_REQUESTS))
    times = []

    async def caller() -> None:
        for number in jobs:
            if number % every == every // 2:
                await pool.run(time.sleep, _LONG_SECONDS)
            else:
                start = time.perf_counter()
                await pool.run(work.busy, _SHORT_SECONDS)
                times.append(time.perf_counter() - start)
            await trio.sleep(_REST_SECONDS)

    async with trio.open_nursery() as nursery:
        for _ in range(_MIX_CALLERS):
            nursery.start_soon(caller)
    return sorted(times)[int(len(times) * 0.99)]


async def figures(rounds: int) -> list[Figure]:
    """Measure pools that send ahead beside pools that do not, and trio_parallel."""
    async with AsyncExitStack() as stack:
        pools = await _pools(stack, 1)
        empty = {name: partial(pool.run, work.nothing) for name, pool in pools.items()}
        empty["trio_parallel"] = partial(await stack.enter_async_context(parallel(1)), work.nothing)
        rates = await interleaved(
            {n: partial(requests_per_second, c, _CALLERS, 0.3) for n, c in empty.items()}, rounds
        )
        alone = await interleaved(
            {n: partial(timed, empty[n], 500) for n in ("with", "without")}, rounds
        )
    async with AsyncExitStack() as stack:
        pools = await _pools(stack, 2)
        mix = await interleaved(
            {name: partial(_p99_of_the_short, pool) for name, pool in pools.items()},
            max(3, rounds // 2),
        )
    return [
        Figure(
            f"{_CALLERS} callers, requests per second, x without sending ahead",
            rates["with"] / rates["without"],
            1.4,
            at_most=False,
        ),
        Figure(
            f"{_CALLERS} callers, requests per second, x trio_parallel",
            rates["with"] / rates["trio_parallel"],
            8.0,
            at_most=False,
        ),
        Figure(
            "one caller, us more than without sending ahead",
            (alone["with"] - alone["without"]) * 1e6,
            1.0,
        ),
        Figure(
            "20 us among 30 ms, two workers: p99 of the short, x without sending ahead",
            mix["with"] / mix["without"],
            1.0,
        ),
    ]
