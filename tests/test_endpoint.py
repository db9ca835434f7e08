"""The contract of `trioipc.pool._endpoint`: for processes, threads, a Dask cluster, and the fakes.

What does not hold on a cluster is listed in docs/howto/dask.md, under "What changes".
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
from outcome import Error, Value

import jobs
from fakes import FakeEngine
from helpers import wait_until
from trioipc import RequestExitError, WorkerStartError, current_request
from trioipc.dask import DaskEngine
from trioipc.pool._statistics import add_up, parts, times_of
from trioipc.pool.engines._engines import Plan
from trioipc.pool.engines._process_engine import ProcessEngine
from trioipc.pool.engines._thread import ThreadEngine
from trioipc.testing._engine import SimulatedEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trioipc.pool._endpoint import Answer, Death, Endpoint, Engine


async def cooperate() -> None:
    """Stand for `jobs.cooperate`."""
    while True:
        current_request().checkpoint()
        await trio.sleep(0.002)


async def spin() -> None:
    """Stand for `jobs.spin`."""
    await trio.sleep_forever()


def fake_engine() -> Engine:
    """Make the fake that is tested here."""
    return FakeEngine(twins={jobs.cooperate: cooperate, jobs.spin: spin})


def simulated_engine() -> Engine:
    """Make the one that `trioipc.testing` offers."""
    return SimulatedEngine(stand_ins={jobs.cooperate: cooperate, jobs.spin: spin})


def cluster_engine(address: str) -> Engine:
    """Make one on the cluster that all tests share."""
    return DaskEngine(address).make_engine(Plan("test", (), 30.0, 0.01, ()))


# {name: what makes such an engine, given the address of a cluster}
ENGINES: dict[str, Callable[[str], Engine]] = {
    "fake": lambda _: fake_engine(),
    "simulated": lambda _: simulated_engine(),
    "thread": lambda _: ThreadEngine("test"),
    "process": lambda _: ProcessEngine("test"),
    "dask": cluster_engine,
}
WITH_ALL_RUNGS = ["fake", "simulated", "process"]


@attrs.define(eq=False)
class Living:
    """A worker that lives, and what it has answered."""

    engine: Engine
    endpoint: Endpoint
    answers: dict[int, Answer] = attrs.field(factory=dict)
    death: Death | None = None
    ready: int = 0

    def post(self, generation: int, function: Callable[..., object], *arguments: object) -> None:
        """Post a call that needs no loading."""
        call = self.engine.prepare(function, arguments)
        assert not call.loads
        self.endpoint.post(call, 0, generation, generation, 60.0, time.perf_counter_ns())

    async def ask(
        self, generation: int, function: Callable[..., object], *arguments: object
    ) -> Answer:
        """Post a call and wait for its answer."""
        self.post(generation, function, *arguments)
        return await self.answer(generation)

    async def answer(self, generation: int) -> Answer:
        """Wait for an answer."""
        await wait_until(lambda: generation in self.answers)
        return self.answers[generation]

    async def started(self, generation: int) -> None:
        """Wait until a call has been taken up."""
        await wait_until(lambda: self.endpoint.look(0, generation).started)


@asynccontextmanager
async def living(engine: Engine) -> AsyncIterator[Living]:
    """Have a worker of that engine live for a block."""
    it = Living(engine, engine.endpoint())

    def ready() -> None:
        it.ready += 1

    def hear(generation: int, answer: Answer) -> None:
        assert generation not in it.answers, "answered twice"
        it.answers[generation] = answer

    async def live() -> None:
        it.death = await it.endpoint.live(ready, hear)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(live)
        await wait_until(lambda: it.ready)
        try:
            yield it
        finally:
            if not it.endpoint.kill():
                it.endpoint.close()
    await engine.close()
    assert it.ready == 1
    assert it.death is not None


@pytest.fixture(params=list(ENGINES))
async def worker(request: pytest.FixtureRequest, cluster_address: str) -> AsyncIterator[Living]:
    """Provide a living worker of each kind."""
    async with living(ENGINES[request.param](cluster_address)) as it:
        yield it


@pytest.fixture(params=WITH_ALL_RUNGS)
async def interruptible(request: pytest.FixtureRequest) -> AsyncIterator[Living]:
    """Provide a living worker of each kind that can be interrupted."""
    async with living(ENGINES[request.param]("")) as it:
        yield it


@pytest.fixture(params=[*WITH_ALL_RUNGS, "dask"])
async def killable(request: pytest.FixtureRequest, cluster_address: str) -> AsyncIterator[Living]:
    """Provide a living worker of each kind that can be killed."""
    async with living(ENGINES[request.param](cluster_address)) as it:
        yield it


async def test_calls_are_answered_once(worker: Living) -> None:
    """Each by its generation, with its value, as often as one asks."""
    for generation in range(1, 6):
        answer = await worker.ask(generation, jobs.echo, generation)
        assert (answer.kind, answer.interrupted) == ("value", False)
        assert answer.unpack() == Value(generation)
    assert (await worker.ask(9, jobs.nothing)).unpack() == Value(None)


async def test_exceptions_are_answers(worker: Living) -> None:
    """An Exception is of kind "error", another BaseException of kind "exit"."""
    answer = await worker.ask(1, jobs.fail, ValueError("text"))
    assert answer.kind == "error"
    outcome = answer.unpack()
    assert isinstance(outcome, Error)
    assert isinstance(outcome.error, ValueError)
    answer = await worker.ask(2, sys.exit, 4)
    assert answer.kind == "exit"
    outcome = answer.unpack()
    assert isinstance(outcome, Error)
    assert isinstance(outcome.error, RequestExitError)
    assert (outcome.error.type_name, outcome.error.code) == ("SystemExit", 4)


async def test_a_cancelled_call_is_skipped(worker: Living) -> None:
    """One whose cancel word is set before it was taken up never runs; the next one does."""
    worker.endpoint.cancel(0, 1, "not needed")
    answer = await worker.ask(1, jobs.echo, 1)
    assert answer.kind == "skipped"
    answer.drop()
    assert (await worker.ask(2, jobs.echo, 2)).kind == "value"


async def test_the_cancel_word_stops_a_function(worker: Living) -> None:
    """At its next checkpoint, without the interrupt; the worker takes the next call."""
    worker.post(1, jobs.cooperate)
    await worker.started(1)
    worker.endpoint.cancel(0, 1, None)
    answer = await worker.answer(1)
    assert (answer.kind, answer.interrupted) == ("stopped", False)
    assert (await worker.ask(2, jobs.echo, 2)).kind == "value"


async def test_another_generation_is_not_cancelled(worker: Living) -> None:
    """A cancel word for one call means nothing to the next in the same slot."""
    assert (await worker.ask(1, jobs.echo, 1)).kind == "value"
    worker.endpoint.cancel(0, 1, None)
    assert (await worker.ask(2, jobs.echo, 2)).kind == "value"


async def test_a_slot_shows_what_was_written(worker: Living) -> None:
    """Progress and phase can be read while the call runs and after it; other calls' cannot."""
    assert not worker.endpoint.look(0, 1).started
    assert (await worker.ask(1, jobs.count_to, 7)).unpack() == Value(7)
    seen = worker.endpoint.look(0, 1)
    assert (seen.started, seen.written) == (True, True)
    assert (seen.value, seen.total, seen.phase) == (7, 7, "counting")
    assert not worker.endpoint.look(0, 2).started
    await worker.ask(2, jobs.nothing)
    assert not worker.endpoint.look(0, 2).written
    assert not worker.endpoint.look(0, 1).started


async def test_ticks_count_checkpoints(worker: Living) -> None:
    """A function that looks can be told from one that does not."""
    worker.post(1, jobs.cooperate)
    await wait_until(lambda: worker.endpoint.look(0, 1).ticks > 2)
    worker.endpoint.cancel(0, 1, None)
    await worker.answer(1)


async def test_a_closed_worker_ends(worker: Living) -> None:
    """`close` lets `live` return; what is done afterwards does nothing and does not raise."""
    await worker.ask(1, jobs.nothing)
    worker.endpoint.close()
    await wait_until(lambda: worker.death is not None)
    assert worker.death is not None
    assert worker.death.exitcode in (0, None)
    worker.endpoint.cancel(0, 2, None)
    worker.endpoint.interrupt()
    worker.endpoint.kill()
    worker.endpoint.close()


async def test_run_times_are_counted(worker: Living) -> None:
    """Each call that ran is counted once."""
    for generation in (1, 2, 3):
        await worker.ask(generation, jobs.nothing)
    cells = worker.endpoint.histograms()
    assert cells is not None
    number = worker.engine.ledger.number(jobs.nothing)
    assert number > 0
    assert times_of(parts(cells)[number]).run_time.count == 3
    assert times_of(add_up(parts(cells))).run_time.count == 3


async def test_generators_are_refused(worker: Living) -> None:
    """Before anything is sent."""
    with pytest.raises(TypeError):
        worker.engine.prepare(_generate, ())


def _generate() -> object:
    yield 1


async def test_a_worker_has_a_pid(worker: Living) -> None:
    """That of its process, known at the first answer; on a thread that of this one."""
    await worker.ask(1, jobs.nothing)
    assert isinstance(worker.endpoint.pid, int)


async def test_an_interrupt_stops_a_function(interruptible: Living) -> None:
    """One that never looks; the answer says that it was interrupted."""
    await interruptible.ask(1, jobs.nothing)  # its module is there: what begins, runs at once
    interruptible.post(2, jobs.spin)
    await interruptible.started(2)
    interruptible.endpoint.cancel(0, 2, None)
    await trio.sleep(0.05)  # it would have been answered by now, had it looked
    assert 2 not in interruptible.answers
    while 2 not in interruptible.answers:  # as the ladder does: one may come before it has begun
        assert interruptible.endpoint.interrupt()
        await trio.sleep(0.02)
    answer = await interruptible.answer(2)
    assert (answer.kind, answer.interrupted) == ("stopped", True)


async def test_an_interrupt_without_the_word_is_nothing(interruptible: Living) -> None:
    """It only says "look at your slot"."""
    interruptible.post(1, jobs.cooperate)
    await interruptible.started(1)
    interruptible.endpoint.interrupt()
    await trio.sleep(0.05)
    assert interruptible.answers == {}
    interruptible.endpoint.cancel(0, 1, None)
    assert not (await interruptible.answer(1)).interrupted


async def test_a_killed_worker_answers_nothing(killable: Living) -> None:
    """`live` returns with -9; the slot can still be read."""
    killable.post(1, jobs.spin)
    await killable.started(1)
    assert killable.endpoint.kill()
    await wait_until(lambda: killable.death is not None)
    assert killable.death is not None
    assert killable.death.exitcode == -9
    assert killable.answers == {}
    assert killable.endpoint.look(0, 1).started


async def test_a_cluster_has_two_rungs(cluster_address: str) -> None:
    """A thread of Dask's cannot be interrupted, and says so; its process can be killed."""
    async with living(cluster_engine(cluster_address)) as worker:
        worker.post(1, jobs.cooperate)
        await worker.started(1)
        assert not worker.endpoint.interrupt()
        assert worker.answers == {}
        worker.endpoint.cancel(0, 1, None)
        assert (await worker.answer(1)).kind == "stopped"


async def test_threads_have_one_rung() -> None:
    """A thread can be neither interrupted nor killed, and says so."""
    async with living(ThreadEngine("test")) as worker:
        worker.post(1, jobs.cooperate)
        await worker.started(1)
        assert not worker.endpoint.interrupt()
        assert not worker.endpoint.kill()
        assert worker.answers == {}
        worker.endpoint.cancel(0, 1, None)
        assert (await worker.answer(1)).kind == "stopped"


async def test_threads_import_modules_first() -> None:
    """A module that a thread cannot import is its death, before it was ready."""
    endpoint = ThreadEngine("test", ("no_such_module",)).endpoint()
    death = await endpoint.live(_not_ready, _no_answer)
    assert isinstance(death.error, WorkerStartError)
    assert "no_such_module" in str(death.error)
    assert "no_such_module" not in sys.modules


def _not_ready() -> None:
    raise AssertionError


def _no_answer(generation: int, answer: Answer) -> None:
    raise AssertionError


async def test_a_process_is_another_one() -> None:
    """Its pid is known when it is ready."""
    async with living(ProcessEngine("test")) as worker:
        answer = await worker.ask(1, jobs.pid)
        assert answer.unpack() == Value(worker.endpoint.pid)
        assert worker.endpoint.pid != os.getpid()


def engine_with(places: int) -> ProcessEngine:
    """Return an engine whose workers are sent so many calls at a time, though they run one."""
    engine = ProcessEngine("test")
    engine.places = places
    return engine


async def test_more_calls_than_the_pipe_holds(tmp_path: Path) -> None:
    """What it does not take at once is sent when it does; each call is answered once, in order."""
    go = tmp_path / "go"
    texts = [str(number) * 15_000 for number in range(10)]  # inside of frames; a pipe has 64 KiB
    async with living(engine_with(11)) as it:
        it.post(1, jobs.wait_for, str(go))
        await it.started(1)
        for number, text in enumerate(texts):
            call = it.engine.prepare(jobs.echo, (text,))
            it.endpoint.post(call, number + 1, number + 2, 0, 60.0, time.perf_counter_ns())
        assert it.answers == {}
        go.touch()
        await it.answer(11)
        assert [*it.answers] == list(range(1, 12))
        assert [it.answers[g].unpack() for g in range(2, 12)] == [Value(text) for text in texts]


async def test_a_worker_that_dies_before_it_has_read_everything() -> None:
    """What was still to be sent is forgotten with it."""
    async with living(engine_with(11)) as it:
        it.post(1, jobs.stop_self)
        await wait_until(lambda: "T" in state_of(it.endpoint.pid))
        for number in range(10):
            call = it.engine.prepare(jobs.echo, ("x" * 15_000,))
            it.endpoint.post(call, number + 1, number + 2, 0, 60.0, time.perf_counter_ns())
        it.endpoint.kill()
        await wait_until(lambda: it.death)
        assert it.death is not None
        assert it.death.exitcode == -signal.SIGKILL
        assert it.answers == {}


def state_of(pid: int | None) -> str:
    """Return the letter of a process's state."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
