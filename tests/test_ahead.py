"""Requests that are sent ahead: each keeps all that a request has.

Most functions here are short until they are told otherwise: so the pool sends others behind them,
and then finds that they take long.
"""

from __future__ import annotations

import fcntl
import itertools
import math
import os
import random
import signal
import sys
import termios
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from ahead_jobs import deaf_gate, gate, mark, marks
from helpers import is_alive, wait_until
from jobs import nothing
from trioipc import (
    RequestCancelledError,
    RequestTimeoutError,
    SharedCancellation,
    WorkerCrashedError,
    open_worker_pool,
)
from trioipc.memory import _fence
from trioipc.pool.engines import _process, _slot
from trioipc.pool.scheduling._expectation import UNKNOWN
from trioipc.protocol._codec import FROM_WORKER, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trioipc import PoolRequest, WorkerPool

pytestmark = pytest.mark.skipif(
    not _fence.IS_FULL, reason="elsewhere a caller waits until the worker has skipped its request"
)


@pytest.fixture
def shut(tmp_path: Path) -> Path:
    """Return the path of a file that is not there yet."""
    return tmp_path / "go"


@pytest.fixture
def there(tmp_path: Path) -> str:
    """Return the path of a file that is there."""
    path = tmp_path / "there"
    path.touch()
    return str(path)


async def learn(pool: WorkerPool, function: Any, *arguments: Any) -> None:
    """Let all workers of a pool load a function, and the pool find that it is short."""
    await pool.warm()
    while not all(worker.endpoint.knows(_call(pool, function)) for worker in _workers(pool)):
        async with trio.open_nursery() as nursery:
            for _ in _workers(pool):
                nursery.start_soon(pool.run, function, *arguments)
    expected = _call(pool, function).expected
    assert expected.nanoseconds < UNKNOWN
    expected.nanoseconds = 2000  # however busy this machine is


def _call(pool: WorkerPool, function: Any) -> Any:
    return pool._dispatcher.engine.prepare(function, ())


def _workers(pool: WorkerPool) -> list[Any]:
    return [*pool._dispatcher.team.workers]


@asynccontextmanager
async def blocked(
    pool: WorkerPool, shut: Path, there: str, function: Any = gate
) -> AsyncIterator[list[PoolRequest[int]]]:
    """Let all workers run what seemed short; open the gate on leaving."""
    await learn(pool, function, there)
    await learn(pool, gate, there)
    async with AsyncExitStack() as stack:
        first = []
        for _ in range(pool.statistics().pool_size):
            request = await stack.enter_async_context(pool.open_request(function, str(shut)))
            await request.wait_started()
            first.append(request)
        yield first
        shut.touch()
        for request in first:
            await request.result()


def ahead(pool: WorkerPool) -> int:
    """Say how many were sent ahead."""
    return pool._dispatcher.scheduler.ahead


def _wait_for_bytes(descriptor: int, count: int) -> None:
    """Keep the event loop from its next turn until a pipe holds so much."""
    while (
        int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder) < count
    ):
        time.sleep(0.001)


async def test_short_ones_go_ahead_and_count_as_waiting(shut: Path, there: str) -> None:
    """Up to 64 are with a worker; for statistics and `max_queue`, all but one of them wait."""
    async with open_worker_pool(1, max_queue=70) as pool:
        done: list[int] = []

        async def run() -> None:
            done.append(await pool.run(gate, there))

        async with trio.open_nursery() as nursery, blocked(pool, shut, there):
            for _ in range(80):
                nursery.start_soon(run)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert 1 <= ahead(pool) <= 63
            statistics = pool.statistics()
            assert (statistics.busy_workers, statistics.queued_tasks) == (1, 70)
            assert done == []
        assert done == [pool.workers[0].pid] * 80
        assert pool.statistics().queued_tasks == 0


async def test_nobody_waits_for_an_answer_while_others_can_go_on(
    shut: Path, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One who is alone does, for what is quick; see `ProcessEndpoint.peek`."""
    waited: list[bool] = []
    peek = _process.ProcessEndpoint.peek

    def watched(self: _process.ProcessEndpoint, *, wait: bool) -> None:
        waited.append(wait)
        peek(self, wait=wait)

    async with open_worker_pool(1) as pool:

        async def run_twice(first: Path | str, second: Path | str) -> None:
            await pool.run(gate, str(first))
            await pool.run(gate, str(second))

        await learn(pool, gate, there)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(run_twice, shut, there)
            await wait_until(lambda: ahead(pool) == 2)
            monkeypatch.setattr(_process.ProcessEndpoint, "peek", watched)
            shut.touch()
            answer = FROM_WORKER.size + len(encode(pool.workers[0].pid).body)
            _wait_for_bytes(_workers(pool)[0].endpoint._wires.answers, 3 * answer)
        await pool.run(gate, there)
        # Two are there to go on when the first asks for its second; the last is alone.
        assert waited[0] is False
        assert waited[-1] is True
        assert pool._dispatcher.returning == 0


async def test_what_is_cancelled_ends_at_once_and_never_runs(
    shut: Path, there: str, tmp_path: Path
) -> None:
    """However long the one before it runs, and nobody suffers for it."""
    trace = str(tmp_path / "trace")
    async with open_worker_pool(1) as pool:
        await learn(pool, mark, trace, 0)
        before = len(marks(trace))
        async with blocked(pool, shut, there) as (first,):
            worker = pool.workers[0].pid
            flag = SharedCancellation()
            async with (
                pool.open_request(mark, trace, 1) as one,
                pool.open_request(mark, trace, 2, cancellation=flag) as two,
                pool.open_request(mark, trace, 3, grace=0) as three,
                pool.open_request(mark, trace, 4) as four,
            ):
                assert ahead(pool) == 4
                one.cancel("enough")
                with pytest.raises(RequestCancelledError, match="enough") as caught:
                    await one.result()
                assert caught.value.rung == "queue"
                flag.cancel()
                with pytest.raises(RequestCancelledError):
                    await two.result()
                three.cancel()
                with pytest.raises(RequestCancelledError):
                    await three.result()
                with trio.move_on_after(0.01) as scope:
                    await pool.run(mark, trace, 5)
                assert scope.cancelled_caught
                assert first._state == "sent"
                shut.touch()
                assert await four.result() == 4
            flag.close()
        assert [number for number, _ in marks(trace)[before:]] == [4]
        assert pool.workers[0].pid == worker
        assert pool.statistics().restarts == {}


async def test_clocks_of_what_is_ahead(shut: Path, there: str) -> None:
    """The queue clock runs on, the run clock does not before the function does."""
    async with (
        open_worker_pool(1) as pool,
        blocked(pool, shut, there),
        pool.open_request(gate, there, timeout=0.05, queue_timeout=60) as patient,
    ):
        with pytest.raises(RequestTimeoutError) as caught:
            await pool.run(gate, there, queue_timeout=0.3)
        assert (caught.value.clock, caught.value.rung) == ("queue", "queue")
        assert ahead(pool) == 1
        shut.touch()
        assert await patient.result() == pool.workers[0].pid


async def test_a_death_costs_only_what_had_begun(shut: Path, there: str) -> None:
    """What was sent ahead moves on, however often its worker dies before it has begun."""
    async with open_worker_pool(1) as pool, AsyncExitStack() as stack:
        for _ in range(8):
            await learn(pool, gate, there)
            victim = await stack.enter_async_context(pool.open_request(gate, str(shut)))
            await victim.wait_started()
            requests = [
                await stack.enter_async_context(pool.open_request(gate, there)) for _ in range(4)
            ]
            assert ahead(pool) == 4
            pid = pool.workers[0].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(WorkerCrashedError) as caught:
                await victim.result()
            assert caught.value.pid == pid
            for request in requests:
                assert await request.result() != pid
        statistics = pool.statistics()
        assert statistics.total_errors == 8
        assert statistics.restarts == {"crashed": 8}


async def test_others_help_when_one_drags_on(shut: Path, there: str) -> None:
    """What was sent behind a request that takes long is taken back, and others do it."""
    other = shut.parent / "other"
    async with open_worker_pool(2) as pool:
        await learn(pool, gate, there)
        async with (
            pool.open_request(gate, str(shut)) as first,
            pool.open_request(gate, str(other)) as second,
        ):
            await first.wait_started()
            await second.wait_started()
            results: list[int] = []

            async def run() -> None:
                results.append(await pool.run(gate, there))

            with trio.fail_after(20):
                async with trio.open_nursery() as nursery:
                    for _ in range(20):
                        nursery.start_soon(run)
                    await wait_until(lambda: pool.statistics().queued_tasks == 20)
                    await wait_until(lambda: ahead(pool) == 0)  # both drag on
                    assert pool.statistics().queued_tasks == 20
                    other.touch()
            assert first._state == "sent"
            assert set(results) == {await second.result()}
            # And nothing more goes behind it, now that this is known.
            assert await pool.run(gate, there) == await second.result()
            shut.touch()
            assert await first.result() != await second.result()


async def test_who_is_taken_back_at_the_last_moment_is_not_lost(
    shut: Path, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may skip what we thought had begun, if each saw the other; then it runs later."""

    def recall(cells: memoryview, generation: int) -> bool:
        _slot.recall(cells, generation)
        return False

    monkeypatch.setattr(_process, "recall", recall)
    async with open_worker_pool(2) as pool, blocked(pool, shut, there):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(pool.run, gate, there)
            await wait_until(lambda: ahead(pool) == 10)
            held = [r for w in _workers(pool) for r in [*w.held.values()][1:]]
            await wait_until(lambda: all(request._recalled_in_vain for request in held))
            shut.touch()
        assert pool.statistics().total_errors == 0


async def test_a_new_worker_helps(shut: Path, there: str) -> None:
    """One that has just started takes what another has not begun."""
    async with open_worker_pool(2) as pool:
        await pool.run(gate, there)
        _call(pool, gate).expected.nanoseconds = 2000
        async with pool.open_request(gate, str(shut)) as first:
            await first.wait_started()
            with trio.fail_after(20):
                other = await pool.run(gate, there)
            assert first._state == "sent"
            assert len(pool.workers) == 2
            shut.touch()
            assert await first.result() != other


async def test_nothing_waits_for_a_worker_to_load(shut: Path, there: str) -> None:
    """While a worker loads a function, nothing is sent ahead to it."""
    async with open_worker_pool(1) as pool:
        await learn(pool, gate, there)
        (worker,) = _workers(pool)
        async with pool.open_request(deaf_gate, str(shut)) as first:
            _call(pool, deaf_gate).expected.nanoseconds = 2000
            assert not worker.endpoint.knows(_call(pool, gate))
            async with pool.open_request(gate, there) as second:
                assert second._state == "waiting"
                shut.touch()
                await first.result()
                await second.result()
        assert worker.endpoint.knows(_call(pool, gate))
        assert worker.endpoint.knows(_call(pool, deaf_gate))


async def test_an_idle_worker_comes_first(shut: Path, there: str) -> None:
    """Nothing is sent ahead while there is one that has nothing to do."""
    async with open_worker_pool(2) as pool:
        await learn(pool, gate, there)
        async with pool.open_request(gate, str(shut)) as first:
            await first.wait_started()
            for _ in range(20):
                async with pool.open_request(gate, there) as request:
                    assert ahead(pool) == 0
                    await request.result()
            shut.touch()
            await first.result()


async def test_nothing_runs_where_one_was_interrupted(shut: Path, there: str) -> None:
    """What an interrupted function leaves behind is not for those that were sent ahead."""
    async with open_worker_pool(1) as pool:
        await learn(pool, deaf_gate, there)
        await learn(pool, gate, there)
        before = pool.workers[0].pid
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(pool.open_request(deaf_gate, str(shut)))
            await first.wait_started()
            others = [
                await stack.enter_async_context(pool.open_request(gate, there)) for _ in range(10)
            ]
            assert ahead(pool) == 10
            first.cancel()
            with pytest.raises(RequestCancelledError) as caught:
                await first.result()
            assert caught.value.rung == "interrupt"
            for request in others:
                assert await request.result() != before
        assert pool.statistics().restarts == {"interrupted": 1}


async def test_a_kill_costs_only_what_had_begun(shut: Path, there: str) -> None:
    """With no grace, the worker is killed; those behind move on."""
    async with open_worker_pool(1) as pool:
        await learn(pool, gate, there)
        async with (
            pool.open_request(gate, str(shut), grace=0) as first,
            pool.open_request(gate, there) as other,
        ):
            await first.wait_started()
            assert ahead(pool) == 1
            first.cancel()
            with pytest.raises(RequestCancelledError) as caught:
                await first.result()
            assert caught.value.rung == "kill"
            assert await other.result() == pool.workers[0].pid
        assert pool.statistics().restarts == {"killed": 1}


async def test_max_requests_is_a_maximum(there: str) -> None:
    """Also of a worker that is sent some ahead."""
    served: dict[int, int] = {}
    async with open_worker_pool(1, max_requests=50) as pool:

        async def run() -> None:
            for _ in range(10):
                pid = await pool.run(gate, there)
                served[pid] = served.get(pid, 0) + 1

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(run)
    assert sum(served.values()) == 400
    assert max(served.values()) <= 50


async def test_what_is_big_or_unknown_stays_here(shut: Path, there: str) -> None:
    """Only what is small, and whose function the worker has loaded, is sent ahead."""
    async with open_worker_pool(1) as pool:
        await learn(pool, len, b"")
        assert _call(pool, len).expected is not None
        async with (
            blocked(pool, shut, there),
            pool.open_request(len, bytes(20_000)) as big,
            pool.open_request(nothing) as unknown,
        ):
            assert ahead(pool) == 0
            assert (big._state, unknown._state) == ("waiting", "waiting")
            shut.touch()
            assert await big.result() == 20_000
            await unknown.result()


async def test_what_takes_long_is_not_waited_behind(shut: Path, there: str) -> None:
    """Behind a function that takes more than 200 us nothing is sent."""
    async with open_worker_pool(1) as pool:
        await learn(pool, gate, there)
        await pool.run(time.sleep, 0.001)
        async with (
            pool.open_request(time.sleep, 0.3) as first,
            pool.open_request(gate, there) as second,
        ):
            await first.wait_started()
            assert ahead(pool) == 0
            assert second._state == "waiting"


async def test_without_a_fence_one_waits_to_be_told(
    shut: Path, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it cannot be known that a request has not begun, its caller waits; none is killed."""
    monkeypatch.setattr(_slot, "IS_FULL", False)
    async with open_worker_pool(1) as pool, blocked(pool, shut, there) as (first,):
        worker = pool.workers[0].pid
        async with pool.open_request(gate, there, grace=0) as request:
            assert ahead(pool) == 1
            request.cancel()
            with trio.move_on_after(0.3) as scope:
                await request.result()
            assert scope.cancelled_caught
            assert first._state == "sent"
            shut.touch()
            with pytest.raises(RequestCancelledError) as caught:
                await request.result()
            assert caught.value.rung == "queue"
        assert pool.workers[0].pid == worker


@pytest.mark.parametrize("seed", range(3))
async def test_a_storm_of_cancels(tmp_path: Path, seed: int) -> None:
    """Every request ends once, and none begins after its caller was told that it ended."""
    chance = random.Random(seed)
    trace = str(tmp_path / "trace")
    told: dict[int, int] = {}
    values: dict[int, int] = {}
    numbers = itertools.count()
    async with open_worker_pool(2, grace=5) as pool:
        await learn(pool, mark, trace, -1)
        learnt = pool.statistics().total_tasks_processed

        async def caller() -> None:
            for _ in range(40):
                number = next(numbers)
                seconds = chance.choice((0.0, 0.0, 0.0, 0.0, 0.003))
                with trio.move_on_after(chance.choice((math.inf, 0.0002, 0.001))) as scope:
                    values[number] = await pool.run(mark, trace, number, seconds)
                told[number] = time.perf_counter_ns()
                assert scope.cancelled_caught != (number in values)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(caller)
            await wait_until(lambda: pool.statistics().busy_workers == 0)
        statistics = pool.statistics()
    assert len(told) == 2000
    assert all(number == value for number, value in values.items())
    requests = statistics.total_tasks_processed - learnt
    assert statistics.total_cancelled == requests - len(values)
    began = [(number, at) for number, at in marks(trace) if number >= 0]
    assert len(dict(began)) == len(began)  # none twice, though many were moved
    assert all(at < told[number] for number, at in began)
    assert set(values) <= {number for number, _ in began}


@pytest.mark.parametrize("seed", range(2))
async def test_a_storm_of_kills(tmp_path: Path, seed: int) -> None:
    """Workers are killed at random: a crash costs what had begun, and only that."""
    chance = random.Random(seed)
    trace = str(tmp_path / "trace")
    crashed: list[int] = []
    values: list[int] = []
    numbers = itertools.count()
    async with open_worker_pool(2) as pool:
        await learn(pool, mark, trace, -1)

        async def caller() -> None:
            for _ in range(25):
                number = next(numbers)
                try:
                    values.append(await pool.run(mark, trace, number, 0.0002))
                except WorkerCrashedError:
                    crashed.append(number)

        async def killer() -> None:
            for _ in range(6):
                await trio.sleep(chance.uniform(0.01, 0.05))
                pids = [w.pid for w in pool.workers if w.state == "busy" and w.pid is not None]
                for pid in pids[:1]:
                    if is_alive(pid):
                        os.kill(pid, signal.SIGKILL)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(killer)
                for _ in range(40):
                    nursery.start_soon(caller)
        statistics = pool.statistics()
    assert sorted([*values, *crashed]) == list(range(1000))
    began = {number for number, _ in marks(trace)}
    assert set(values) <= began
    assert len(crashed) <= statistics.restarts.get("crashed", 0)  # one for each worker at most
