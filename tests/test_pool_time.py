"""When a pool does what: in virtual time, on the fake that `test_endpoint` has verified."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from fakes import Die, FakeEngine, start_error, stubborn
from trioipc import (
    PoisonedRequestError,
    RequestCancelledError,
    RequestTimeoutError,
    SharedCancellation,
    WorkerCrashedError,
    WorkerStartError,
    current_request,
)
from trioipc.pool._opening import open_on
from trioipc.pool._options import Options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from trioipc import Progress, WorkerPool


def opened(engine: FakeEngine, **options: Any) -> Any:
    """Open a pool on a fake."""
    return open_on(engine, Options(**{"size": 1, **options}))


def nothing() -> None:
    """Return at once."""


async def cooperate() -> None:
    """Look every 2 ms, for ever."""
    while True:
        current_request().checkpoint()
        await trio.sleep(0.002)


async def look_once_then_sleep() -> None:
    """Look only at the start."""
    current_request().checkpoint()
    await trio.sleep_forever()


async def die(code: int) -> None:
    """End the worker, after a second."""
    await trio.sleep(1)
    raise Die(code)


async def took(call: Callable[[], Awaitable[object]], error: type[Exception]) -> float:
    """Return how long a call took to raise."""
    before = trio.current_time()
    with pytest.raises(error):
        await call()
    return trio.current_time() - before


def log(engine: FakeEngine, since: float = 0.0) -> list[tuple[float, str]]:
    """Return what was done to the first worker, when."""
    return [(round(at - since, 3), what) for at, what in engine.endpoints[0].log]


# ---- clocks


async def test_the_run_clock_is_exact(autojump_clock: MockClock) -> None:
    """`timeout` counts from when the function starts, not while it waits."""
    async with opened(FakeEngine()) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.run, trio.sleep, 5)
        await trio.testing.wait_all_tasks_blocked()

        async def call() -> None:
            await pool.run(cooperate, timeout=2)

        assert await took(call, RequestTimeoutError) == pytest.approx(5 + 2, abs=0.01)


async def test_the_pools_clocks_are_defaults(autojump_clock: MockClock) -> None:
    """`task_timeout` and `queue_timeout` hold where a call says nothing; a call may say more."""
    async with opened(FakeEngine(), task_timeout=3, queue_timeout=1) as pool:
        seconds = await took(lambda: pool.run(cooperate), RequestTimeoutError)
        assert seconds == pytest.approx(3, abs=0.01)
        seconds = await took(lambda: pool.run(cooperate, timeout=6), RequestTimeoutError)
        assert seconds == pytest.approx(6, abs=0.01)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run, trio.sleep, 2)
            await trio.testing.wait_all_tasks_blocked()
            assert await took(lambda: pool.run(nothing), RequestTimeoutError) == pytest.approx(1)
            await pool.run(nothing, queue_timeout=math.inf)


async def test_a_zero_timeout_stops_at_once(autojump_clock: MockClock) -> None:
    """`timeout=0` is no time at all, for the run and for the wait."""
    async with opened(FakeEngine()) as pool, trio.open_nursery() as nursery:
        assert await took(lambda: pool.run(cooperate, timeout=0), RequestTimeoutError) < 0.01
        nursery.start_soon(pool.run, trio.sleep, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert await took(lambda: pool.run(nothing, queue_timeout=0), RequestTimeoutError) < 0.01


async def test_the_first_of_two_reasons_stays(autojump_clock: MockClock) -> None:
    """A cancel, then a clock: the cancel. A clock, then a cancel: the clock."""
    async with opened(FakeEngine(), grace=3) as pool:
        flag = SharedCancellation()

        async def set_after(seconds: float) -> None:
            await trio.sleep(seconds)
            flag.cancel("by flag")

        for delay, error in ((0.5, RequestCancelledError), (1.5, RequestTimeoutError)):
            flag.reset()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(set_after, delay)
                with pytest.raises(error):
                    await pool.run(stubborn, timeout=1, cancellation=flag)
                nursery.cancel_scope.cancel()


async def test_many_clocks_at_once(autojump_clock: MockClock) -> None:
    """Each request has its own, though one task keeps all of them."""
    async with opened(FakeEngine(), size=3) as pool, trio.open_nursery() as nursery:
        await pool.warm()
        ended: dict[float, float] = {}

        async def run(seconds: float) -> None:
            ended[seconds] = await took(
                lambda: pool.run(cooperate, timeout=seconds), RequestTimeoutError
            )

        for seconds in (3.0, 1.0, 2.0):
            nursery.start_soon(run, seconds)
    assert ended == {s: pytest.approx(s, abs=0.01) for s in (1.0, 2.0, 3.0)}


# ---- the ladder


async def test_a_function_that_never_looked(autojump_clock: MockClock) -> None:
    """It is interrupted after 50 ms."""
    engine = FakeEngine()
    async with opened(engine, grace=5) as pool:
        with trio.move_on_after(1):
            await pool.run(trio.sleep_forever)
        assert log(engine)[1:3] == [(1.0, "cancel"), (1.05, "interrupt")]
        assert trio.current_time() == pytest.approx(1.05)


async def test_a_function_that_has_looked(autojump_clock: MockClock) -> None:
    """It is given its whole grace before it is interrupted."""
    engine = FakeEngine()
    async with opened(engine, grace=5) as pool:
        with trio.move_on_after(1):
            await pool.run(look_once_then_sleep)
        assert log(engine)[1:3] == [(1.0, "cancel"), (6.0, "interrupt")]


async def test_the_stubborn_are_killed(autojump_clock: MockClock) -> None:
    """Interrupted again every 20 ms for one grace, then killed; the worker is replaced."""
    engine = FakeEngine()
    async with opened(engine, grace=0.1) as pool:
        with trio.move_on_after(1):
            await pool.run(stubborn)
        assert log(engine)[1:8] == [
            (1.0, "cancel"),
            (1.05, "interrupt"),
            (1.07, "interrupt"),
            (1.09, "interrupt"),
            (1.11, "interrupt"),
            (1.13, "interrupt"),
            (1.15, "kill"),
        ]
        assert pool.statistics().restarts == {"killed": 1}
        await pool.run(nothing)
        assert len(engine.endpoints) == 2


async def test_no_grace(autojump_clock: MockClock) -> None:
    """`grace=0` kills at once; a call's own beats the pool's."""
    engine = FakeEngine()
    async with opened(engine, grace=9) as pool:
        with trio.move_on_after(1):
            await pool.run(stubborn, grace=0)
        assert log(engine)[1:2] == [(1.0, "kill")]


async def test_all_causes_take_the_same_stairs(autojump_clock: MockClock) -> None:
    """The scope, `cancel`, a flag, a clock and a callback that raises."""
    flag = SharedCancellation()

    async def set_flag() -> None:
        await trio.sleep(1)
        flag.cancel()

    async def by_scope(pool: WorkerPool) -> None:
        with trio.move_on_after(1):
            await pool.run(trio.sleep_forever)

    async def by_cancel(pool: WorkerPool) -> None:
        async with pool.open_request(trio.sleep_forever) as request:
            await trio.sleep(1)
            request.cancel()

    async def by_flag(pool: WorkerPool) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(set_flag)
            with pytest.raises(RequestCancelledError):
                await pool.run(trio.sleep_forever, cancellation=flag)

    async def by_clock(pool: WorkerPool) -> None:
        with pytest.raises(RequestTimeoutError):
            await pool.run(trio.sleep_forever, timeout=1)

    async def by_block(pool: WorkerPool) -> None:
        async with pool.open_request(trio.sleep_forever):
            await trio.sleep(1)

    async def by_callback(pool: WorkerPool) -> None:
        async def refuse(progress: Progress) -> None:
            await trio.sleep_until(began + 1)
            raise KeyError

        with pytest.raises(KeyError):
            await pool.run(report_then_sleep, on_progress=refuse)

    for way in (by_scope, by_cancel, by_flag, by_clock, by_block, by_callback):
        engine = FakeEngine()
        async with opened(engine) as pool:
            began = trio.current_time()
            await way(pool)
            stairs = log(engine, began)[1:3]
            assert [what for _, what in stairs] == ["cancel", "interrupt"], way
            first, second = (at for at, _ in stairs)
            assert first == pytest.approx(1, abs=0.011), way
            assert second - first == pytest.approx(0.05, abs=0.001), way


async def report_then_sleep() -> None:
    """Report progress once."""
    current_request().progress.set(1)
    await trio.sleep_forever()


# ---- progress


async def test_progress_comes_at_its_interval(autojump_clock: MockClock) -> None:
    """At most every `progress_interval`, the newest value each time, the last at the end."""
    seen: list[tuple[float, int]] = []

    async def count() -> None:
        progress = current_request().progress
        progress.set_total(25)
        for value in range(1, 26):
            progress.set(value)
            await trio.sleep(0.1)

    async with opened(FakeEngine(), progress_interval=1.0) as pool:
        began = trio.current_time()
        await pool.run(
            count,
            on_progress=lambda p: seen.append((round(trio.current_time() - began, 1), p.value)),
        )
    assert [at for at, _ in seen] == [1.0, 2.0, 2.5]
    assert seen[-1] == (2.5, 25)
    assert [value for _, value in seen] == sorted(value for _, value in seen)


async def test_a_retry_counts_its_attempts(autojump_clock: MockClock) -> None:
    """Its progress starts again at 0, with `attempt` one higher."""
    tries = [0]
    seen: list[tuple[int, int]] = []

    async def work() -> str:
        current_request().progress.set(5 if not tries[0] else 2)
        await trio.sleep(1)
        tries[0] += 1
        if tries[0] == 1:
            raise Die(1)
        return "done"

    async with opened(FakeEngine(), progress_interval=0.3) as pool:
        value = await pool.run(
            work, idempotent=True, on_progress=lambda p: seen.append((p.attempt, p.value))
        )
    assert value == "done"
    assert seen == [(1, 5), (2, 2)]


# ---- who runs what


async def test_least_busy_spreads(autojump_clock: MockClock) -> None:
    """With two places each, the worker that holds less is next; among equals, the longer idle."""
    engine = FakeEngine(places=2)
    async with opened(engine, size=3) as pool, trio.open_nursery() as nursery:
        await pool.warm()
        for seconds in (9, 8, 7, 1, 2):
            nursery.start_soon(pool.run, trio.sleep, seconds)
            await trio.testing.wait_all_tasks_blocked()
        assert sorted(len(endpoint.log) for endpoint in engine.endpoints) == [1, 2, 2]
        await trio.sleep(3)
        nursery.start_soon(pool.run, trio.sleep, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert [len(endpoint.log) for endpoint in engine.endpoints] == [2, 2, 2]


async def test_round_robin_goes_round(autojump_clock: MockClock) -> None:
    """Whoever is free, in turn; full ones are skipped."""
    engine = FakeEngine()
    async with opened(engine, size=3, strategy="round-robin") as pool:
        await pool.warm()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run, trio.sleep, 100)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(4):
                await pool.run(nothing)
            assert sorted(len(endpoint.log) for endpoint in engine.endpoints) == [1, 2, 2]


async def test_workers_start_when_wanted(autojump_clock: MockClock) -> None:
    """One at first, more when requests wait, never more than `size`."""
    engine = FakeEngine()
    async with opened(engine, size=3) as pool, trio.open_nursery() as nursery:
        assert len(pool.workers) == 1
        nursery.start_soon(pool.run, trio.sleep, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert len(pool.workers) == 1
        for _ in range(9):
            nursery.start_soon(pool.run, trio.sleep, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert [worker.state for worker in pool.workers] == ["busy"] * 3
    assert len(engine.endpoints) == 3


async def test_warm_waits_for_all(autojump_clock: MockClock) -> None:
    """It starts what is missing, and waits until the slowest is ready."""
    engine = FakeEngine(starts=[1.0, 3.0, 2.0])
    async with opened(engine, size=3) as pool:
        assert trio.current_time() == pytest.approx(1)
        await pool.warm()
        assert trio.current_time() == pytest.approx(4)
        assert [worker.state for worker in pool.workers] == ["idle"] * 3
        await pool.warm()
        assert trio.current_time() == pytest.approx(4)


# ---- loading


async def test_a_queue_clock_runs_while_arguments_are_copied(autojump_clock: MockClock) -> None:
    """Copying is waiting: the function has not begun."""
    engine = FakeEngine(loading=2.0)
    async with opened(engine) as pool:
        seconds = await took(lambda: pool.run(nothing, queue_timeout=1), RequestTimeoutError)
        assert seconds == pytest.approx(1)
        await pool.run(nothing, queue_timeout=3)
        assert [what for _, what in log(engine)] == ["run nothing"]


async def test_arguments_that_cannot_be_copied(autojump_clock: MockClock) -> None:
    """The error is that of the call; its place is free again."""
    engine = FakeEngine(loading=OSError(28, "no space"))
    async with opened(engine) as pool:
        with pytest.raises(OSError, match="no space"):
            await pool.run(nothing)
        assert pool.statistics().busy_workers == 0
        engine.loading = None
        await pool.run(nothing)


async def test_a_worker_dies_while_arguments_are_copied(autojump_clock: MockClock) -> None:
    """The request moves on to another worker, silently."""
    engine = FakeEngine(loading=2.0)
    async with opened(engine) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.run, nothing)
        await trio.sleep(1)
        engine.endpoints[0].die(1)
    assert [len(endpoint.log) for endpoint in engine.endpoints][1] >= 1
    assert pool.statistics().total_errors == 0


async def test_the_block_is_aborted_while_arguments_are_copied(autojump_clock: MockClock) -> None:
    """Callers elsewhere get ClosedResourceError."""
    errors = []

    async def run() -> None:
        with pytest.raises(trio.ClosedResourceError) as caught:
            await pool.run(nothing)
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        with pytest.raises(KeyError):
            async with opened(FakeEngine(loading=2.0)) as pool:
                nursery.start_soon(run)
                await trio.sleep(1)
                raise KeyError
    assert len(errors) == 1


# ---- death


async def test_a_worker_that_dies_before_it_begins(autojump_clock: MockClock) -> None:
    """What it had not begun moves on, to the front of the queue."""
    engine = FakeEngine(places=1)
    order: list[int] = []
    async with opened(engine) as pool, trio.open_nursery() as nursery:

        async def run(number: int) -> None:
            await pool.run(nothing)
            order.append(number)

        engine.endpoints[0].deaf = True
        nursery.start_soon(run, 1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(run, 2)
        await trio.testing.wait_all_tasks_blocked()
        engine.endpoints[0].die(1)
    assert order == [1, 2]
    assert pool.statistics().total_errors == 0


async def test_moving_on_has_an_end(autojump_clock: MockClock) -> None:
    """A request whose workers keep dying under it before they begin ends as a crash."""
    engine = FakeEngine(deaf=True)
    async with opened(engine) as pool, trio.open_nursery() as nursery:

        async def kill_all() -> None:
            while True:
                await trio.sleep(1)
                engine.endpoints[-1].die(7)

        nursery.start_soon(kill_all)
        with pytest.raises(WorkerCrashedError) as caught:
            await pool.run(nothing)
        assert caught.value.exitcode == 7
        assert len(engine.endpoints) >= 6
        nursery.cancel_scope.cancel()


async def test_retries_are_counted(autojump_clock: MockClock) -> None:
    """`max_retries` more tries for what is idempotent, by the call or the pool; else none."""
    for options, idempotent, tries in (
        ({"max_retries": 3}, True, 4),
        ({}, True, 3),
        ({}, False, 1),
    ):
        engine = FakeEngine()
        async with opened(engine) as pool:
            with pytest.raises((WorkerCrashedError, PoisonedRequestError)) as caught:
                await pool.run(die, 1, idempotent=idempotent, **options)
        assert len([e for e in engine.endpoints if e.log and "run" in e.log[0][1]]) == tries
        assert isinstance(caught.value, PoisonedRequestError if tries > 1 else WorkerCrashedError)


async def test_a_retry_keeps_the_total_clock(autojump_clock: MockClock) -> None:
    """A run clock starts anew with each try."""
    async with opened(FakeEngine()) as pool:
        seconds = await took(
            lambda: pool.run(die, 1, idempotent=True, timeout=1.5), PoisonedRequestError
        )
        assert seconds == pytest.approx(3, abs=0.05)  # and two short pauses


async def test_a_crash_says_how_far_it_was(autojump_clock: MockClock) -> None:
    """Phase, progress, seconds: what the slot still shows after the death."""

    async def work() -> None:
        current_request().set_phase("halfway")
        current_request().progress.set_total(8)
        current_request().progress.set(4)
        await die(3)

    async with opened(FakeEngine()) as pool:
        with pytest.raises(WorkerCrashedError) as caught:
            await pool.run(work)
    error = caught.value
    assert (error.exitcode, error.phase, error.last_progress) == (3, "halfway", (4, 8))
    assert error.seconds_running == pytest.approx(1)


# ---- starting


async def test_a_pool_whose_first_worker_fails(autojump_clock: MockClock) -> None:
    """Opening raises its error, bare, and starts nothing more."""
    engine = FakeEngine(starts=[start_error()])
    with pytest.raises(WorkerStartError, match="no such luck"):
        async with opened(engine, size=3):
            raise AssertionError
    assert len(engine.endpoints) == 1


async def test_a_replacement_that_fails(autojump_clock: MockClock) -> None:
    """Requests that wait get its error; the next one tries again."""
    engine = FakeEngine(starts=[0.0, start_error()])
    async with opened(engine) as pool:
        with pytest.raises(WorkerCrashedError):
            await pool.run(die, 1)
        with pytest.raises(WorkerStartError, match="no such luck"):
            await pool.run(nothing)
        await pool.run(nothing)
    assert len(engine.endpoints) == 3


async def test_a_second_worker_that_fails(autojump_clock: MockClock) -> None:
    """Requests are served by those that there are; it is tried again, but not all the time."""
    engine = FakeEngine(starts=itertools.chain([0.0], itertools.repeat(start_error())))
    async with opened(engine, size=2) as pool:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(pool.run, trio.sleep, 1)
        assert trio.current_time() == pytest.approx(3)
        assert 3 <= len(engine.endpoints) <= 7
        with pytest.raises(WorkerStartError):
            await pool.warm()


# ---- leaving


async def test_draining_has_a_bound(autojump_clock: MockClock) -> None:
    """Leaving takes `drain_timeout` at most, for what does not end by itself."""
    errors = []

    async def run() -> None:
        with pytest.raises(trio.ClosedResourceError) as caught:
            await pool.run(trio.sleep, 50)
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        async with opened(FakeEngine(), drain_timeout=7) as pool:
            nursery.start_soon(run)
            nursery.start_soon(run)
            await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() == pytest.approx(7)
    assert len(errors) == 2


async def test_draining_can_be_cancelled(autojump_clock: MockClock) -> None:
    """A scope round the block that runs out while it drains aborts what is left."""
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await pool.run(trio.sleep, 50)

        with trio.move_on_after(3) as scope:
            async with opened(FakeEngine()) as pool:
                nursery.start_soon(run)
                await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught
        assert trio.current_time() == pytest.approx(3)


async def test_leaving_while_a_worker_starts(autojump_clock: MockClock) -> None:
    """It is not waited for."""
    async with (
        opened(FakeEngine(starts=[0.0, 1000.0]), size=2) as pool,
        trio.open_nursery() as nursery,
    ):
        for _ in range(2):
            nursery.start_soon(pool.run, trio.sleep, 1)
    assert trio.current_time() == pytest.approx(2)


async def test_statistics_count_restarts_by_reason(autojump_clock: MockClock) -> None:
    """The reason is the true one; a worker that leaves with the pool is none."""
    async with opened(FakeEngine(), grace=0.1) as pool:
        with pytest.raises(WorkerCrashedError):
            await pool.run(die, 1)
        with trio.move_on_after(1):
            await pool.run(trio.sleep_forever)
        with trio.move_on_after(1):
            await pool.run(stubborn)
        await pool.run(nothing)
    assert pool.statistics().restarts == {"crashed": 1, "interrupted": 1, "killed": 1}


async def test_statistics_time_each_rung(autojump_clock: MockClock) -> None:
    """From the cancel to the end; a cancel in the queue asks no worker, and is not timed."""
    async with opened(FakeEngine(), grace=0.5) as pool:
        for function, number in ((cooperate, 3), (trio.sleep_forever, 2), (stubborn, 1)):
            for _ in range(number):
                with trio.move_on_after(1):
                    await pool.run(function)
        async with pool.open_request(cooperate):
            with trio.move_on_after(1):
                await pool.run(nothing)
        times = pool.statistics().cancel_time
    assert {rung: time.count for rung, time in times.items()} == {
        "checkpoint": 4,
        "interrupt": 2,
        "kill": 1,
    }
    assert times["checkpoint"].max <= 0.002
    assert times["interrupt"].max == pytest.approx(0.05)
    assert times["kill"].max == pytest.approx(0.55)
