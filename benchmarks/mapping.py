"""Many small items through `map`, beside the maps of others: items in a second."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import trioipc
from benchmarks import work
from benchmarks.measure import Figure, interleaved

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from trioipc import WorkerPool

    Map = Callable[[Iterable[Any]], Iterator[Any]]

WORKERS = 2
# Each takes some tenths of a second; those that send items one by one get fewer.
_MANY, _FEW = 200_000, 2_000
_TUPLES = [(number, f"{number}") for number in range(_MANY)]
_STRINGS = [f"item {number}" for number in range(_MANY)]


async def _ours(pool: WorkerPool, items: Iterable[Any], **options: Any) -> float:
    """Return how many items go through ours in a second; each is a cancel point."""
    number = 0
    start = time.perf_counter()
    async with pool.map(work.same, items, **options) as results:
        async for _ in results:
            number += 1
    return number / (time.perf_counter() - start)


async def _theirs(mapped: Map, items: Iterable[Any]) -> float:
    """Likewise through another's, which blocks."""
    number = 0
    start = time.perf_counter()
    for _ in mapped(items):
        number += 1
    return number / (time.perf_counter() - start)


def _joblib(items: Iterable[Any]) -> Iterator[Any]:
    if sys.modules.get("cloudpickle", sys) is None:  # see `benchmarks`
        del sys.modules["cloudpickle"]
    from joblib import Parallel, delayed

    calls = (delayed(work.same)(item) for item in items)
    results: Iterator[Any] = Parallel(n_jobs=WORKERS, return_as="generator")(calls)
    return results


def _measures(pool: WorkerPool, stack: ExitStack) -> dict[str, Callable[[], Awaitable[float]]]:
    context = multiprocessing.get_context("spawn")
    executor = stack.enter_context(ProcessPoolExecutor(WORKERS, context))
    processes = stack.enter_context(context.Pool(WORKERS))
    by_500: Map = partial(executor.map, work.same, chunksize=500)
    one_by_one: Map = partial(executor.map, work.same, chunksize=1)
    by_500_of_pool: Map = partial(processes.imap, work.same, chunksize=500)
    return {
        "ints": partial(_ours, pool, range(_MANY)),
        "strings": partial(_ours, pool, _STRINGS),
        "tuples": partial(_ours, pool, _TUPLES),
        "one by one": partial(_ours, pool, range(_FEW), chunk_size=1),
        "ints, executor": partial(_theirs, by_500, range(_MANY)),
        "strings, executor": partial(_theirs, by_500, _STRINGS),
        "tuples, executor": partial(_theirs, by_500, _TUPLES),
        "one by one, executor": partial(_theirs, one_by_one, range(_FEW)),
        "ints, Pool.imap": partial(_theirs, by_500_of_pool, range(_MANY)),
        "ints, joblib": partial(_theirs, _joblib, range(_MANY // 4)),
    }


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def _growth(pool: WorkerPool) -> float:
    """Return by how many MiB this process is larger after a million items than after a tenth."""
    sizes = []
    number = 0
    async with pool.map(work.same, range(1_000_000)) as results:
        async for _ in results:
            number += 1
            if number % 100_000 == 0:
                sizes.append(_resident())
    return (sizes[-1] - sizes[0]) / 2**20


async def measure(rounds: int) -> tuple[dict[str, float], float]:
    """Return items per second of each, and by how many MiB this process grew."""
    with ExitStack() as stack:
        async with trioipc.open_worker_pool(WORKERS) as pool:
            await pool.warm()
            measures = _measures(pool, stack)
            await interleaved(measures, 1)  # all start their processes
            rates = await interleaved(measures, rounds)
            growth = await _growth(pool)
    return rates, growth


async def figures(rounds: int) -> list[Figure]:
    """Compare with what must be reached."""
    rates, growth = await measure(rounds)
    ints = rates["ints"]

    def at_least(what: str, got: float, limit: float) -> Figure:
        return Figure(f"map of small items, 2 workers: {what}", got, limit, at_most=False)

    executor = "ProcessPoolExecutor.map"
    return [
        at_least(f"ints, x {executor}(chunksize=500)", ints / rates["ints, executor"], 0.9),
        at_least("ints, x joblib.Parallel", ints / rates["ints, joblib"], 4),
        at_least(f"ints, x {executor}(chunksize=1)", ints / rates["one by one, executor"], 100),
        at_least("ints, x multiprocessing.Pool.imap(500)", ints / rates["ints, Pool.imap"], 0),
        at_least(
            f"short strings, x {executor}(chunksize=500)",
            rates["strings"] / rates["strings, executor"],
            0,
        ),
        at_least(
            f"pairs, x {executor}(chunksize=500)", rates["tuples"] / rates["tuples, executor"], 0
        ),
        at_least(
            f"chunk_size=1, x {executor}(chunksize=1)",
            rates["one by one"] / rates["one by one, executor"],
            1,
        ),
        Figure("map of a million items: this process grows by, MiB", growth, 4),
    ]
