"""Workers that have served long enough are replaced, and there are no more than are needed."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import jobs
from conftest import children
from fakes import FakeEngine
from helpers import serving_pool, wait_for_file, wait_until
from trioipc.pool._opening import open_on
from trioipc.pool._options import Options
from trioipc.pool.team._recycling import Limits, Service, Shrinking

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from trioipc import WorkerPool


pytestmark = pytest.mark.stderr("")


def opened(engine: FakeEngine, **options: Any) -> Any:
    """Open a pool on a fake."""
    return open_on(engine, Options(**{"size": 1, **options}))


def nothing() -> None:
    """Return at once."""


def served(engine: FakeEngine) -> list[int]:
    """Return how many requests each worker ran."""
    return [sum("run" in what for _, what in endpoint.log) for endpoint in engine.endpoints]


# ---- decisions


@pytest.mark.parametrize(
    ("quota", "notice"), [(1, 0), (2, 1), (8, 7), (80, 70), (10_000, 9_900), (math.inf, math.inf)]
)
def test_a_successor_is_asked_for_early(quota: float, notice: float) -> None:
    """When an eighth is left, or a hundred."""
    service = Limits(max_requests=quota).begin(0, None)
    assert (service.quota, service.notice) == (quota, notice)


def test_a_quota_is_a_maximum() -> None:
    """Due early, over when it is reached."""
    service = Limits(max_requests=8).begin(0, None)
    service.count()
    assert service.due == "max_requests"
    assert not service.is_over(7)
    assert service.is_over(8)


@pytest.mark.parametrize(("chance", "age"), [(0.0, 100), (0.5, 95), (1.0, 90)])
def test_age_has_jitter(chance: float, age: float) -> None:
    """Up to a tenth sooner, never later."""
    service = Limits(max_age=100).begin(1000, None, lambda: chance)
    service.judge(1000 + age - 0.01, None, 0, busy=False)
    assert service.due is None
    service.judge(1000 + age, None, 0, busy=False)
    assert service.due == "max_age"
    assert service.is_over(0)


def test_memory_is_growth() -> None:
    """What it had when it was ready is not counted; where nobody knows, nothing is."""
    service = Limits(max_memory=100).begin(0, 5000)
    service.judge(1e9, 5100, 0, busy=False)
    assert service.due is None
    service.judge(1e9, None, 0, busy=False)
    assert service.due is None
    service.judge(1e9, 5101, 0, busy=False)
    assert service.due == "max_memory"
    unknown = Limits(max_memory=100).begin(0, None)
    unknown.judge(1e9, 10**12, 0, busy=False)
    assert unknown.due is None
    assert Service().is_over(10**9) is False


def test_what_a_request_needs_is_no_growth() -> None:
    """Nor is the same of the next one, if it was given back in between; what stays is."""
    service = Limits(max_memory=100).begin(0, 5000)
    for memory, answered, busy in (
        (9000, 7, True),
        (9000, 7, True),
        (5050, 8, False),
        (9000, 8, True),
        (5050, 8, True),
        (9000, 9, True),
    ):
        service.judge(0, memory, answered, busy=busy)
        assert service.due is None
    service.judge(0, 9000, 10, busy=True)
    assert service.due == "max_memory"


def test_what_nobody_needed_for_a_minute_may_end() -> None:
    """The most that was needed at a time in that minute stays, and the least there is to be."""
    shrinking = Shrinking(0.0)
    assert shrinking.surplus(30, 5, 8, 1, 2) == 0
    assert shrinking.surplus(60, 3, 8, 1, 2) == 3
    assert shrinking.surplus(90, 0, 5, 1, 2) == 0
    assert shrinking.surplus(125, 1, 5, 1, 2) == 3
    assert shrinking.surplus(190, 0, 2, 1, 2) == 0
    assert shrinking.surplus(260, 257, 4, 256, 0) == 2  # many in each
    assert shrinking.surplus(330, 0, 2, 256, 0) == 2


# ---- recycling, in virtual time


@pytest.mark.parametrize("quota", [1, 2, 3, 10, 30])
@pytest.mark.parametrize("size", [1, 3])
async def test_nobody_serves_more_than_the_quota(
    autojump_clock: MockClock, quota: int, size: int
) -> None:
    """Every call completes, whoever serves it; nothing but the count tells of it."""
    engine = FakeEngine()
    async with opened(engine, size=size, max_requests=quota) as pool:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(pool.run, trio.sleep, 0.1)
        assert sum(served(engine)) == 100
        assert max(served(engine)) <= quota
        statistics = pool.statistics()
        assert statistics.restarts.keys() == {"max_requests"}
        assert statistics.restarts["max_requests"] >= 100 // quota - size
        assert statistics.total_errors == 0
        assert statistics.circuit == "closed"


async def test_a_successor_is_ready_in_time(autojump_clock: MockClock) -> None:
    """It starts while the last eighth is served: nobody waits for a start."""
    engine = FakeEngine(starts=[0.0, *[1.0] * 100])
    async with opened(engine, max_requests=80) as pool:
        before = trio.current_time()
        for _ in range(400):
            await pool.run(trio.sleep, 0.2)
        assert trio.current_time() - before == pytest.approx(80)
        assert served(engine)[:5] == [80] * 5
        await trio.testing.wait_all_tasks_blocked()
        assert len(pool.workers) == 1


async def test_one_that_comes_too_late_is_waited_for(autojump_clock: MockClock) -> None:
    """A maximum is a maximum."""
    engine = FakeEngine(starts=[0.0, *[10.0] * 100])
    async with opened(engine, max_requests=8) as pool:
        for _ in range(20):
            await pool.run(nothing)
    assert served(engine)[:3] == [8, 8, 4]
    assert 15 < trio.current_time() < 30


@pytest.mark.parametrize("reason", ["max_age", "max_memory"])
async def test_others_go_on_until_their_successor_is_ready(
    autojump_clock: MockClock, reason: str
) -> None:
    """However long that takes, also if it fails at first."""
    failing = RuntimeError("not yet")
    engine = FakeEngine(starts=[0.0, failing, 30.0])
    limit = {"max_age": 100} if reason == "max_age" else {"max_memory": 1}
    async with opened(engine, **limit) as pool:
        if reason == "max_memory":
            await trio.sleep(100)
            engine.endpoints[0].bytes = 1002
        for _ in range(200):
            before = trio.current_time()
            await pool.run(nothing)
            assert trio.current_time() == before
            await trio.sleep(1)
            assert len(pool.workers) <= 1 + 2
        assert pool.statistics().restarts[reason] >= 1
        assert pool.statistics().total_errors == 0


async def test_a_busy_one_leaves_when_it_is_idle(autojump_clock: MockClock) -> None:
    """What it runs is not disturbed, and what waits is not kept waiting by it."""
    engine = FakeEngine()
    async with opened(engine, max_age=10) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.run, trio.sleep, 50)
        await trio.sleep(15)
        before = trio.current_time()
        await pool.run(nothing)
        assert trio.current_time() == before
        assert sorted(w.state for w in pool.workers) == ["idle", "leaving"]
    assert pool.statistics().total_errors == 0


async def test_a_spare_ages_as_well(autojump_clock: MockClock) -> None:
    """It is replaced, and used by nobody meanwhile."""
    engine = FakeEngine()
    async with opened(engine, spare=1, max_age=10) as pool:
        await trio.sleep(100)
        await trio.testing.wait_all_tasks_blocked()
        assert len(pool.workers) == 2
        assert pool.statistics().restarts["max_age"] >= 16
        assert pool._dispatcher.scheduler.workers == 1


# ---- sizes, in virtual time


async def test_resize(autojump_clock: MockClock) -> None:
    """More start when wanted; the idle leave first, the others when they are idle."""
    engine = FakeEngine()
    async with opened(engine, size=2) as pool, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(pool.run, trio.sleep, 10)
        await trio.sleep(1)
        assert (len(pool.workers), pool.statistics().queued_tasks) == (2, 3)
        await pool.resize(4)
        await trio.sleep(1)
        assert (len(pool.workers), pool.statistics().queued_tasks) == (4, 1)
        await pool.warm()
        before = trio.current_time()
        await pool.resize(1)
        assert trio.current_time() - before == pytest.approx(9)  # until the last of them ended
        assert pool.statistics().pool_size == len(pool.workers) == 1
        assert pool.statistics().restarts == {}
        with pytest.raises(ValueError, match="size must be >= 1, not 0"):
            await pool.resize(0)
        with pytest.raises(TypeError, match="size must be an int"):
            await pool.resize(2.5)
    assert pool.statistics().total_tasks_processed == 5
    assert pool.statistics().total_errors == 0


async def test_resize_while_workers_start(autojump_clock: MockClock) -> None:
    """What turns out to be too many when it is ready leaves at once."""
    engine = FakeEngine(starts=[0.0, *[5.0] * 7])
    async with opened(engine, size=8) as pool:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(pool.run, trio.sleep, 1)
            await trio.sleep(0.5)
            await pool.resize(2)
            await trio.sleep(6)
            assert len(pool.workers) == 2
        assert pool.statistics().total_errors == 0


async def test_resizing_can_be_cancelled(autojump_clock: MockClock) -> None:
    """The size is as it was said."""
    async with opened(FakeEngine(), size=2) as pool, trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(pool.run, trio.sleep, 10)
        await trio.sleep(1)
        with trio.move_on_after(1) as scope:
            await pool.resize(1)
        assert scope.cancelled_caught
        await trio.sleep(20)
        assert len(pool.workers) == pool.statistics().pool_size == 1


async def test_resizing_is_a_checkpoint(autojump_clock: MockClock) -> None:
    """Also if nothing is to be done."""
    async with opened(FakeEngine()) as pool:
        with trio.testing.assert_checkpoints():
            await pool.resize(1)
    with pytest.raises(trio.ClosedResourceError):
        await pool.resize(1)


async def test_idle_workers_leave(autojump_clock: MockClock) -> None:
    """After a minute in which fewer were needed; not below the least, and back when wanted."""
    engine = FakeEngine()
    async with opened(engine, size=8, min_size=2) as pool:

        async def burst(number: int) -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(number):
                    nursery.start_soon(pool.run, trio.sleep, 1)

        await trio.testing.wait_all_tasks_blocked()
        assert len(pool.workers) == 2
        await burst(8)
        assert len(pool.workers) == 8
        for _ in range(130):
            await burst(5)
        assert len(pool.workers) == 5
        await trio.sleep(130)
        assert len(pool.workers) == 2
        await burst(8)
        assert len(pool.workers) == 8
        assert pool.statistics().restarts == {}
    async with opened(engine, size=8) as pool:
        await burst(8)
        await trio.sleep(1000)
        assert len(pool.workers) == 8


# ---- processes and threads


@pytest.mark.parametrize("kind", ["cpu", "thread"])
async def test_workers_are_recycled(kind: Any) -> None:
    """Each serves so many requests, then another does, and nothing fails."""
    async with serving_pool(1, kind=kind, max_requests=3) as pool:
        pids = [await pool.run(jobs.pid) for _ in range(12)]
        if kind == "cpu":
            assert set(Counter(pids).values()) == {3}
        await wait_until(lambda: pool.statistics().restarts == {"max_requests": 4})
        assert pool.statistics().total_errors == 0


async def test_recycling_under_load() -> None:
    """A thousand calls by thirty callers on workers that serve twenty: each is answered, once."""
    most = 0
    answers: list[int] = []

    async def call(pool: WorkerPool) -> None:
        nonlocal most
        while numbers:
            number = numbers.pop()
            answers.append(await pool.run(jobs.add, number, 0))
            most = max(most, len(children() - before))

    numbers = list(range(1000))
    before = children()
    async with serving_pool(2, max_requests=50) as pool, trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(call, pool)
    assert sorted(answers) == list(range(1000))
    assert most <= 2 + 2
    assert pool.statistics().restarts.keys() == {"max_requests"}


@pytest.mark.slow
@pytest.mark.parametrize("quota", [1, 2, 3])
@pytest.mark.parametrize(("kind", "calls"), [("cpu", 24), ("thread", 3000)])
async def test_no_call_is_lost_while_workers_leave(kind: Any, calls: int, quota: int) -> None:
    """All at once on workers that hardly serve any; every seventh is cancelled on the way."""
    answers: list[int] = []

    async def call(number: int) -> None:
        with trio.CancelScope() as scope:
            if number % 7 == 0:
                scope.deadline = trio.current_time() + number / calls
            answers.append(await pool.run(jobs.add, number, 0))

    async with serving_pool(2, kind=kind, max_requests=quota) as pool:
        with trio.fail_after(90):
            async with trio.open_nursery() as nursery:
                for number in range(calls):
                    nursery.start_soon(call, number)
        statistics = pool.statistics()
        assert statistics.total_tasks_processed == calls
        assert statistics.total_cancelled == calls - len(answers)
        assert statistics.total_errors == 0
        assert statistics.restarts.keys() <= {"max_requests", "interrupted"}
        # Two may go on, and two be about to leave.
        assert statistics.restarts["max_requests"] >= len(answers) // quota - 4
    assert len({*answers}) == len(answers)
    assert {*answers} >= {number for number in range(calls) if number % 7}


@pytest.mark.slow
async def test_a_leak_is_bounded() -> None:
    """A function that keeps a little of each call: its workers leave in time, and no call fails."""
    calls: Counter[int] = Counter()
    async with serving_pool(1, max_memory=24 << 20) as pool:
        with trio.fail_after(60):
            while pool.statistics().restarts.get("max_memory", 0) < 2:
                calls[await pool.run(jobs.hoard, 1 << 20)] += 1
                await trio.sleep(0.02)
        statistics = pool.statistics()
        assert statistics.restarts == {"max_memory": 2}
        assert statistics.total_errors == 0
        # None of them left before it had grown by as much as it may.
        *replaced, _ = (calls[pid] for pid in calls)
        assert min(replaced) >= 24


async def test_a_process_that_grows_is_replaced() -> None:
    """Memory that a function keeps is found; what it gives back is not held against it."""
    async with serving_pool(1, max_memory=64 << 20) as pool:
        first = await pool.run(jobs.hoard, 1 << 20)
        await pool.run(len, bytes(100 << 20))
        await trio.sleep(2.2)
        assert await pool.run(jobs.pid) == first
        assert await pool.run(jobs.hoard, 100 << 20) == first
        with trio.fail_after(20):
            await wait_until(lambda: pool.statistics().restarts == {"max_memory": 1})
        assert await pool.run(jobs.pid) != first


async def test_processes_leave_when_the_pool_is_made_smaller(tmp_path: Path) -> None:
    """The one that works finishes."""
    async with serving_pool(2) as pool:
        await pool.warm()
        path = str(tmp_path / "begun")
        async with pool.open_request(jobs.sleep, 0.5, path) as request:
            await wait_for_file(path)
            await pool.resize(1)
            assert len(pool.workers) == 1
            assert await request.result() == "slept"
        await pool.resize(2)
        await pool.warm()
        assert len(pool.workers) == 2
