"""Payloads of real pools: shared memory is reused, never shared by mistake, and never piles up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

import payload_jobs as jobs
from helpers import wait_until
from trioipc import RequestCancelledError, open_worker_pool
from trioipc.memory._arena import size_class
from trioipc.memory._board import OVER, STATE
from trioipc.memory._segment import ENVIRONMENT_VARIABLE
from trioipc.pool._process import ProcessEngine

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioipc import PoolRequest, WorkerPool
    from trioipc.pool._store import ArenaStatistics, Store

MIB = 1 << 20


@pytest.fixture(params=["memfd", "shm"], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Provide each kind of shared memory, forced by the environment, which workers inherit."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, request.param)
    return str(request.param)


def arena_of(pool: WorkerPool) -> ArenaStatistics:
    """Return what the statistics say of a pool's shared memory."""
    arena = pool.statistics().arena
    assert arena is not None
    return arena


def block_until(true: Callable[[], object]) -> None:
    """Wait until something holds, and keep the event loop from turning meanwhile."""
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def is_over(request: PoolRequest[Any]) -> bool:
    """Say whether a worker has answered, also if nobody has read that yet."""
    worker = request._worker
    if worker is None:
        return True
    cells = worker.endpoint._slots[request._slot]  # type: ignore[attr-defined]
    return bool(cells[STATE] == request._generation << 2 | OVER)


def store_of(pool: WorkerPool) -> Store:
    """Return what keeps a pool's shared memory."""
    engine = pool._dispatcher.engine
    assert isinstance(engine, ProcessEngine)
    return engine.store


async def all_is_back(pool: WorkerPool) -> None:
    """Wait until no slab of the parent's is in use, or lent."""
    store = store_of(pool)

    def is_back() -> bool:
        store.arena.drain()
        return not any(slab.uses for slab in store.arena.slabs.values())

    await wait_until(is_back)


# ---- slabs, and who knows them


async def test_a_slab_in_an_answer_that_was_not_read_yet_is_not_dropped() -> None:
    """Room for something else is made of what nobody can refer to any more."""
    async with open_worker_pool(1, max_arena_bytes=6 * MIB) as pool:
        await pool.run(jobs.make, 4 * MIB)  # and nobody holds it: it is warm for the next
        async with pool.open_request(jobs.make, 4 * MIB, 2) as request:
            block_until(lambda: is_over(request))
            held = pool.allocate(4 * MIB)
            assert bytes(await request.result()) == b"\2" * (4 * MIB)
        assert held[:10] == bytes(10)


async def test_a_call_that_was_cancelled_before_it_began_gives_its_memory_back() -> None:
    """The worker has seen no more of it than the frame."""
    async with open_worker_pool(1) as pool:
        await pool.run(jobs.count)
        for _ in range(10):
            async with pool.open_request(jobs.count, bytes(100_000)) as request:
                request.cancel()
                with pytest.raises(RequestCancelledError):
                    await request.result()
        await pool.run(jobs.count)
        await all_is_back(pool)
        assert arena_of(pool).size <= 2 * size_class(100_000)
