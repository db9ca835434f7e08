"""The stall clock: what neither makes progress nor looks is ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

import jobs
from fakes import FakeEngine
from helpers import serving_pool
from trioipc import RequestTimeoutError, current_request
from trioipc.pool._opening import open_on
from trioipc.pool._options import Options
from trioipc.pool._stall import StallClock

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock


pytestmark = pytest.mark.stderr("")


def opened(engine: FakeEngine, **options: Any) -> Any:
    """Open a pool on a fake."""
    return open_on(engine, Options(**{"size": 1, "grace": 0.1, **options}))


@pytest.mark.parametrize(("limit", "period"), [(0, 0.01), (0.05, 0.01), (5, 0.5), (600, 1)])
def test_it_looks_often_enough(limit: float, period: float) -> None:
    """Ten times, but neither all the time nor once in a minute."""
    assert StallClock(limit).period == pytest.approx(period)


def test_any_change_begins_it_anew() -> None:
    """Standstill is counted from the first look that saw none."""
    clock = StallClock(2)
    looks = [(i / 5, i // 9) for i in range(40)]
    assert [now for now, mark in looks if clock.is_up(now, mark)] == []
    assert not clock.is_up(8, 5)
    assert [now for now in range(9, 14) if clock.is_up(now, 5)] == [13]  # 0.4 for each at most


def test_time_that_nobody_saw_hardly_counts() -> None:
    """A parent that was stopped for an hour ends nothing when it goes on."""
    clock = StallClock(10)
    assert not clock.is_up(0, 1)
    assert not clock.is_up(3600, 1)
    assert not clock.is_up(3607, 1)
    assert clock.is_up(7200, 1) is False


async def ended_after(pool: Any, function: Any, *args: Any) -> tuple[float, RequestTimeoutError]:
    """Return when the stall clock ended a call."""
    before = trio.current_time()
    with pytest.raises(RequestTimeoutError, match=r"has not moved for .* \(the stall clock\)") as c:
        await pool.run(function, *args)
    assert c.value.clock == "stall"
    return trio.current_time() - before, c.value


async def move(how: str, seconds: float) -> None:
    """Do something each second, then stand still."""
    request = current_request()
    while seconds:
        seconds -= 1
        if how == "progress":
            request.progress.increment()
        elif how == "phase":
            request.set_phase(f"{seconds} s left")
        else:
            request.checkpoint()
        await trio.sleep(1)
    await trio.sleep_forever()


@pytest.mark.parametrize("how", ["progress", "phase", "checkpoint"])
async def test_what_moves_goes_on(autojump_clock: MockClock, how: str) -> None:
    """Each of the three counts; the end comes when all have stood still."""
    async with opened(FakeEngine(), stall_timeout=3) as pool:
        seconds, _ = await ended_after(pool, move, how, 100)
        assert 102 <= seconds <= 99 + 3 * 1.2 + 0.3
        await pool.run(trio.sleep, 2.9)


async def test_it_waits_with_the_request(autojump_clock: MockClock) -> None:
    """Neither the queue, nor a call that is not taken up, nor another clock is its business."""
    async with opened(FakeEngine(), stall_timeout=3) as pool:
        async with pool.open_request(move, "progress", 50) as first:
            await pool.run(trio.sleep, 1, timeout=2)
            with pytest.raises(RequestTimeoutError) as caught:
                await first.result()
            assert caught.value.clock == "stall"
        with pytest.raises(RequestTimeoutError) as caught:
            await pool.run(trio.sleep_forever, timeout=1)
        assert caught.value.clock == "run"
    engine = FakeEngine(deaf=True)
    async with opened(engine, stall_timeout=3) as pool:
        with trio.move_on_after(100) as scope:
            await pool.run(trio.sleep_forever)
        assert scope.cancelled_caught


async def test_the_error_says_where_it_stood(autojump_clock: MockClock) -> None:
    """The stack is read once it is there, before the worker is gone."""
    engine = FakeEngine()
    async with opened(engine, stall_timeout=3) as pool:
        _, error = await ended_after(pool, trio.sleep_forever)
        assert error.stack is None
        await pool.run(trio.sleep, 0)
        texts = iter([None, "File jobs.py, line 3"])
        engine.endpoints[-1].stack = lambda: next(texts)
        _, error = await ended_after(pool, move, "checkpoint", 1)
        assert error.stack == "File jobs.py, line 3"


async def test_processes_that_hang(tmp_path: Path) -> None:
    """A loop that never looks is ended; one that looks is not; the worker is replaced."""
    async with serving_pool(1, stall_timeout=0.5) as pool:
        await pool.run(jobs.nothing)
        with trio.fail_after(20):
            _, error = await ended_after(pool, jobs.spin)
        assert error.rung == "interrupt"
        with pytest.raises(RequestTimeoutError) as caught:
            await pool.run(jobs.cooperate, timeout=2)
        assert caught.value.clock == "run"
        assert caught.value.rung == "checkpoint"
