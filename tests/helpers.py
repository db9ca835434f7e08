"""What several test files need."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import trio

import jobs
from trioipc import open_worker_pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from trioipc import WorkerPool


@asynccontextmanager
async def serving_pool(size: int, **options: Any) -> AsyncIterator[WorkerPool]:
    """Open a pool, and see that it serves the next request whatever the body has done to it."""
    async with open_worker_pool(size, **options) as pool:
        yield pool
        with trio.fail_after(20):
            assert await pool.run(jobs.add, 1, 2) == 3


async def wait_for_file(path: Path | str) -> None:
    """Wait until a function in a worker has left its trace."""
    with trio.fail_after(20):
        while not os.path.exists(path):
            await trio.sleep(0.001)


async def wait_until(true: Callable[[], object]) -> None:
    """Wait until something holds."""
    with trio.fail_after(20):
        while not true():
            await trio.sleep(0.001)


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that waits to be reaped does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@attrs.define(eq=False)
class _CancelAtStep(trio.abc.Instrument):
    task: trio.lowlevel.Task
    scope: trio.CancelScope
    steps_left: int

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            if self.steps_left == 0:
                self.scope.cancel()
            self.steps_left -= 1


async def cancel_at_each_step(
    operation: Callable[[], Awaitable[object]],
    check: Callable[[], Awaitable[object]],
    *,
    max_steps: int = 200,
) -> int:
    """Run ``operation`` until it survives, cancelling it one step later each time.

    Args:
      operation: What to cancel. Called afresh for each step.
      check: Asserts what must hold; called after each run, cancelled or not.
      max_steps: When to give up, in steps of the calling task.

    Returns:
      The number of steps at which it was cancelled.
    """
    for step in range(max_steps):
        with trio.CancelScope() as scope:
            saboteur = _CancelAtStep(trio.lowlevel.current_task(), scope, step)
            trio.lowlevel.add_instrument(saboteur)
            try:
                await operation()
            finally:
                trio.lowlevel.remove_instrument(saboteur)
        await check()
        if not scope.cancel_called:
            return step
    raise AssertionError(f"still running after {max_steps} steps")
