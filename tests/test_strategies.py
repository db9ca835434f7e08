"""Who runs what, as the user says: strategies, limits for operations, and queues that are full."""

from __future__ import annotations

import functools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trio.testing

import jobs
from jobs import double
from trioipc import (
    CostWeightedStrategy,
    LocalProtocolError,
    RequestView,
    StickyStrategy,
    Strategy,
    WorkerCrashedError,
    WorkerView,
    open_worker_pool,
)
from trioipc.testing import Crash, open_test_pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from trio.testing import MockClock

    from trioipc import WorkerPool


def task(name: str, seconds: float = 1.0) -> str:
    """Stand for something that takes a while."""
    raise AssertionError("it has a stand-in")


async def waiting_task(name: str) -> str:
    """Stand for something that takes a while, in workers that run many at once."""
    raise AssertionError("it has a stand-in")


def other(name: str) -> str:
    """Stand for something else that does."""
    raise AssertionError("it has a stand-in")


def deadly(name: str) -> str:
    """Stand for something that ends its worker."""
    raise AssertionError("it has a stand-in")


@attrs.define
class Stage:
    """A pool, and what has run on it."""

    pool: WorkerPool
    log: list[tuple[float, str]]

    @property
    def workers(self) -> list[int]:
        """Say how many requests each worker holds."""
        return [len(worker.held) for worker in self.pool._dispatcher.team.workers]

    def names(self) -> list[str]:
        """Return what has begun, in order."""
        return [name for _, name in self.log]

    def together(self, *names: str) -> int:
        """Return how many of these ran at once at most, if each takes a second."""
        begun = [at for at, name in self.log if name[0] in names]
        return max(sum(at <= one < at + 1 for at in begun) for one in begun)


@asynccontextmanager
async def staged(size: int, **options: Any) -> AsyncIterator[Stage]:
    """Open a pool whose functions write down when they begin."""
    log: list[tuple[float, str]] = []

    async def play(name: str, seconds: float = 1.0) -> str:
        log.append((trio.current_time(), name))
        await trio.sleep(seconds)
        return name

    parts: dict[Any, Any] = {task: play, waiting_task: play, other: play, deadly: Crash()}
    async with open_test_pool(size, stand_ins=parts, **options) as pool:
        await pool.warm()
        yield Stage(pool, log)


async def run_all(pool: WorkerPool, calls: Iterable[Sequence[Any]]) -> None:
    """Run all of these at once, submitted in this order."""
    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(pool.run, *call)
            await trio.testing.wait_all_tasks_blocked()


def first_letter(function: object, arguments: tuple[Any, ...]) -> str:
    """Return the key of a request."""
    return str(arguments[0])[0]


# ---- ready-made ones


def test_they_are_strategies() -> None:
    """All ready-made ones are what the protocol says."""
    made = (StickyStrategy(first_letter), CostWeightedStrategy(lambda function, arguments: 1))
    assert [isinstance(strategy, Strategy) for strategy in made] == [True, True]


async def test_sticky_by_key(autojump_clock: MockClock) -> None:
    """The same key runs on the same worker, one after the other; others need not wait for it."""
    async with staged(3, strategy=StickyStrategy(first_letter)) as stage:
        places: dict[str, set[int | None]] = {}

        async def run(name: str) -> None:
            async with stage.pool.open_request(task, name) as request:
                await request.wait_started()
                assert request._worker is not None
                places.setdefault(name[0], set()).add(request._worker.endpoint.pid)
                await request.result()

        async with trio.open_nursery() as nursery:
            for number in range(4):
                for key in "abcdefghi":
                    nursery.start_soon(run, f"{key}{number}")
        assert [len(pids) for pids in places.values()] == [1] * 9
        assert len(set.union(*places.values())) > 1  # of nine keys, not all at one of three
        assert all(stage.together(key) == 1 for key in "abcdefghi")


async def test_sticky_without_a_key(autojump_clock: MockClock) -> None:
    """What has no key runs anywhere."""
    async with staged(3, strategy=StickyStrategy(lambda function, arguments: None)) as stage:
        await run_all(stage.pool, [(task, f"x{number}") for number in range(6)])
        assert stage.together("x") == 3


async def test_a_key_must_be_hashable() -> None:
    """Else the call that would have it fails, and only that."""
    async with open_test_pool(strategy=StickyStrategy(lambda _, arguments: arguments[0])) as pool:
        with pytest.raises(TypeError, match="unhashable"):
            await pool.run(jobs.echo, [])
        assert await pool.run(jobs.echo, "a") == "a"


async def test_cost_weighted(autojump_clock: MockClock) -> None:
    """Who holds what costs much is given less."""
    strategy = CostWeightedStrategy(lambda function, arguments: float(arguments[0][1:]))
    async with staged(2, kind="io", strategy=strategy) as stage, trio.open_nursery() as nursery:
        for name in ("x10", *["x1"] * 9):
            nursery.start_soon(stage.pool.run, waiting_task, name)
            await trio.testing.wait_all_tasks_blocked()
        assert sorted(stage.workers) == [1, 9]


async def test_a_cost_is_no_less_than_nothing(autojump_clock: MockClock) -> None:
    """A negative one is an error at the call."""
    strategy = CostWeightedStrategy(lambda function, arguments: -1)
    async with staged(1, strategy=strategy) as stage:
        with pytest.raises(ValueError, match=r"must be >= 0, not -1"):
            await stage.pool.run(task, "a")


async def test_messages_are_known_by_their_operation() -> None:
    """A strategy is told the operation's name, and its payload."""
    seen = []

    def key(function: object, arguments: tuple[Any, ...]) -> object:
        seen.append((function, arguments))
        return None

    async with open_worker_pool(1, modules=["jobs"], strategy=StickyStrategy(key)) as pool:
        assert await pool.execute({"type": "double", "channel": "custom", "payload": 4}) == 8
        assert await pool.run(double, 5) == 10
    assert seen == [("double", (4,)), (double, (5,))]


async def test_chunks_of_a_map_go_anywhere() -> None:
    """They have no label."""
    for strategy in (StickyStrategy(first_letter), CostWeightedStrategy(lambda *_: 1)):
        async with (
            open_worker_pool(2, strategy=strategy) as pool,
            pool.map(str, range(50)) as results,
        ):
            assert [value async for value in results] == [str(number) for number in range(50)]


# ---- one's own


@attrs.define(eq=False)
class Own:
    """A strategy that does as it is told."""

    answer: Callable[[list[RequestView], list[WorkerView]], Any]

    def label(self, function: object, arguments: tuple[Any, ...]) -> object:
        """Return the first argument."""
        return arguments[0]

    def assign(self, requests: Iterable[RequestView], workers: Sequence[WorkerView]) -> Any:
        """Ask the test."""
        return self.answer([*requests], [*workers])


def backwards(requests: list[RequestView], workers: list[WorkerView]) -> Any:
    """Last come, first served."""
    free = [worker for worker in workers if worker.free]
    return zip(reversed(requests), free, strict=False)


async def test_one_of_ones_own(autojump_clock: MockClock) -> None:
    """It sees requests and workers, and decides."""
    seen: list[tuple[list[Any], list[Any]]] = []

    def answer(requests: list[RequestView], workers: list[WorkerView]) -> Any:
        views = [(one.label, one.priority) for one in requests]
        seen.append((views, [(w.free, [r.label for r in w.requests]) for w in workers]))
        return backwards(requests, workers)

    async with staged(1, strategy=Own(answer)) as stage:
        await run_all(stage.pool, [(task, name) for name in ("a", "b", "c", "d")])
        assert stage.names() == ["a", "d", "c", "b"]
        assert seen[0] == ([("a", "normal")], [(1, [])])
        assert seen[-1] == ([("b", "normal")], [(1, [])])


def a_stranger(requests: list[RequestView], workers: list[WorkerView]) -> Any:
    """Give what nobody has asked for."""
    return [(RequestView("stranger-1", "normal", None), workers[0])]


def a_stranger_s_worker(requests: list[RequestView], workers: list[WorkerView]) -> Any:
    """Give to whom there is not."""
    return [(requests[0], WorkerView(99, None, 1, ()))]


NONSENSE: list[tuple[Any, str]] = [
    (lambda requests, workers: 1 / 0, "raised ZeroDivisionError: division by zero"),
    (lambda requests, workers: None, "raised TypeError"),
    (lambda requests, workers: requests, "gave a RequestView, no pair of a request and a worker"),
    (a_stranger, "gave request stranger-1, which is no request that waits"),
    (a_stranger_s_worker, "gave worker 99 for test-1, which is no worker here"),
    (lambda requests, workers: [(workers[0], requests[0])], "gave worker 1, which is no request"),
    (
        lambda requests, workers: [(requests[0], workers[0])] * 2,
        "gave request test-1, which is no request that waits",
    ),
]


@pytest.mark.parametrize(("answer", "what"), NONSENSE)
async def test_nonsense_is_named(autojump_clock: MockClock, answer: Any, what: str) -> None:
    """All that wait fail with what was wrong; nothing hangs, and the pool lives on."""
    is_mad = True

    def sometimes(requests: list[RequestView], workers: list[WorkerView]) -> Any:
        return (answer if is_mad else backwards)(requests, workers)

    async with staged(1, strategy=Own(sometimes), name="test") as stage:
        with trio.fail_after(5), pytest.raises(LocalProtocolError) as caught:
            await stage.pool.run(task, "a")
        assert str(caught.value).startswith("the strategy Own " + what)
        is_mad = False
        assert await stage.pool.run(task, "b") == "b"
        statistics = stage.pool.statistics()
        assert (statistics.total_errors, statistics.queued_tasks) == (1, 0)


async def test_a_full_worker_is_given_nothing(autojump_clock: MockClock) -> None:
    """Who gives it more is told so; what runs goes on."""

    def first(requests: list[RequestView], workers: list[WorkerView]) -> Any:
        return [(requests[0], workers[0])]

    async with (
        staged(2, strategy=Own(first), name="test") as stage,
        stage.pool.open_request(task, "a") as request,
    ):
        with pytest.raises(LocalProtocolError, match="test-2 to worker 1, which is full"):
            await stage.pool.run(task, "b")
        assert await request.result() == "a"


async def test_to_give_nothing_is_an_error_only_if_none_is_busy(autojump_clock: MockClock) -> None:
    """A request may wait for one that runs, but not for nothing."""

    def one_at_a_time(requests: list[RequestView], workers: list[WorkerView]) -> Any:
        if any(worker.requests for worker in workers) or requests[0].label == "never":
            return []
        return [(requests[0], workers[0])]

    async with staged(2, strategy=Own(one_at_a_time)) as stage:
        await run_all(stage.pool, [(task, name) for name in ("a1", "a2", "a3")])
        assert stage.together("a") == 1
        with pytest.raises(LocalProtocolError, match="though some wait and no worker is busy"):
            await stage.pool.run(task, "never")


async def test_all_that_wait_fail_each_for_itself(autojump_clock: MockClock) -> None:
    """With an error of its own each, and the strategy's as the cause."""
    is_mad = False

    def answer(requests: list[RequestView], workers: list[WorkerView]) -> Any:
        return 1 / 0 if is_mad else backwards(requests, workers)

    errors = []

    async def run(stage: Stage, name: str) -> None:
        try:
            await stage.pool.run(task, name)
        except LocalProtocolError as error:
            errors.append(error)

    async with staged(1, strategy=Own(answer)) as stage, trio.open_nursery() as nursery:
        for name in ("a", "b", "c"):
            nursery.start_soon(run, stage, name)
            await trio.testing.wait_all_tasks_blocked()
        is_mad = True
    assert stage.names() == ["a"]
    assert len(set(map(id, errors))) == 2
    assert all(isinstance(error.__cause__, ZeroDivisionError) for error in errors)


@pytest.mark.parametrize(
    ("strategy", "error", "what"),
    [
        ("random", ValueError, "one of least-busy, round-robin, not 'random'"),
        (StickyStrategy, TypeError, "a Strategy, not the class StickyStrategy"),
        (3, TypeError, "or a Strategy, not a int"),
    ],
)
async def test_what_is_no_strategy(strategy: Any, error: Any, what: str) -> None:
    """It is refused when the pool is opened."""
    with pytest.raises(error, match=what):
        async with open_test_pool(strategy=strategy):
            raise AssertionError("it was opened")


# ---- limits for operations


async def test_concurrency(autojump_clock: MockClock) -> None:
    """So many run at once, and others need not wait for that."""
    async with staged(4, concurrency={task: 2}) as stage:
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(stage.pool.run, task, f"t{number}")
            await trio.testing.wait_all_tasks_blocked()
            assert stage.pool.statistics().queued_tasks == 4
            for number in range(4):
                nursery.start_soon(stage.pool.run, other, f"o{number}")
        assert stage.together("t") == 2
        assert stage.together("t", "o") == 4
        assert max(at for at, _ in stage.log) - min(at for at, _ in stage.log) == 2


async def test_concurrency_and_every_way_to_end(autojump_clock: MockClock) -> None:
    """A place in front of it is free again however a request ends: cancelled, or by a crash."""
    async with staged(3, concurrency={task: 1, deadly: 1}, max_retries=2) as stage:
        pool = stage.pool
        async with pool.open_request(task, "a") as first, pool.open_request(task, "b") as second:
            second.cancel()
            with trio.move_on_after(0.5) as scope:
                await pool.run(task, "c")
            assert scope.cancelled_caught
            first.cancel()
        with pytest.raises(WorkerCrashedError):
            await pool.run(deadly, "d")
        with pytest.raises(WorkerCrashedError):
            await pool.run(deadly, "e")
        assert await pool.run(task, "f") == "f"
        assert pool.statistics().queued_tasks == 0
        assert pool._dispatcher.scheduler.gated == 0


async def test_concurrency_of_an_operation() -> None:
    """By its name, for messages and calls alike; and of what a partial calls."""
    message = {"type": "double", "channel": "custom", "payload": 1}
    async with open_worker_pool(2, modules=["jobs"], concurrency={"double": 1}) as pool:
        gate = pool._dispatcher.gates["double"]
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(pool.execute, message)
                nursery.start_soon(pool.run, double, 1)
                nursery.start_soon(pool.run, functools.partial(double, 1))
        async with pool.map(double, range(10)) as results:
            assert [value async for value in results] == [2 * number for number in range(10)]
        assert gate.outside.size == 0
        assert gate._inside == set()


@pytest.mark.parametrize(
    ("concurrency", "error", "what"),
    [
        ({task: 0}, ValueError, "must be >= 1, not 0"),
        ({task: 1.5}, TypeError, "must be an int, not 1.5"),
        ({3: 1}, TypeError, "of functions and operations' names, not int"),
        ([task], TypeError, "must be a mapping, not list"),
        ({double: 1, "double": 2}, ValueError, "has two limits for 'double'"),
    ],
)
async def test_what_is_no_limit(concurrency: Any, error: Any, what: str) -> None:
    """It is refused when the pool is opened."""
    with pytest.raises(error, match=what):
        async with open_test_pool(concurrency=concurrency):
            raise AssertionError("it was opened")


async def test_max_queue_holds_for_those_that_wait_for_a_limit(autojump_clock: MockClock) -> None:
    """They wait, too, though places are free."""
    for limit, waiting in ((2, 2), (1, 1), (0, 1)):  # whether one must wait is known afterwards
        async with staged(4, concurrency={task: 1}, max_queue=limit) as stage:
            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(stage.pool.run, task, f"t{number}")
                await trio.testing.wait_all_tasks_blocked()
                assert stage.pool.statistics().queued_tasks == waiting
            assert len(stage.log) == 5


# ---- run_nowait


async def test_run_nowait(autojump_clock: MockClock) -> None:
    """It runs as `run` does; where that would wait for room, it says so at once."""
    async with staged(1, max_queue=1) as stage:
        pool = stage.pool
        assert await pool.run_nowait(task, "a") == "a"
        async with pool.open_request(task, "b") as first, pool.open_request(task, "c") as second:
            with pytest.raises(trio.WouldBlock):
                pool.run_nowait(task, "d")
            await first.result()
            late = pool.run_nowait(task, "e")
            async with pool.open_request(task, "f"):
                with pytest.raises(trio.WouldBlock):
                    await late
                await second.result()
        assert stage.names() == ["a", "b", "c", "f"][: len(stage.log)]
    with pytest.raises(trio.ClosedResourceError):
        pool.run_nowait(task, "g")


async def test_run_nowait_is_a_call_like_others(autojump_clock: MockClock) -> None:
    """Bad arguments are errors at once; a checkpoint when it is awaited."""
    async with staged(1) as stage:
        with pytest.raises(ValueError, match="priority must be one of"):
            stage.pool.run_nowait(task, "a", priority="urgent")  # type: ignore[arg-type]
        with trio.CancelScope() as scope:
            scope.cancel()
            await stage.pool.run_nowait(task, "a")
        assert scope.cancelled_caught
        with trio.testing.assert_checkpoints():
            await stage.pool.run_nowait(task, "b")
        assert stage.names() == ["b"]
