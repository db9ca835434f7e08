"""Workers that die, at moments that are hard to hit; and requests that are ended, likewise."""

from __future__ import annotations

import os
import re
import signal
import time
from typing import TYPE_CHECKING

import pytest
import trio

import fault_jobs
import jobs
from conftest import children
from helpers import is_alive, serving_pool, wait_for_file, wait_until
from trioipc import (
    PoisonedRequestError,
    RequestTimeoutError,
    WorkerCrashedError,
)
from trioipc.protocol._codec import FROM_WORKER

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trioipc import WorkerPool


pytestmark = pytest.mark.stderr("")


@pytest.fixture
async def pool() -> AsyncIterator[WorkerPool]:
    """Provide a pool of one process, and see that it serves the next request in the end."""
    async with serving_pool(1) as pool:
        yield pool


# ---- deaths


async def test_a_kill_that_races_with_the_call(pool: WorkerPool) -> None:
    """What may run twice is not hurt; other calls end as a value or as a crash, at once."""
    crashed = 0
    for turn in range(20):
        os.kill(await pool.run(jobs.pid), signal.SIGKILL)
        with trio.fail_after(20):
            try:
                assert await pool.run(jobs.echo, turn, idempotent=turn % 2 == 0) == turn
            except WorkerCrashedError as error:
                assert turn % 2
                assert error.signal == signal.SIGKILL  # noqa: PT017 - it may succeed too
                crashed += 1
    assert pool.statistics().total_errors == crashed


async def test_a_death_is_noticed_at_once(pool: WorkerPool, tmp_path: Path) -> None:
    """Within a tenth of a second, in the median, and the error says for how long it ran."""
    delays = []
    for turn in range(5):
        begun = tmp_path / str(turn)
        async with pool.open_request(jobs.sleep, 60, str(begun)) as request:
            await wait_for_file(begun)
            killed = time.perf_counter()
            os.kill(pool.workers[0].pid or 0, signal.SIGKILL)
            with pytest.raises(WorkerCrashedError) as caught:
                await request.result()
            delays.append(time.perf_counter() - killed)
        assert caught.value.signal == signal.SIGKILL
    assert sorted(delays)[2] < 0.1


@pytest.mark.parametrize("written", [1, FROM_WORKER.size - 1, FROM_WORKER.size, 100])
async def test_a_death_within_an_answer(pool: WorkerPool, written: int) -> None:
    """In the header, right after it, or in the body: it is a crash, and no answer."""
    with trio.fail_after(20), pytest.raises(WorkerCrashedError) as caught:
        await pool.run(fault_jobs.die_within_a_frame, written)
    assert caught.value.signal == signal.SIGKILL


async def test_a_death_after_the_answer(pool: WorkerPool, tmp_path: Path) -> None:
    """What was answered was answered, also if we hear of both in the same moment."""
    async with pool.open_request(fault_jobs.answer_and_die, str(tmp_path / "begun")) as request:
        await wait_for_file(tmp_path / "begun")
        while is_alive(pool.workers[0].pid or 0):
            time.sleep(0.001)  # noqa: ASYNC251 - the event loop shall not turn
        assert await request.result() == "whole"


@pytest.mark.parametrize("number", [signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGHUP])
async def test_more_signals_are_named(pool: WorkerPool, number: signal.Signals) -> None:
    """Whatever kills a worker, it is a crash that says so."""
    await pool.run(_quiet)
    with pytest.raises(WorkerCrashedError, match=f"killed by {number.name}") as caught:
        await pool.run(jobs.kill_self, number)
    assert caught.value.exitcode == -number


@pytest.mark.stderr(r"(its last words\n){3}")
@pytest.mark.parametrize(
    ("number", "name"),
    [
        (signal.SIGSEGV, "Segmentation fault"),
        (signal.SIGABRT, "Aborted"),
        (signal.SIGBUS, "Bus error"),
        (signal.SIGFPE, "Floating.point exception"),
        (signal.SIGILL, "Illegal instruction"),
    ],
)
async def test_last_words(pool: WorkerPool, number: signal.Signals, name: str) -> None:
    """What it prints is printed; where it was in its code is in the error, for each try."""
    with pytest.raises(PoisonedRequestError) as caught:
        await pool.run(fault_jobs.print_and_die, "its last words\n", number, idempotent=True)
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    crashes = caught.value.__cause__.exceptions
    assert [len(crash.__notes__) for crash in crashes] == [2] * 3
    for crash in crashes:
        assert re.search(f"Fatal Python error: {name}", crash.__notes__[0])
        assert "in print_and_die" in crash.__notes__[0]


def _quiet() -> None:
    import faulthandler

    faulthandler.disable()  # the text is not what is looked at
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # one that was ignored (nohup) stays so


@pytest.mark.parametrize("code", [0, 1, 42, 255])
async def test_leaving_is_a_crash(pool: WorkerPool, code: int) -> None:
    """With any exit code, 0 included."""
    with pytest.raises(WorkerCrashedError) as caught:
        await pool.run(jobs.die, code)
    assert (caught.value.exitcode, caught.value.signal) == (code, None)


@pytest.mark.parametrize("size", [1, 2, 3])
async def test_all_die_together(size: int, tmp_path: Path) -> None:
    """Each call ends once, and the pool has new workers for those that wait."""
    ends: list[object] = []

    async def call(pool: WorkerPool, number: int, pids: list[int]) -> None:
        try:
            begun = str(tmp_path / str(number))
            ends.append(await pool.run(fault_jobs.kill, pids, begun, str(tmp_path / "go")))
        except WorkerCrashedError as error:
            ends.append(error.signal)

    async def wait(pool: WorkerPool, number: int) -> None:
        ends.append(await pool.run(jobs.echo, f"waited {number}"))

    async with serving_pool(size) as pool:
        await pool.warm()
        pids = [worker.pid for worker in pool.workers if worker.pid]
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for number in range(size):
                    nursery.start_soon(call, pool, number, pids)
                    await wait_for_file(tmp_path / str(number))
                for number in range(5):
                    nursery.start_soon(wait, pool, number)
                (tmp_path / "go").touch()
        assert not {worker.pid for worker in pool.workers} & {*pids}
    assert sorted(map(str, ends)) == sorted(
        [str(signal.SIGKILL)] * size + [f"waited {number}" for number in range(5)]
    )


async def test_a_poison_among_others() -> None:
    """It ends alone, however often it was tried; the others do not notice."""
    found: list[int] = []
    async with serving_pool(2) as pool:

        async def good(number: int) -> None:
            found.append(await pool.run(jobs.echo, number))

        async def poison() -> None:
            with pytest.raises(PoisonedRequestError):
                await pool.run(jobs.die, 3, idempotent=True, max_retries=2)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(poison)
                for number in range(300):
                    nursery.start_soon(good, number)
        assert pool.statistics().total_errors == 1
        assert pool.statistics().restarts == {"crashed": 3}
    assert sorted(found) == [*range(300)]


async def test_the_dead_are_reaped(pool: WorkerPool) -> None:
    """None of them stays as a zombie, though nobody asks for the pool."""
    pid = await pool.run(jobs.pid)
    os.kill(pid, signal.SIGKILL)
    with trio.fail_after(1):
        while pid in children():
            await trio.sleep(0.005)


# ---- ends


async def test_a_storm_of_cancels() -> None:
    """A thousand calls that are cancelled at once end within two seconds, and leave no worker."""
    async with serving_pool(2) as pool:
        await pool.warm()
        before = children()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                for _ in range(500):
                    nursery.start_soon(pool.run, jobs.cooperate)
                    nursery.start_soon(pool.run, jobs.sleep, 60)
                await wait_until(lambda: pool.statistics().busy_workers == 2)
                scope.cancel()
                start = time.perf_counter()
        assert time.perf_counter() - start < 2
        assert len(children() - before) <= 2
        statistics = pool.statistics()
        assert (statistics.total_cancelled, statistics.queued_tasks) == (1000, 0)


@pytest.mark.parametrize("seconds", [-1.0, 0.0])
async def test_a_deadline_that_has_passed(pool: WorkerPool, seconds: float, tmp_path: Path) -> None:
    """No worker is asked."""
    with trio.move_on_at(trio.current_time() + seconds) as scope:
        await pool.run(jobs.touch, str(tmp_path / "touched"))
    assert scope.cancelled_caught
    assert await pool.run(jobs.add, 1, 2) == 3
    assert not (tmp_path / "touched").exists()


async def test_a_shield_within_a_cancelled_scope(pool: WorkerPool) -> None:
    """What is shielded is served; a deadline without an end is none."""
    with trio.CancelScope() as outer:
        outer.cancel()
        with trio.CancelScope(shield=True, deadline=float("inf")):
            assert await pool.run(jobs.add, 1, 2, timeout=float("inf")) == 3


async def test_a_wall_clock_that_jumps(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day forwards or back, and no deadline is another."""
    system_time, jump = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: system_time() + jump)
    for jump in (86400.0, -86400.0, 0.0):  # noqa: B007 - the clock reads it
        assert await pool.run(jobs.add, 1, 2, timeout=20, queue_timeout=20) == 3
    with pytest.raises(RequestTimeoutError):
        await pool.run(jobs.cooperate, timeout=0.05)


async def test_c_code_that_holds_the_interpreter_lock(pool: WorkerPool, tmp_path: Path) -> None:
    """It is slow and not dead: it may end by itself; a clock ends it by a kill."""
    assert await pool.run(jobs.hold_the_gil, 1, str(tmp_path / "begun")) is None
    assert pool.statistics().restarts == {}
    with trio.fail_after(5), pytest.raises(RequestTimeoutError) as caught:
        await pool.run(sum, range(10**11), timeout=0.2, grace=0.1)
    assert caught.value.rung == "kill"
