"""One slot for each request in flight on a worker: where its progress and its cancel word live.

A slot is 256 bytes: one half that only the worker writes, one that only the parent writes.

Guarantees:

- Every cell has one writer, and is loaded and stored in one aligned move of 8 bytes.
- A generation is the number of one request on one worker and never repeats, so no cell needs to
  be cleared before the next request: a word that names another generation means nothing.
- A text is never seen half-written: it goes to the place that is not selected, then the selector
  moves.

The design draws one board per pool. Here each worker has its own, which dies with it: a thread
left behind in a killed worker, or a worker gone mad, can never write into a neighbour's slot, and
a new worker starts with clean cells.
"""

from __future__ import annotations

# How many 8-byte cells a slot has.
SLOT = 32

# The worker's cells.
STATE = 0  # generation << 2 | RUNNING or OVER
DONE = 1
TOTAL = 2
TICK = 3  # how often the function looked whether it is cancelled
STARTED_AT = 4  # time.perf_counter_ns(), one clock for all processes of a machine
PHASE = 5  # a text: the selector, then two times TEXT cells

# The parent's cells, on cache lines of their own.
CANCEL = 16  # the generation that is cancelled, or one that is recalled, with RECALLED
LIMIT = 17  # how long the function may run, in nanoseconds; 0 for no limit
SUBMITTED_AT = 18  # time.perf_counter_ns()
REASON = 19  # a text, as PHASE

# One more of the worker's, which found no room in its half; written once a request.
TOOK = 30  # how long the function ran, in nanoseconds

# One more of the parent's, likewise.
DEADLINE = 31  # time.perf_counter_ns() at which whoever waits for it stops waiting; 0 for never

RUNNING = 1
OVER = 2

# Added to a generation that must not begin. A function that has begun all the same takes no notice:
# only for the generation itself it would stop.
RECALLED = 1 << 63
GENERATION = RECALLED - 1

# 40 bytes of UTF-8: enough for a sentence of a status line, and two of them fit a half slot.
TEXT = 5
_TEXT_BYTES = TEXT * 8

# What a function has before it says otherwise, as in SharedProgress.
DEFAULT_TOTAL = 100

# Of run, queue and total time, for each worker and operation; what a worker has done in all is the
# sum of these, so that each request is counted only once. Four buckets for each power of two
# nanoseconds.
HISTOGRAM = 264
HISTOGRAM_MAXIMUM = HISTOGRAM - 1
HISTOGRAMS = 3
RUN, QUEUE, WHOLE = range(HISTOGRAMS)

# Operation 0 is all that have no number of their own. 6 KiB for each, touched when it is used.
OPERATIONS = 32
OPERATION = HISTOGRAMS * HISTOGRAM
TIMES = OPERATIONS * OPERATION


def board_bytes(slots: int) -> int:
    """Say how many bytes a board of ``slots`` slots needs, with all that is behind them."""
    return (dropped_at(slots) + 1) * 8


def histogram_base(slots: int, operation: int, which: int) -> int:
    """Say in which cell a histogram of a board of ``slots`` slots begins."""
    return slots * SLOT + operation * OPERATION + which * HISTOGRAM


def dropped_at(slots: int) -> int:
    """Say in which cell the worker counts the log records that it could not send."""
    return histogram_base(slots, OPERATIONS, 0)


def count(cells: memoryview, base: int, nanoseconds: int) -> None:
    """Count a time in the histogram that begins at ``base``."""
    if nanoseconds < 0:  # two processes' clocks agree on Linux, but nobody promises it elsewhere
        nanoseconds = 0
    bits = nanoseconds.bit_length()
    bucket = (bits << 2) + (nanoseconds >> (bits - 3) & 3) if bits > 3 else nanoseconds
    cells[base + bucket] += 1
    if nanoseconds > cells[base + HISTOGRAM_MAXIMUM]:
        cells[base + HISTOGRAM_MAXIMUM] = nanoseconds


def write_text(cells: memoryview, at: int, text: str) -> None:
    """Publish ``text`` at the cells from ``at`` on, cut to 40 bytes of UTF-8."""
    raw = text.encode(errors="replace")[:_TEXT_BYTES]
    raw = raw.decode(errors="ignore").encode().ljust(_TEXT_BYTES, b"\0")
    selector = cells[at] + 1
    start = at + 1 + (selector & 1) * TEXT
    cells[start : start + TEXT] = memoryview(raw).cast("Q")
    cells[at] = selector


def clear_text(cells: memoryview, at: int) -> None:
    """Publish that there is no text."""
    cells[at] = 0


def read_text(cells: memoryview, at: int) -> str | None:
    """Return the newest text, or None if none was written."""
    # A writer would have to publish twice during each of our reads to defeat all of these.
    for _ in range(8):
        selector = cells[at]
        if not selector:
            return None
        start = at + 1 + (selector & 1) * TEXT
        raw = cells[start : start + TEXT].tobytes()
        if cells[at] == selector:
            break
    return raw.rstrip(b"\0").decode(errors="replace")
