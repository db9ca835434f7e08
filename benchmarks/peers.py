"""What one could take instead, each behind the same call, as a Trio program would use it."""

from __future__ import annotations

import importlib.util
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import outcome
import trio
import trio_parallel

import trioipc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from concurrent.futures import Executor
    from contextlib import AbstractAsyncContextManager

    from benchmarks.measure import Call

    Peer = Callable[[int], AbstractAsyncContextManager[Call]]


@asynccontextmanager
async def ours(size: int) -> AsyncIterator[Call]:
    """trioipc, with all defaults."""
    async with trioipc.open_worker_pool(size) as pool:
        await pool.warm()
        yield pool.run


@asynccontextmanager
async def parallel(size: int) -> AsyncIterator[Call]:
    """trio-parallel; killed when cancelled, as a request of ours may be."""
    limiter = trio.CapacityLimiter(size)
    async with trio_parallel.open_worker_context() as context:
        yield partial(context.run_sync, kill_on_cancel=True, limiter=limiter)


@asynccontextmanager
async def thread(size: int) -> AsyncIterator[Call]:
    """`trio.to_thread.run_sync`: nothing is isolated, nothing is sent."""
    yield partial(trio.to_thread.run_sync, limiter=trio.CapacityLimiter(size))


async def _wait(start: Callable[[Callable[[outcome.Outcome[Any]], None]], object]) -> Any:
    """Wait for a callback from another thread, in the cheapest way that Trio has."""
    task = trio.lowlevel.current_task()
    token = trio.lowlevel.current_trio_token()
    start(lambda result: token.run_sync_soon(trio.lowlevel.reschedule, task, result))
    return await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)


def _submitting(executor: Executor) -> Call:
    async def call(function: Callable[..., Any], *arguments: Any) -> Any:
        future = executor.submit(function, *arguments)
        return await _wait(
            lambda wake: future.add_done_callback(lambda f: wake(outcome.capture(f.result)))
        )

    return call


@asynccontextmanager
async def executor(size: int) -> AsyncIterator[Call]:
    """`concurrent.futures.ProcessPoolExecutor`."""
    with ProcessPoolExecutor(size, multiprocessing.get_context("spawn")) as executor:
        yield _submitting(executor)


@asynccontextmanager
async def pool(size: int) -> AsyncIterator[Call]:
    """`multiprocessing.Pool`."""
    with multiprocessing.get_context("spawn").Pool(size) as pool:

        async def call(function: Callable[..., Any], *arguments: Any) -> Any:
            return await _wait(
                lambda wake: pool.apply_async(
                    function,
                    arguments,
                    callback=lambda value: wake(outcome.Value(value)),
                    error_callback=lambda error: wake(outcome.Error(error)),
                )
            )

        yield call


@asynccontextmanager
async def loky(size: int) -> AsyncIterator[Call]:
    """`loky.ProcessPoolExecutor`."""
    if sys.modules["cloudpickle"] is None:  # see `benchmarks`
        del sys.modules["cloudpickle"]
    from loky import ProcessPoolExecutor as LokyExecutor

    executor = LokyExecutor(size)
    try:
        yield _submitting(executor)
    finally:
        executor.shutdown(kill_workers=True)


@asynccontextmanager
async def anyio(size: int) -> AsyncIterator[Call]:
    """`anyio.to_process.run_sync`."""
    from anyio import CapacityLimiter, to_process

    limiter = CapacityLimiter(size)
    yield partial(to_process.run_sync, cancellable=True, limiter=limiter)


PEERS: dict[str, Peer] = {
    "trioipc": ours,
    "trio_parallel.run_sync": parallel,
    "trio.to_thread.run_sync": thread,
    "ProcessPoolExecutor": executor,
    "multiprocessing.Pool": pool,
    "loky": loky,
    "anyio.to_process.run_sync": anyio,
}

# {peer: what must be installed for it}
_NEEDS = {"loky": "loky", "anyio.to_process.run_sync": "anyio"}


def installed() -> dict[str, Peer]:
    """Return those whose packages are there."""
    return {
        name: peer
        for name, peer in PEERS.items()
        if name not in _NEEDS or importlib.util.find_spec(_NEEDS[name]) is not None
    }
