"""Payloads of real pools: shared memory is reused, never shared by mistake, and never piles up."""

from __future__ import annotations

import ctypes
import errno
import gc
import math
import os
import resource
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio

import payload_jobs as jobs
from helpers import wait_until
from trioipc import PayloadError, RequestCancelledError, SharedFlag, open_worker_pool
from trioipc.memory._arena import SMALLEST, size_class
from trioipc.memory._board import OVER, STATE
from trioipc.memory._ring import RingWriter, Streamed
from trioipc.memory._segment import ENVIRONMENT_VARIABLE
from trioipc.pool._cargo import Cargo
from trioipc.pool._process import ProcessEngine
from trioipc.pool._store import Store
from trioipc.protocol._codec import encode
from trioipc.worker._beside import Beside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from trioipc import PoolRequest, WorkerPool
    from trioipc.pool._store import ArenaStatistics

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


async def test_more_allocations_in_a_call_than_a_socket_takes() -> None:
    """Those that cannot be shown are copied."""
    async with open_worker_pool(1) as pool:
        views = [pool.allocate(SMALLEST) for _ in range(300)]
        for index, view in enumerate(views):
            view[index % 3] = index % 251
        with trio.fail_after(20):
            for _ in range(2):
                assert await pool.run(jobs.sums, *views) == [index % 251 for index in range(300)]


# ---- no descriptors


@pytest.fixture
def few_descriptors() -> Iterator[Callable[[int], object]]:
    """Provide what leaves this process only so many more descriptors; gives them back."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield jobs.use_up_descriptors
    jobs.free_descriptors()
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("size", [100_000, 10 * MIB])
async def test_no_descriptor_for_arguments(
    few_descriptors: Callable[[int], object], size: int
) -> None:
    """It is an error of that call, whoever waits behind it is served."""
    async with open_worker_pool(1) as pool, trio.open_nursery() as nursery:
        assert await pool.run(jobs.count) == 0
        few_descriptors(0)
        async with pool.open_request(jobs.count, bytes(size)) as request:
            nursery.start_soon(pool.run, jobs.count)
            with pytest.raises(OSError, match="Too many open files"):
                await request.result()
        with pytest.raises(OSError, match="Too many open files"):
            pool.allocate(size)
        assert await pool.run(jobs.count, b"small") == 1
        jobs.free_descriptors()
        assert await pool.run(jobs.count, bytes(size)) == 1


@pytest.mark.parametrize("size", [100_000, 10 * MIB])
async def test_no_descriptor_for_results(
    few_descriptors: Callable[[int], object], size: int
) -> None:
    """It is an error of that call; the worker lives, and its memory can be shown later."""
    async with open_worker_pool(1) as pool:
        pid = await pool.run(os.getpid)
        few_descriptors(0)
        for _ in range(3):
            with pytest.raises(PayloadError, match=r"be received.*Too many open files"):
                await pool.run(jobs.make, size)
        with pytest.raises(PayloadError, match=r"be received.*Too many open files"):
            await pool.run(jobs.counter)
        jobs.free_descriptors()
        assert bytes(await pool.run(jobs.make, size, 3)) == b"\3" * size
        with await pool.run(jobs.counter) as counter:
            assert counter.get() == 7
        assert await pool.run(os.getpid) == pid


@pytest.mark.parametrize("size", [100_000, 10 * MIB])
async def test_no_descriptor_in_the_worker(size: int) -> None:
    """Neither for arguments nor for results: errors of those calls; the worker lives."""
    async with open_worker_pool(1) as pool:
        pid = await pool.run(os.getpid)
        view = pool.allocate(size)
        view[:3] = b"abc"
        flag = SharedFlag()
        await pool.run(jobs.count, bytes(size))  # now it has loaded what it needs for that
        await pool.run(jobs.use_up_descriptors, 0)
        with trio.fail_after(20):
            for _ in range(3):
                with pytest.raises(PayloadError, match="Too many open files"):
                    await pool.run(jobs.sums, view, bytes(size))
            with pytest.raises(PayloadError, match="Too many open files"):
                await pool.run(jobs.count, view, flag)
            with pytest.raises(OSError, match="Too many open files"):
                await pool.run(jobs.make, size)
            with pytest.raises(PayloadError, match=r"the result.*Too many open files"):
                await pool.run(bytes, size)
            await pool.run(jobs.free_descriptors)
            assert await pool.run(jobs.sums, view, bytes(size)) == [sum(b"abc"), 0]
            assert await pool.run(jobs.count, view, flag) == 2
            assert bytes(await pool.run(jobs.make, size, 3)) == b"\3" * size
        assert await pool.run(os.getpid) == pid
        del view
        await all_is_back(pool)
        flag.close()


async def test_a_socket_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that cannot be sent is an error of that call; who waits behind it is served."""
    async with open_worker_pool(1) as pool:
        await pool.run(jobs.count)
        [traffic] = store_of(pool).traffics
        with monkeypatch.context() as patch:

            def refuse(*_: object) -> None:
                raise OSError(errno.ETOOMANYREFS, "too many references")

            patch.setattr("trioipc.pool._beside.send_segment", refuse)
            for size in (100_000, 10 * MIB):
                async with (
                    trio.open_nursery() as nursery,
                    pool.open_request(jobs.count, bytes(size)) as request,
                ):
                    nursery.start_soon(pool.run, jobs.count)
                    with pytest.raises(OSError, match="too many references"):
                        await request.result()
        assert await pool.run(jobs.count, bytes(10 * MIB)) == 1
        await all_is_back(pool)
        assert not traffic._loans  # type: ignore[attr-defined]


# ---- what is held, after the end


def mapped() -> int:
    """Return how many pieces of shared memory this process has mapped."""
    with open("/proc/self/maps") as file:
        return sum("memfd:trioipc" in line or "/dev/shm/" in line for line in file)


async def test_what_is_held_outlives_its_pool_and_nothing_else() -> None:
    """Results and allocations stay readable; with its last view goes the map, at once."""
    gc.collect()
    before = mapped()
    async with open_worker_pool(1) as pool:
        results = [await pool.run(jobs.make, size, 5) for size in (SMALLEST, 4 * MIB)]
        allocated = pool.allocate(4 * MIB)
        allocated[:3] = b"abc"
        part = (ctypes.c_char * 10).from_buffer(results[1], 100)
    assert mapped() == before + 3
    assert [bytes(result) for result in results] == [b"\5" * SMALLEST, b"\5" * (4 * MIB)]
    assert bytes(allocated[:4]) == b"abc\0"
    gc.disable()  # nothing may wait for the collector
    try:
        del allocated, results
        assert mapped() == before + 1
        assert bytes(part) == b"\5" * 10
        del part
        assert mapped() == before
    finally:
        gc.enable()


async def test_many_small_results_are_held() -> None:
    """More than there are descriptors; each is its own."""
    async with open_worker_pool(1) as pool:
        held = [await pool.run(jobs.make, SMALLEST, index % 256) for index in range(1200)]
        assert arena_of(pool).slabs < 600
        for index, view in enumerate(held):
            assert view[0] == view[-1] == index % 256


# ---- memory that moves on to others


async def test_a_ring_that_was_dropped_is_not_filled_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who wakes up after the end of its request finds the memory in other hands."""
    slept = trio.Event()

    async def sleep(seconds: float) -> None:
        slept.set()
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)

    store = Store(math.inf)
    cargo = Cargo(store, encode((Streamed(memoryview(b"x" * (8 * MIB))),)))
    await cargo.load()
    [slab] = store.arena.slabs.values()
    with monkeypatch.context() as patch:
        patch.setattr(RingWriter, "pause", lambda self, now: 1.0)
        patch.setattr("trioipc.pool._cargo.trio.sleep", sleep)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cargo.feed)
                await slept.wait()
                [feeding] = nursery.child_tasks
                cargo.drop()
                slab.wipe()
                slab.view(8, 16).cast("Q")[0] = 4 * MIB  # all was consumed: there is room
                trio.lowlevel.reschedule(feeding)
    assert not any(slab.view(16, slab.size))
    await store.close()


async def test_an_answer_that_cannot_be_sent_holds_nothing() -> None:
    """Of the slabs that were to be lent with it, none counts as lent."""
    ours, theirs = socket.socketpair()
    beside = Beside(ours)
    view = beside.allocate(100_000, True)
    ours.close()
    theirs.close()
    for _ in range(2):
        with pytest.raises(OSError, match="Bad file descriptor"):
            beside.put([view, bytes(100_000)])
    arena = beside._arena
    arena.drain()
    assert sorted(slab.uses for slab in arena.slabs.values()) == [0, 1]
    del view
    beside.tidy()
    assert not arena.slabs


async def test_small_memory_is_warm_again_soon() -> None:
    """Also what is too small to be told of at once, and what was never sent."""
    async with open_worker_pool(1) as pool:
        for _ in range(20):
            view = pool.allocate(SMALLEST)
            view[0] = 1
            del view
            await trio.testing.wait_all_tasks_blocked()
            with trio.CancelScope() as scope:
                async with pool.open_request(jobs.count, bytes(10 * MIB)):
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
        assert arena_of(pool).made <= 6


async def test_memory_falls_to_the_budget(tmp_path: Path) -> None:
    """When nothing is held, also where a worker was busy when its results were dropped."""
    async with open_worker_pool(1, max_arena_bytes=3 * MIB) as pool:
        view = await pool.run(jobs.make, 10 * MIB)
        assert arena_of(pool).size >= 10 * MIB
        async with pool.open_request(jobs.wait_for, str(tmp_path / "go")) as request:
            await request.wait_started()
            del view
            await trio.testing.wait_all_tasks_blocked()
            (tmp_path / "go").touch()
            await request.result()
        await wait_until(lambda: arena_of(pool).size <= 3 * MIB)
        held = [pool.allocate(2 * MIB) for _ in range(3)]
        held += [await pool.run(jobs.make, 2 * MIB) for _ in range(3)]
        assert arena_of(pool).size >= 12 * MIB
        held.clear()
        await wait_until(lambda: arena_of(pool).size <= 3 * MIB)


# ---- what functions do


async def test_a_function_that_forks(tmp_path: Path) -> None:
    """Its child has its own memory, and wipes nothing that the function still reads."""
    data = b"x" * 100_000
    async with open_worker_pool(1) as pool:
        warm = await pool.run(jobs.make, 100_000)
        del warm
        got, view = await pool.run(jobs.fork_and_come_back, memoryview(data), 100_000)
        assert got == data
        assert bytes(view) == b"parent" + bytes(100_000 - 6)


async def test_threads_of_a_function_go_on_to_allocate() -> None:
    """Also after its request, while others run; nobody gets what another has."""
    async with open_worker_pool(1) as pool:
        first = await pool.run(jobs.leave_allocating_threads)
        with trio.fail_after(30):
            for index in range(100):
                view = pool.allocate(SMALLEST) if index % 2 else memoryview(bytes(SMALLEST))
                results = await pool.run(jobs.make_several, view, index)
                for part, result in enumerate(results):
                    assert bytes(result) == bytes([100 + part]) * SMALLEST
        assert await pool.run(jobs.stop_threads) == []
        assert bytes(first) == b"\1" * SMALLEST
