"""Functions that ask their pool for others while they run."""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import os
from typing import TYPE_CHECKING, Any

import pytest
import trio

import context_jobs
import jobs
import nesting_jobs as nest
from helpers import wait_for_file, wait_until
from trioipc import (
    CostWeightedStrategy,
    PayloadError,
    RequestCancelledError,
    RequestTimeoutError,
    SharedCancellation,
    StickyStrategy,
    WorkerCrashedError,
    WorkerPool,
    WorkerStartError,
    current_request,
    open_worker_bridge,
    open_worker_pool,
)
from trioipc.protocol._codec import ASK, ASK_NUMBER, FROM_WORKER, encode
from trioipc.testing import cancel_at_each_step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

KINDS = ("cpu", "thread")


@pytest.fixture
async def pool() -> AsyncIterator[WorkerPool]:
    """Open a pool of one worker process."""
    async with open_worker_pool(1) as pool:
        yield pool
        await trio.testing.wait_all_tasks_blocked()
        await wait_until(lambda: all(worker.state != "busy" for worker in pool.workers))
        assert pool._dispatcher.team.lenders == {}


# -- what comes back


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2])
async def test_recursion(kind: Any, size: int) -> None:
    """However few workers there are, those that wait hold nobody up."""
    async with open_worker_pool(size, kind=kind) as pool:
        with trio.fail_after(60):
            assert await pool.run(nest.fib, 5) == 5
        # A chain of four waits, and the last of it is at work.
        assert len(pool.workers) == 5


async def test_recursion_of_asynchronous_functions() -> None:
    """One worker has places for all of them."""
    async with open_worker_pool(1, kind="io") as pool:
        with trio.fail_after(60):
            assert await pool.run(nest.fib_async, 8) == 21  # type: ignore[comparison-overlap]
        assert len(pool.workers) == 1


async def test_all_places_of_a_worker_wait() -> None:
    """Another worker runs what they wait for."""
    async with open_worker_pool(1, kind="io") as pool:
        results: list[int] = []

        async def run(number: int) -> None:
            results.append(await pool.run(nest.ask_async, nest.double_async, number))  # type: ignore[arg-type]

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(300):
                    nursery.start_soon(run, number)
        assert sorted(results) == [2 * number for number in range(300)]


@pytest.mark.parametrize("kind", KINDS)
async def test_many_at_once(kind: Any) -> None:
    """From threads of the function's own, also where one place is all there is."""
    async with open_worker_pool(1, kind=kind) as pool:
        with trio.fail_after(60):
            assert await pool.run(nest.ask_from_threads, 5, nest.double) == [0, 2, 4, 6, 8]
        assert len(pool.workers) == 2


async def test_many_who_ask(pool: WorkerPool) -> None:
    """Those that are asked for go first, so that few of those who ask wait at a time."""
    results: list[int] = []

    async def run() -> None:
        results.append(await pool.run(nest.ask, nest.ask, nest.double, 4))

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(run)
            await wait_until(lambda: len(results) == 20)
    assert results == [8] * 20
    assert len(pool.workers) == 3


async def test_it_is_another_request_elsewhere(pool: WorkerPool) -> None:
    """With an id of its own."""
    (here, mine), (there, its) = await pool.run(nest.ids_of_both)
    assert here != there
    assert (mine, its) == ("trioipc-1", "trioipc-2")
    statistics = pool.statistics()
    assert (statistics.total_tasks_processed, statistics.total_errors) == (2, 0)


async def test_its_failure_is_raised_as_itself(pool: WorkerPool) -> None:
    """With cause, notes and the traceback of both."""
    with pytest.raises(ValueError, match="outer") as caught:
        await pool.run(nest.ask, jobs.fail_with_cause)
    assert isinstance(caught.value.__cause__, KeyError)
    assert "written by the function" in caught.value.__notes__
    names = [entry.name for entry in caught.traceback]
    assert "ask" in names
    assert "fail_with_cause" in names


async def test_what_cannot_travel_is_said(pool: WorkerPool) -> None:
    """On either way."""
    with pytest.raises(PayloadError, match=r"the call of ask_with_lambda\.<locals>\.<lambda>"):
        await pool.run(nest.ask_with_lambda)
    with pytest.raises(PayloadError, match="lock"):
        await pool.run(nest.ask, nest.make_lock)
    with pytest.raises(TypeError, match="kind='io'"):
        await pool.run(nest.ask, nest.double_async, 1)
    assert await pool.run(nest.ask, nest.double, 1) == 2


async def test_payloads_keep_their_types(pool: WorkerPool) -> None:
    """Whatever their size, both ways."""
    kinds = await pool.run(nest.ask, nest.pass_on, b"x" * 3_000_000)
    assert kinds == [("bytes", 3_000_000), ("bytes", 200_000), ("bytearray", 300_000)]
    assert len(await pool.run(nest.ask, nest.make_bytes, 5_000_000)) == 5_000_000


async def test_big_results_do_not_wait_for_each_other() -> None:
    """Many of them, and such as are over the budget, are had by one function."""
    async with open_worker_pool(1, max_arena_bytes=4 << 20) as pool:
        with trio.fail_after(60):
            assert await pool.run(nest.sum_of_lengths, 20, 1 << 20) == 20 << 20
            big = bytes(8 << 20)
            found = await pool.run(nest.ask, nest.pass_on, big)
        assert found[0] == ("bytes", 8 << 20)


async def test_progress_is_left_alone(pool: WorkerPool) -> None:
    """Each has its own."""
    seen: list[tuple[int, int]] = []
    result = await pool.run(
        nest.progress_of_both, on_progress=lambda p: seen.append((p.value, p.total))
    )
    assert result == (3, 10)
    assert seen[-1] == (3, 10)


async def test_context_variables_travel_on() -> None:
    """Those of the caller."""
    async with open_worker_pool(1, context_variables=["context_jobs:tenant"]) as pool:
        token = context_jobs.tenant.set("shop")
        try:
            assert await pool.run(nest.ask, context_jobs.look) == await pool.run(context_jobs.look)
        finally:
            context_jobs.tenant.reset(token)


async def test_where_no_worker_runs_it() -> None:
    """The function is called here, so that one that asks can be tested directly."""
    assert nest.fib(7) == 13
    assert await nest.fib_async(7) == 13
    assert await current_request().run(nest.double_async, 3) == 6


# -- depth and places


async def test_there_is_a_depth_that_is_too_deep() -> None:
    """It is said, where there is one more."""
    async with open_worker_pool(1, kind="thread") as pool:
        assert await pool.run(nest.dive, 16) == 16
        with pytest.raises(RecursionError, match="16 times"):
            await pool.run(nest.dive, 17)


async def test_extra_workers_are_given_nothing_else(pool: WorkerPool, tmp_path: Path) -> None:
    """When nobody waits, there are as many places as there were."""
    assert await pool.run(nest.ask, nest.ask, nest.double, 1) == 2
    assert len(pool.workers) == 3
    async with (
        pool.open_request(jobs.sleep, 0.0, str(tmp_path / "first")) as first,
        pool.open_request(jobs.cooperate, str(tmp_path / "a")) as second,
        pool.open_request(jobs.cooperate, str(tmp_path / "b")) as third,
    ):
        await first.result()
        await second.wait_started()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not (tmp_path / "b").exists()
        second.cancel()
        await third.wait_started()
        third.cancel()


async def test_extra_workers_leave_when_nobody_needs_them() -> None:
    """After a minute."""
    async with open_worker_pool(1, kind="thread") as pool:
        assert await pool.run(nest.dive, 3) == 3
        team = pool._dispatcher.team
        team.let_go(trio.current_time() + 50)
        assert [worker.state for worker in pool.workers] == ["idle"] * 4
        team.let_go(trio.current_time() + 61)
        await wait_until(lambda: len(pool.workers) == 1)
        assert await pool.run(nest.dive, 3) == 3


async def test_a_worker_that_cannot_be_started_is_an_error_where_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not a wait for ever: nobody else could run it."""
    async with open_worker_pool(1) as pool:

        def refuse(*_: object) -> None:
            raise OSError("no more processes")

        monkeypatch.setattr("multiprocessing.process.BaseProcess.start", refuse)
        with trio.fail_after(20), pytest.raises(WorkerStartError, match="no more processes"):
            await pool.run(nest.ask, nest.double, 1)
        monkeypatch.undo()
        assert await pool.run(nest.double, 1) == 2


# -- ends


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelling_who_asks_cancels_what_was_asked_for(kind: Any, tmp_path: Path) -> None:
    """Both stop at their next look, and the call has not returned before."""
    path = tmp_path / "trace"
    async with open_worker_pool(1, kind=kind) as pool:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pool.run, nest.ask_and_tell, str(path))
                await wait_for_file(path.with_suffix(".begun"))
                nursery.cancel_scope.cancel()
        assert path.with_suffix(".told").exists()
        assert path.with_suffix(".ended").exists()
        assert pool.statistics().restarts == {}
        assert await pool.run(nest.ask, nest.double, 2) == 4


async def test_cancelling_asynchronous_functions(tmp_path: Path) -> None:
    """Likewise."""
    path = tmp_path / "trace"
    async with open_worker_pool(1, kind="io") as pool:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pool.run, nest.ask_async, nest.leave_trace_async, str(path))
                await wait_for_file(path.with_suffix(".begun"))
                nursery.cancel_scope.cancel()
        assert path.with_suffix(".ended").exists()
        assert pool.statistics().restarts == {}


async def test_a_scope_around_the_asking(tmp_path: Path) -> None:
    """Of the function's own: what it has asked for has ended when the scope is left."""
    async with open_worker_pool(1, kind="io") as pool:
        with trio.fail_after(60):
            cancelled: Any = await pool.run(nest.ask_for_a_moment, str(tmp_path / "trace"))
        assert cancelled is True


async def test_other_causes(pool: WorkerPool, tmp_path: Path) -> None:
    """A clock, a flag, `cancel` and a block that is left do the same."""
    with trio.fail_after(60):
        path = tmp_path / "clock"
        with pytest.raises(RequestTimeoutError, match="the run clock"):
            await pool.run(nest.ask, nest.leave_trace, str(path), timeout=2.0)
        assert path.with_suffix(".ended").exists()

        path = tmp_path / "flag"
        with SharedCancellation() as flag:

            async def set_it() -> None:
                await wait_for_file(path.with_suffix(".begun"))
                flag.cancel("enough")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(set_it)
                with pytest.raises(RequestCancelledError, match="enough"):
                    await pool.run(nest.ask, nest.leave_trace, str(path), cancellation=flag)
        assert path.with_suffix(".ended").exists()

        path = tmp_path / "cancel"
        async with pool.open_request(nest.ask, nest.leave_trace, str(path)) as request:
            await wait_for_file(path.with_suffix(".begun"))
            request.cancel("enough")
            with pytest.raises(RequestCancelledError, match="enough"):
                await request.result()
            assert path.with_suffix(".ended").exists()

        path = tmp_path / "block"
        async with pool.open_request(nest.ask, nest.leave_trace, str(path)):
            await wait_for_file(path.with_suffix(".begun"))
        assert path.with_suffix(".ended").exists()


async def test_the_outcome_waits_for_what_was_asked_for(pool: WorkerPool, tmp_path: Path) -> None:
    """Also for who asks when the function itself has ended already."""
    path = tmp_path / "trace"
    with trio.fail_after(60):
        async with pool.open_request(nest.ask, nest.linger, str(path)) as request:
            await wait_for_file(path.with_suffix(".begun"))
            request.cancel("enough")
            await wait_until(lambda: request._state == "ended")
            assert not path.with_suffix(".ended").exists()
            with pytest.raises(RequestCancelledError, match="enough"):
                await request.result()
            assert path.with_suffix(".ended").exists()


async def test_the_end_of_a_stream_waits_for_what_was_asked_for(
    pool: WorkerPool, tmp_path: Path
) -> None:
    """Though its generator has ended."""
    path = tmp_path / "trace"
    with trio.fail_after(60):
        async with pool.stream(nest.stream_and_leave, str(path)) as items:
            assert await anext(items) == "it has begun"
            await wait_until(lambda: items._request._state == "ended")
            assert not path.with_suffix(".ended").exists()
            assert [item async for item in items] == []
            assert path.with_suffix(".ended").exists()


async def test_the_stubborn_are_killed_and_no_more(pool: WorkerPool, tmp_path: Path) -> None:
    """The one that asked has stopped by itself, and keeps its worker."""
    path = tmp_path / "trace"
    before = [worker.pid for worker in pool.workers]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                functools.partial(pool.run, nest.ask, nest.be_stubborn, str(path), grace=0.2)
            )
            await wait_for_file(path.with_suffix(".begun"))
            nursery.cancel_scope.cancel()
    assert pool.statistics().restarts == {"killed": 1}
    assert set(before) <= {worker.pid for worker in pool.workers}


async def test_no_grace(pool: WorkerPool, tmp_path: Path) -> None:
    """Both are killed at once."""
    path = tmp_path / "trace"
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                functools.partial(pool.run, nest.ask, nest.be_stubborn, str(path), grace=0)
            )
            await wait_for_file(path.with_suffix(".begun"))
            nursery.cancel_scope.cancel()
    await wait_until(lambda: pool.statistics().restarts == {"killed": 2})


async def test_an_error_in_clean_up_is_not_lost(pool: WorkerPool, tmp_path: Path) -> None:
    """Also not one of what was asked for."""
    path = tmp_path / "trace"
    with trio.fail_after(60):
        with pytest.raises(LookupError, match="in clean-up"), trio.CancelScope() as scope:
            async with pool.open_request(nest.ask, nest.fail_in_cleanup, str(path)) as request:
                await wait_for_file(path.with_suffix(".begun"))
                scope.cancel()
                await request.result()


async def test_a_crash_of_what_was_asked_for(pool: WorkerPool) -> None:
    """It is an error there, which can be dealt with."""
    before = [worker.pid for worker in pool.workers]
    assert await pool.run(nest.survive) == ("SIGKILL", before[0])
    assert pool.statistics().restarts == {"crashed": 1}
    with pytest.raises(WorkerCrashedError):
        await pool.run(nest.ask, nest.crash)


async def test_a_crash_of_who_asks(pool: WorkerPool, tmp_path: Path) -> None:
    """What it had asked for is cancelled, and has ended when the call raises."""
    path = tmp_path / "trace"
    with trio.fail_after(60), pytest.raises(WorkerCrashedError):
        await pool.run(nest.crash_while_asking, str(path))
    assert path.with_suffix(".ended").exists()
    assert await pool.run(nest.ask, nest.double, 2) == 4


async def test_a_function_that_does_not_wait(pool: WorkerPool, tmp_path: Path) -> None:
    """What it had asked for, by a thread, is cancelled when it returns."""
    path = tmp_path / "trace"
    with trio.fail_after(60):
        assert await pool.run(nest.return_while_asking, str(path)) == "done"
        assert path.with_suffix(".ended").exists()
        await wait_for_file(path.with_suffix(".told"))


async def test_a_pool_that_is_left_while_somebody_asks(tmp_path: Path) -> None:
    """Draining serves both; aborting ends both."""
    async with open_worker_pool(1) as pool:
        async with trio.open_nursery() as nursery:
            results: list[Any] = []

            async def run() -> None:
                results.append(await pool.run(nest.ask_often, 3, nest.sleep_and_return, 0.05))

            nursery.start_soon(run)
            await wait_until(lambda: pool.statistics().busy_workers)
            await pool._drain()
            assert results == [] or results == [[0.05] * 3]
        assert results == [[0.05] * 3]
    path = tmp_path / "trace"
    raised: list[BaseException] = []
    async with trio.open_nursery() as nursery:
        with contextlib.suppress(KeyError):
            async with open_worker_pool(1) as pool:

                async def call() -> None:
                    try:
                        await pool.run(nest.ask, nest.leave_trace, str(path))
                    except trio.ClosedResourceError as error:
                        raised.append(error)

                nursery.start_soon(call)
                await wait_for_file(path.with_suffix(".begun"))
                raise KeyError
    assert len(raised) == 1


async def test_standing_still_while_waiting(pool: WorkerPool) -> None:
    """Who waits for others does not stand still, as far as the stall clock goes."""
    async with open_worker_pool(1, stall_timeout=0.3) as pool:
        await pool.run(nest.ask, nest.double, 1)  # there is a second worker now
        with pytest.raises(RequestTimeoutError, match="has not moved"):
            await pool.run(nest.sleep_and_return, 30.0)
        # What was asked for has that clock too; who asks says what came of it.
        with pytest.raises(RequestTimeoutError, match=r"trioipc-.* has not moved") as caught:
            await pool.run(nest.ask, nest.sleep_and_return, 30.0)
        assert caught.value.clock == "stall"
        await wait_until(lambda: pool.statistics().restarts == {"interrupted": 2})


async def test_time_that_is_left(pool: WorkerPool) -> None:
    """That of who asks, and of the scopes around the call."""
    assert await pool.run(nest.ask, nest.time_left) == math.inf
    assert 0 < await pool.run(nest.ask, nest.time_left, timeout=30) <= 30
    with trio.fail_after(20):
        assert 0 < await pool.run(nest.ask, nest.time_left, timeout=30) <= 20


# -- where it cannot be done


async def test_on_a_task(pool: WorkerPool) -> None:
    """The form that waits would hold the event loop, and says so; the other works."""
    refused = "run_sync() would block the event loop; await run() instead"
    assert await pool.run(nest.run_sync_on_a_task) == f"{refused}; 4"
    async with open_worker_pool(1, kind="io") as io:
        with pytest.raises(RuntimeError, match=r"await run\(\)"):
            await io.run(nest.run_sync_async)
        assert await io.run(nest.ask_from_a_thread, 4) == 8  # type: ignore[comparison-overlap]


async def test_from_a_fork(pool: WorkerPool) -> None:
    """It would talk in the worker's name."""
    assert "forked from a worker" in await pool.run(nest.fork_and_ask)


async def test_after_the_end(pool: WorkerPool) -> None:
    """A thread that was left behind asks for nobody."""
    await pool.run(nest.keep_request)
    assert "has ended" in await pool.run(nest.ask_with_kept_request)


async def test_built_in_operations_cannot_ask(tmp_path: Path) -> None:
    """A worker that was taken over while it read what a stranger has made is not listened to."""
    with (tmp_path / "long").open("wb") as file:
        file.truncate(1 << 40)
    wanted = encode((os.mkdir, (str(tmp_path / "made"),)))
    async with open_worker_bridge(1, max_retries=0) as bridge:

        async def hash_for_ever() -> None:
            with pytest.raises(WorkerCrashedError):
                await bridge.crypto.hash_file(tmp_path / "long")

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hash_for_ever)
                team = bridge.pool._dispatcher.team
                (worker,) = team.workers
                await wait_until(lambda: team.has_begun(worker))
                (generation,) = worker.held
                body = ASK_NUMBER.pack(1) + wanted.body
                endpoint: Any = worker.endpoint
                endpoint._take(FROM_WORKER.pack(len(body), ASK, 0, 0, generation) + body)
        assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("frames", ["twice", "short", "unknown"])
async def test_broken_frames(pool: WorkerPool, frames: str, tmp_path: Path) -> None:
    """What is no question ends the worker; one of a request that has ended gets no answer."""
    wanted = encode((os.mkdir, (str(tmp_path / "made"),)))
    whole = ASK_NUMBER.pack(1) + wanted.body
    (worker,) = pool._dispatcher.team.workers
    endpoint: Any = worker.endpoint

    def send(body: bytes) -> bool:
        trusted: bool = endpoint._take(FROM_WORKER.pack(len(body), ASK, 0, 0, 10**6) + body)
        return trusted

    if frames == "short":
        assert not send(whole[:3])
    elif frames == "unknown":
        assert send(whole)
        assert send(whole)  # the first was turned down, so this is another
    else:
        endpoint._asks._open[1] = None
        assert not send(whole)
    assert not (tmp_path / "made").exists()
    endpoint.kill()


async def test_short_requests_do_not_wait_behind_one_that_asks(pool: WorkerPool) -> None:
    """What was sent ahead to its worker is taken back when it asks."""
    results: list[int] = []

    async def add(number: int) -> None:
        results.append(await pool.run(jobs.add, number, 1))

    for _ in range(20):  # so that it is known how long they take
        await add(0)
        assert await pool.run(nest.ask, nest.double, 1) == 2
    results.clear()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(add, number)
                nursery.start_soon(pool.run, nest.ask, nest.double, number)
    assert sorted(results) == [number + 1 for number in range(100)]
    assert len(pool.workers) == 2


async def test_from_a_map(pool: WorkerPool) -> None:
    """Each item may ask."""
    with trio.fail_after(60):
        async with pool.map(nest.double_elsewhere, range(20)) as results:
            assert [result async for result in results] == [2 * number for number in range(20)]


async def test_cancelled_at_each_step(pool: WorkerPool) -> None:
    """Nothing is left, whenever the call is cancelled, and the pool goes on."""

    async def check() -> None:
        with trio.fail_after(60):
            await wait_until(lambda: not pool.statistics().busy_workers)
            assert pool._dispatcher.team.lenders == {}
            assert await pool.run(nest.ask, nest.double, 1) == 2

    assert await cancel_at_each_step(lambda: pool.run(nest.ask, nest.double, 1), check) > 0


@pytest.mark.parametrize("grace", [1.0, 0.0])
async def test_cancelled_at_any_time(grace: float) -> None:
    """While it is sent, asks, is waited for and comes back, and when it is killed at once."""
    async with open_worker_pool(1, grace=grace) as pool:
        with trio.fail_after(60):
            await pool.run(nest.ask, nest.double, 1)
            for number in range(40 if grace else 8):
                with trio.move_on_after(number * 0.0002):
                    await pool.run(nest.ask_often, 3, nest.double, number)
            assert await pool.run(nest.ask, nest.double, 1) == 2
            await wait_until(lambda: not pool.statistics().busy_workers)
        assert pool._dispatcher.team.lenders == {}
        assert len(pool.workers) <= 2 or not grace


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_waits_for_the_collector(kind: Any) -> None:
    """What was asked for is gone with its reply, whatever that was."""
    async with open_worker_pool(1, kind=kind) as pool:
        await pool.run(nest.ask, nest.double, 1)
        gc.collect()
        gc.disable()
        try:
            for function in (nest.double, nest.fail):
                with contextlib.suppress(LookupError):
                    await pool.run(nest.ask, function, 1)
            await trio.testing.wait_all_tasks_blocked()
            left = [type(found).__name__ for found in gc.get_objects()]
        finally:
            gc.enable()
        assert [name for name in left if name in ("Child", "ProcessAsk", "ThreadAsk")] == []


def by_name(function: Any, arguments: tuple[Any, ...]) -> str:
    """Return the key by which requests stick to a worker."""
    return "all to the same"


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": {nest.fib: 1}},
        {"strategy": StickyStrategy(by_name)},
        {"strategy": CostWeightedStrategy(lambda *_: 1.0)},
        {"strategy": "round-robin"},
        {"max_queue": 0},
        {"queue_timeout": 30.0, "max_retries": 0},
        {"spare": 1},
        {"max_requests": 2},
        {"min_size": 0},
    ],
    ids=lambda options: "-".join(options),
)
async def test_whatever_the_pool_is_told(options: dict[str, Any]) -> None:
    """Limits, strategies and bounds are for those that nobody with a place waits for."""
    async with open_worker_pool(1, kind="thread", **options) as pool:
        results: list[int] = []

        async def run() -> None:
            results.append(await pool.run(nest.fib, 5))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(run)
    assert results == [5, 5, 5]
