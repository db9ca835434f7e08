"""What a generator in a worker yields: all of it, in order, and never too far ahead."""

from __future__ import annotations

import array
import pickle
import threading
from collections import deque
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Literal

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import io_jobs
import jobs
import stream_jobs
from helpers import wait_until
from trioipc import (
    PayloadError,
    PoisonedRequestError,
    Progress,
    RemoteProtocolError,
    RequestCancelledError,
    RequestExitError,
    RequestTimeoutError,
    SharedCancellation,
    SharedCounter,
    SharedFlag,
    WorkerCrashedError,
    open_worker_pool,
)
from trioipc.memory._belt import SLOTS_LIMIT, BeltMaker, BeltTaker, belt_bytes, slot_bytes
from trioipc.testing import cancel_at_each_step, open_test_pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from trioipc import WorkerPool

    Kind = Literal["cpu", "io", "thread"]

MIB = 1 << 20


def on(kind: str, generator_fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return the generator function that workers of a kind run."""
    name = generator_fn.__name__ + ("_async" if kind == "io" else "")
    found: Callable[..., Any] = getattr(stream_jobs, name)
    return found


@pytest.fixture(params=["cpu", "io", "thread"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Provide each kind of worker."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
async def pool(kind: Kind) -> AsyncIterator[WorkerPool]:
    """Provide a pool of one worker of each kind, and see that it serves in the end."""
    async with open_worker_pool(1, kind=kind, modules=["stream_jobs"]) as pool:
        yield pool
        assert await everything(pool, on(kind, stream_jobs.count_to), 3) == [0, 1, 2]


@pytest.fixture
async def cpu_pool() -> AsyncIterator[WorkerPool]:
    """Provide a pool of one process."""
    async with open_worker_pool(1, modules=["stream_jobs"]) as pool:
        yield pool
        assert await pool.run(jobs.add, 1, 2) == 3


async def everything(
    pool: WorkerPool, generator_fn: Callable[..., Any], *arguments: Any, **options: Any
) -> list[Any]:
    """Return all that a generator yields."""
    async with pool.stream(generator_fn, *arguments, **options) as items:
        return [item async for item in items]


async def take_all(items: AsyncIterator[Any], got: list[Any]) -> None:
    """Append what is left to a list, also where an error ends it."""
    async for item in items:
        got.append(item)  # noqa: PERF401 - extend() would lose what came before an error


# ---- the belt


def make_belt(slots: int) -> tuple[BeltMaker, BeltTaker, memoryview]:
    """Make both sides of a belt in plain memory."""
    memory = memoryview(bytearray(belt_bytes(slots)))
    return BeltMaker(memory, slots), BeltTaker(memory, slots), memory


class BeltMachine(RuleBasedStateMachine):
    """A belt is a deque of at most so many records."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = 3
        self.maker, self.taker, _ = make_belt(self.slots)
        self.model: deque[tuple[int, bytes]] = deque()
        self.waits = False

    @precondition(lambda self: len(self.model) < self.slots)
    @rule(kind=st.integers(0, 255), record=st.binary(max_size=50))
    def lay(self, kind: int, record: bytes) -> None:
        """Lay one down; who waits is to be woken, and nobody else."""
        assert self.maker.lay(kind, record) == self.waits
        self.waits = False
        self.model.append((kind, record))

    @precondition(lambda self: self.model)
    @rule()
    def take(self) -> None:
        """Take the first off."""
        self.taker.count()
        kind, record = self.taker.record()
        assert (kind, bytes(record)) == self.model.popleft()
        assert (self.taker.kind(), self.taker.room_of_first()[: len(record)]) == (kind, record)
        self.taker.advance()

    @rule()
    def wait(self) -> None:
        """Ask to be woken."""
        self.taker.ask_to_be_woken()
        self.waits = True

    @invariant()
    def both_know(self) -> None:
        """How many there are, what they are, and whether there is room."""
        assert self.taker.count() == len(self.model)
        found = [self.taker.record(ahead) for ahead in range(len(self.model))]
        assert [(kind, bytes(record)) for kind, record in found] == [*self.model]
        assert self.maker.has_room() == (len(self.model) < self.slots)


TestBelt = BeltMachine.TestCase


@given(st.integers(1, SLOTS_LIMIT))
def test_a_belt_has_room_for_each_slot(slots: int) -> None:
    """They lie one behind the other, aligned, and are no larger than they need be."""
    size = slot_bytes(slots)
    assert 2048 <= size <= 8192
    assert size % 8 == 0
    assert slots * size + 256 <= belt_bytes(slots) <= max(MIB, slots * 2048, 64 << 10) + 256


@pytest.mark.parametrize(("cell", "value"), [(0, 9), (0, 1 << 63), (0, 2**64 - 1)])
def test_a_count_that_cannot_be(cell: int, value: int) -> None:
    """It is not believed."""
    _, taker, memory = make_belt(8)
    memory.cast("Q")[cell] = value
    with pytest.raises(RemoteProtocolError, match="on a belt of 8"):
        taker.count()


def test_a_length_that_cannot_be() -> None:
    """Nothing beyond the slot is looked at."""
    maker, taker, memory = make_belt(8)
    maker.lay(1, b"x" * maker.room)
    assert taker.count() == 1
    assert len(taker.record()[1]) == maker.room
    memory.cast("Q")[256 // 8] = (maker.room + 1) << 8
    with pytest.raises(RemoteProtocolError, match="in a slot of"):
        taker.record()


# ---- all, in order


@pytest.mark.parametrize("buffer", [1, 2, 8, 1000])
async def test_all_items_in_order(pool: WorkerPool, kind: Kind, buffer: int) -> None:
    """Whatever the buffer; what the generator returns is dropped."""
    items = await everything(pool, on(kind, stream_jobs.count_to), 3000, buffer=buffer)
    assert items == [*range(3000)]


async def test_an_empty_generator(pool: WorkerPool, kind: Kind) -> None:
    """It ends at once, and stays ended."""
    async with pool.stream(on(kind, stream_jobs.nothing)) as items:
        for _ in range(3):
            with pytest.raises(StopAsyncIteration):
                await anext(items)


PAYLOADS: list[Any] = [
    None,
    0,
    "ä" * 5000,
    "ö" * 9000,
    (1, [2, {"three": 3.0}]),
    b"",
    b"b" * 8191,
    b"c" * 8192,
    bytearray(b"d" * 100_000),
    b"e" * 3_000_000,
    [*range(100_000)],
    {"key": b"f" * 20_000, "other": bytearray(b"g" * 20_000)},
    (b"h" * 70_000, b"i", bytearray(b"j" * 300_000)),
    array.array("d", [1.5]) * 10_000,
    1 << 100_000,
]


async def test_payload_types_are_kept(pool: WorkerPool, kind: Kind) -> None:
    """Small and big, mixed, in a buffer of any size."""
    for buffer in (1, 8, 600):
        items = await everything(pool, on(kind, stream_jobs.yield_all), *PAYLOADS, buffer=buffer)
        assert items == PAYLOADS
        assert [*map(type, items)] == [*map(type, PAYLOADS)]


async def test_objects_with_buffers_of_their_own(cpu_pool: WorkerPool) -> None:
    """A view arrives as a view, whatever its size; a PickleBuffer's object as one as well."""
    views = [memoryview(b"k" * size) for size in (0, 10, 8000, 9000, 500_000)]
    items = await everything(cpu_pool, stream_jobs.yield_all, *views, [*views])
    assert items == [*views, [*views]]
    assert {type(item) for item in items[:5]} == {memoryview}


async def test_items_of_all_sizes_mixed(cpu_pool: WorkerPool) -> None:
    """Order holds between those on the belt and those beside it."""
    for buffer in (1, 3, 200):
        items = await everything(cpu_pool, stream_jobs.mixed, 60, buffer=buffer)
        sizes = stream_jobs.SIZES
        assert items == [(n, bytes([n]) * sizes[n % len(sizes)]) for n in range(60)]


async def test_more_buffers_than_a_record_can_name(cpu_pool: WorkerPool) -> None:
    """The rest stays in the pickle."""
    for buffer in (1, 1000):
        (item,) = await everything(cpu_pool, stream_jobs.two_many, buffer=buffer)
        assert item == [bytes([index % 256]) * 8192 for index in range(700)]


async def test_an_item_is_the_consumers_own(cpu_pool: WorkerPool) -> None:
    """A generator that fills the same memory again does not change what it has yielded."""
    items = await everything(cpu_pool, stream_jobs.mark, 20)
    assert [{*item} for item in items] == [{n} for n in range(20)]


async def test_items_outlive_their_pool() -> None:
    """A view keeps its memory."""
    async with open_worker_pool(1) as pool:
        items = await everything(pool, stream_jobs.mark, 3)
    assert [(item[0], item[-1]) for item in items] == [(0, 0), (1, 1), (2, 2)]


async def test_memory_of_items_is_used_again(cpu_pool: WorkerPool) -> None:
    """Also while the generator goes on: hundreds of items take as much as a few."""
    for size in (10_000, 100_000):
        *items, shared = await everything(cpu_pool, stream_jobs.hoard, 2, size)
        del items
        async with cpu_pool.stream(stream_jobs.hoard, 600, size) as stream:
            async for item in stream:
                last = item
        assert last < shared + 64 * max(size, 80 << 10)


async def test_shared_state_as_an_item(cpu_pool: WorkerPool) -> None:
    """It arrives as itself."""
    with SharedFlag() as flag:
        first, (second, data) = await everything(cpu_pool, stream_jobs.share, flag)
        with first, second:
            flag.set()
            assert (first.is_set(), second.is_set(), len(data)) == (True, True, 100_000)


async def test_threads_hand_items_over_as_they_are() -> None:
    """Nothing is pickled."""
    lock = threading.Lock()
    async with open_worker_pool(1, kind="thread") as pool:
        assert await everything(pool, stream_jobs.yield_all, lock) == [lock]


async def test_big_arguments(pool: WorkerPool, kind: Kind) -> None:
    """They travel as those of `run`."""
    big = [b"l" * 3_000_000, bytearray(b"m" * 100_000)]
    assert await everything(pool, on(kind, stream_jobs.yield_all), *big) == big


async def test_two_streams_at_once(kind: Kind) -> None:
    """Their items do not mix."""
    function = on(kind, stream_jobs.count_to)
    async with (
        open_worker_pool(2, kind=kind) as pool,
        pool.stream(function, 500) as first,
        pool.stream(function, 500, buffer=3) as second,
    ):
        for number in range(500):
            assert (await anext(first), await anext(second)) == (number, number)


async def test_many_streams_of_one_io_worker() -> None:
    """They share it, and each ends by itself."""
    async with open_worker_pool(1, kind="io") as pool, trio.open_nursery() as nursery:
        ended = []

        async def consume(number: int) -> None:
            items = await everything(pool, stream_jobs.count_slowly_async, number, 0.001)
            ended.append(items == [*range(number)])

        for number in range(30):
            nursery.start_soon(consume, number)
    assert ended == [True] * 30


# ---- how far ahead


@pytest.mark.parametrize("buffer", [1, 3, 8])
async def test_the_generator_is_never_more_than_the_buffer_ahead(
    pool: WorkerPool, kind: Kind, buffer: int
) -> None:
    """It yields exactly so many that nobody has taken, and is not resumed before one is."""
    with SharedCounter() as counter:
        function = on(kind, stream_jobs.count_loudly)
        async with pool.stream(function, counter, 100, buffer=buffer) as items:
            for taken in range(30):
                await wait_until(lambda taken=taken: counter.get() >= taken + buffer)
                await trio.sleep(0.002)  # in which it could do worse
                assert counter.get() == taken + buffer
                assert await anext(items) == taken


async def test_a_fast_consumer_never_sees_more(cpu_pool: WorkerPool) -> None:
    """The bound holds at each item, however fast both are."""
    with SharedCounter() as counter:
        async with cpu_pool.stream(stream_jobs.count_loudly, counter, 5000, buffer=4) as items:
            async for item in items:
                assert counter.get() <= item + 1 + 4


async def test_a_slow_generator(pool: WorkerPool, kind: Kind) -> None:
    """Each item is there before the next is made."""
    items = []
    async with pool.stream(on(kind, stream_jobs.count_slowly), 20, 0.005) as stream:
        await take_all(stream, items)
    assert items == [*range(20)]


async def test_in_virtual_time(autojump_clock: trio.testing.MockClock) -> None:
    """A slow consumer holds the generator up, a slow generator the consumer; nobody is lost."""
    got = []
    async with (
        open_test_pool(kind="io") as pool,
        pool.stream(stream_jobs.count_slowly_async, 10, 1.0, buffer=2) as items,
    ):
        async for item in items:
            got.append((item, round(trio.current_time())))
            await trio.sleep(5 if item == 3 else 0)
    start = got[0][1]
    assert [(item, at - start) for item, at in got] == [
        (0, 0), (1, 1), (2, 2), (3, 3), (4, 8), (5, 8), (6, 9), (7, 10), (8, 11), (9, 12)
    ]  # fmt: skip


async def test_in_a_test_pool(autojump_clock: trio.testing.MockClock) -> None:
    """Plain generators run as tasks, and all is copied as if it had travelled."""
    memory = bytearray(b"q")
    async with open_test_pool() as pool:
        assert await everything(pool, stream_jobs.count_to, 5) == [0, 1, 2, 3, 4]
        (item,) = await everything(pool, stream_jobs.yield_all, memory)
        assert item == memory
        assert item is not memory
        with pytest.raises(PayloadError, match="an item of type lock"):
            await everything(pool, stream_jobs.no_pickle)
        with pytest.raises(TypeError, match="kind='io'"):
            await everything(pool, stream_jobs.count_to_async, 5)


@pytest.mark.parametrize(
    "buffer", [0, -1, SLOTS_LIMIT + 1, 1.5, "8", True, None, float("inf"), float("nan")]
)
async def test_a_buffer_that_cannot_be(buffer: Any) -> None:
    """No worker is asked."""
    async with open_test_pool(1) as pool:
        with pytest.raises((ValueError, TypeError), match="buffer"):
            await everything(pool, stream_jobs.count_to, 1, buffer=buffer)


# ---- leaving early


async def test_leaving_closes_the_generator(pool: WorkerPool, kind: Kind) -> None:
    """Its ``finally`` has run when the block is left, and the worker is the same as before."""
    with SharedFlag() as flag:
        async with pool.stream(on(kind, stream_jobs.note_the_end), flag) as items:
            assert await anext(items) == 0
            assert not flag.is_set()
        assert flag.is_set()
    with pytest.raises(trio.ClosedResourceError, match="block"):
        await anext(items)
    assert pool.statistics().restarts == {}


async def test_leaving_by_a_break_and_by_an_error(pool: WorkerPool, kind: Kind) -> None:
    """What the body raises leaves the block as itself."""
    with SharedFlag() as flag:
        with pytest.raises(KeyError, match="mine"):
            async with pool.stream(on(kind, stream_jobs.note_the_end), flag) as items:
                async for item in items:
                    if item == 100:
                        raise KeyError("mine")
        assert flag.is_set()


async def test_leaving_a_cancelled_scope(pool: WorkerPool, kind: Kind) -> None:
    """The generator is closed; the cancel is caught by its scope."""
    with SharedFlag() as flag, trio.move_on_after(0.2) as scope:
        async with pool.stream(on(kind, stream_jobs.note_the_end), flag) as items:
            async for _ in items:
                pass
    assert scope.cancelled_caught
    assert pool.statistics().restarts == {}


async def test_leaving_before_it_began(kind: Kind) -> None:
    """One that waits for a worker never runs."""
    async with open_worker_pool(1, kind=kind) as pool:
        function = on(kind, stream_jobs.note_the_end)
        with SharedFlag() as first, SharedFlag() as second:
            async with pool.stream(function, first) as items:
                await anext(items)
                async with pool.stream(function, second):
                    pass
            assert first.is_set()
            assert second.is_set() == (kind == "io" and second.is_set())


async def test_clean_up_that_fails(cpu_pool: WorkerPool) -> None:
    """It is told, as everywhere in Trio: by the block, and by a cancelled scope."""
    with pytest.raises(ValueError, match="no way to clean up"):
        async with cpu_pool.stream(stream_jobs.fail_to_clean_up, buffer=1) as items:
            await anext(items)
    with pytest.raises(RuntimeError, match="generator ignored GeneratorExit"):
        async with cpu_pool.stream(stream_jobs.ignore_the_close) as items:
            await anext(items)
    with pytest.raises(ValueError, match="no way"), trio.CancelScope() as scope:
        async with cpu_pool.stream(stream_jobs.fail_to_clean_up, buffer=1) as items:
            await anext(items)
            scope.cancel()
            await anext(items)


async def test_what_happened_ahead_is_not_told(cpu_pool: WorkerPool) -> None:
    """Whether the generator had got that far is a matter of chance."""
    async with cpu_pool.stream(stream_jobs.fail_after, 3, ValueError("ahead")) as items:
        assert await anext(items) == 0
        await wait_until(lambda: not cpu_pool.statistics().busy_workers)


async def test_one_that_hangs_is_interrupted(cpu_pool: WorkerPool) -> None:
    """Between two items as in any function; the ladder goes on where it is not closed."""
    for function in (stream_jobs.never_look, stream_jobs.hang_in_the_end):
        with SharedFlag() as flag:
            async with cpu_pool.stream(function, flag, grace=0.5) as items:
                assert await anext(items) == 1
                await wait_until(flag.is_set)
    assert cpu_pool.statistics().cancel_time["interrupt"].count == 2


async def test_items_that_nobody_takes(cpu_pool: WorkerPool) -> None:
    """Their memory is used again, as that of all others."""
    for _ in range(40):
        async with cpu_pool.stream(stream_jobs.mark, 100) as items:
            await anext(items)
    arena = cpu_pool.statistics().arena
    assert arena is not None
    assert arena.size < 12 * 300_000


# ---- errors


async def test_an_error_comes_out_where_it_was_raised(pool: WorkerPool, kind: Kind) -> None:
    """Behind all items before, bare, with its traceback and a note; then there is nothing more."""
    got = []
    async with pool.stream(
        on(kind, stream_jobs.fail_after), 20, ValueError("twenty"), buffer=50
    ) as items:
        with pytest.raises(ValueError, match="twenty") as caught:
            await take_all(items, got)
        with pytest.raises(StopAsyncIteration):
            await anext(items)
    assert got == [*range(20)]
    (note,) = caught.value.__notes__
    assert "stream_jobs.fail_after" in note
    assert caught.traceback[-1].name.startswith("fail_after")


async def test_an_error_leaves_the_block_as_itself(pool: WorkerPool, kind: Kind) -> None:
    """It is not wrapped."""
    with pytest.raises(ValueError, match="now"):
        await everything(pool, on(kind, stream_jobs.fail_after), 0, ValueError("now"))


async def test_an_exit(pool: WorkerPool, kind: Kind) -> None:
    """A BaseException of the generator is a `RequestExitError`."""
    with pytest.raises(RequestExitError) as caught:
        await everything(pool, on(kind, stream_jobs.fail_after), 1, SystemExit(5))
    assert (caught.value.type_name, caught.value.code) == ("SystemExit", 5)


async def test_stop_iteration(cpu_pool: WorkerPool) -> None:
    """A generator cannot raise it (PEP 479)."""
    with pytest.raises(RuntimeError, match="generator raised StopIteration"):
        await everything(cpu_pool, stream_jobs.stop_iteration)


async def test_what_cannot_be_pickled(cpu_pool: WorkerPool) -> None:
    """The arguments before anything is sent; an item when its turn has come."""
    with pytest.raises(PayloadError, match=r"argument 1 of stream_jobs.yield_all, of type lock"):
        await everything(cpu_pool, stream_jobs.yield_all, 1, threading.Lock())

    def local() -> Any:
        yield 1

    with pytest.raises(PayloadError, match=r"the function .*local.* cannot be sent"):
        await everything(cpu_pool, local)
    for function, why in (
        (stream_jobs.no_pickle, "an item of type _thread.lock: TypeError: cannot pickle"),
        (stream_jobs.unloadable, "an item that came back: RuntimeError: not here"),
    ):
        async with cpu_pool.stream(function) as items:
            assert await anext(items) == 1
            with pytest.raises(PayloadError, match=why) as caught:
                await anext(items)
            with pytest.raises(StopAsyncIteration):
                await anext(items)
        assert len(caught.value.__notes__) == 1


async def test_what_is_no_generator(kind: Kind) -> None:
    """The error names what does run it."""
    async with open_worker_pool(1, kind=kind) as pool:
        for function in (jobs.add, io_jobs.fail_later):
            with pytest.raises(TypeError, match=r"is no generator function; .* run\(\)"):
                await everything(pool, function, 1, 2)
        with pytest.raises(TypeError, match="must be callable, not int"):
            await everything(pool, 5)  # type: ignore[arg-type]
        wrong = stream_jobs.count_to if kind == "io" else stream_jobs.count_to_async
        other = "kind='cpu'" if kind == "io" else "kind='io'"
        with pytest.raises(TypeError, match=other):
            await everything(pool, wrong, 1)
        if kind != "io":
            with pytest.raises(TypeError, match=r"stream\(\)"):
                await pool.run(stream_jobs.count_to, 1)


async def test_two_tasks_on_one_stream(cpu_pool: WorkerPool) -> None:
    """The second is told so."""
    async with (
        cpu_pool.stream(stream_jobs.count_slowly, 1, 60.0, grace=0.1) as items,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(anext, items)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError, match="another task"):
            await anext(items)
        nursery.cancel_scope.cancel()


async def test_a_fork_of_the_generator(cpu_pool: WorkerPool) -> None:
    """The child lays nothing on the belt."""
    assert await everything(cpu_pool, stream_jobs.fork) == [1, 2, 3]


# ---- ends from outside


async def test_a_scope_around_one_item(pool: WorkerPool, kind: Kind) -> None:
    """Who is cancelled has missed nothing, and goes on."""
    got = []
    async with pool.stream(on(kind, stream_jobs.count_slowly), 10, 0.01) as items:
        while len(got) < 10:
            with trio.move_on_after(0.003):
                got.append(await anext(items))
    assert got == [*range(10)]


async def test_timeout(pool: WorkerPool, kind: Kind) -> None:
    """It bounds the whole run; what was yielded before is delivered."""
    with SharedFlag() as flag:
        got = []
        with pytest.raises(RequestTimeoutError) as caught:
            async with pool.stream(
                on(kind, stream_jobs.note_the_end), flag, timeout=0.1, buffer=5
            ) as items:
                await wait_until(flag.is_set)
                await take_all(items, got)
        assert got == [0, 1, 2, 3, 4]
        assert (caught.value.clock, caught.value.rung) == ("run", "checkpoint")


async def test_a_slow_consumer_is_no_stall() -> None:
    """A generator that waits for room has not stalled; one that hangs has."""
    async with open_worker_pool(1, modules=["stream_jobs"], stall_timeout=0.5, grace=0.1) as pool:
        async with pool.stream(stream_jobs.count_to, 20, buffer=1) as items:
            await anext(items)
            await trio.sleep(1.2)
            assert [item async for item in items] == [*range(1, 20)]
        with SharedFlag() as flag, pytest.raises(RequestTimeoutError) as caught:
            await everything(pool, stream_jobs.never_look, flag)
        assert caught.value.clock == "stall"


async def test_a_flag_that_is_set(pool: WorkerPool, kind: Kind) -> None:
    """It ends the generator; before the call, no worker is asked."""
    with SharedFlag() as end, SharedCancellation() as flag:
        with pytest.raises(RequestCancelledError) as caught:
            async with pool.stream(
                on(kind, stream_jobs.note_the_end), end, cancellation=flag
            ) as items:
                async for item in items:
                    if item == 10:
                        flag.cancel("enough")
        assert (caught.value.reason, end.is_set()) == ("enough", True)
        with pytest.raises(RequestCancelledError):
            await everything(pool, on(kind, stream_jobs.count_to), 3, cancellation=flag)


@pytest.mark.parametrize("kind", ["cpu", "io"])
async def test_a_crash_in_the_middle(pool: WorkerPool, kind: Kind) -> None:
    """What was yielded is delivered, then the crash is told."""
    got = []
    with pytest.raises(WorkerCrashedError) as caught:
        async with pool.stream(on(kind, stream_jobs.die_after), 5) as items:
            await wait_until(lambda: pool.statistics().restarts)
            await take_all(items, got)
    assert got == [0, 1, 2, 3, 4]
    assert caught.value.exitcode == 3
    assert pool.statistics().restarts == {"crashed": 1}


@pytest.mark.parametrize("size", [100, 10_000, 1_000_000])
async def test_a_crash_with_big_items_left(cpu_pool: WorkerPool, size: int) -> None:
    """Their memory outlives the worker."""
    got = []
    with pytest.raises(WorkerCrashedError):
        async with cpu_pool.stream(stream_jobs.die_after, 5, b"n" * size) as items:
            await wait_until(lambda: cpu_pool.statistics().restarts)
            await take_all(items, got)
    assert got == [b"n" * size] * 5


async def test_a_second_try(cpu_pool: WorkerPool, tmp_path: Path) -> None:
    """Before the first item was handed out there may be one, and nothing is left of the first."""
    options: dict[str, Any] = {"idempotent": True, "max_retries": 1}
    path = str(tmp_path / "0")
    assert await everything(cpu_pool, stream_jobs.die_once, path, 0, **options) == [*"second"]
    async with cpu_pool.stream(stream_jobs.die_once, str(tmp_path / "1"), 5, **options) as items:
        await wait_until(lambda: sum(cpu_pool.statistics().restarts.values()) == 2)
        assert [item async for item in items] == [*"second"]
    with pytest.raises(PoisonedRequestError):
        await everything(cpu_pool, stream_jobs.die_after, 0, **options)


async def test_no_second_try_after_an_item(cpu_pool: WorkerPool, tmp_path: Path) -> None:
    """It would come a second time."""
    got = []
    with pytest.raises(WorkerCrashedError):
        async with cpu_pool.stream(
            stream_jobs.die_once, str(tmp_path / "0"), 5, buffer=1, idempotent=True
        ) as items:
            await take_all(items, got)
    assert got == [0, 1, 2, 3, 4]


async def test_a_pool_that_is_closed_meanwhile(kind: Kind) -> None:
    """It is served for the drain timeout, then aborted; what was yielded is delivered."""
    left = trio.Event()

    async def consume() -> None:
        with SharedFlag() as flag, pytest.raises(trio.ClosedResourceError):
            async with pool.stream(on(kind, stream_jobs.note_the_end), flag) as items:
                await anext(items)
                started.set()
                await left.wait()
                async for _ in items:
                    pass

    started = trio.Event()
    async with trio.open_nursery() as nursery:
        async with open_worker_pool(1, kind=kind, drain_timeout=0.05) as pool:
            nursery.start_soon(consume)
            await started.wait()
        left.set()
    with pytest.raises(trio.ClosedResourceError):
        await everything(pool, on(kind, stream_jobs.count_to), 3)


# ---- progress


@pytest.mark.parametrize("kind", ["cpu", "thread"])
async def test_progress(kind: Kind) -> None:
    """The generator's own comes in order, in this task, and the last value always."""
    seen: list[Progress] = []
    tasks = set()

    async def note(progress: Progress) -> None:
        seen.append(progress)
        tasks.add(trio.lowlevel.current_task())

    async with open_worker_pool(1, kind=kind, progress_interval=0.001) as pool:
        items = await everything(pool, stream_jobs.progress, 2000, on_progress=note)
    assert items == [*range(2000)]
    values = [progress.value for progress in seen]
    assert values == sorted({*values})
    assert (seen[-1].value, seen[-1].total) == (2000, 2000)
    assert tasks == {trio.lowlevel.current_task()}


async def test_progress_that_raises(cpu_pool: WorkerPool) -> None:
    """The generator is cancelled, and that error comes out, bare."""

    def refuse(progress: Progress) -> None:
        raise KeyError("no progress")

    with pytest.raises(KeyError, match="no progress") as caught:
        await everything(cpu_pool, stream_jobs.progress, 10**9, on_progress=refuse)
    assert not hasattr(caught.value, "__notes__")
    assert cpu_pool.statistics().restarts == {}


# ---- a worker gone mad


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("laid", 1 << 40),
        ("laid", 2**64 - 1),
        ("word", (1 << 30) << 8 | 1),  # longer than its slot
        ("word", 20 << 8 | 7),  # no such kind
        ("word", 1),  # beside, but empty
        ("word", 1000 << 8 | 1),  # beside, but zeros
    ],
)
async def test_a_belt_that_is_scribbled_on(cpu_pool: WorkerPool, where: str, value: int) -> None:
    """What came before is delivered; then it is an error, and the worker is killed."""
    got = []
    with trio.fail_after(20):
        async with cpu_pool.stream(stream_jobs.scribble, where, value) as items:
            with pytest.raises((RemoteProtocolError, PayloadError)):
                async for item in items:
                    got.append(item)
                    await trio.sleep(0.05)
    assert got in ([1, 2], [1])


# ---- Trio's rules


async def test_items_are_checkpoints(pool: WorkerPool, kind: Kind) -> None:
    """Entering and the end are; at each item, and while there is none, a cancel is seen."""
    stream = pool.stream(on(kind, stream_jobs.count_to), 3)
    async with AsyncExitStack() as stack:
        with trio.testing.assert_checkpoints():
            items = await stack.enter_async_context(stream)
        await wait_until(lambda: not pool.statistics().busy_workers)
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(items)
        assert scope.cancelled_caught
        assert [item async for item in items] == [0, 1, 2]
        for _ in range(3):
            with trio.testing.assert_checkpoints(), pytest.raises(StopAsyncIteration):
                await anext(items)


async def test_others_have_their_turn(cpu_pool: WorkerPool) -> None:
    """Though an item is always there, and the consumer itself never waits."""
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(turn)
        async with cpu_pool.stream(stream_jobs.count_to, 50, buffer=64) as items:
            await wait_until(lambda: not cpu_pool.statistics().busy_workers)
            await anext(items)
            turns = 0
            async for _ in items:
                start = trio.current_time()
                while trio.current_time() < start + 0.0015:  # more than a millisecond
                    pass
        assert turns >= 49
        nursery.cancel_scope.cancel()


async def test_cancelled_at_each_step(kind: Kind) -> None:
    """Nothing is lost, the generator is closed, and the worker serves the next."""
    function = on(kind, stream_jobs.yield_all)
    sizes = [1, 100_000, 600_000, 5]
    async with open_worker_pool(1, kind=kind) as pool:

        async def use() -> None:
            async with pool.stream(function, *map(bytes, sizes)) as items:
                assert [len(item) async for item in items] == sizes

        async def check() -> None:
            assert not pool.statistics().busy_workers
            assert await everything(pool, on(kind, stream_jobs.count_to), 2) == [0, 1]

        assert await cancel_at_each_step(use, check) > 3
        assert pool.statistics().restarts == {}


def test_a_belt_is_pickled_as_its_other_side() -> None:
    """Over the same memory."""
    _, taker, _ = make_belt(4)
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(taker, 5, buffer_callback=buffers.append)
    other = pickle.loads(pickled, buffers=[memoryview(buffer) for buffer in buffers])
    assert type(other) is BeltMaker
    assert repr(other) == "<BeltMaker: 0 laid>"
    other.lay(0, b"p")
    assert (bytes(taker.record()[1]), repr(taker)) == (b"p", "<BeltTaker: 0 taken>")
