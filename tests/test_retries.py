"""Requests that are tried again: when, where, and for how long."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from fakes import Die, FakeEngine
from trioipc import (
    PoisonedRequestError,
    RequestCancelledError,
    RequestTimeoutError,
    current_request,
)
from trioipc.pool._opening import open_on
from trioipc.pool._options import Options
from trioipc.pool._request import PoolRequest

if TYPE_CHECKING:
    from trio.testing import MockClock


pytestmark = pytest.mark.stderr("")


def opened(engine: FakeEngine, **options: Any) -> Any:
    """Open a pool on a fake."""
    return open_on(engine, Options(**{"size": 1, **options}))


def tries(engine: FakeEngine) -> list[float]:
    """Return when functions began, on whichever worker."""
    return [at for endpoint in engine.endpoints for at, what in endpoint.log if "run" in what]


def die() -> None:
    """End the worker at once."""
    raise Die(1)


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5)])
async def test_pauses_grow(autojump_clock: MockClock, chance: float, share: float) -> None:
    """From 10 ms to a second or so, give or take a half; each try is on another worker."""
    engine = FakeEngine()
    async with opened(engine, size=4, max_retries=9) as pool:
        await pool.warm()
        pool._dispatcher._random = lambda: chance
        with pytest.raises(PoisonedRequestError):
            await pool.run(die, idempotent=True)
    at = sorted(tries(engine))
    pauses = [later - earlier for earlier, later in itertools.pairwise(at)]
    expected = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 1.28]
    assert pauses == pytest.approx([share * seconds for seconds in expected])
    assert max(len(endpoint.log) for endpoint in engine.endpoints) <= 2  # one run, and a close


async def test_the_whole_of_it_has_one_deadline(autojump_clock: MockClock) -> None:
    """A message's timeout and the caller's scope hold through all tries and pauses."""
    async with opened(FakeEngine(), max_retries=100) as pool:
        before = trio.current_time()
        with trio.move_on_after(3) as scope:
            await pool.run(die, idempotent=True)
        assert scope.cancelled_caught
        assert trio.current_time() == pytest.approx(before + 3)
        terms = pool._factory.terms(die, None, None, "normal", None, None, True, None, 2.5)
        request = PoolRequest(pool._dispatcher, die, pool._factory._prepare(die, (), None), terms)
        with pytest.raises(RequestTimeoutError) as caught:  # as by the timeout of a message
            await pool._perform(request, None)
        assert caught.value.clock == "total"
        assert trio.current_time() == pytest.approx(before + 5.5)
        assert pool.statistics().queued_tasks == 0


async def test_one_that_rests_can_be_cancelled(autojump_clock: MockClock) -> None:
    """It counts as waiting, and nothing of it is left."""
    engine = FakeEngine()
    async with opened(engine, max_retries=20) as pool:
        pool._dispatcher._random = lambda: 0.5
        async with pool.open_request(die, idempotent=True) as request:
            await trio.sleep(5)
            assert pool.statistics().queued_tasks == 1
            assert pool.statistics().busy_workers == 0
            request.cancel()
            with pytest.raises(RequestCancelledError):
                await request.result()
        number = len(engine.endpoints)
        await trio.sleep(5)
        assert (pool.statistics().queued_tasks, len(engine.endpoints)) == (0, number)


async def test_a_pool_that_drains_waits_for_one_that_rests(autojump_clock: MockClock) -> None:
    """And one that aborts does not."""

    async def die_at_first() -> int:
        nonlocal attempts
        attempts += 1
        if attempts < 5:
            raise Die(1)
        return attempts

    for scope, expected in ((trio.CancelScope(), 5), (trio.CancelScope(deadline=0.03), None)):
        attempts, got = 0, None

        async def ask(pool: Any) -> None:
            nonlocal got
            try:
                got = await pool.run(die_at_first, idempotent=True, max_retries=9)
            except trio.ClosedResourceError:
                pass

        async with trio.open_nursery() as nursery:
            with scope:
                scope.deadline += trio.current_time()
                async with opened(FakeEngine()) as pool:
                    pool._dispatcher._random = lambda: 0.5
                    nursery.start_soon(ask, pool)
                    await trio.testing.wait_all_tasks_blocked()
        assert got == expected


async def test_others_pass_one_that_rests(autojump_clock: MockClock) -> None:
    """Nobody is kept waiting by somebody else's pause."""
    async with opened(FakeEngine(), max_retries=20) as pool:
        pool._dispatcher._random = lambda: 0.5
        async with pool.open_request(die, idempotent=True) as request:
            await trio.sleep(5)
            before = trio.current_time()
            assert await pool.run(lambda: current_request().id) is not None
            assert trio.current_time() == before
            request.cancel()
