"""Asynchronous operations awaited where they are asked for, without a pool that runs them.

The options mean what they mean for a worker, as far as there is one: nothing waits in a queue, so
``queue_timeout`` and ``priority`` have nothing to do, and the ladder has one rung, Trio's own
cancellation. ``timeout`` is the operation's own.
"""

from __future__ import annotations

import inspect
import math
import time
from typing import TYPE_CHECKING, Any

import trio
from outcome import acapture

from trioipc._errors import RequestCancelledError
from trioipc.memory._board import DEFAULT_TOTAL, RUNNING, SLOT, STARTED_AT, STATE, TOTAL
from trioipc.pool._progress import CANCELLATION_INTERVAL, progress_of
from trioipc.pool.engines._slot import snapshot
from trioipc.worker.request import CurrentRequest, set_context_request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeVar, TypeVarTuple, Unpack

    from outcome import Outcome

    from trioipc.bridge._arguments import Options
    from trioipc.memory.state import SharedCancellation
    from trioipc.pool.pool import Callback

    T = TypeVar("T")
    Ts = TypeVarTuple("Ts")

# As a pool's, which is where its source is.
PROGRESS_INTERVAL = 0.05
# The only request that its slot ever has.
_GENERATION = 1


async def run_here(
    function: Callable[[*Ts], Awaitable[T]], /, *args: *Ts, **options: Unpack[Options]
) -> T:
    """Await ``function(*args)`` as a request of this task.

    Raises:
      RequestCancelledError: if the ``cancellation`` was set.
      Exception: whatever the function or ``on_progress`` raised, bare.
    """
    flag = options["cancellation"]
    _refuse_cancelled(flag, "queue")
    cells = _slot()
    request = CurrentRequest(cells, _GENERATION, None)
    over = trio.Event()
    result: Outcome[T]

    async def operate() -> None:
        nonlocal result
        set_context_request(request)  # of this task and those that it starts
        result = await acapture(function, *args)
        over.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(operate)
        # Raised outside of the nursery, which would wrap it in a group.
        attended = await acapture(_attend, cells, over, flag, options["on_progress"])
        nursery.cancel_scope.cancel()
    request._end()
    attended.unwrap()
    return result.unwrap()


def _slot() -> memoryview:
    cells = memoryview(bytearray(SLOT * 8)).cast("Q")
    cells[TOTAL] = DEFAULT_TOTAL
    cells[STARTED_AT] = time.perf_counter_ns()
    cells[STATE] = _GENERATION << 2 | RUNNING
    return cells


async def _attend(
    cells: memoryview,
    over: trio.Event,
    flag: SharedCancellation | None,
    on_progress: Callback | None,
) -> None:
    """Watch the cancellation and call ``on_progress`` until the operation is over."""
    last: Any = None
    next_report = -math.inf
    while not over.is_set():
        with trio.move_on_after(_period(flag, on_progress)):
            await over.wait()
        if not over.is_set():
            _refuse_cancelled(flag, "checkpoint")
        if on_progress is None or (trio.current_time() < next_report and not over.is_set()):
            continue
        next_report = trio.current_time() + PROGRESS_INTERVAL
        seen = snapshot(cells, _GENERATION)
        if seen.written and (seen.value, seen.total, seen.phase) != last:
            last = seen.value, seen.total, seen.phase
            called = on_progress(progress_of(seen, 1))
            if called is not None and inspect.isawaitable(called):
                await called


def _period(flag: SharedCancellation | None, on_progress: Callback | None) -> float:
    if flag is not None:
        return CANCELLATION_INTERVAL
    return math.inf if on_progress is None else PROGRESS_INTERVAL


def _refuse_cancelled(flag: SharedCancellation | None, rung: str) -> None:
    if flag is not None and flag.is_cancelled():
        reason = flag.reason()
        raise RequestCancelledError(
            "the request was cancelled" + (f": {reason}" if reason else ""),
            reason=reason,
            rung=rung,
        )
