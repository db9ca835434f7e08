"""Pools of kind ``"io"``: many asynchronous functions at once in one worker process."""

from __future__ import annotations

import math
import os
import signal
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import io_jobs
import jobs
from helpers import wait_for_file, wait_until
from trioipc import (
    RequestCancelledError,
    RequestExitError,
    RequestTimeoutError,
    SharedCancellation,
    WorkerCrashedError,
    WorkerPool,
    open_worker_pool,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.fixture
async def pool() -> AsyncIterator[WorkerPool]:
    """Give a pool of one io worker."""
    async with open_worker_pool(1, kind="io", modules=["io_jobs"]) as pool:
        yield pool


async def test_many_at_once(pool: WorkerPool) -> None:
    """A hundred that sleep take as long as one, in one process."""
    results: dict[int, object] = {}

    async def ask(number: int) -> None:
        results[number] = await pool.run(io_jobs.sleep_then, 0.3, number)

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(ask, number)
    assert results == {number: number for number in range(100)}
    assert trio.current_time() - start < 3  # one after the other: 30
    assert len(pool.workers) == 1
    assert pool.workers[0].pid != os.getpid()


async def test_more_than_fit(pool: WorkerPool) -> None:
    """What finds no place in the worker waits for one."""
    answers = []

    async def ask(number: int) -> None:
        answers.append(await pool.run(io_jobs.sleep_then, 0.05, number))

    async with trio.open_nursery() as nursery:
        for number in range(600):
            nursery.start_soon(ask, number)
    assert sorted(answers) == [*range(600)]


async def test_each_has_its_own_request(pool: WorkerPool) -> None:
    """`current_request` is the task's own, before and after others ran."""
    names: list[tuple[str, str]] = []

    async def ask() -> None:
        names.append(await pool.run(io_jobs.name_twice))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
    assert all(before == after for before, after in names)
    assert len({before for before, _ in names}) == 20


async def test_a_cancelled_scope_is_one_there(pool: WorkerPool, tmp_path: Path) -> None:
    """The function sees `trio.Cancelled`, and cleans up; the worker serves the others."""
    path = tmp_path / "trace"
    with trio.CancelScope() as scope:
        async with pool.open_request(io_jobs.clean_up, str(path)) as request:
            await request.wait_started()
            scope.cancel()
            await request.result()
    assert scope.cancelled_caught
    assert path.read_text() == "cancelled: None"
    assert pool.workers[0].state == "idle"
    assert pool.statistics().restarts == {}


async def test_a_reason_travels(pool: WorkerPool, tmp_path: Path) -> None:
    """What `cancel` was told is the reason of the scope in the worker."""
    path = tmp_path / "trace"
    async with pool.open_request(io_jobs.clean_up, str(path)) as request:
        await request.wait_started()
        request.cancel("no longer wanted")
        with pytest.raises(RequestCancelledError) as caught:
            await request.result()
    assert caught.value.rung == "checkpoint"
    assert path.read_text() == "cancelled: no longer wanted"


async def test_a_flag_cancels(pool: WorkerPool) -> None:
    """A `SharedCancellation` takes the same stairs."""
    with SharedCancellation() as flag:
        async with trio.open_nursery() as nursery:

            async def cancel() -> None:
                await wait_until(lambda: pool.workers[0].state == "busy")
                flag.cancel("flag")

            nursery.start_soon(cancel)
            with pytest.raises(RequestCancelledError) as caught:
                await pool.run(io_jobs.sleep_then, math.inf, None, cancellation=flag)
    assert caught.value.reason == "flag"


async def test_timeouts(pool: WorkerPool) -> None:
    """The run clock runs there as well; one who looks at its slot sees it, too."""
    for function in (io_jobs.sleep_then, io_jobs.look_sometimes):
        arguments = (60, None)[: 2 if function is io_jobs.sleep_then else 1]
        with pytest.raises(RequestTimeoutError) as caught:
            await pool.run(function, *arguments, timeout=0.1)  # type: ignore[arg-type]
        assert (caught.value.clock, caught.value.rung) == ("run", "checkpoint")
    assert await pool.run(io_jobs.sleep_then, 0, 1) == 1


async def test_progress(pool: WorkerPool) -> None:
    """Each request has its own progress."""
    seen: dict[float, int] = {}

    async def ask(seconds: float) -> None:
        await pool.run(
            io_jobs.look_sometimes,
            seconds,
            on_progress=lambda progress: seen.update({seconds: progress.value}),
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, 0.1)
        nursery.start_soon(ask, 0.2)
    assert seen == {0.1: 20, 0.2: 40}


async def test_errors_come_home(pool: WorkerPool) -> None:
    """As themselves; what is no Exception as a RequestExitError; groups as groups."""
    with pytest.raises(ValueError, match="mine") as caught:
        await pool.run(io_jobs.fail_later, ValueError("mine"))
    assert "io_jobs.fail_later" in caught.value.__notes__[0]
    with pytest.raises(RequestExitError) as left:
        await pool.run(io_jobs.fail_later, SystemExit(3))
    assert (left.value.type_name, left.value.code) == ("SystemExit", 3)
    with pytest.raises(ExceptionGroup) as group:
        await pool.run(io_jobs.fail_in_a_nursery)
    assert [type(error) for error in group.value.exceptions] == [ValueError]
    assert await pool.run(io_jobs.sleep_then, 0, "still there") == "still there"


async def test_one_that_does_not_answer(pool: WorkerPool) -> None:
    """It is killed in the end; until then, others may finish, and new ones go elsewhere."""
    neighbour: list[object] = []

    async def ask() -> None:
        neighbour.append(await pool.run(io_jobs.sleep_then, 0.5, "done"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        start = trio.current_time()
        with trio.move_on_after(0.1) as scope:
            await pool.run(io_jobs.stubborn, 60, grace=0.4)
        assert scope.cancelled_caught
        assert trio.current_time() - start < 3
        assert await pool.run(io_jobs.sleep_then, 0, "new") == "new"
    assert neighbour == ["done"]
    assert pool.statistics().restarts == {"killed": 1}


async def test_a_blocked_event_loop(pool: WorkerPool, tmp_path: Path) -> None:
    """A worker that cannot even hear is killed like any other."""
    path = tmp_path / "trace"
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(pool.run, io_jobs.hold_up, str(path), grace=0.1))
            await wait_for_file(path)
            scope.cancel()
    assert scope.cancelled_caught
    assert pool.statistics().restarts == {"killed": 1}
    assert await pool.run(io_jobs.sleep_then, 0, 1) == 1


async def test_a_death_costs_all_that_had_begun(pool: WorkerPool) -> None:
    """They share a process; what may run twice is tried again."""
    outcomes: list[object] = []

    async def ask(idempotent: bool) -> None:
        try:
            outcomes.append(await pool.run(io_jobs.sleep_then, 0.3, "value", idempotent=idempotent))
        except WorkerCrashedError as error:
            outcomes.append(error.exitcode)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, False)
        nursery.start_soon(ask, True)
        await wait_until(lambda: pool.workers[0].state == "busy")
        with pytest.raises(WorkerCrashedError):
            await pool.run(io_jobs.end_the_process, 7)
    assert sorted(outcomes, key=str) == [7, "value"]


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_stopped_worker_is_replaced(idempotent: bool, tmp_path: Path) -> None:
    """What had begun is a crash, or done again; what had not moves on; none is lost."""
    go = tmp_path / "go"
    ends: dict[int, object] = {}
    errors: list[WorkerCrashedError] = []

    async def ask(number: int) -> None:
        try:
            call = pool.run(io_jobs.wait_for, str(go), number, idempotent=idempotent)
            ends[number] = await call
        except WorkerCrashedError as error:
            ends[number] = "crashed"
            errors.append(error)

    async with open_worker_pool(1, kind="io") as pool:
        await pool.run(io_jobs.sleep_then, 0, None)
        (first,) = pool.workers
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(ask, number)
                await trio.testing.wait_all_tasks_blocked()
                # What is asked for last begins last.
                async with pool.open_request(
                    io_jobs.wait_for, str(go), None, idempotent=True
                ) as last:
                    await last.wait_started()
                    os.kill(first.pid or 0, signal.SIGSTOP)
                    for number in range(10, 15):
                        nursery.start_soon(ask, number)
                    await wait_until(lambda: pool.statistics().restarts == {"stopped": 1})
                    go.touch()
                    assert await last.result() is None
        assert pool.workers[0].pid != first.pid
    begun = {number: number if idempotent else "crashed" for number in range(10)}
    assert ends == {**begun, **{number: number for number in range(10, 15)}}
    for error in errors:
        assert error.pid == first.pid
        assert "was stopped, and was killed" in str(error)


async def test_big_payloads_many_at_once(pool: WorkerPool) -> None:
    """Arguments and results in shared memory never meet those of a neighbour."""
    answers: dict[int, bool] = {}

    async def ask(number: int) -> None:
        data = bytes([number]) * (100_000 + number * 1000)
        answers[number] = await pool.run(io_jobs.double, memoryview(data)) == data * 2

    async with trio.open_nursery() as nursery:
        for number in range(60):
            nursery.start_soon(ask, number)
    assert answers == dict.fromkeys(range(60), True)


async def test_kinds_of_functions(pool: WorkerPool) -> None:
    """Each kind of worker says which one runs a function that it does not."""
    with pytest.raises(TypeError, match="kind='cpu'"):
        await pool.run(jobs.nothing)
    async with open_worker_pool(1) as other:
        with pytest.raises(TypeError, match="kind='io'"):
            await other.run(io_jobs.sleep_then, 0, None)


async def test_messages(pool: WorkerPool) -> None:
    """An operation may be asynchronous."""
    assert (
        await pool.execute({"type": "whisper", "payload": {"text": "HELLO"}, "channel": "custom"})
        == "hello"
    )


async def test_leaving_early() -> None:
    """A block that is left by an error aborts what runs, and nothing is left of the worker."""
    async with trio.open_nursery() as nursery:
        with pytest.raises(KeyError):
            async with open_worker_pool(1, kind="io") as pool:

                async def ask() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await pool.run(io_jobs.sleep_then, 60, None)

                nursery.start_soon(ask)
                await wait_until(lambda: pool.workers[0].state == "busy")
                raise KeyError("body")
