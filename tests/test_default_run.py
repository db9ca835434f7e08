"""`trioipc.run`: a function in a worker, without a pool to be opened first."""

from __future__ import annotations

import multiprocessing
import os
import time
from typing import TYPE_CHECKING, Any, assert_type

import pytest
import trio
import trio.testing

import jobs
import trioipc
from helpers import is_alive
from trioipc.testing import cancel_at_each_step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def closed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Close what a test has opened by its first call."""
    monkeypatch.delenv("TRIOIPC_PLACEMENT", raising=False)
    yield
    await trioipc.close_default_bridge()


async def test_the_shortest_way(closed_at_the_end: None) -> None:
    """It runs in another process, and what comes back has the function's type."""
    result = await trioipc.run(jobs.add, 1, 2)
    assert_type(result, int)
    assert result == 3
    assert await trioipc.run(os.getpid) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        await trioipc.run(divmod, 1, 0)


async def test_the_pool_is_that_of_the_default_bridge(closed_at_the_end: None) -> None:
    """Whichever comes first opens it."""
    pid = await trioipc.run(os.getpid)
    pool = trioipc.default_bridge().pool
    assert pid in {worker.pid for worker in pool.workers}
    await trioipc.close_default_bridge()
    assert not is_alive(pid)
    await trioipc.default_bridge().crypto.hash_file(b"")
    pool = trioipc.default_bridge().pool
    assert await trioipc.run(os.getpid) in {worker.pid for worker in pool.workers}


async def test_options_are_those_of_run(closed_at_the_end: None) -> None:
    """Clocks, progress, cancellations and what else there is."""
    with pytest.raises(trioipc.RequestTimeoutError, match="the run clock"):
        await trioipc.run(time.sleep, 60, timeout=0.05)
    seen: list[trioipc.Progress] = []
    await trioipc.run(jobs.count_to, 5, on_progress=seen.append)
    assert seen[-1].value == 5
    with trioipc.SharedCancellation() as cancellation:
        cancellation.cancel("enough")
        with pytest.raises(trioipc.RequestCancelledError, match="enough"):
            await trioipc.run(time.sleep, 60, cancellation=cancellation)
    with pytest.raises(ValueError, match="max_retries"):
        await trioipc.run(jobs.add, 1, 2, max_retries=1)


async def test_it_can_be_cancelled_at_each_step(closed_at_the_end: None) -> None:
    """Also while the pool opens, which goes on for the next."""

    async def check() -> None:
        assert await trioipc.run(jobs.add, 1, 2) == 3
        await trioipc.close_default_bridge()

    assert await cancel_at_each_step(lambda: trioipc.run(jobs.add, 1, 2), check) > 1


async def test_a_call_is_a_checkpoint(closed_at_the_end: None) -> None:
    """And one that is cancelled already starts nothing."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await trioipc.run(jobs.add, 1, 2)
    assert scope.cancelled_caught
    assert multiprocessing.active_children() == []
    with trio.testing.assert_checkpoints():
        await trioipc.run(jobs.add, 1, 2)


def test_each_run_has_its_own() -> None:
    """Its workers do not outlive it, though nobody closes anything."""

    async def main() -> int:
        return await trioipc.run(os.getpid)

    first, second = trio.run(main), trio.run(main)
    assert first != second
    assert multiprocessing.active_children() == []


def test_calls_that_outlive_the_main_task_are_aborted(tmp_path: Path) -> None:
    """And later ones find it closed."""
    outcomes: list[type[BaseException]] = []

    async def call(function: Any, *args: Any) -> None:
        with pytest.raises(trio.ClosedResourceError) as caught:
            await trioipc.run(function, *args)
        outcomes.append(caught.type)

    async def outlive() -> None:
        with trio.CancelScope(shield=True):
            await call(jobs.sleep, 60.0, str(tmp_path / "started"))
            await call(jobs.add, 1, 2)

    async def main() -> None:
        trio.lowlevel.spawn_system_task(outlive)
        while not (tmp_path / "started").exists():
            await trio.sleep(0.001)

    trio.run(main)
    assert len(outcomes) == 2


def test_there_is_none_outside_of_trio() -> None:
    """It says so."""
    with pytest.raises(RuntimeError):
        trioipc.run(jobs.add, 1, 2).send(None)


async def test_functions_never_fall_back(
    closed_at_the_end: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no process can be started, that is the error."""

    def refuse(*_: object) -> None:
        raise OSError("no processes here")

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", refuse)
    with pytest.raises(trioipc.WorkerStartError):
        await trioipc.run(jobs.add, 1, 2)


async def test_asynchronous_functions_are_refused(closed_at_the_end: None) -> None:
    """As by the cpu pool that it is."""
    with pytest.raises(TypeError, match="kind='io'"):
        await trioipc.run(trio.sleep, 1)
