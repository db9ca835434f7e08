"""Requests on a Dask cluster, beside Dask's own client: two workers with one thread each."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import trio

import trioipc
from benchmarks import work
from benchmarks.measure import Figure, interleaved

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trioipc import WorkerPool

WORKERS = 2
_CALLS = 50
_MANY, _FEW = 100_000, 1_000
# Of those that lose their workers.
_REQUESTS = 1_000
_KILLS_APART = 1.0

# No module of ours, which would keep from Dask what it needs: see `benchmarks`.
_CLUSTER = f"""
import sys
import tempfile
import dask
from distributed import LocalCluster

# Else workers that are being restarted are let go for good, 15 s after they were killed before.
dask.config.set({{"distributed.deploy.lost-worker-timeout": "1h"}})

with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, LocalCluster(
    n_workers={WORKERS},
    threads_per_worker=1,
    dashboard_address=":0",
    silence_logs=50,
    local_directory=folder,
) as local:
    print(local.scheduler_address, flush=True)
    sys.stdin.read()
"""


def _load() -> tuple[Any, Any]:
    """Return a client of Dask's as a type, and our engine: others here are measured without it."""
    if sys.modules.get("cloudpickle", sys) is None:  # see `benchmarks`
        del sys.modules["cloudpickle"]
    from distributed import Client

    from trioipc.dask import DaskEngine

    return partial(Client, set_as_default=False), DaskEngine


@contextmanager
def cluster() -> Iterator[str]:
    """Have one in processes of its own; yield the address of its scheduler."""
    process = subprocess.Popen(
        [sys.executable, "-c", _CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


async def _ours(pool: WorkerPool) -> float:
    """Return the median seconds of a request."""
    times = []
    for number in range(_CALLS):
        start = time.perf_counter()
        await pool.run(work.same, number)
        times.append(time.perf_counter() - start)
    return median(times)


async def _theirs(client: Any) -> float:
    """Likewise of a task of Dask's, which blocks."""
    times = []
    for number in range(_CALLS):
        start = time.perf_counter()
        client.submit(work.same, number, pure=False).result()
        times.append(time.perf_counter() - start)
    return median(times)


async def _our_map(pool: WorkerPool) -> float:
    """Return how many items go through a map in a second."""
    start = time.perf_counter()
    async with pool.map(work.same, range(_MANY)) as results:
        assert sum([value async for value in results]) == sum(range(_MANY))
    return _MANY / (time.perf_counter() - start)


async def _their_tasks(client: Any) -> float:
    """Likewise with a task of Dask's for each of them."""
    start = time.perf_counter()
    tasks = [client.submit(work.same, number, pure=False) for number in range(_FEW)]
    assert sum(client.gather(tasks)) == sum(range(_FEW))
    return _FEW / (time.perf_counter() - start)


async def losses(address: str) -> tuple[int, int, int]:
    """Run requests while workers are killed; return how many were lost, were wrong, or retried."""
    got: dict[int, float] = {}

    async def ask(pool: WorkerPool, number: int) -> None:
        got[number] = await pool.run(work.sleep_and_return, 0.01, number, idempotent=True)

    async def kill(client: Any) -> None:
        for turn in range(1_000):
            await trio.sleep(_KILLS_APART)
            run = functools.partial(client.run, os.getpid, on_error="ignore")
            pids = sorted((await trio.to_thread.run_sync(run)).values())
            if pids:
                os.kill(pids[turn % len(pids)], signal.SIGKILL)

    connect, engine = _load()
    client: Any = await trio.to_thread.run_sync(connect, address)
    async with trioipc.open_worker_pool(engine=engine(client)) as pool:
        async with trio.open_nursery() as killing:
            killing.start_soon(kill, client)
            async with trio.open_nursery() as asking:
                for number in range(_REQUESTS):
                    asking.start_soon(ask, pool, number)
            killing.cancel_scope.cancel()
        retried = pool.statistics().restarts.get("crashed", 0)
    await trio.to_thread.run_sync(client.close)
    return _REQUESTS - len(got), sum(got[number] != number for number in got), retried


async def figures(rounds: int) -> list[Figure]:
    """Compare with what must be reached."""
    with cluster() as address:
        connect, engine = _load()
        client: Any = await trio.to_thread.run_sync(connect, address)
        async with trioipc.open_worker_pool(engine=engine(client)) as pool:
            measures = {"ours": partial(_ours, pool), "theirs": partial(_theirs, client)}
            await interleaved(measures, 1)
            seconds = await interleaved(measures, rounds)
            maps = {"ours": partial(_our_map, pool), "theirs": partial(_their_tasks, client)}
            rates = await interleaved(maps, rounds)
        await trio.to_thread.run_sync(client.close)
        lost, wrong, retried = await losses(address)
    what = "on a Dask cluster"
    return [
        Figure(
            f"{what}: a request, x client.submit().result()",
            seconds["ours"] / seconds["theirs"],
            1.5,
        ),
        Figure(
            f"{what}: map of 100,000 ints, x client.submit() for each",
            rates["ours"] / rates["theirs"],
            10,
            at_most=False,
        ),
        Figure(f"{what}: of 1,000 requests, a worker killed each second: lost", lost, 0),
        Figure(f"{what}: of these: wrong", wrong, 0),
        Figure(
            f"{what}: of these: tries that were lost with their workers", retried, 1, at_most=False
        ),
    ]
