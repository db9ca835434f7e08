"""`trioipc.testing`, used as an application's tests would: in virtual time, with faults, swept."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Literal

import pytest
import trio
import trio.testing

import context_jobs
import jobs
import state_jobs
from trioipc import (
    PayloadError,
    PoisonedRequestError,
    RequestCancelledError,
    RequestExitError,
    RequestTimeoutError,
    SharedFlag,
    WorkerCrashedError,
    WorkerStartError,
    current_request,
    open_worker_pool,
    testing,
)
from trioipc.testing import (
    Crash,
    Delay,
    Hang,
    Stop,
    cancel_at_each_step,
    check_leaks,
    open_test_pool,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from trio.testing import MockClock

    from trioipc import Progress

Kind = Literal["cpu", "io"]

# ---- what functions get and give


async def test_a_function_is_called(autojump_clock: MockClock) -> None:
    """A plain one, and a registered operation by a message."""
    async with open_test_pool(modules=["jobs"]) as pool:
        assert await pool.run(jobs.add, 1, 2) == 3
        assert await pool.execute({"type": "double", "payload": 4}) == 8
        with pytest.raises(ValueError, match="text"):
            await pool.run(jobs.fail, ValueError("text"))
        with pytest.raises(RequestExitError):
            await pool.run(jobs.fail, SystemExit(3))


async def test_what_cannot_travel_is_refused_as_in_a_real_pool() -> None:
    """With the same error, word for word: functions, arguments, results."""
    calls: list[tuple[Any, ...]] = [
        (lambda: 1,),
        (jobs.echo, threading.Lock()),
        (jobs.echo, [lambda: 1]),
        (context_jobs.lock,),
    ]
    said: list[list[str]] = []
    for pool_of in (lambda: open_test_pool(), lambda: open_worker_pool(1)):
        async with pool_of() as pool:
            said.append([])
            for call in calls:
                with pytest.raises(PayloadError) as caught:
                    await pool.run(*call)
                said[-1].append(str(caught.value))
    assert said[0] == said[1]


async def test_each_gets_a_copy_of_its_own(autojump_clock: MockClock) -> None:
    """Of arguments, of the object that a method is of, and of results; types are kept."""
    box, data = jobs.Box(), [1, 2]
    async with open_test_pool() as pool:
        assert await pool.run(box.put, data) == [1, 2, "put"]
        assert (box.content, data) == (None, [1, 2])
        for value in (b"x" * 10_000, bytearray(10_000), {"a": [bytes(9_000)]}, None, 1.5):
            given = await pool.run(jobs.echo, value)
            assert (given, type(given)) == (value, type(value))
        assert bytes(await pool.run(jobs.echo, memoryview(b"y" * 9_000))) == b"y" * 9_000


async def test_shared_state_stays_shared(autojump_clock: MockClock) -> None:
    """It arrives as another object over the same memory."""
    async with open_test_pool() as pool:
        with SharedFlag() as flag:
            await pool.run(state_jobs.set_flag, flag)
            assert flag.is_set()


async def test_kinds_are_told_apart(autojump_clock: MockClock) -> None:
    """Each refuses what the real one refuses; an io pool runs many at once."""
    async with open_test_pool() as pool:
        with pytest.raises(TypeError, match="kind='io'"):
            await pool.run(trio.sleep, 1)
    async with open_test_pool(kind="io") as pool, trio.open_nursery() as nursery:
        with pytest.raises(TypeError, match="kind='cpu'"):
            await pool.run(jobs.nothing)
        before = trio.current_time()
        for _ in range(100):
            nursery.start_soon(pool.run, trio.sleep, 5)
    assert trio.current_time() - before == pytest.approx(5)


async def test_workers_live_as_real_ones(autojump_clock: MockClock) -> None:
    """With a lifespan, context variables, and a request that functions can ask for."""
    left: list[str] = []

    @contextmanager
    def lifespan() -> Iterator[str]:
        yield "state"
        left.append("left")

    options: dict[str, Any] = {"context_variables": ["context_jobs:tenant"]}
    async with open_test_pool(
        lifespan=lifespan, **options, stand_ins={jobs.nothing: state}
    ) as pool:
        token = context_jobs.tenant.set("us")
        assert await pool.run(context_jobs.look) == ("us", 0, "")
        context_jobs.tenant.reset(token)
        assert await pool.run(context_jobs.look) == ("nobody", 0, "")
        assert await pool.run(jobs.nothing) == "state"
    assert left == ["left"]


def state() -> object:
    """Return what the lifespan has given."""
    return current_request().state


async def test_an_io_lifespan_is_asynchronous(autojump_clock: MockClock) -> None:
    """And what it raises is why the worker does not start."""

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[int]:
        await trio.sleep(3)
        yield 7

    async with open_test_pool(kind="io", lifespan=lifespan):
        assert trio.current_time() == pytest.approx(3)

    @asynccontextmanager
    async def broken() -> AsyncIterator[int]:
        raise OSError("no database")
        yield 7

    with pytest.raises(WorkerStartError, match="no database"):
        async with open_test_pool(kind="io", lifespan=broken):
            raise AssertionError("it opened")


# ---- stand-ins


async def test_a_stand_in_takes_no_time(autojump_clock: MockClock) -> None:
    """A call that sleeps for an hour is over at once; its progress came every interval."""

    async def slowly(seconds: float) -> str:
        progress = current_request().progress
        for minute in range(60):
            progress.set(minute)
            await trio.sleep(seconds / 60)
        return "rested"

    seen: list[Progress] = []
    async with open_test_pool(stand_ins={jobs.sleep: slowly}, progress_interval=600) as pool:
        assert await pool.run(jobs.sleep, 3600.0, on_progress=seen.append) == "rested"
        statistics = pool.statistics()
    assert trio.current_time() == pytest.approx(3600)
    assert [round(progress.elapsed / 600) for progress in seen] == [1, 2, 3, 4, 5, 6]
    assert statistics.run_time.max == pytest.approx(3600)
    assert statistics.operations["jobs.sleep"].times.run_time.count == 1


async def test_queues_are_in_virtual_time_too(autojump_clock: MockClock) -> None:
    """The wait for a worker is counted as such."""
    async with open_test_pool(stand_ins={jobs.nothing: Delay(10)}) as pool:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(pool.run, jobs.nothing)
        statistics = pool.statistics()
    assert statistics.queue_time.max == pytest.approx(20)
    assert statistics.total_time.max == pytest.approx(30)


async def test_stand_ins_are_for_items_of_a_map(autojump_clock: MockClock) -> None:
    """Each of them plays the part, or fails it, by itself."""

    def odd_ones_fail(number: int) -> int:
        if number % 2:
            raise ValueError(number)
        return number

    results: list[Any] = []
    async with (
        open_test_pool(2, stand_ins={jobs.double: odd_ones_fail}) as pool,
        pool.map(jobs.double, range(6), on_error="collect") as found,
    ):
        results += [result async for result in found]
    assert [result for result in results if isinstance(result, int)] == [0, 2, 4]
    assert len(results) == 6


@pytest.mark.parametrize("wrong", [Crash, 3, "function"])
async def test_parts_are_checked(wrong: Any) -> None:
    """A class of a fault is none, nor is anything that cannot be called."""
    for options in ({"faults": {1: wrong}}, {"stand_ins": {jobs.nothing: wrong}}):
        with pytest.raises(TypeError, match="must hold functions, or faults"):
            async with open_test_pool(**options):
                raise AssertionError("it opened")


async def test_other_options_are_those_of_the_pool() -> None:
    """With the same checks."""
    with pytest.raises(ValueError, match="size must be >= 1"):
        async with open_test_pool(0):
            raise AssertionError("it opened")
    with pytest.raises(TypeError, match="no_such"):
        async with open_test_pool(no_such=1):
            raise AssertionError("it opened")
    with pytest.raises(ValueError, match="kind must be one of cpu, io"):
        async with open_test_pool(kind="thread"):  # type: ignore[arg-type]
            raise AssertionError("it opened")


# ---- faults


async def test_a_crash_at_a_number(autojump_clock: MockClock) -> None:
    """Costs that request, after that time, with that exit code; the next has another worker."""
    async with open_test_pool(faults={2: Crash(exitcode=-11, after=3)}) as pool:
        await pool.run(jobs.nothing)
        before = trio.current_time()
        with pytest.raises(WorkerCrashedError) as caught:
            await pool.run(jobs.nothing)
        assert trio.current_time() - before == pytest.approx(3)
        assert caught.value.exitcode == -11
        assert caught.value.signal is not None
        assert caught.value.seconds_running == pytest.approx(3)
        await pool.run(jobs.nothing)
        assert pool.statistics().restarts == {"crashed": 1}


async def test_retries(autojump_clock: MockClock) -> None:
    """A retry is a request of its own to the faults; too many crashes poison it."""
    async with open_test_pool(faults={1: Crash(), 2: Crash()}) as pool:
        assert await pool.run(jobs.add, 1, 2, idempotent=True) == 3
    async with open_test_pool(faults=dict.fromkeys(range(1, 9), Crash(3))) as pool:
        with pytest.raises(PoisonedRequestError) as caught:
            await pool.run(jobs.add, 1, 2, idempotent=True, max_retries=2)
        assert caught.value.attempts == 3


@pytest.mark.parametrize("kind", ["cpu", "io"])
async def test_a_hang_is_killed(kind: Kind, autojump_clock: MockClock) -> None:
    """When the clock has run out, and the grace after it."""
    function = trio.sleep if kind == "io" else jobs.sleep
    async with open_test_pool(kind=kind, faults={1: Hang()}, grace=2) as pool:
        with pytest.raises(RequestTimeoutError) as caught:
            await pool.run(function, 0, timeout=10)
        assert caught.value.rung == "kill"
        assert 10 < trio.current_time() < 10 + 2 * 2 + 1
        assert pool.statistics().restarts == {"killed": 1}


async def test_a_stopped_worker_is_found(autojump_clock: MockClock) -> None:
    """Within some seconds; what it ran crashed."""
    async with open_test_pool(stand_ins={jobs.nothing: Stop()}) as pool:
        with pytest.raises(WorkerCrashedError, match="stopped"):
            await pool.run(jobs.nothing)
        assert trio.current_time() < 10
        assert pool.statistics().restarts == {"stopped": 1}
        assert await pool.run(jobs.add, 1, 2) == 3


async def test_a_delay_is_part_of_the_run(autojump_clock: MockClock) -> None:
    """So that a clock can run out during it."""
    async with open_test_pool(faults={1: Delay(5), 2: Delay(5)}) as pool:
        assert await pool.run(jobs.add, 1, 2, timeout=6) == 3
        with pytest.raises(RequestTimeoutError):
            await pool.run(jobs.add, 1, 2, timeout=4)


async def test_slow_and_failing_starts(autojump_clock: MockClock) -> None:
    """By the number of the worker; one that is too slow has failed."""
    async with open_test_pool(2, starts={1: 4, 2: WorkerStartError("no room")}) as pool:
        assert trio.current_time() == pytest.approx(4)
        with pytest.raises(WorkerStartError, match="no room"):
            await pool.warm()
        await pool.warm()
    with pytest.raises(WorkerStartError, match="not ready within 30"):
        async with open_test_pool(starts={1: math.inf}):
            raise AssertionError("it opened")


@pytest.mark.parametrize("wrong", [{"seconds": -1}, {"seconds": "1"}])
def test_faults_are_checked(wrong: Any) -> None:
    """Times are numbers of seconds."""
    with pytest.raises((ValueError, TypeError), match="seconds"):
        Delay(**wrong)


async def test_cancelling(autojump_clock: MockClock) -> None:
    """Functions stop as they would in a process; in an io worker where they wait."""

    async def cooperate(path: str | None = None) -> None:
        while True:
            current_request().checkpoint()
            await trio.sleep(0.01)

    async with open_test_pool(stand_ins={jobs.cooperate: cooperate}) as pool:
        async with pool.open_request(jobs.cooperate) as request:
            await request.wait_started()
            request.cancel("enough")
            with pytest.raises(RequestCancelledError, match="enough") as caught:
                await request.result()
            assert caught.value.rung == "checkpoint"
        assert pool.statistics().restarts == {}
    async with open_test_pool(kind="io") as pool:
        with trio.move_on_after(3):
            await pool.run(trio.sleep_forever)
        assert trio.current_time() < 3.2
        assert pool.statistics().restarts == {}


async def test_pids_are_of_no_process(autojump_clock: MockClock) -> None:
    """A test that signals one harms nobody."""
    async with open_test_pool() as pool:
        (worker,) = pool.workers
        assert worker.pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(worker.pid, 0)


# ---- sweeps


async def test_a_sweep_finds_what_is_left_behind() -> None:
    """At the one step of three at which an account is lost."""
    accounts = [50, 50]

    async def transfer() -> None:
        await trio.lowlevel.checkpoint()
        accounts[0] -= 1
        await trio.lowlevel.checkpoint()  # should be shielded
        accounts[1] += 1

    async def check() -> None:
        assert sum(accounts) == 100

    with pytest.raises(AssertionError):
        await cancel_at_each_step(transfer, check)
    assert accounts == [49, 50]


async def test_a_sweep_counts_steps() -> None:
    """Each checkpoint is one; a strided one skips some; what never survives is given up."""

    async def three_steps() -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()

    runs = [0]

    async def check() -> None:
        runs[0] += 1

    assert await cancel_at_each_step(three_steps, check) == 3
    assert runs == [4]
    assert await cancel_at_each_step(three_steps, check, stride=2) == 4
    with pytest.raises(AssertionError, match="after 2 steps"):
        await cancel_at_each_step(three_steps, check, max_steps=2)
    for wrong in ({"stride": 0}, {"max_steps": 0}):
        with pytest.raises(ValueError, match="must be >= 1"):
            await cancel_at_each_step(three_steps, check, **wrong)


async def test_a_sweep_over_all_tasks_strikes_while_one_waits() -> None:
    """Its own steps alone do not show it in the middle of a wait."""

    async def wait_for_others() -> None:
        done = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, done)
            with trio.CancelScope(shield=True):
                await done.wait()

    async def work(done: trio.Event) -> None:
        with trio.CancelScope(shield=True):
            for _ in range(5):
                await trio.lowlevel.checkpoint()
        done.set()

    own = await cancel_at_each_step(wait_for_others, trio.lowlevel.checkpoint)
    both = await cancel_at_each_step(wait_for_others, trio.lowlevel.checkpoint, all_tasks=True)
    assert both >= own + 5


async def test_a_sweep_lets_errors_out() -> None:
    """They are what it is looking for; Trio's instruments are as before."""

    async def fail_when_cancelled() -> None:
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            raise KeyError("clean-up") from None

    with pytest.raises(KeyError):
        await cancel_at_each_step(fail_when_cancelled, trio.lowlevel.checkpoint)
    await cancel_at_each_step(trio.lowlevel.checkpoint, trio.lowlevel.checkpoint)


async def test_a_pool_survives_a_sweep(autojump_clock: MockClock) -> None:
    """Wherever a call to a simulated pool is cancelled, the next one works."""

    async def call() -> None:
        await pool.run(jobs.add, 1, 2)

    async def check() -> None:
        assert await pool.run(jobs.add, 3, 4) == 7

    async with open_test_pool() as pool:
        assert await cancel_at_each_step(call, check, all_tasks=True) > 2


# ---- leaks


def test_nothing_is_left() -> None:
    """Of a whole pool."""

    async def main() -> None:
        async with open_worker_pool(1) as pool:
            await pool.run(jobs.echo, bytes(1 << 20))

    with check_leaks():
        trio.run(main)


def test_each_kind_of_leak_is_found() -> None:
    """And named; what is let go of in time is none."""
    found = pytest.raises(AssertionError, match=r"left behind: descriptor \d+: .*null")
    with found, check_leaks(timeout=0):
        null = os.open(os.devnull, os.O_RDONLY)
    os.close(null)

    let_go = threading.Event()
    thread = threading.Thread(target=let_go.wait, name="forgotten")
    with pytest.raises(AssertionError, match="thread forgotten"), check_leaks(timeout=0.02):
        thread.start()
    let_go.set()
    thread.join()

    reading, writing = os.pipe()
    command = [sys.executable, "-c", "input()"]
    with pytest.raises(AssertionError, match="process "), check_leaks(timeout=0.02):
        child = subprocess.Popen(command, stdin=reading, stderr=subprocess.DEVNULL)
    os.close(writing)
    child.wait()
    os.close(reading)

    with pytest.raises(AssertionError, match="shared memory "), check_leaks(timeout=0.02):
        flag = SharedFlag()
    flag.close()
    del flag

    with check_leaks():
        threading.Timer(0.1, lambda: None).start()


def test_what_the_block_raises_comes_out() -> None:
    """It says more than what it left behind."""
    files: list[int] = []

    def leak_and_raise() -> None:
        files.append(os.open(os.devnull, os.O_RDONLY))
        raise KeyError("first")

    with pytest.raises(KeyError, match="first"), check_leaks(timeout=0):
        leak_and_raise()
    os.close(files[0])


def test_all_of_it_is_public() -> None:
    """What is listed is there."""
    assert all(getattr(testing, name) is not None for name in testing.__all__)
