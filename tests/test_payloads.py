"""Payloads of real pools: shared memory is reused, never shared by mistake, and never piles up."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import hashlib
import math
import mmap
import os
import resource
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio

import payload_jobs as jobs
from helpers import wait_until
from trioipc import (
    PayloadError,
    RequestCancelledError,
    RequestTimeoutError,
    SharedFlag,
    WorkerCrashedError,
    open_worker_bridge,
    open_worker_pool,
)
from trioipc.memory._arena import SMALLEST, size_class
from trioipc.memory._board import OVER, STATE
from trioipc.memory._ring import RingWriter, Streamed
from trioipc.memory._segment import ENVIRONMENT_VARIABLE, create
from trioipc.pool.engines._cargo import Cargo
from trioipc.pool.engines._process_engine import ProcessEngine
from trioipc.pool.engines._store import Store
from trioipc.protocol._codec import encode
from trioipc.worker._beside import Beside
from trioipc.worker._serve import Server
from trioipc.worker._wires import Arrivals, LostSegmentError, Wires, send_segment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from trioipc import PoolRequest, WorkerPool
    from trioipc.pool.engines._store import ArenaStatistics

MIB = 1 << 20


@pytest.fixture(params=["memfd", "shm"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Provide each kind of shared memory, forced by the environment, which workers inherit."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, request.param)
    return str(request.param)


both_kinds = pytest.mark.usefixtures("backend")


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


@both_kinds
async def test_a_slab_in_an_answer_that_was_not_read_yet_is_not_dropped() -> None:
    """Room for something else is made of what nobody can refer to any more."""
    async with open_worker_pool(1, max_arena_bytes=6 * MIB) as pool:
        await pool.run(jobs.make, 4 * MIB)  # and nobody holds it: it is warm for the next
        async with pool.open_request(jobs.make, 4 * MIB, 2) as request:
            block_until(lambda: is_over(request))
            held = pool.allocate(4 * MIB)
            assert bytes(await request.result()) == b"\2" * (4 * MIB)
        assert held[:10] == bytes(10)


@both_kinds
async def test_a_call_that_was_cancelled_before_it_began_gives_its_memory_back() -> None:
    """The worker has seen no more of it than the frame."""
    async with open_worker_pool(1) as pool:
        pid = await pool.run(os.getpid)
        for _ in range(10):
            os.kill(pid, signal.SIGSTOP)  # it does not get to see the call before the cancel
            async with pool.open_request(jobs.count, bytes(100_000)) as request:
                request.cancel()
                os.kill(pid, signal.SIGCONT)
                with pytest.raises(RequestCancelledError) as caught:
                    await request.result()
            assert caught.value.rung == "queue"
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

            patch.setattr("trioipc.pool.engines._beside.send_segment", refuse)
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


@both_kinds
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
        patch.setattr("trioipc.pool.engines._cargo.trio.sleep", sleep)
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


@both_kinds
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


# ---- what arrives


@pytest.fixture(params=["memfd", "shm", "thread"])
async def pool(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[WorkerPool]:
    """Provide a pool of processes on each kind of memory, or of threads."""
    kind: Any = "cpu"
    if request.param == "thread":
        kind = "thread"
    else:
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, request.param)
    async with open_worker_pool(1, kind=kind) as pool:
        yield pool


def fill(nbytes: int, what: int) -> bytes:
    """Return some bytes."""
    return bytes([what]) * nbytes


@pytest.mark.parametrize("nbytes", [0, 8191, 8192, SMALLEST, 3_000_001])
async def test_types_are_kept(pool: WorkerPool, nbytes: int) -> None:
    """Of arguments and results, also one level inside of them."""
    plain = [fill(nbytes, 1), bytearray(fill(nbytes, 2)), memoryview(fill(nbytes, 3))]
    values = [
        *plain,
        (*plain, "text"),
        [*plain, None],
        dict(enumerate(plain)),
        [[plain[0], plain[1]]],
    ]
    assert await pool.run(jobs.types, *values) == jobs.types(*values)
    for value in values:
        back = await pool.run(jobs.echo, value)
        assert back == value
        assert jobs.types(back) == jobs.types(value)


@pytest.mark.parametrize("nbytes", [100, SMALLEST, 3 * MIB])
async def test_allocated_memory_arrives(pool: WorkerPool, nbytes: int) -> None:
    """As a view, whole or in parts, read-only or not, or as an array over it."""
    view = pool.allocate(nbytes)
    assert (len(view), view.format, view.readonly) == (nbytes, "B", False)
    view[:] = bytes(range(100)) * (nbytes // 100) + bytes(nbytes % 100)
    expected = view.tobytes()
    for each, part in (
        (view, expected),
        (view[10:90], expected[10:90]),
        (view[1:].toreadonly(), expected[1:]),
    ):
        value = await pool.run(jobs.echo, each)
        assert type(value) is memoryview
        assert value == part
    with pytest.raises(ValueError, match="nbytes must be >= 0, not -1"):
        pool.allocate(-1)


@both_kinds
async def test_allocated_memory_is_shared() -> None:
    """What a worker writes there is seen here, and was not copied in between."""
    async with open_worker_pool(2) as pool:
        view = pool.allocate(3 * MIB)
        made = arena_of(pool).made
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run, jobs.write_into, view, b"first")
            nursery.start_soon(pool.run, jobs.write_into, view[2 * MIB :], b"second")
        assert bytes(view[:6]) == b"first\0"
        assert bytes(view[2 * MIB : 2 * MIB + 7]) == b"second\0"
        array = (ctypes.c_char * MIB).from_buffer(view, MIB)
        await pool.run(jobs.write_into, memoryview(array), b"third")
        assert array[:6] == b"third\0"
        assert arena_of(pool).made == made


@both_kinds
async def test_memory_is_reused() -> None:
    """By calls of about the same size, for arguments and results."""
    async with open_worker_pool(1) as pool:
        for index in range(30):
            size = MIB - 100 * index
            assert await pool.run(jobs.echo, fill(size, index)) == fill(size, index)
            del size
            await all_is_back(pool)
        arena = arena_of(pool)
        assert arena.made <= 2
        assert arena.reused >= 28
        assert arena.slabs <= 4
        assert arena.size <= 4 * MIB


@both_kinds
async def test_blank_memory_is_blank() -> None:
    """In the parent and in workers, whatever was in it before, and however that ended."""
    async with open_worker_pool(1) as pool:
        for size in (SMALLEST, 3 * MIB):
            for _ in range(2):
                data = fill(size, 255)
                await pool.run(jobs.echo, data)
                await pool.run(jobs.make, size, 255)
                pool.allocate(size)[:] = data
                with pytest.raises(WorkerCrashedError):
                    await pool.run(jobs.die, data)
                async with pool.open_request(jobs.count, data) as request:
                    request.cancel()
                    with contextlib.suppress(RequestCancelledError):  # it may be over by now
                        await request.result()
                assert not any(pool.allocate(size))
                assert await pool.run(jobs.is_blank, size)
            await all_is_back(pool)
            assert not any(pool.allocate(size))


# ---- what is kept


@both_kinds
async def test_what_a_worker_keeps_is_not_overwritten() -> None:
    """Its views of arguments stay as they are, until it drops them; then they come back."""
    sizes = [SMALLEST, 300_000, 2 * MIB]
    async with open_worker_pool(1) as pool:
        for index, size in enumerate(sizes):
            await pool.run(jobs.keep, memoryview(fill(size, 10 + index)))
        allocated = pool.allocate(MIB)
        allocated[:] = fill(MIB, 50)
        await pool.run(jobs.keep, allocated[10:])
        del allocated
        for index in range(20):
            for size in sizes:
                assert await pool.run(jobs.count, fill(size, 100 + index)) == 1
                view = pool.allocate(size)
                view[:] = fill(size, 200)
                del view
        assert await pool.run(jobs.fillings) == [[10], [11], [12], [50]]
        assert sum(slab.uses for slab in store_of(pool).arena.slabs.values()) >= 4
        await pool.run(jobs.forget)
        await all_is_back(pool)


async def test_what_the_caller_holds_is_not_overwritten(pool: WorkerPool) -> None:
    """Results stay as they are, whatever the worker does later, and after it is gone."""
    sizes = [SMALLEST, 300_000, 2 * MIB]
    held = []
    for index in range(12):
        view = await pool.run(jobs.make, sizes[index % 3], index)
        held.append(view[1:])
        del view
        await pool.run(jobs.make, sizes[index % 3], 200)
    if isinstance(pool._dispatcher.engine, ProcessEngine):
        with pytest.raises(WorkerCrashedError):
            await pool.run(jobs.die, b"")
    for size in sizes * 3:
        await pool.run(jobs.make, size, 201)
    assert [sorted(set(view)) for view in held] == [[index] for index in range(12)]


@both_kinds
async def test_a_worker_keeps_the_memory_that_it_has_returned() -> None:
    """It can return it again, also after the parent has dropped it for want of room."""
    async with open_worker_pool(1, max_arena_bytes=3 * MIB) as pool:
        first = await pool.run(jobs.make_and_keep, 2 * MIB, 7)
        second: Any = await pool.run(jobs.kept, 0)
        first[0] = 9  # it is the same memory
        assert second[0] == 9
        del first, second
        for index in range(5):
            await pool.run(jobs.make, 2 * MIB, 100 + index)
        third: Any = await pool.run(jobs.kept, 0)
        assert bytes(third) == b"\x09" + fill(2 * MIB - 1, 7)
        assert await pool.run(jobs.fillings) == [[7, 9]]
        await pool.run(jobs.forget)
        for index in range(5):
            await pool.run(jobs.make, 2 * MIB, 100 + index)
        assert bytes(third) == b"\x09" + fill(2 * MIB - 1, 7)


@both_kinds
async def test_two_pools_exchange_their_memory() -> None:
    """What one has allocated or returned is only bytes to the other."""
    async with open_worker_pool(1) as first, open_worker_pool(1) as second:
        mine, theirs = first.allocate(MIB), second.allocate(MIB)
        mine[:], theirs[:] = fill(MIB, 1), fill(MIB, 2)
        for index in range(4):
            mixed = [mine, theirs, mine[5:], theirs[5:].toreadonly()]
            for pool in (first, second):
                assert await pool.run(jobs.echo, mixed) == mixed
            mine = await first.run(jobs.echo, theirs)
            theirs = await second.run(jobs.echo, mine)
            assert mine == theirs == fill(MIB, 2), index
        await first.run(jobs.write_into, theirs, b"xyz")
        assert theirs[0] == 2  # it was a copy
        del mixed
        await all_is_back(first)
        await all_is_back(second)


# ---- how much


@both_kinds
async def test_calls_over_the_budget_go_one_at_a_time() -> None:
    """And all end; memory is bounded by the budget and one call, and what is on its way back."""
    peak, size = 0.0, 4 * MIB
    async with open_worker_pool(3, max_arena_bytes=MIB) as pool:
        await pool.warm()

        async def watch() -> None:
            nonlocal peak
            while True:
                peak = max(peak, arena_of(pool).size)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            with trio.fail_after(60):
                async with trio.open_nursery() as callers:
                    for index in range(8):
                        callers.start_soon(expect_sum, pool, fill(size, index), 3 * index)
            nursery.cancel_scope.cancel()
        assert size <= peak < 2.9 * size  # three at once would be 3 * size
        await wait_until(lambda: arena_of(pool).size <= MIB)


async def expect_sum(pool: WorkerPool, data: bytes, expected: int) -> None:
    """Run a call, and see that its answer is its own."""
    assert await pool.run(jobs.sums, memoryview(data)) == [expected]


async def test_pickles_that_wait_are_bounded_by_bytes(tmp_path: Path) -> None:
    """Who would make them more waits in front of the pool, and is served in the end."""
    deep = [[[fill(300_000, 1)]]]  # too deep to be lifted
    async with (
        open_worker_pool(1, max_arena_bytes=MIB) as pool,
        trio.open_nursery() as nursery,
        pool.open_request(jobs.wait_for, str(tmp_path / "go")) as request,
    ):
        for _ in range(20):
            nursery.start_soon(pool.run, jobs.count, deep)
        await trio.testing.wait_all_tasks_blocked()
        assert pool.statistics().queued_tasks == 4  # the fourth makes it more than 1 MiB
        (tmp_path / "go").touch()
        await request.result()
    assert pool.statistics().total_tasks_processed == 21


# ---- ends at bad moments


async def kill_worker(pool: WorkerPool) -> None:
    """Kill the only worker."""
    [worker] = pool.workers
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)


async def nothing_is_left(pool: WorkerPool) -> None:
    """Wait until all memory is back, and see that none of it shows what was in it."""
    await all_is_back(pool)
    for slab in [*store_of(pool).arena.slabs.values()]:
        assert not any(pool.allocate(slab.size))
    await pool.run(jobs.count)


@both_kinds
@pytest.mark.parametrize("end", ["kill", "cancel", "scope"])
async def test_the_end_while_arguments_are_copied(end: str) -> None:
    """A killed worker's call moves on; a cancelled one leaves nothing."""
    data = fill(16 * MIB, 3)
    async with open_worker_pool(1) as pool:
        await pool.run(jobs.count)
        with trio.CancelScope() as scope:
            async with pool.open_request(jobs.sums, data) as request:
                for _ in range(3):
                    await trio.lowlevel.checkpoint()
                assert request._state == "loading"
                assert arena_of(pool).size >= 16 * MIB
                if end == "kill":
                    await kill_worker(pool)
                    assert await request.result() == [9]
                elif end == "cancel":
                    request.cancel()
                    with pytest.raises(RequestCancelledError):
                        await request.result()
                else:
                    scope.cancel()
                    await request.result()
        assert scope.cancelled_caught == (end == "scope")
        assert await pool.run(jobs.sums, data) == [9]
        await nothing_is_left(pool)


@both_kinds
async def test_a_worker_dies_while_its_ring_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is tried again, from the start of its source."""
    source = hashlib.shake_128(b"").digest(20 * MIB)
    kills = 0
    filled = RingWriter.fill

    def fill_and_kill(writer: RingWriter) -> bool:
        nonlocal kills
        if kills < 2 and writer._filled > 10 * MIB:
            kills += 1
            pool_pid = bridge.pool.workers[0].pid
            assert pool_pid is not None
            os.kill(pool_pid, signal.SIGKILL)
        return filled(writer)

    monkeypatch.setattr(RingWriter, "fill", fill_and_kill)
    async with open_worker_bridge(1) as bridge:
        assert await bridge.crypto.hash_file(source) == hashlib.sha256(source).hexdigest()
        assert kills == 2
        await nothing_is_left(bridge.pool)


@both_kinds
async def test_a_worker_dies_while_its_results_are_held() -> None:
    """They stay, and the memory of those that are not held is gone."""
    async with open_worker_pool(1) as pool:
        held = [await pool.run(jobs.make, 2 * MIB, index) for index in range(4)]
        del held[2:]
        gc.collect()
        await kill_worker(pool)
        assert await pool.run(jobs.sums, memoryview(fill(100_000, 4))) == [12]
        assert [sorted(set(view)) for view in held] == [[0], [1]]
        await nothing_is_left(pool)


@both_kinds
async def test_the_end_while_a_result_is_copied() -> None:
    """It is dropped, and its memory is the worker's again."""
    async with open_worker_pool(1) as pool:
        for _ in range(5):
            with trio.CancelScope() as scope:
                async with pool.open_request(bytes, 16 * MIB) as request:
                    while request._state != "ended":
                        await trio.lowlevel.checkpoint()
                    assert request._answer is not None
                    assert request._answer.lands
                    scope.cancel()
                    await request.result()
            assert scope.cancelled_caught
            del request
        assert len(await pool.run(bytes, 16 * MIB)) == 16 * MIB
        assert arena_of(pool).size <= 40 * MIB
        await nothing_is_left(pool)


@pytest.mark.parametrize("error", [MemoryError("none left"), OSError(12, "none left")])
async def test_no_memory_for_a_call(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error of that call, and those that wait are served."""

    def refuse(self: Store, nbytes: int) -> object:
        raise error

    async with open_worker_pool(1) as pool:
        for size in (100_000, 10 * MIB):
            with monkeypatch.context() as patch:
                patch.setattr(Store, "take", refuse)
                async with (
                    trio.open_nursery() as nursery,
                    pool.open_request(jobs.count, fill(size, 1)) as request,
                ):
                    nursery.start_soon(pool.run, jobs.count)
                    with pytest.raises(type(error), match="none left"):
                        await request.result()
            assert await pool.run(jobs.count, fill(size, 1)) == 1
        await nothing_is_left(pool)


async def test_memory_of_the_caller_cannot_go_while_it_is_copied() -> None:
    """Python refuses to resize, close or release what is under it."""
    data = bytearray(32 * MIB)
    mapped_data = mmap.mmap(-1, 32 * MIB)
    view = memoryview(mapped_data)
    async with open_worker_pool(1) as pool:
        await pool.run(jobs.count)
        async with pool.open_request(jobs.sums, data, view) as request:
            await trio.lowlevel.checkpoint()
            assert request._state == "loading"
            with pytest.raises(BufferError):
                data.append(1)
            with pytest.raises(BufferError):
                mapped_data.close()
            view.release()  # which is the caller's own; ours goes on
            assert await request.result() == [0, 0]
        del request
    data.append(1)
    mapped_data.close()


@both_kinds
async def test_nothing_drifts() -> None:
    """After hundreds of calls of all sizes, as much is open and mapped as after some."""
    sizes = [10, 9000, SMALLEST - 1, SMALLEST, 200_000, MIB, 3 * MIB]
    seen = []
    async with open_worker_pool(1) as pool:
        for _ in range(4):
            for size in sizes * 8:
                view = pool.allocate(size)
                data = fill(size, 1)
                assert await pool.run(jobs.echo, (data, view)) == (data, view)
                del view
            await all_is_back(pool)
            store_of(pool).settle()
            await trio.testing.wait_all_tasks_blocked()
            seen.append((jobs.open_and_mapped(), await pool.run(jobs.open_and_mapped)))
        assert arena_of(pool).size <= 256 * MIB
    (first_here, first_there), (last_here, last_there) = seen[1], seen[-1]
    assert last_here[0] <= first_here[0] + 2
    assert last_here[1] <= first_here[1] + 8
    assert last_there[0] <= first_there[0]
    assert last_there[1] <= first_there[1] + 8


@pytest.mark.parametrize("end", ["crash", "cancel", "timeout", "error"])
async def test_nothing_holds_the_arguments_of_a_call_that_has_failed(end: str) -> None:
    """However it ended, their memory is free again without the collector."""
    async with open_worker_pool(1, grace=0.1) as pool:
        await pool.run(jobs.count)
        gc.collect()
        gc.disable()
        try:
            await fail(pool, end, pool.allocate(SMALLEST))
            await all_is_back(pool)
        finally:
            gc.enable()


async def fail(pool: WorkerPool, end: str, view: memoryview) -> None:
    """Make a call that fails, with an argument that is nowhere else."""
    try:
        if end == "crash":
            await pool.run(jobs.die, view)
        elif end == "error":
            await pool.run(jobs.fail, view)
        elif end == "timeout":
            await pool.run(jobs.sleep, view, timeout=0.01)
        else:
            with trio.move_on_after(0.05):
                await pool.run(jobs.sleep, view)
    except (WorkerCrashedError, RequestTimeoutError, LookupError):
        pass


def test_what_cannot_be_mapped_is_lost_alone(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sent before and after it can be had, in any order; no descriptor stays."""
    ours, theirs = socket.socketpair()
    arrivals = Arrivals(theirs)
    for number in range(3):
        segment = create(SMALLEST)
        segment.memory[0] = number
        send_segment(ours, number, segment)
    del segment
    map_memory, sizes = mmap.mmap, []

    def refuse_the_second(descriptor: int, size: int, **options: Any) -> mmap.mmap:
        sizes.append(size)
        if len(sizes) == 2:
            raise OSError(errno.ENOMEM, "no memory")
        return map_memory(descriptor, size, **options)

    with monkeypatch.context() as patch:
        patch.setattr(mmap, "mmap", refuse_the_second)
        assert arrivals.take(2).memory[0] == 2
    with pytest.raises(LostSegmentError, match="no memory"):
        arrivals.take(1)
    assert arrivals.take(0).memory[0] == 0
    ours.close()
    with pytest.raises(ConnectionError):
        arrivals.take(3)
    theirs.close()


def test_threads_that_are_the_first_to_allocate(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one book of slabs in a worker, whoever opens it."""
    server = object.__new__(Server)
    server._beside, server._making, server.is_fork = None, threading.Lock(), False
    control = socket.socket()
    server._wires = Wires(control, -1, -1, -1, -1, -1)

    def make_slowly(control: socket.socket) -> Beside:
        time.sleep(0.05)
        return Beside(control)

    monkeypatch.setattr("trioipc.worker._beside.Beside", make_slowly)
    found: list[memoryview] = []
    threads = [
        threading.Thread(target=lambda: found.append(server._allocate(SMALLEST, True)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    beside: Any = server._beside
    assert len({beside._arena.find(view)[0] for view in found}) == 4
    server._wires.control.close()
