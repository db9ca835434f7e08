"""Those who look on: what instruments are told, when, and what they cannot harm."""

from __future__ import annotations

import functools
import logging
import math
import tempfile
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trio.testing

import context_jobs
import jobs
from fakes import Die, FakeEngine, start_error, stubborn
from helpers import wait_for_file
from trioipc import (
    CostWeightedStrategy,
    Instrument,
    PayloadError,
    RequestCancelledError,
    RequestEnd,
    RequestExitError,
    RequestRecord,
    RequestTimeoutError,
    SharedCancellation,
    WorkerCrashedError,
    WorkerStartError,
    open_worker_bridge,
    open_worker_pool,
)
from trioipc.pool._opening import open_on
from trioipc.pool._options import Options
from trioipc.testing import cancel_at_each_step

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from trioipc import WorkerInfo, WorkerPool

HOOKS = [
    "request_submitted",
    "request_sent",
    "request_cancelled",
    "request_ended",
    "worker_started",
    "worker_ended",
]


class Recorder(Instrument):
    """Keeps all it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def request_submitted(self, request: RequestRecord) -> None:
        self.told.append(("submitted", request))

    def request_sent(self, request: RequestRecord, attempt: int, worker_pid: int | None) -> None:
        self.told.append(("sent", request, attempt, worker_pid))

    def request_cancelled(self, request: RequestRecord, reason: str) -> None:
        self.told.append(("cancelled", request, reason))

    def request_ended(self, request: RequestRecord, end: RequestEnd) -> None:
        self.told.append(("ended", request, end))

    def worker_started(self, worker: WorkerInfo) -> None:
        self.told.append(("started", worker))

    def worker_ended(self, worker: WorkerInfo, reason: str, exitcode: int | None) -> None:
        self.told.append(("gone", worker, reason, exitcode))

    def of(self, record: RequestRecord) -> list[str]:
        """Say what was told of one request."""
        return [told[0] for told in self.told if told[1] is record]

    def end(self) -> RequestEnd:
        """Return how the last request ended; each was submitted first and has ended once."""
        ends = [told for told in self.told if told[0] == "ended"]
        for _, record, _ in ends:
            events = self.of(record)
            assert events[0] == "submitted"
            assert events[-1] == "ended"
            assert events.count("submitted") == events.count("ended") == 1
        end: RequestEnd = ends[-1][2]
        return end

    def reasons(self) -> list[str]:
        """Say why requests were cancelled."""
        return [told[2] for told in self.told if told[0] == "cancelled"]


def opened(engine: FakeEngine, *instruments: Instrument, **options: Any) -> Any:
    """Open a pool on a fake."""
    return open_on(engine, Options(**{"size": 1, **options}, instruments=instruments))


@pytest.fixture
def recorder() -> Recorder:
    """Provide one that has been told nothing."""
    return Recorder()


@pytest.mark.parametrize("kind", ["cpu", "io", "thread"])
async def test_the_life_of_a_request(kind: Any, recorder: Recorder) -> None:
    """Submitted, sent, ended; as one record that can be a key, and with the worker's pid."""
    function = trio.sleep if kind == "io" else jobs.sleep
    async with open_worker_pool(1, kind=kind, name="shop", instruments=[recorder]) as pool:
        await pool.run(function, 0.05, priority="high")
        (worker,) = pool.workers
    started, submitted, sent, ended, gone = recorder.told
    record = submitted[1]
    assert submitted == ("submitted", record)
    assert (record.id, record.priority) == ("shop-1", "high")
    assert record.operation.endswith(".sleep")
    assert sent == ("sent", record, 1, worker.pid)
    assert ended[:2] == ("ended", record)
    end = recorder.end()
    assert (end.outcome, end.error, end.attempts, end.worker_pid) == ("value", None, 1, worker.pid)
    assert end.run_time >= 0.05
    assert end.total_time == pytest.approx(end.queue_time + end.run_time)
    assert (started[0], started[1].pid) == ("started", worker.pid)
    assert (gone[0], gone[1].pid, gone[2]) == ("gone", worker.pid, "closed")


async def test_times_are_those_of_trios_clock(
    autojump_clock: MockClock, recorder: Recorder
) -> None:
    """Submitted when the call was made, and then the wait and the run."""
    async with opened(FakeEngine(), recorder) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.run, trio.sleep, 3)
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        await pool.run(trio.sleep, 5)
    end = recorder.end()
    assert [end.queue_time, end.run_time, end.total_time] == pytest.approx([3, 5, 8])
    assert recorder.told[3][1].submitted == begun


async def by_value(pool: WorkerPool) -> None:
    """Return."""
    assert await pool.run(jobs.add, 1, 2) == 3


async def by_error(pool: WorkerPool) -> None:
    """Raise an exception."""
    with pytest.raises(ValueError, match="text"):
        await pool.run(jobs.fail, ValueError("text"))


async def by_exit(pool: WorkerPool) -> None:
    """Raise what is no exception."""
    with pytest.raises(RequestExitError):
        await pool.run(jobs.fail, SystemExit(3))


async def by_call_that_cannot_travel(pool: WorkerPool) -> None:
    """Call what cannot be pickled."""
    with pytest.raises(PayloadError):
        await pool.run(lambda: 1)


async def by_refusal(pool: WorkerPool) -> None:
    """Call what no cpu worker runs."""
    with pytest.raises(TypeError):
        await pool.run(trio.sleep, 1)


async def by_clock(pool: WorkerPool) -> None:
    """Run out of time."""
    with pytest.raises(RequestTimeoutError):
        await pool.run(jobs.cooperate, timeout=0.5)


async def cancel_when_begun(
    pool: WorkerPool, function: Callable[..., object], *arguments: object
) -> None:
    """Cancel the scope around a call whose function has begun."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/begun"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run, function, *arguments, path)
            await wait_for_file(path)
            nursery.cancel_scope.cancel()


async def by_scope(pool: WorkerPool) -> None:
    """Cancel the caller's scope."""
    await cancel_when_begun(pool, jobs.cooperate)


async def by_cancel(pool: WorkerPool) -> None:
    """Cancel the request, twice."""
    async with pool.open_request(jobs.cooperate) as request:
        await request.wait_started()
        request.cancel()
        request.cancel()
        with pytest.raises(RequestCancelledError):
            await request.result()


async def by_leaving(pool: WorkerPool) -> None:
    """Leave its block."""
    async with pool.open_request(jobs.cooperate) as request:
        await request.wait_started()


async def by_flag(pool: WorkerPool) -> None:
    """Come with a flag that is set."""
    with SharedCancellation() as flag:
        flag.cancel()
        with pytest.raises(RequestCancelledError):
            await pool.run(jobs.nothing, cancellation=flag)


async def by_interrupt(pool: WorkerPool) -> None:
    """Cancel what never looks."""
    await cancel_when_begun(pool, jobs.sleep, 100)


async def by_death(pool: WorkerPool) -> None:
    """Have the worker die."""
    with pytest.raises(WorkerCrashedError):
        await pool.run(jobs.die, 9)


async def by_strategy(pool: WorkerPool) -> None:
    """Come with what the pool's strategy refuses."""
    with pytest.raises(ValueError, match="must be >= 0"):
        await pool.run(jobs.add, -1, 0)


ENDS: dict[str, tuple[Callable[[WorkerPool], Awaitable[None]], dict[str, Any], list[str]]] = {
    "value": (by_value, {"outcome": "value", "attempts": 1}, []),
    "error": (by_error, {"outcome": "error", "error": None}, []),
    "exit": (by_exit, {"outcome": "exit", "error": None}, []),
    "payload": (by_call_that_cannot_travel, {"outcome": "payload", "attempts": 0}, []),
    "refusal": (by_refusal, {"outcome": "failed", "error": "TypeError", "attempts": 0}, []),
    "strategy": (by_strategy, {"outcome": "failed", "error": "ValueError", "attempts": 0}, []),
    "clock": (
        by_clock,
        {
            "outcome": "timeout",
            "error": "RequestTimeoutError",
            "clock": "run",
            "rung": "checkpoint",
        },
        ["timeout"],
    ),
    "scope": (
        by_scope,
        {"outcome": "cancelled", "error": None, "rung": "checkpoint"},
        ["scope"],
    ),
    "cancel": (by_cancel, {"outcome": "cancelled", "rung": "checkpoint"}, ["cancel"]),
    "block": (by_leaving, {"outcome": "cancelled", "rung": "checkpoint"}, ["block"]),
    "flag": (by_flag, {"outcome": "cancelled", "rung": None, "attempts": 0}, []),
    "interrupt": (by_interrupt, {"outcome": "cancelled", "rung": "interrupt"}, ["scope"]),
    "death": (by_death, {"outcome": "crashed", "error": "WorkerCrashedError"}, []),
}


@pytest.mark.parametrize("name", ENDS)
async def test_how_requests_end(name: str, recorder: Recorder) -> None:
    """Each way has its name, and a cancel is told before the end, once."""
    call, expected, reasons = ENDS[name]
    strategy = CostWeightedStrategy(lambda function, arguments: -1 if arguments == (-1, 0) else 1)
    async with open_worker_pool(1, instruments=[recorder], strategy=strategy) as pool:
        await call(pool)
        end = recorder.end()
        assert {key: getattr(end, key) for key in expected} == expected
        assert recorder.reasons() == reasons


async def test_a_retry_is_sent_again(autojump_clock: MockClock, recorder: Recorder) -> None:
    """With the next number; the worker that died is told of in between."""
    tries = iter([Die(7), None])

    async def work() -> None:
        error = next(tries)
        if error is not None:
            raise error

    async with opened(FakeEngine(), recorder) as pool:
        await pool.run(work, idempotent=True)
    names = [told[0] for told in recorder.told]
    assert names == ["started", "submitted", "sent", "gone", "started", "sent", "ended", "gone"]
    assert [told[2:] for told in recorder.told if told[0] == "sent"] == [(1, 1), (2, 2)]
    assert recorder.told[3][2:] == ("crashed", 7)
    assert (recorder.end().outcome, recorder.end().attempts) == ("value", 2)


async def test_why_workers_end(autojump_clock: MockClock, recorder: Recorder) -> None:
    """As in the statistics; and those that end for no fault of theirs, or never began."""
    engine = FakeEngine(starts=[0.0, start_error(), 0.0, 0.0])
    async with opened(engine, recorder, size=2, grace=0.1) as pool:
        with pytest.raises(WorkerStartError):
            await pool.warm()
        with trio.move_on_after(1):
            await pool.run(stubborn)
        await pool.warm()
        await pool.resize(1)
    gone = [(told[2], told[3]) for told in recorder.told if told[0] == "gone"]
    assert gone == [("failed", None), ("killed", -9), ("surplus", 0), ("closed", 0)]
    never, *others = (told[1].started for told in recorder.told if told[0] == "gone")
    assert never is None
    assert None not in others


async def test_requests_that_no_worker_gets(autojump_clock: MockClock, recorder: Recorder) -> None:
    """Cancelled or late while they wait: they end as well."""
    async with opened(FakeEngine(), recorder) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.run, trio.sleep_forever)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(RequestTimeoutError):
            await pool.run(jobs.nothing, queue_timeout=1)
        end = recorder.end()
        assert (end.outcome, end.clock, end.attempts, end.run_time) == ("timeout", "queue", 0, 0)
        assert end.queue_time == pytest.approx(1)
        with trio.move_on_after(2):
            await pool.run(jobs.nothing)
        assert recorder.end().queue_time == pytest.approx(2)
        assert recorder.reasons() == ["timeout", "scope"]
        nursery.cancel_scope.cancel()
    assert len([told for told in recorder.told if told[0] == "ended"]) == 3


async def test_what_fails_with_the_pool(autojump_clock: MockClock, recorder: Recorder) -> None:
    """A request whose pool is closed has failed, and its caller is told so."""
    async with trio.open_nursery() as nursery:

        async def ask(pool: WorkerPool) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await pool.run(trio.sleep_forever)

        async with opened(FakeEngine(), recorder, drain_timeout=1) as pool:
            nursery.start_soon(ask, pool)
            await trio.testing.wait_all_tasks_blocked()
    assert recorder.end().outcome == "failed"
    assert recorder.end().error == "ClosedResourceError"


# ---- those that misbehave


class Vandal(Instrument):
    """Raises in one of its methods, and counts."""

    def __init__(self, hook: str, error: BaseException) -> None:
        self.error = error
        self.calls = 0
        setattr(self, hook, self.destroy)

    def destroy(self, *arguments: object) -> None:
        self.calls += 1
        raise self.error


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("error", [ValueError("hush"), SystemExit(3)], ids=["error", "exit"])
async def test_one_that_raises_is_switched_off(
    hook: str,
    error: BaseException,
    recorder: Recorder,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
) -> None:
    """It is logged and told nothing more; requests, and other instruments, know nothing of it."""
    vandal = Vandal(hook, error)
    async with opened(FakeEngine(), vandal, recorder) as pool:
        for _ in range(2):
            with trio.move_on_after(1):
                await pool.run(trio.sleep_forever)
            assert await pool.run(abs, -3) == 3
    assert vandal.calls == 1
    (logged,) = caplog.records
    assert (logged.name, logged.levelno) == ("trioipc.instruments", logging.ERROR)
    assert hook in logged.getMessage()
    assert [told[0] for told in recorder.told].count("ended") == 4


async def test_all_of_them_may_be_switched_off(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Also one within the call of another."""
    vandals = [Vandal("request_submitted", ValueError()) for _ in range(3)]
    async with opened(FakeEngine(), *vandals) as pool:
        for _ in range(3):
            await pool.run(jobs.nothing)
    assert [vandal.calls for vandal in vandals] == [1, 1, 1]
    assert len(caplog.records) == 3


@pytest.mark.parametrize("wrong", [object(), Recorder])
async def test_others_are_refused(wrong: Any) -> None:
    """What is no instrument, such as its class."""
    with pytest.raises(TypeError, match="instruments must hold instances of Instrument"):
        async with open_worker_pool(1, instruments=[wrong]):
            raise AssertionError("it opened")


async def test_nothing_of_a_payload_is_told(recorder: Recorder) -> None:
    """Neither arguments nor results nor what errors say; and records cannot be changed."""
    async with open_worker_pool(1, instruments=[recorder]) as pool:
        await pool.run(jobs.echo, "sesame")
        with pytest.raises(ValueError, match="sesame"):
            await pool.run(jobs.fail, ValueError("sesame"))
        with pytest.raises(PayloadError, match="sesame"):
            await pool.run(functools.partial(jobs.echo, Sesame()))
        async with pool.open_request(jobs.cooperate) as request:
            request.cancel("sesame")
    assert "sesame" not in repr(recorder.told)
    request, end = recorder.told[3][1:]
    for record in (request, end):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            record.operation = "other"


class Sesame:
    """Cannot be pickled, and says so."""

    def __reduce__(self) -> Any:
        raise TypeError("sesame")


# ---- what travels


class Marker(Instrument):
    """Lets a context variable travel."""

    context_variables = ("context_jobs:tenant",)

    def request_submitted(self, request: RequestRecord) -> None:
        context_jobs.tenant.set(f"of {request.id}")


@pytest.mark.parametrize("kind", ["cpu", "thread"])
async def test_what_an_instrument_sets_travels(kind: Any) -> None:
    """With that request and no other; the caller's context is what it was."""
    options: dict[str, Any] = {"kind": kind, "name": "n", "instruments": [Marker()]}
    context_jobs.depth.set(5)
    async with open_worker_pool(1, **options, context_variables=["context_jobs:depth"]) as pool:
        for number in (1, 2):
            assert await pool.run(context_jobs.look) == (f"of n-{number}", 5, "")
        async with pool.open_request(context_jobs.look) as request:
            assert await request.result() == ("of n-3", 5, "")
        assert context_jobs.tenant.get(None) is None
    context_jobs.depth.set(0)


async def test_messages_and_bridges_are_seen(recorder: Recorder) -> None:
    """By the names of their operations, and by the ids of messages."""
    async with open_worker_pool(1, modules=["jobs"], instruments=[recorder]) as pool:
        await pool.execute({"type": "double", "payload": 2, "id": "mine"})
    assert (recorder.told[1][1].id, recorder.told[1][1].operation) == ("mine", "custom/double")
    recorder.told.clear()
    async with open_worker_bridge(1, placement="thread", instruments=[recorder]) as bridge:
        await bridge.crypto.hash_file(b"data")
    assert recorder.end().outcome == "value"
    assert "crypto/hash_file" in {told[1].operation for told in recorder.told if told[0] == "sent"}


async def test_items_of_a_map_are_seen(recorder: Recorder) -> None:
    """As many at a time as go together, under a name that says so; in the statistics likewise."""
    async with (
        open_worker_pool(1, instruments=[recorder]) as pool,
        pool.map(jobs.double, range(9), chunk_size=4) as results,
    ):
        assert [result async for result in results] == [2 * number for number in range(9)]
        operations = pool.statistics().operations
    ended = [told[1].operation for told in recorder.told if told[0] == "ended"]
    assert ended.count("map(custom/double)") >= 2
    assert {*ended} == {*operations} <= {"map(custom/double)", "custom/double"}
    assert sum(found.times.run_time.count for found in operations.values()) == len(ended)


async def test_each_that_is_submitted_ends(recorder: Recorder) -> None:
    """Once, wherever its caller is cancelled."""

    async def call() -> None:
        await pool.run(jobs.weigh, bytes(100_000), timeout=60)

    async def check() -> None:
        submitted = [told for told in recorder.told if told[0] == "submitted"]
        ended = [told for told in recorder.told if told[0] == "ended"]
        assert len(submitted) == len(ended)
        recorder.told.clear()

    async with open_worker_pool(1, instruments=[recorder], task_timeout=math.inf) as pool:
        assert await cancel_at_each_step(call, check) > 0
