"""Test code that uses a pool: no processes, no waiting, faults where they are wanted."""

import time
from collections.abc import Iterable

import trio
from trio.testing import MockClock

import trioipc
from trioipc.testing import Crash, cancel_at_each_step, check_leaks, open_test_pool

# ---- the application


def render(page: int) -> str:
    """Take a minute, in C."""
    time.sleep(60)
    return f"page {page}"


class Book:
    """Has its pages rendered in a pool."""

    def __init__(self) -> None:
        self.pages: dict[int, str] = {}
        self.under_way = 0

    async def render(self, pool: trioipc.WorkerPool, pages: Iterable[int]) -> None:
        """Render pages, as many at a time as there are workers; a crash costs a second try."""
        async with trio.open_nursery() as nursery:
            for page in pages:
                nursery.start_soon(self._render, pool, page)

    async def _render(self, pool: trioipc.WorkerPool, page: int) -> None:
        self.under_way += 1
        try:
            self.pages[page] = await pool.run(render, page, idempotent=True)
        finally:
            self.under_way -= 1


# ---- its tests


async def slow_render(page: int) -> str:
    """Stand for `render`, in the clock's time."""
    await trio.sleep(60)
    return f"page {page}"


async def test_two_at_a_time() -> None:
    """Four pages take two workers two minutes."""
    async with open_test_pool(2, stand_ins={render: slow_render}) as pool:
        book = Book()
        await book.render(pool, range(4))
    assert round(trio.current_time()) == 120
    assert len(book.pages) == 4


async def test_a_crash_costs_a_second_try() -> None:
    """The third request that is sent crashes its worker after half a minute."""
    faults = {3: Crash(after=30)}
    async with open_test_pool(2, stand_ins={render: slow_render}, faults=faults) as pool:
        book = Book()
        await book.render(pool, range(4))
        assert pool.statistics().restarts == {"crashed": 1}
    assert round(trio.current_time()) == 60 + 30 + 60
    assert len(book.pages) == 4


async def test_wherever_it_is_cancelled() -> None:
    """Nothing is under way any more."""
    async with open_test_pool(2, stand_ins={render: slow_render}) as pool:
        book = Book()

        async def operation() -> None:
            await book.render(pool, range(3))

        async def check() -> None:
            assert book.under_way == 0
            assert pool.statistics().busy_workers == 0

        steps = await cancel_at_each_step(operation, check, all_tasks=True)
    assert steps > 10


if __name__ == "__main__":
    for test in (
        test_two_at_a_time,
        test_a_crash_costs_a_second_try,
        test_wherever_it_is_cancelled,
    ):
        with check_leaks():
            trio.run(test, clock=MockClock(autojump_threshold=0))
        print(test.__name__, "passed")
