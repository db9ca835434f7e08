"""The parent's side of a slot, whatever kind of memory it is in."""

from __future__ import annotations

import math
import time

from trioipc.memory._board import (
    CANCEL,
    DEADLINE,
    DEFAULT_TOTAL,
    DONE,
    LIMIT,
    PHASE,
    REASON,
    RECALLED,
    STARTED_AT,
    STATE,
    TICK,
    TOTAL,
    clear_text,
    read_text,
    write_text,
)
from trioipc.memory._fence import IS_FULL, fence
from trioipc.pool._endpoint import Snapshot

# A century: what is more than this would not fit into a cell as nanoseconds.
_FOR_EVER = 100 * 365 * 86400.0

_NOT_STARTED = Snapshot(started=False)


def set_limit(cells: memoryview, seconds: float, left: float) -> None:
    """Say how long the function may run, and how long from now somebody waits for it."""
    cells[LIMIT] = 0 if seconds == math.inf else max(1, int(seconds * 1e9))
    if left < _FOR_EVER:
        cells[DEADLINE] = time.perf_counter_ns() + int(max(0.0, left) * 1e9)
    elif cells[DEADLINE]:  # the worker writes to that cache line: to look at it costs less
        cells[DEADLINE] = 0


def set_cancel(cells: memoryview, generation: int, reason: str | None) -> None:
    """Set the cancel word.

    No fence here, and no claim that the function has not started: a worker that sees the word
    before it starts says so in an answer.
    """
    if reason is None:
        clear_text(cells, REASON)
    else:
        write_text(cells, REASON, reason)
    cells[CANCEL] = generation


def recall(cells: memoryview, generation: int) -> bool:
    """Have a function not start; return whether it certainly never does.

    A worker says that it starts, then looks at the word; here the word is set, then it is looked
    whether the worker has said so. With a fence in between, at least one side sees the other. If
    both do, it is skipped although this says that it may have started. A function that has started
    is not disturbed.
    """
    if not IS_FULL:
        return False
    cells[CANCEL] = generation | RECALLED
    fence()
    return cells[STATE] >> 2 != generation


def snapshot(cells: memoryview, generation: int) -> Snapshot:
    """Read what the worker has written about ``generation``."""
    if cells[STATE] >> 2 != generation:
        return _NOT_STARTED
    value, total, phase = cells[DONE], cells[TOTAL], read_text(cells, PHASE)
    return Snapshot(
        started=True,
        seconds=(time.perf_counter_ns() - cells[STARTED_AT]) / 1e9,
        value=value,
        total=total,
        phase=phase,
        ticks=cells[TICK],
        written=bool(value or total != DEFAULT_TOTAL or phase),
    )
