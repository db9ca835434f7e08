"""Cancel a piece of code at each of its steps, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@final
@attrs.define(eq=False)
class _Saboteur(trio.abc.Instrument):
    """Cancels a scope at a step, of one task or of all."""

    _task: trio.lowlevel.Task | None
    _scope: trio.CancelScope
    _steps_left: int

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._task is None or task is self._task:
            if self._steps_left == 0:
                self._scope.cancel()
            self._steps_left -= 1


async def cancel_at_each_step(
    operation: Callable[[], Awaitable[object]],
    check: Callable[[], Awaitable[object]],
    *,
    all_tasks: bool = False,
    stride: int = 1,
    max_steps: int = 2000,
) -> int:
    """Run ``operation`` again and again until it survives, cancelling it a step later each time.

    A step is what a task does between two moments at which others may run. So this finds each
    place at which a cancellation can strike, without being told where they are.

    Args:
      operation: What to cancel. Called afresh each time; what it raises comes out.
      check: Asserts what must hold; called after each run, whether it was cancelled or not.
      all_tasks: Whether to count the steps of all tasks and not only of the one that calls: that
        strikes also while ``operation`` waits for others. There are many more of these.
      stride: By how many steps to move on, at least 1.
      max_steps: When to give up.

    Returns:
      At how many steps it was cancelled, or may have been, if ``stride`` is more than 1.

    Raises:
      AssertionError: if it has not survived after ``max_steps``.
      ValueError: if ``stride`` or ``max_steps`` is less than 1.
    """
    if stride < 1 or max_steps < 1:
        raise ValueError(f"stride and max_steps must be >= 1, not {stride} and {max_steps}")
    for step in range(0, max_steps, stride):
        if not await _cancelled_at(step, operation, all_tasks=all_tasks):
            await check()
            return step
        await check()
    raise AssertionError(f"still cancelled after {max_steps} steps")


async def _cancelled_at(
    step: int, operation: Callable[[], Awaitable[object]], *, all_tasks: bool
) -> bool:
    """Run it once; return whether it had a step of that number."""
    with trio.CancelScope() as scope:
        task = None if all_tasks else trio.lowlevel.current_task()
        saboteur = _Saboteur(task, scope, step)
        trio.lowlevel.add_instrument(saboteur)
        try:
            await operation()
        finally:
            trio.lowlevel.remove_instrument(saboteur)
    return scope.cancel_called
