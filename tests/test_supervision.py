"""Workers that die, stop or fall silent are found and replaced, and nobody else notices."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import jobs
from conftest import children
from fakes import Die, FakeEngine, start_error
from helpers import is_alive, serving_pool, wait_for_file, wait_until
from trioipc import (
    PoisonedRequestError,
    WorkerCrashedError,
    WorkerStartError,
)
from trioipc.pool._endpoint import Vitals
from trioipc.pool._opening import open_on
from trioipc.pool._options import Options
from trioipc.pool.engines._vitals import read_private_bytes, read_vitals
from trioipc.pool.team._breaker import Breaker
from trioipc.pool.team._health import Pulse, counted
from trioipc.pool.team._supervisor import wanted

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from trioipc import WorkerPool
    from trioipc.pool._endpoint import VitalState


pytestmark = pytest.mark.stderr("")


def opened(engine: FakeEngine, **options: Any) -> Any:
    """Open a pool on a fake."""
    return open_on(engine, Options(**{"size": 1, **options}))


def nothing() -> None:
    """Return at once."""


async def die(code: int) -> None:
    """End the worker, after a second."""
    await trio.sleep(1)
    raise Die(code)


# ---- what a tick concludes


def feel(
    pulse: Pulse,
    state: VitalState,
    processor_time: int = 0,
    elapsed: float = 1.0,
    owes: bool = False,
) -> str | None:
    """Have a pulse felt."""
    return pulse.feel(Vitals(state, processor_time), elapsed, owes=owes)


def test_stopped_at_two_ticks_in_a_row() -> None:
    """Once may be chance: somebody sends SIGCONT soon enough."""
    pulse = Pulse()
    assert [feel(pulse, state) for state in ("stopped", "running", "stopped")] == [None] * 3
    assert feel(pulse, "stopped") == "stopped"


def test_a_suspended_machine_is_not_a_stopped_worker() -> None:
    """After a tick that came late, two more must see it."""
    pulse = Pulse()
    assert counted(1.2) == 1.2
    assert counted(3600.0) == 0.0
    assert feel(pulse, "stopped") is None
    assert feel(pulse, "stopped", elapsed=counted(3600.0)) is None
    assert feel(pulse, "sleeping") is None
    assert feel(pulse, "stopped", elapsed=counted(3600.0)) is None
    assert feel(pulse, "stopped") == "stopped"


@pytest.mark.parametrize("state", ["running", "sleeping", "traced"])
def test_a_worker_that_is_busy_or_in_a_debugger_is_left_alone(state: VitalState) -> None:
    """It has begun a request: that may take as long as its clocks allow."""
    pulse = Pulse()
    assert [feel(pulse, state) for _ in range(1000)] == [None] * 1000


def test_silence_is_sleep_before_what_it_owes() -> None:
    """Thirty seconds without a sign of life end it; any sign begins them anew."""
    pulse = Pulse()
    assert [feel(pulse, "sleeping", owes=True) for _ in range(31)] == [None] * 31
    assert feel(pulse, "sleeping", 1, owes=True) is None  # it has done something
    seen = [feel(pulse, "sleeping", 1, owes=True) for _ in range(31)]
    assert seen == [None] * 30 + ["silent"]
    assert feel(pulse, "traced", 1, owes=True) is None
    assert feel(pulse, "running", 1, owes=True) is None
    assert feel(pulse, "sleeping", 1, owes=False) is None


def test_the_machine_is_asked() -> None:
    """A process is what ``ps`` says it is, and takes what that says."""
    child = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        os.kill(child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        vitals = read_vitals(child.pid)
        state = subprocess.check_output(["ps", "-o", "stat=", "-p", str(child.pid)], text=True)
        assert state.startswith("T")
        assert vitals is not None
        assert vitals.state == "stopped"
        resident = int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(child.pid)])) * 1024
        private = read_private_bytes(child.pid)
        assert private is not None
        assert 0 < private < resident
    finally:
        child.kill()
        child.communicate()
    assert read_vitals(child.pid) is None
    assert read_private_bytes(child.pid) is None
    myself = read_vitals(os.getpid())
    assert myself is not None
    assert myself.state == "running"
    assert myself.processor_time > 0


# ---- the breaker


def test_pauses_grow_with_failures() -> None:
    """From 0.1 s to 10, counted from the last failure; one success forgets them."""
    breaker = Breaker()
    pauses = []
    for now in range(0, 900, 100):
        breaker.failed(now)
        pauses.append(breaker.pause(now))
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10])
    assert breaker.pause(803) == pytest.approx(7)
    assert breaker.pause(1000) == 0
    breaker.ready()
    assert breaker.pause(801) == 0


def test_the_circuit_opens_after_failures() -> None:
    """Five in a row; then one is tried, and closes it or not."""
    breaker = Breaker()
    states = []
    for _ in range(5):
        states.append(breaker.state(0))
        breaker.failed(0)
    assert states == ["closed"] * 5
    assert breaker.state(1.5) == "open"
    assert breaker.state(1.7) == "half-open"
    breaker.failed(1.7)
    assert breaker.state(1.8) == "open"
    breaker.ready()
    assert breaker.state(1.8) == "closed"


def test_the_circuit_opens_after_useless_deaths() -> None:
    """Being ready is no proof of workers that die of themselves; having begun something is."""
    breaker = Breaker()
    for _ in range(10):
        breaker.ready()
        breaker.wasted(0)
    assert (breaker.state(0), breaker.pause(0)) == ("closed", 0)
    breaker.wasted(0)
    assert (breaker.state(0), breaker.pause(0)) == ("open", 0.1)
    breaker.ready()
    assert breaker.state(0) == "open"
    assert breaker.state(1) == "half-open"
    breaker.proved()
    assert breaker.state(0) == "closed"


@pytest.mark.parametrize(
    ("alive", "starting", "benched", "waiting", "start"),
    [
        (0, 0, 0, 0, 2),  # the first one, and a spare
        (2, 0, 1, 0, 0),  # both are there
        (2, 0, 0, 0, 1),  # the spare is in use
        (2, 1, 0, 1, 1),  # what starts is for the one that waits
        (5, 0, 1, 9, 0),  # no more than there may be
        (4, 0, 0, 9, 1),
    ],
)
def test_spares_come_on_top(
    alive: int, starting: int, benched: int, waiting: int, start: int
) -> None:
    """They are beyond those in use, and beyond the size."""
    got = wanted(
        size=4, target=1, alive=alive, starting=starting, waiting=waiting, benched=benched, spare=1
    )
    assert got == start


# ---- a pool of fakes


async def test_a_stopped_worker_is_replaced(autojump_clock: MockClock) -> None:
    """Idle or busy; what it ran is tried again if it may be, and a crash if not."""
    engine = FakeEngine(watched=True)

    async def stop() -> str:
        if len(engine.endpoints) < 3:
            engine.endpoints[-1].vital = Vitals("stopped", 7)
            await trio.sleep_forever()
        return "third worker"

    async with opened(engine) as pool:
        engine.endpoints[0].vital = Vitals("stopped", 7)
        await wait_until_there_are(engine, 2)
        assert trio.current_time() <= 3
        assert await pool.run(stop, idempotent=True) == "third worker"
        assert pool.statistics().restarts == {"stopped": 2}
        engine.endpoints[-1].vital = Vitals("stopped", 7)
        with pytest.raises(WorkerCrashedError, match="was stopped, and was killed"):
            await pool.run(trio.sleep_forever)


async def wait_until_there_are(engine: FakeEngine, number: int) -> None:
    """Wait until so many workers were started."""
    with trio.fail_after(1000):
        while len(engine.endpoints) < number:
            await trio.sleep(0.1)


async def test_a_silent_worker_is_replaced(autojump_clock: MockClock) -> None:
    """What it did not begin moves on."""
    engine = FakeEngine(watched=True, deaf=True)
    async with opened(engine) as pool:
        engine.endpoints[0].vital = Vitals("sleeping", 7)
        engine.deaf = False
        assert await pool.run(nothing) is None
        assert 30 <= trio.current_time() < 35
        assert pool.statistics().restarts == {"silent": 1}
        assert pool.statistics().total_errors == 0


async def test_a_long_request_is_no_silence(autojump_clock: MockClock) -> None:
    """It holds the GIL, or sleeps: nobody can tell, and nobody need."""
    engine = FakeEngine(watched=True)
    async with opened(engine) as pool:
        engine.endpoints[0].vital = Vitals("sleeping", 7)
        await pool.run(trio.sleep, 10_000)
        assert pool.statistics().restarts == {}


async def test_nobody_ticks_where_nothing_can_stop(autojump_clock: MockClock) -> None:
    """Threads cannot; so nothing wakes the parent at all while it is idle."""
    async with opened(FakeEngine(watched=False)):
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
    async with opened(FakeEngine(watched=True)):
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline <= 1


async def test_workers_that_die_idle_are_started_less_and_less(autojump_clock: MockClock) -> None:
    """A crash loop is no storm of processes; it says so, and ends when one is of use."""
    engine = FakeEngine()

    async with opened(engine) as pool, trio.open_nursery() as nursery:

        async def kill_all() -> None:
            while True:
                engine.endpoints[-1].die(1)
                await trio.sleep(0.01)

        await pool.run(nothing)
        with trio.CancelScope() as storm:
            nursery.start_soon(kill_all)
            with trio.move_on_after(60):
                while pool.statistics().circuit == "closed":
                    await trio.sleep(0.01)
                while pool.statistics().circuit == "open":
                    await trio.sleep(0.01)
                await trio.sleep_forever()
            nursery.cancel_scope.cancel()
        assert not storm.cancelled_caught
    assert 11 < len(engine.endpoints) < 30


async def test_an_open_circuit_fails_at_once(autojump_clock: MockClock) -> None:
    """Who has no worker hears why, and does not wait; later, it is tried again."""
    starts = itertools.chain([0.0], [start_error() for _ in range(7)], itertools.repeat(0.0))
    engine = FakeEngine(starts=starts)
    async with opened(engine, max_queue=0) as pool:
        with pytest.raises(WorkerCrashedError):
            await pool.run(die, 1)
        await trio.testing.wait_all_tasks_blocked()  # its replacement has failed
        for _ in range(4):
            with pytest.raises(WorkerStartError, match="no such luck"):
                await pool.run(nothing)
        assert pool.statistics().circuit == "open"
        before, number = trio.current_time(), len(engine.endpoints)
        for _ in range(2):
            with pytest.raises(WorkerStartError, match="5 starts in a row have failed") as caught:
                await pool.run(nothing)
            assert "no such luck" in str(caught.value.__cause__.__cause__)  # type: ignore[union-attr]
        with pytest.raises(WorkerStartError, match=r"is tried in 1\.6 s"):
            await pool.warm()
        assert (trio.current_time(), len(engine.endpoints)) == (before, number)
        await trio.sleep(2)
        assert pool.statistics().circuit == "half-open"
        with pytest.raises(WorkerStartError, match="no such luck"):
            await pool.run(nothing)
        await trio.sleep(4)
        with pytest.raises(WorkerStartError, match="no such luck"):
            await pool.run(nothing)
        await trio.sleep(8)
        await pool.run(nothing)
        assert pool.statistics().circuit == "closed"


async def test_a_spare_that_cannot_start(autojump_clock: MockClock) -> None:
    """Those that work go on; the spare is tried again, less and less often."""
    starts = itertools.chain([0.0], (start_error() for _ in itertools.count()))
    engine = FakeEngine(starts=starts)
    async with opened(engine, size=2, spare=1) as pool:
        for _ in range(60):
            await pool.run(nothing)
            await trio.sleep(1)
        assert pool.statistics().circuit != "closed"
        assert pool.statistics().total_errors == 0
        assert 8 < len(engine.endpoints) < 16


async def test_a_spare_takes_over(autojump_clock: MockClock) -> None:
    """Neither a death nor more work costs a start; there are never more than size and spares."""
    engine = FakeEngine(starts=[0.0, *[100.0] * 10])
    async with opened(engine, size=2, spare=1) as pool, trio.open_nursery() as nursery:
        await trio.sleep(150)
        assert len(pool.workers) == 2
        before = trio.current_time()
        nursery.start_soon(pool.run, trio.sleep, 1000)
        await pool.run(nothing)  # on the spare, and another is started
        assert trio.current_time() == before
        await trio.sleep(150)
        assert len(pool.workers) == 3
        before = trio.current_time()
        engine.endpoints[0].die(1)
        await pool.run(nothing)
        assert trio.current_time() == before
        assert len(pool.workers) == 3  # one of them starts
        nursery.cancel_scope.cancel()


# ---- processes


async def test_a_stopped_process_is_replaced(tmp_path: Path) -> None:
    """The request that it ran is a crash, and tried again if it may be."""
    async with serving_pool(1) as pool:
        first = await pool.run(jobs.pid)
        os.kill(first, signal.SIGSTOP)
        with trio.fail_after(10):
            await wait_until(lambda: not is_alive(first))
        second = await pool.run(jobs.pid)
        path = str(tmp_path / "begun")

        async def stop() -> None:
            await wait_for_file(path)
            os.kill(second, signal.SIGSTOP)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop)
            with trio.fail_after(10), pytest.raises(WorkerCrashedError, match="was stopped"):
                await pool.run(jobs.sleep, 60, path)
        assert pool.statistics().restarts == {"stopped": 2}


async def test_a_leaving_process_may_stop_too(tmp_path: Path) -> None:
    """One that has been replaced, and still runs something, is looked at all the same."""
    async with serving_pool(1, max_age=0.1) as pool:
        path = str(tmp_path / "begun")
        async with pool.open_request(jobs.sleep, 60, path) as request:
            await wait_for_file(path)
            with trio.fail_after(20):
                await wait_until(lambda: pool.workers[0].state == "leaving")
                pid = pool.workers[0].pid
                assert pid is not None
                os.kill(pid, signal.SIGSTOP)
                with pytest.raises(WorkerCrashedError, match="was stopped, and was killed"):
                    await request.result()


async def test_a_long_c_call_is_left_alone() -> None:
    """Not even one that holds the GIL is taken for death."""
    async with serving_pool(1) as pool:
        process = await pool.run(jobs.pid)
        assert await pool.run(jobs.hold_gil, 3.5) == process
        assert pool.statistics().restarts == {}


async def test_one_that_goes_on_in_time_is_left_alone() -> None:
    """SIGCONT within a second, and nothing has happened."""
    async with serving_pool(1) as pool:
        process = await pool.run(jobs.pid)
        os.kill(process, signal.SIGSTOP)
        await trio.sleep(0.1)
        os.kill(process, signal.SIGCONT)
        await trio.sleep(2.2)
        assert await pool.run(jobs.pid) == process


def stop_myself_and_children(script: str) -> subprocess.Popen[str]:
    """Start a script of its own process group."""
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        process_group=0,
        cwd=os.path.dirname(__file__),
    )


_STOPPABLE = """
import jobs, os, signal, time, trio
from trioipc import open_worker_pool

async def main():
    async with open_worker_pool(2) as pool:
        await pool.warm()
        before = {worker.pid for worker in pool.workers}
        print("ready", flush=True)
        with trio.fail_after(60):
            assert await pool.run(jobs.sleep, 1) == "slept"
            await trio.sleep(2.5)
        assert {worker.pid for worker in pool.workers} == before, "replaced"
        print(pool.statistics().restarts, flush=True)

if __name__ == "__main__":
    trio.run(main)
"""


def test_a_parent_that_was_stopped_with_its_workers_kills_none() -> None:
    """As by Ctrl-Z and fg, or a frozen container: SIGSTOP and SIGCONT to all, seconds apart."""
    process = stop_myself_and_children(_STOPPABLE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        trio.run(trio.sleep, 3)
        os.kill(process.pid, signal.SIGCONT)  # it is first, and finds its workers stopped
        trio.run(trio.sleep, 0.3)
        os.killpg(process.pid, signal.SIGCONT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert output == "{}\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_spare_process_takes_over(number: signal.Signals) -> None:
    """Killed again and again, it never keeps a call waiting for a start, nor are there too many."""
    most = 0
    async with serving_pool(1, spare=1) as pool:
        for _ in range(5):
            await wait_until(lambda: [w.state for w in pool.workers] == ["idle"] * 2)
            process = await pool.run(jobs.pid)
            os.kill(process, number)
            starting = len([w for w in pool.workers if w.state == "starting"])
            other = await pool.run(jobs.pid)
            assert other != process
            assert starting == 0
            # The one that was started to replace it is not ready: it cannot have served us.
            assert sorted(w.state for w in pool.workers) == ["idle", "starting"]
            most = max(most, len(children()))
    assert most <= 1 + 1 + 2 + 1  # and multiprocessing's resource tracker
    assert pool.statistics().restarts == {"crashed": 5}


async def test_others_go_on_beside_one_that_kills(pool: WorkerPool) -> None:
    """A request that kills every worker it meets costs nobody else a result."""
    results: list[object] = []

    async def add(number: int) -> None:
        results.append(await pool.run(jobs.add, number, 1, idempotent=True))

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(add, number)
        with pytest.raises(PoisonedRequestError) as caught:
            await pool.run(jobs.die, 3, idempotent=True)
    assert caught.value.attempts == 3
    pids = [crash.pid for crash in caught.value.__cause__.exceptions]  # type: ignore[union-attr]
    assert len(set(pids)) == 3
    assert sorted(results) == list(range(1, 21))  # type: ignore[type-var]


@pytest.fixture
async def pool() -> Any:
    """Provide a pool of two processes."""
    async with serving_pool(2) as pool:
        yield pool
