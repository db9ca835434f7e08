"""`WorkerPool.map`: many items, each for itself, wherever functions run."""

from __future__ import annotations

import itertools
import math
import os
import random
import signal
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import jobs
import map_jobs
from helpers import wait_for_file, wait_until
from trioipc import (
    PayloadError,
    PoisonedRequestError,
    Progress,
    RequestCancelledError,
    RequestInterrupt,
    RequestTimeoutError,
    SharedCancellation,
    SharedCounter,
    StickyStrategy,
    WorkerCrashedError,
    open_worker_pool,
)
from trioipc.memory._board import CANCEL, LIMIT, SLOT, STARTED_AT
from trioipc.pool._chunking import Chunk, Line, Sizer
from trioipc.testing import cancel_at_each_step
from trioipc.worker._chunk import FINISHED, SharedLog, log_bytes, run_chunk
from trioipc.worker.request import CurrentRequest, set_process_request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
    from pathlib import Path

    from trioipc import WorkerPool

    Kind = Literal["cpu", "thread"]


@pytest.fixture(params=["cpu", "thread"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Provide each kind of worker."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
async def pool(kind: Kind) -> AsyncIterator[WorkerPool]:
    """Provide a pool of two workers."""
    async with open_worker_pool(
        2, kind=kind, modules=["map_jobs"], progress_interval=0.005
    ) as pool:
        yield pool


@pytest.fixture
async def cpu() -> AsyncIterator[WorkerPool]:
    """Provide a pool of two worker processes."""
    async with open_worker_pool(2, modules=["map_jobs"]) as pool:
        yield pool


async def mapped(pool: WorkerPool, function: Any, items: Any, **options: Any) -> list[Any]:
    """Return all results."""
    async with pool.map(function, items, **options) as results:
        return [result async for result in results]


def shown(values: Iterable[object]) -> list[str]:
    """Write values with their types: 1, True and 1.0 are three things, and NaN is itself."""
    return [f"{type(value).__name__} {value!r}" for value in values]


async def asynchronously(items: Iterable[Any]) -> AsyncGenerator[Any, None]:
    """Yield items with a turn of the event loop now and then."""
    for index, item in enumerate(items):
        if index % 10 == 0:
            await trio.lowlevel.checkpoint()
        yield item


# ---- order and values


async def test_results_come_in_the_order_of_the_items(pool: WorkerPool) -> None:
    """Whatever the chunk size, and however the items come."""
    expected = [n * n for n in range(500)]
    for chunk_size in ("auto", 1, 7, 1000):
        for source in (range(500), asynchronously(range(500))):
            got = await mapped(pool, map_jobs.square, source, chunk_size=chunk_size)
            assert got == expected


async def test_unordered_results_are_all_there(pool: WorkerPool) -> None:
    """Each once."""
    for source in (range(3000), asynchronously(range(3000))):
        got = await mapped(pool, map_jobs.square, source, ordered=False)
        assert sorted(got) == [n * n for n in range(3000)]


async def test_unordered_results_wait_for_nobody(pool: WorkerPool, tmp_path: Path) -> None:
    """What is ready comes, though an earlier item is not."""
    path = str(tmp_path / "go")
    items = [path, *[""] * 20]
    async with pool.map(map_jobs.wait_for_path, items, ordered=False) as results:
        for _ in range(20):
            assert await anext(results) == ""
        jobs.touch(path)
        assert await anext(results) == path
        with pytest.raises(StopAsyncIteration):
            await anext(results)


async def test_an_ordered_result_waits_and_workers_do_not(cpu: WorkerPool, tmp_path: Path) -> None:
    """While the first item takes its time, the other worker goes on beyond its chunk."""
    path = str(tmp_path / "go")
    done = cpu.statistics().total_tasks_processed
    got: list[str] = []

    async def consume() -> None:
        got.extend(await mapped(cpu, map_jobs.wait_for_path, [path, *[""] * 8], chunk_size=1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        await wait_until(lambda: cpu.statistics().total_tasks_processed == done + 8)
        assert got == []
        jobs.touch(path)
    assert got == [path, *[""] * 8]


async def test_nothing_gives_nothing(pool: WorkerPool) -> None:
    """A source without items ends at once, each time one asks."""
    async with pool.map(map_jobs.square, []) as results:
        for _ in range(3):
            with pytest.raises(StopAsyncIteration):
                await anext(results)


MIXED = [
    *range(-3, 4),
    2**63 - 1,
    -(2**63),
    2**63,
    -(2**63) - 1,
    2**200,
    True,
    False,
    None,
    1.5,
    -0.0,
    math.inf,
    math.nan,
    "text",
    "ü" * 3000,
    b"bytes",
    b"",
    bytes(200_000),
    bytearray(b"array"),
    bytearray(300_000),
    (1, "two", None),
    [1, [2, [3]]],
    {"a": b"b" * 20_000},
    {1, 2},
    1j,
]


async def test_results_of_all_types(pool: WorkerPool) -> None:
    """Each arrives as what it was, whatever its neighbours are."""
    items = [*MIXED]
    for chunk_size in ("auto", 1, 3, 40):
        got = await mapped(pool, map_jobs.as_it_is, items, chunk_size=chunk_size)
        assert shown(got) == shown(items)
        random.Random(chunk_size).shuffle(items)


async def test_numbers_change_their_type(pool: WorkerPool) -> None:
    """A number that does not fit the cells of those before it is still itself."""
    for items in ([0.5, 1, 2.5], [1, 2.5, 3], [2**63, 1], [1, 2**64, 3, 2**64], [1, True, 0.0]):
        got = await mapped(pool, map_jobs.as_it_is, items * 50, chunk_size=len(items) * 5)
        assert shown(got) == shown(items * 50)


async def test_a_view_arrives_as_one(pool: WorkerPool) -> None:
    """Also among others, and one level inside an item."""
    items = [memoryview(b"one"), (memoryview(b"two" * 9000), 2), 3]
    one, (two, number), three = await mapped(pool, map_jobs.as_it_is, items, chunk_size=3)
    assert (type(one), type(two)) == (memoryview, memoryview)
    assert (bytes(one), bytes(two), number, three) == (b"one", b"two" * 9000, 2, 3)


async def test_a_subclass_of_a_number(pool: WorkerPool) -> None:
    """It stays one."""
    got = await mapped(pool, map_jobs.subclass, range(100))
    assert {*map(type, got)} == {map_jobs.Subclass}
    assert got == [*range(100)]


async def test_one_object_that_changes(cpu: WorkerPool) -> None:
    """A function may return the same list each time; each result is what it was then."""
    got = await mapped(cpu, map_jobs.keep, range(100), chunk_size=50)
    assert [result[-1] for result in got] == [*range(100)]


async def test_shared_state_as_a_result(pool: WorkerPool) -> None:
    """It arrives as in any other answer."""
    got: list[SharedCounter] = await mapped(pool, map_jobs.counter, range(20), chunk_size=10)
    assert [counter.get() for counter in got] == [*range(20)]


async def test_results_larger_than_their_items(pool: WorkerPool) -> None:
    """More than a chunk has room for."""
    got = await mapped(pool, map_jobs.expand, range(60))
    assert got == [map_jobs.expand(n) for n in range(60)]


async def test_a_chunk_of_any_size(cpu: WorkerPool) -> None:
    """Also one that is too large to be copied at once."""
    items = [str(n) for n in range(100_000)]
    assert await mapped(cpu, map_jobs.as_it_is, items, chunk_size=90_000) == items
    blobs = [bytes(100_000)] * 30
    assert await mapped(cpu, map_jobs.as_it_is, blobs, chunk_size=25) == blobs


async def test_items_on_io_workers() -> None:
    """Many at once, each a request."""
    async with open_worker_pool(1, kind="io") as pool:
        assert await mapped(pool, map_jobs.later, range(50)) == [*range(50)]
        got = await mapped(pool, map_jobs.later, range(50), ordered=False)
        assert sorted(got) == [*range(50)]
        assert got != sorted(got)


# ---- sources


class Counted:
    """A source without end that knows how far it was pulled."""

    def __init__(self) -> None:
        self.pulled = 0

    def __iter__(self) -> Iterator[int]:
        while True:
            self.pulled += 1
            yield self.pulled - 1

    async def __aiter__(self) -> AsyncGenerator[int, None]:
        while True:
            self.pulled += 1
            yield self.pulled - 1
            if self.pulled % 3 == 0:
                await trio.lowlevel.checkpoint()


class CountedSynchronously:
    """The same without the asynchronous half."""

    def __init__(self) -> None:
        self.counted = Counted()

    @property
    def pulled(self) -> int:
        return self.counted.pulled

    def __iter__(self) -> Iterator[int]:
        return iter(self.counted)


@pytest.mark.parametrize("source_type", [Counted, CountedSynchronously])
@pytest.mark.parametrize(
    ("max_pending", "chunk_size", "ordered"),
    [(1, "auto", True), (2, "auto", False), (9, 3, True), (100, "auto", True), (64, 64, False)],
)
async def test_an_endless_source_is_not_pulled_ahead(
    pool: WorkerPool, source_type: Any, max_pending: int, chunk_size: Any, ordered: bool
) -> None:
    """Never more than ``max_pending`` beyond what was handed over."""
    source = source_type()
    options: Any = {"max_pending": max_pending, "chunk_size": chunk_size, "ordered": ordered}
    async with pool.map(map_jobs.square, source, **options) as results:
        for taken in range(200):
            await anext(results)
            assert source.pulled - taken - 1 <= max_pending
            if taken % 50 == 0:
                await trio.sleep(0.002)
                assert source.pulled - taken - 1 <= max_pending


async def test_an_endless_source_has_a_limit_anyway(pool: WorkerPool) -> None:
    """It is not pulled for ever while nobody takes results."""
    source = CountedSynchronously()
    async with pool.map(map_jobs.square, source, chunk_size=5) as results:
        await anext(results)
        pulled = source.pulled
        await trio.sleep(0.02)
        assert source.pulled == pulled <= 5 * 2 * 2 * 5
    source = Counted()
    async with pool.map(map_jobs.square, source, chunk_size=5) as results:
        await anext(results)
        await trio.sleep(0.05)
        assert source.pulled <= 5 * 2 * 2 * 5


async def test_what_comes_slowly_is_sent_as_it_comes(pool: WorkerPool) -> None:
    """No item waits for others to fill a chunk while a worker has nothing to do."""
    send, receive = trio.open_memory_channel[int](math.inf)
    async with send, pool.map(map_jobs.square, receive, chunk_size=100) as results:
        with trio.fail_after(20):
            for number in range(20):
                send.send_nowait(number)
                assert await anext(results) == number * number


async def test_a_busy_consumer_holds_no_item_back(cpu: WorkerPool) -> None:
    """What waits for a full chunk goes out when a worker is free, also if nobody takes results."""
    send, receive = trio.open_memory_channel[float](math.inf)
    async with send, cpu.map(map_jobs.sleep_for, receive, chunk_size=100) as results:
        done = cpu.statistics().total_tasks_processed
        for seconds in (0.05, 0.05, 0.0, 0.0, 0.0):  # the last find both workers busy
            send.send_nowait(seconds)
        # Two alone; what comes after them was held back.
        await wait_until(lambda: cpu.statistics().total_tasks_processed >= done + 3)
        assert [await anext(results) for _ in range(5)] == [0.05, 0.05, 0.0, 0.0, 0.0]


def breaking(error: BaseException) -> Iterator[int]:
    """Yield ten numbers, then raise."""
    yield from range(10)
    raise error


async def breaking_asynchronously(error: BaseException) -> AsyncGenerator[int, None]:
    """Do the same."""
    for number in range(10):
        await trio.lowlevel.checkpoint()
        yield number
    raise error


@pytest.mark.parametrize("source", [breaking, breaking_asynchronously])
@pytest.mark.parametrize("ordered", [True, False])
async def test_a_source_that_raises(pool: WorkerPool, source: Any, ordered: bool) -> None:
    """What came before it is done, then its exception comes out."""
    error = LookupError("no more")
    got = []
    with pytest.raises(LookupError) as caught:
        async with pool.map(map_jobs.square, source(error), ordered=ordered) as results:
            async for result in results:
                got.append(result)  # noqa: PERF401 - it raises
    assert caught.value is error
    assert sorted(got) == [n * n for n in range(10)]


async def test_an_asynchronous_generator_is_closed(pool: WorkerPool) -> None:
    """When the block is left, wherever the generator is."""
    for at in ("pull", "yield"):
        closed = []

        async def source(at: str = at, closed: list[int] = closed) -> AsyncGenerator[int, None]:
            try:
                yield 1
                if at == "pull":
                    await trio.sleep_forever()
                for number in itertools.count():
                    yield number
            finally:
                closed.append(1)

        async with pool.map(map_jobs.square, source(), max_pending=2) as results:
            assert await anext(results) == 1
        assert closed == [1]


async def test_a_generator_that_fails_when_it_is_closed(pool: WorkerPool) -> None:
    """Its exception comes out of the block, bare."""

    async def source() -> AsyncGenerator[int, None]:
        try:
            yield 1
            await trio.sleep_forever()
        finally:
            raise LookupError("clean-up failed")

    with pytest.raises(LookupError, match="clean-up failed"):
        async with pool.map(map_jobs.square, source()) as results:
            assert await anext(results) == 1
    with pytest.raises(KeyError) as caught:
        async with pool.map(map_jobs.square, source()) as results:
            assert await anext(results) == 1
            raise KeyError("body")
    assert caught.value.__notes__ == ["trioipc: leaving the map failed too, with LookupError"]


def interrupting(after: int) -> Iterator[int]:
    """Yield some numbers, the first below zero, then have a Ctrl-C."""
    yield from range(-1, after)
    signal.raise_signal(signal.SIGINT)
    yield after


async def interrupting_asynchronously(after: int) -> AsyncGenerator[int, None]:
    """Do the same."""
    for number in interrupting(after):
        await trio.lowlevel.checkpoint()
        yield number


@pytest.mark.parametrize("source", [interrupting, interrupting_asynchronously])
@pytest.mark.parametrize("after", [0, 30])
async def test_a_ctrl_c_in_a_source(pool: WorkerPool, source: Any, after: int) -> None:
    """It comes out bare and at once, though the first item never ends, and the pool goes on."""
    with pytest.raises(KeyboardInterrupt), trio.fail_after(20):
        async with pool.map(
            map_jobs.cooperate_if_negative, source(after), chunk_size=10
        ) as results:
            async for _ in results:
                pass
    assert await pool.run(jobs.add, 1, 2) == 3


# ---- items that fail


@pytest.mark.parametrize("chunk_size", ["auto", 1, 100])
async def test_an_item_raises_in_its_place(pool: WorkerPool, chunk_size: Any) -> None:
    """What is before it comes, then its exception, bare; then nothing."""
    got = []
    async with pool.map(map_jobs.fail_at_sevens, range(100), chunk_size=chunk_size) as results:
        with pytest.raises(LookupError) as caught:
            async for result in results:
                got.append(result)  # noqa: PERF401 - it raises
        with pytest.raises(StopAsyncIteration):
            await anext(results)
    assert got == [*range(6)]
    assert caught.value.args == (6,)
    assert any("fail_at_sevens" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    ("chunk_size", "ordered"),
    [("auto", True), ("auto", False), (1, True), (10, False), (100, True)],
)
async def test_exceptions_are_collected(pool: WorkerPool, chunk_size: Any, ordered: bool) -> None:
    """Each stands in the place of its result; all others are there."""
    options: Any = {"chunk_size": chunk_size, "ordered": ordered, "on_error": "collect"}
    got = await mapped(pool, map_jobs.fail_at_sevens, range(100), **options)
    values = [r.args[0] if isinstance(r, LookupError) else r for r in got]
    if not ordered:
        pairs = sorted(zip(values, got, strict=True), key=lambda pair: pair[0])
        values, got = map(list, zip(*pairs, strict=True))
    assert values == [*range(100)]
    assert [isinstance(r, LookupError) for r in got] == [n % 7 == 6 for n in range(100)]


async def test_what_would_end_an_iteration(pool: WorkerPool) -> None:
    """It arrives as a RuntimeError."""
    got = await mapped(pool, map_jobs.stop_iteration, range(4), on_error="collect")
    assert [*map(type, got)] == [RuntimeError] * 4
    for number in range(2):
        with pytest.raises(RuntimeError, match="Stop"):
            await mapped(pool, map_jobs.stop_iteration, [number])


@pytest.mark.parametrize("chunk_size", ["auto", 5, 50])
async def test_an_item_that_cannot_be_sent(cpu: WorkerPool, chunk_size: Any) -> None:
    """It alone fails, though it would have gone together with others."""
    items = [map_jobs.Unpicklable() if n == 33 else n for n in range(50)]
    got = await mapped(cpu, map_jobs.as_it_is, items, chunk_size=chunk_size, on_error="collect")
    assert got[:33] + got[34:] == [n for n in range(50) if n != 33]
    assert isinstance(got[33], PayloadError)
    assert "argument 0 of map_jobs.as_it_is" in str(got[33])


@pytest.mark.parametrize("chunk_size", ["auto", 4, 60])
async def test_results_that_cannot_come_home(cpu: WorkerPool, chunk_size: Any) -> None:
    """Each alone fails, whether it cannot be pickled there or unpickled here."""
    options: Any = {"chunk_size": chunk_size, "on_error": "collect"}
    got = await mapped(cpu, map_jobs.half_pickled, range(60), **options)
    for number, result in enumerate(got):
        if number % 5 == 4:
            assert isinstance(result, PayloadError)
        else:
            assert result == map_jobs.HalfPickled(number)
    got = await mapped(cpu, map_jobs.unpicklable_thirds, range(60), **options)
    for number, result in enumerate(got):
        if number % 3 == 2:
            assert isinstance(result, PayloadError)
        else:
            assert result == number


async def test_an_item_that_cannot_be_loaded(cpu: WorkerPool) -> None:
    """It alone fails: the others of its chunk had not begun."""
    items = [map_jobs.HalfPickled(n) for n in range(10)]
    got = await mapped(cpu, map_jobs.as_it_is, items, chunk_size=10, on_error="collect")
    assert [isinstance(r, PayloadError) for r in got] == [n % 5 == 4 for n in range(10)]


# ---- crashes


def traces(path: Path) -> Counter[int]:
    """Return how often each item was begun."""
    return Counter(int(line) for line in path.read_text().split())


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_crash_costs_the_item_that_ran(
    cpu: WorkerPool, tmp_path: Path, ordered: bool
) -> None:
    """Those before it in its chunk are delivered, those after it move on; each is run once."""
    path = tmp_path / "trace"
    items = [(str(path), 37, n) for n in range(100)]
    options: Any = {"chunk_size": 50, "ordered": ordered, "on_error": "collect"}
    got = await mapped(cpu, map_jobs.die_at, items, **options)
    (crash,) = [r for r in got if not isinstance(r, int)]
    assert isinstance(crash, WorkerCrashedError)
    assert crash.exitcode == 3
    assert sorted(r for r in got if isinstance(r, int)) == [n for n in range(100) if n != 37]
    if ordered:
        assert got[37] is crash
    assert traces(path) == Counter(range(100))
    assert cpu.statistics().restarts == {"crashed": 1}


async def test_a_crash_raises_in_its_place(cpu: WorkerPool, tmp_path: Path) -> None:
    """What was finished before it comes first."""
    items = [(str(tmp_path / "trace"), 7, n) for n in range(20)]
    async with cpu.map(map_jobs.die_at, items, chunk_size=20) as results:
        assert [await anext(results) for _ in range(7)] == [*range(7)]
        with pytest.raises(WorkerCrashedError):
            await anext(results)


async def test_the_item_that_crashed_is_tried_again(cpu: WorkerPool, tmp_path: Path) -> None:
    """If it may run twice; no other is."""
    path = tmp_path / "trace"
    items = [(str(path), 37, n) for n in range(100)]
    got = await mapped(cpu, map_jobs.die_once_at, items, chunk_size=50, idempotent=True)
    assert got == [*range(100)]
    assert traces(path) == Counter(range(100)) + Counter([37])


async def test_the_mark_of_an_operation_counts(cpu: WorkerPool, tmp_path: Path) -> None:
    """As for any request."""
    items = [(str(tmp_path / "trace"), 3, n) for n in range(10)]
    assert await mapped(cpu, map_jobs.die_once_idempotently, items) == [*range(10)]


async def test_an_item_that_crashes_each_worker(cpu: WorkerPool, tmp_path: Path) -> None:
    """It has as many tries as any request, and is named as the one to blame."""
    path = tmp_path / "trace"
    items = [(str(path), 5, n) for n in range(10)]
    got = await mapped(
        cpu, map_jobs.die_at, items, chunk_size=10, idempotent=True, on_error="collect"
    )
    error = got.pop(5)
    assert isinstance(error, PoisonedRequestError)
    assert error.attempts == 3
    assert got == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert traces(path) == Counter(range(10)) + Counter([5, 5])


# ---- clocks


async def test_the_run_clock_is_each_items_own(cpu: WorkerPool) -> None:
    """A chunk may take longer than the timeout of each of its items."""
    got = await mapped(cpu, map_jobs.sleep_for, [0.05] * 12, chunk_size=12, timeout=0.4)
    assert got == [0.05] * 12
    left = await mapped(cpu, map_jobs.time_left, range(30), chunk_size=30, timeout=60)
    assert min(left) > 59.9 - 0.02 * 10  # a chunk's clock would have lost 0.15 s, and more each


@pytest.mark.parametrize("chunk_size", [1, 5, 20])
async def test_an_item_that_takes_too_long(cpu: WorkerPool, chunk_size: int) -> None:
    """It alone is ended, by its own clock; the others have their results."""
    items = [n if n != 8 else -1 for n in range(20)]
    options: Any = {"chunk_size": chunk_size, "timeout": 0.5, "on_error": "collect"}
    got = await mapped(cpu, map_jobs.cooperate_if_negative, items, **options)
    error = got.pop(8)
    assert isinstance(error, RequestTimeoutError)
    assert (error.clock, error.rung) == ("run", "checkpoint")
    assert got == [n for n in range(20) if n != 8]
    assert cpu.statistics().restarts == {}


async def test_waiting_too_long(cpu: WorkerPool, tmp_path: Path) -> None:
    """Items that go together wait together, and each is told."""
    path = str(tmp_path / "go")
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(cpu.run, jobs.wait_for, path)
        await wait_until(lambda: cpu.statistics().busy_workers == 2)
        got = await mapped(
            cpu,
            map_jobs.square,
            range(10),
            chunk_size=5,
            queue_timeout=0.02,
            on_error="collect",
        )
        jobs.touch(path)
    assert [type(error) for error in got] == [RequestTimeoutError] * 10
    assert {error.clock for error in got} == {"queue"}
    assert len({*map(id, got)}) == 10


async def test_the_stall_clock_is_each_items_own() -> None:
    """Nothing moves between two items, and yet that is no standstill."""
    async with open_worker_pool(1, stall_timeout=0.5) as pool:
        got = await mapped(pool, map_jobs.sleep_for, [0.05] * 20, chunk_size=20)
        assert got == [0.05] * 20
        with pytest.raises(RequestTimeoutError) as caught:
            await mapped(pool, map_jobs.sleep_for, [0.0, 0.0, 60.0], chunk_size=3)
        assert caught.value.clock == "stall"


async def test_items_that_become_slow_are_shared(cpu: WorkerPool) -> None:
    """A chunk that takes much longer than expected is ended, and the rest goes to all workers."""
    fast = 0

    def items() -> Iterator[float]:
        nonlocal fast
        yield from itertools.repeat(0.0, 3000)
        fast = cpu.statistics().total_tasks_processed
        yield from itertools.repeat(0.02, 40)

    await mapped(cpu, map_jobs.sleep_for, items())
    # Chunks of many would have been a few requests.
    assert cpu.statistics().total_tasks_processed - fast >= 35


# ---- being cancelled


async def test_a_cancel_in_the_body_is_seen_at_the_next_item(pool: WorkerPool) -> None:
    """Though that is there already."""
    taken = 0
    async with pool.map(map_jobs.square, range(1000), chunk_size=1000) as results:
        with trio.CancelScope() as scope:
            async for _ in results:
                taken += 1
                if taken == 500:
                    scope.cancel()
        assert scope.cancelled_caught
        assert taken == 500
        assert await anext(results) == 500 * 500  # nothing was lost


async def test_others_have_their_turn(pool: WorkerPool) -> None:
    """A long iteration whose results are all there lets the event loop turn, every millisecond."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with pool.map(map_jobs.square, range(2000), chunk_size=2000) as results:
        await anext(results)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            for _ in range(20):
                await anext(results)
                time.sleep(0.0015)  # noqa: ASYNC251 - a body that computes
            nursery.cancel_scope.cancel()
    assert turns > 15


async def test_a_step_that_is_cancelled_loses_nothing(pool: WorkerPool) -> None:
    """At whichever of its turns that happens, the next step gives the same result."""
    async with pool.map(map_jobs.square, range(400), chunk_size=3) as results:
        got = []

        async def step() -> None:
            got.append(await anext(results))

        async def check() -> None:
            pass

        for _ in range(30):
            await cancel_at_each_step(step, check)
        got += [result async for result in results]
    assert got == [n * n for n in range(400)]


async def test_cancelling_a_map_at_each_step(pool: WorkerPool) -> None:
    """Nothing is left, and the pool goes on."""

    async def operation() -> None:
        assert await mapped(pool, map_jobs.square, asynchronously(range(30)), chunk_size=4) == [
            n * n for n in range(30)
        ]

    async def check() -> None:
        statistics = pool.statistics()
        assert (statistics.busy_workers, statistics.queued_tasks) == (0, 0)
        assert await pool.run(jobs.add, 1, 2) == 3

    assert await cancel_at_each_step(operation, check) > 5
    assert await cancel_at_each_step(operation, check, all_tasks=True, stride=3) > 5


async def test_leaving_early_cancels_the_rest(pool: WorkerPool) -> None:
    """What runs is stopped at its next checkpoint or item, and its worker is idle again."""
    async with pool.map(map_jobs.cooperate_if_negative, [1, -1, -1, -1], chunk_size=1) as results:
        assert await anext(results) == 1
    async with pool.map(map_jobs.sleep_for, [0.0, *[0.01] * 200], chunk_size=201) as results:
        with trio.move_on_after(0.1):
            await anext(results)
    statistics = pool.statistics()
    assert (statistics.busy_workers, statistics.queued_tasks) == (0, 0)
    assert statistics.restarts == {}


async def test_what_the_body_raises_comes_out(pool: WorkerPool) -> None:
    """Bare, and the rest is cancelled."""
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with pool.map(map_jobs.cooperate_if_negative, [1, -1]) as results:
            assert await anext(results) == 1
            raise error
    assert caught.value is error
    assert pool.statistics().busy_workers == 0


async def test_an_error_in_clean_up_is_not_lost(pool: WorkerPool, tmp_path: Path) -> None:
    """What a function raises because it was cancelled comes out of the block."""
    path = tmp_path / "begun"
    with pytest.raises(LookupError, match="clean-up failed"):
        async with pool.map(map_jobs.fail_when_cancelled, [str(path)]):
            await wait_for_file(path)


async def test_after_the_block(pool: WorkerPool) -> None:
    """There are no more results, also if some were there."""
    async with pool.map(map_jobs.square, range(10), chunk_size=10) as results:
        assert await anext(results) == 0
    with pytest.raises(trio.ClosedResourceError):
        await anext(results)


@pytest.mark.parametrize("on_error", ["raise", "collect"])
async def test_a_flag_ends_all_of_it(pool: WorkerPool, on_error: Any) -> None:
    """What came before is delivered; the end is no item's own."""
    with SharedCancellation() as flag:
        options: Any = {"cancellation": flag, "on_error": on_error}
        async with pool.map(map_jobs.cooperate_if_negative, [1, 2, -1, 3], **options) as results:
            assert await anext(results) == 1
            assert await anext(results) == 2
            flag.cancel("enough")
            with pytest.raises(RequestCancelledError, match="enough") as caught:
                await anext(results)
            assert caught.value.reason == "enough"
            with pytest.raises(StopAsyncIteration):
                await anext(results)


async def test_the_pool_is_closed_meanwhile(kind: Kind) -> None:
    """Its error comes out of the iteration."""
    async with trio.open_nursery() as nursery:
        ready = trio.Event()
        closing = trio.Event()

        async def consume(pool: WorkerPool) -> None:
            async with pool.map(map_jobs.square, itertools.count()) as results:
                assert await anext(results) == 0
                ready.set()
                await closing.wait()
                with pytest.raises(trio.ClosedResourceError):
                    async for _ in results:
                        pass

        async with open_worker_pool(1, kind=kind, drain_timeout=0.1) as pool:
            nursery.start_soon(consume, pool)
            await ready.wait()
        closing.set()


# ---- progress


async def test_progress_counts_items(pool: WorkerPool) -> None:
    """It rises to the number of items, which is told at the end."""
    seen: list[Progress] = []
    await mapped(pool, map_jobs.square, [*range(1000)], on_progress=seen.append)
    values = [progress.value for progress in seen]
    assert values == sorted(set(values))
    assert (seen[-1].value, seen[-1].total, seen[-1].fraction) == (1000, 1000, 1.0)


async def test_progress_of_items_that_take_their_time(pool: WorkerPool) -> None:
    """It is told while one waits, not more often than the pool's interval."""
    seen: list[tuple[float, Progress]] = []

    async def tell(progress: Progress) -> None:
        await trio.lowlevel.checkpoint()
        seen.append((trio.current_time(), progress))

    items = (0.004 for _ in range(40))
    await mapped(pool, map_jobs.sleep_for, items, on_progress=tell)
    assert seen[-1][1].value == 40
    assert seen[-1][1].total == 0
    assert len(seen) > 4
    assert len(seen) <= 2 + (seen[-1][0] - seen[0][0]) / 0.005


async def test_progress_of_failures_and_of_nothing(pool: WorkerPool) -> None:
    """Items that fail are done as well; no items are all done."""
    seen: list[Progress] = []
    options: Any = {"on_progress": seen.append, "on_error": "collect"}
    await mapped(pool, map_jobs.fail_at_sevens, [*range(50)], **options)
    assert (seen[-1].value, seen[-1].total) == (50, 50)
    seen.clear()
    await mapped(pool, map_jobs.square, [], **options)
    assert [(p.value, p.total, p.fraction) for p in seen] == [(0, 0, 1.0)]


async def test_on_progress_raises(pool: WorkerPool) -> None:
    """That comes out, bare, and the rest is cancelled."""
    error = LookupError("no progress please")

    def refuse(progress: Progress) -> None:
        raise error

    with pytest.raises(LookupError) as caught:
        async with pool.map(
            map_jobs.cooperate_if_negative, [1, -1], chunk_size=1, on_progress=refuse
        ) as results:
            async for _ in results:
                pass
    assert caught.value is error
    assert pool.statistics().busy_workers == 0


async def test_the_progress_of_an_item_begins_anew(pool: WorkerPool) -> None:
    """To its function each item is a request of its own."""
    got = await mapped(pool, map_jobs.progress_before, range(30), chunk_size=10)
    assert got == [(0, 100)] * 30


# ---- the pool and others


async def test_a_full_queue(kind: Kind) -> None:
    """Where nothing may wait, it waits for room first."""
    async with open_worker_pool(1, kind=kind, max_queue=0) as pool:
        async with trio.open_nursery() as nursery:
            got = []

            async def consume() -> None:
                got.append(await mapped(pool, map_jobs.square, range(200)))

            for _ in range(3):
                nursery.start_soon(consume)
        assert got == [[n * n for n in range(200)]] * 3


async def test_what_it_is_counted_as(pool: WorkerPool) -> None:
    """The statistics know the function, and count what was sent."""
    await mapped(pool, map_jobs.square, range(1000), chunk_size=100)
    operations = pool.statistics().operations
    assert [*operations] == ["map(map_jobs.square)"]
    assert operations["map(map_jobs.square)"].times.run_time.count == 10


async def test_items_that_go_alone_go_where_they_belong() -> None:
    """A strategy is asked for each."""

    def half(function: object, arguments: tuple[object, ...]) -> object:
        (number,) = arguments
        assert isinstance(number, int)
        return number % 2

    async with open_worker_pool(2, min_size=2, strategy=StickyStrategy(half)) as pool:
        await pool.warm()
        got = await mapped(pool, map_jobs.with_pid, range(40), chunk_size=1)
    homes = {(number % 2, pid) for number, pid in got}
    assert [number for number, _ in got] == [*range(40)]
    assert len(homes) == 2


async def test_two_at_once(pool: WorkerPool) -> None:
    """Neither gets anything of the other."""
    async with (
        pool.map(map_jobs.square, itertools.count()) as squares,
        pool.map(map_jobs.as_it_is, itertools.count()) as same,
    ):
        for number in range(300):
            assert await anext(squares) == number * number
            assert await anext(same) == number


async def test_threads_give_the_results_themselves() -> None:
    """They share memory, so a result need not be one that can be pickled."""
    lock = threading.Lock()
    async with open_worker_pool(1, kind="thread") as pool:
        got = await mapped(pool, map_jobs.as_it_is, [lock] * 20, chunk_size=10)
    assert all(result is lock for result in got)


async def test_memory_does_not_grow(cpu: WorkerPool) -> None:
    """However many items there are."""

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    sizes = []
    async with cpu.map(map_jobs.square, range(240_000)) as results:
        index = 0
        async for _ in results:
            index += 1
            if index % 80_000 == 0:
                sizes.append(resident())
    assert sizes[-1] - sizes[0] < 4 << 20


async def test_what_is_refused(cpu: WorkerPool) -> None:
    """At the block's door, with what would be right."""
    wrong: list[tuple[type[Exception], str, Any, Any, dict[str, Any]]] = [
        (TypeError, "iterable", map_jobs.square, 5, {}),
        (PayloadError, "lambda", lambda item: item, [], {}),
        (TypeError, "kind='io'", map_jobs.later, [], {}),
        (TypeError, "chunk_size", map_jobs.square, [], {"chunk_size": 1.5}),
        (ValueError, "chunk_size", map_jobs.square, [], {"chunk_size": 0}),
        (ValueError, "max_pending", map_jobs.square, [], {"max_pending": 0}),
        (ValueError, "max_pending", map_jobs.square, [], {"max_pending": 5, "chunk_size": 6}),
        (TypeError, "ordered", map_jobs.square, [], {"ordered": "yes"}),
        (ValueError, "on_error", map_jobs.square, [], {"on_error": "ignore"}),
        (ValueError, "max_retries", map_jobs.square, [], {"max_retries": 1}),
        (ValueError, "timeout", map_jobs.square, [], {"timeout": -1}),
    ]
    for kind, match, function, items, options in wrong:
        with pytest.raises(kind, match=match):
            async with cpu.map(function, items, **options):
                pass


# ---- without workers


numbers = st.integers(-(2**64), 2**64) | st.floats() | st.booleans()
twice_the_same = st.text().map(lambda text: [text, (text,)])


@given(st.lists(numbers | st.text() | twice_the_same))
def test_a_log_holds_what_was_put(results: list[Any]) -> None:
    """Read by another `SharedLog`, in the order and with the types."""
    memory = memoryview(bytearray(log_bytes(len(results))))
    assert run_chunk(memory, map_jobs.as_it_is, results, 1 << 62) is None
    log = SharedLog(memory, len(results))
    assert log.head[FINISHED] == len(results)
    assert shown(log.results()) == shown(results)


@given(st.lists(st.binary(max_size=40_000), min_size=5))
def test_a_log_that_is_full(results: list[bytes]) -> None:
    """The first result that has no room is the answer; what is before it can be read."""
    memory = memoryview(bytearray(log_bytes(len(results))))
    answer = run_chunk(memory, map_jobs.as_it_is, results, 1 << 62)
    log = SharedLog(memory, len(results))
    finished = log.head[FINISHED]
    assert log.results() == results[:finished]
    assert answer == (results[finished] if finished < len(results) else None)


@pytest.fixture
def cells() -> Iterator[memoryview]:
    """Provide the slot of a request that this process runs."""
    cells = memoryview(bytearray(SLOT * 8)).cast("Q")
    set_process_request(CurrentRequest(cells, 7, None))
    yield cells
    set_process_request(None)


def test_no_item_begins_after_one_that_was_late(cells: memoryview) -> None:
    """The parent may be about to end that one; its result is the answer, in case it is not."""
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.02 if number == 3 else 0)
        return number

    cells[LIMIT] = 10_000_000
    memory = memoryview(bytearray(log_bytes(9)))
    assert run_chunk(memory, work, range(9), 1 << 62) == 3
    assert begun == [0, 1, 2, 3]
    assert SharedLog(memory, 9).results() == [0, 1, 2]


def test_no_item_begins_after_a_cancel(cells: memoryview) -> None:
    """What is finished is in the log."""
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 3:
            cells[CANCEL] = 7
            time.sleep(0.001)
        return number

    memory = memoryview(bytearray(log_bytes(9)))
    with pytest.raises(RequestInterrupt):
        run_chunk(memory, work, range(9), 1 << 62)
    assert begun == [0, 1, 2, 3]
    assert SharedLog(memory, 9).results() == [0, 1, 2, 3]


def test_no_item_begins_after_the_quota(cells: memoryview) -> None:
    """It is the parent's to say what becomes of the others; the request's own times stay."""
    memory = memoryview(bytearray(log_bytes(9)))
    before = time.perf_counter_ns()
    assert run_chunk(memory, map_jobs.sleep_for, [0.004] * 9, 10_000_000) is None
    log = SharedLog(memory, 9)
    assert 1 <= log.head[FINISHED] <= 3
    assert before <= cells[STARTED_AT] <= before + 4_000_000


def test_chunks_grow_and_shrink_with_the_time_of_an_item() -> None:
    """By no more than four times, to two milliseconds; at once if they take longer."""
    sizer = Sizer()
    sizes = []
    for _ in range(8):
        sizes.append(sizer.size)
        sizer.learn(sizer.size, sizer.size, sizer.size * 1000, math.inf)
    assert sizes == [1, 4, 16, 64, 256, 1024, 2000, 2000]
    sizer.learn(2000, 10, 10_000_000, math.inf)
    assert sizer.size == 2
    sizer.learn(2, 2, 20_000_000, math.inf)
    assert sizer.size == 1


def test_chunks_have_room_for_their_results_and_items() -> None:
    """By the bytes that the last ones had."""
    sizer = Sizer()
    for _ in range(8):
        sizer.learn(sizer.size, sizer.size, 1, 1000)
    assert sizer.size == 900
    assert not sizer.weigh(1, 100 << 10)
    assert sizer.size == 1
    assert sizer.weigh(10, 1 << 20)


def test_what_had_not_begun_keeps_its_place() -> None:
    """Before the chunks after it, in pieces of the size that is wanted then."""
    line = Line(ordered=True)
    first, second = Chunk([1, 2, 3, 4, 5]), Chunk([6, 7])
    line.add(first)
    line.add(second)
    line.heard(second)
    assert line.head() is None
    line.heard(first)
    assert line.head() is first
    line.replace_head([Chunk([3, 4, 5])])
    assert line.head() is None
    pieces = [line.next_unsent(2), line.next_unsent(2)]
    assert [piece.items for piece in pieces if piece] == [[3, 4], [5]]
    assert line.next_unsent(2) is None
    for piece in pieces:
        assert piece is not None
        line.heard(piece)
        assert line.head() is piece
        line.replace_head([])
    assert line.head() is second
