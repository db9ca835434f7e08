"""What a pool has done, as numbers.

Workers count, in cells of their boards, each request under its operation. What a worker, or the
pool, has done in all is the sum of that, made when somebody asks.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, TypeAlias, final

import attrs

from trioipc.memory._board import (
    HISTOGRAM,
    HISTOGRAM_MAXIMUM,
    OPERATION,
    QUEUE,
    RUN,
    TIMES,
    WHOLE,
    count,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trioipc.pool.team._breaker import CircuitState
    from trioipc.protocol._lifecycle import WorkerState

# How a request has ended.
Ending: TypeAlias = Literal["value", "error", "cancelled"]


@final
@attrs.frozen
class Histogram:
    """How long something took, in seconds; percentiles are exact to a fifth."""

    count: int
    """How many were timed."""

    p50: float
    """Half of them took no longer; 0.0 if there are none, as in all of these."""

    p90: float
    """Nine in ten took no longer."""

    p99: float
    """Ninety-nine in a hundred took no longer."""

    max: float
    """The longest."""


@final
@attrs.frozen
class RequestTimes:
    """How long some requests took: those of an operation, or of a worker."""

    queue_time: Histogram
    """From submission until a worker took the request up."""

    run_time: Histogram
    """From there until the function ended."""

    total_time: Histogram
    """From submission until the function ended."""


@final
@attrs.frozen
class OperationStatistics:
    """What has become of the requests of one operation."""

    times: RequestTimes
    """How long those took that a worker has run to their end, with a value or an exception."""

    errors: int
    """How many ended with anything but a value, cancelled ones excepted."""

    cancelled: int
    """How many were cancelled."""


@final
@attrs.frozen
class WorkerInfo:
    """One worker, as it is now."""

    pid: int | None
    """Its process id; None before it is known."""

    state: WorkerState
    """``"starting"``, ``"idle"``, ``"busy"`` or ``"leaving"``."""

    request_id: str | None
    """The request that it runs; the oldest, where it runs several."""

    requests: int
    """How many it has answered."""

    started: float | None
    """When it became ready, on Trio's clock; None if it is not yet."""

    times: RequestTimes | None = None
    """How long requests took on it. In `PoolStatistics.workers`; None in `WorkerPool.workers`, for
    which nothing is added up."""


@final
@attrs.frozen
class ArenaStatistics:
    """The shared memory of a pool that payloads travel in."""

    limit: float
    """How many bytes of it are kept (``max_arena_bytes``)."""

    size: int
    """How many there are, those included that results still held are in."""

    slabs: int
    """In how many pieces."""

    reused: int
    """How often a call or `WorkerPool.allocate` found warm memory."""

    made: int
    """How often it had to be made."""


@final
@attrs.frozen
class PoolStatistics:
    """A snapshot of a pool."""

    pool_size: int
    """How many workers it may have."""

    busy_workers: int
    """How many of them run something."""

    queued_tasks: int
    """Requests that wait for a worker."""

    total_tasks_processed: int
    """Requests that have ended, in any way."""

    total_errors: int
    """Those that ended with anything but a value, cancelled ones excepted."""

    total_cancelled: int
    """Those that were cancelled."""

    restarts: dict[str, int]
    """How many workers were replaced, and why. They ``"crashed"``, were ``"interrupted"`` or
    ``"killed"`` to end a request, were found ``"stopped"``, or ``"silent"``, holding requests that
    they did not begin, and using no processor. Or as planned, by ``"max_requests"``,
    ``"max_memory"`` or ``"max_age"``."""

    queue_time: Histogram
    """From submission until a worker took the request up."""

    run_time: Histogram
    """From there until the function ended."""

    total_time: Histogram
    """From submission until the function ended."""

    workers: tuple[WorkerInfo, ...]
    """The workers there are."""

    arena: ArenaStatistics | None = None
    """The shared memory that payloads travel in; None for threads, which need none."""

    cancel_time: dict[str, Histogram] = attrs.field(factory=dict)
    """From the cancel, or the end of a clock, until the request ended; by the rung that ended it,
    ``"queue"`` if it had been sent but not begun, ``"checkpoint"``, ``"interrupt"`` or ``"kill"``.
    Rungs that ended none are not there, nor are requests that no worker had been sent."""

    circuit: CircuitState = "closed"
    """Whether workers can be started. It is ``"closed"`` if so; ``"open"`` after many in a row came
    to nothing, when no more is tried for up to 10 seconds; ``"half-open"`` while one is tried."""

    operations: dict[str, OperationStatistics] = attrs.field(factory=dict)
    """The same by operation, under ``"channel/name"`` if it is registered, or else the full name of
    a function; ``"map(...)"`` of that for several items of `WorkerPool.map` at a time. The first
    31 that a pool is asked for; all others are ``"other"``."""


class TimeCounts:
    """The counts of workers that are gone, to which those of living ones are added."""

    def __init__(self) -> None:
        self._gone = memoryview(bytearray(TIMES * 8)).cast("Q")

    def add(self, cells: memoryview) -> None:
        """Keep what a worker has counted."""
        self._gone = add_up([self._gone, cells])

    def by_operation(self, living: Iterable[memoryview], number: int) -> list[memoryview]:
        """Return the counts of all workers together, of each of the first operations."""
        cells = [self._gone, *living]
        return parts(add_up([some[: number * OPERATION] for some in cells]))


def parts(cells: memoryview) -> list[memoryview]:
    """Return what is counted for each operation."""
    return [cells[at : at + OPERATION] for at in range(0, len(cells), OPERATION)]


def add_up(counts: Sequence[memoryview]) -> memoryview:
    """Add counts of the same operations.

    Each as one big number, whose digits of 64 bits never run over: Python adds 6 KiB in a
    microsecond so, where a loop takes 40.
    """
    total = sum(int.from_bytes(cells, sys.byteorder) for cells in counts)
    # Modulo, since the longest times are added as well, which means nothing, and replaced below.
    size = len(counts[0]) * 8
    added = memoryview(bytearray((total % (1 << size * 8)).to_bytes(size, sys.byteorder))).cast("Q")
    for at in range(HISTOGRAM_MAXIMUM, len(added), HISTOGRAM):
        added[at] = max(cells[at] for cells in counts)
    return added


def times_of(counts: memoryview) -> RequestTimes:
    """Return the times of an operation as histograms."""
    return RequestTimes(
        _histogram(counts, QUEUE), _histogram(counts, RUN), _histogram(counts, WHOLE)
    )


class LadderTimes:
    """How long it took to end requests that were cancelled."""

    def __init__(self) -> None:
        self._counts: dict[str, memoryview] = {}  # {rung: a histogram}

    def add(self, rung: str, seconds: float) -> None:
        """Count one that a rung has ended."""
        if rung not in self._counts:
            self._counts[rung] = memoryview(bytearray(HISTOGRAM * 8)).cast("Q")
        count(self._counts[rung], 0, int(seconds * 1e9))

    def histograms(self) -> dict[str, Histogram]:
        """Return the times by rung."""
        return {rung: _histogram(cells, 0) for rung, cells in self._counts.items()}


class Tally:
    """How many requests have ended, and how."""

    def __init__(self) -> None:
        self.ended = 0
        self.errors = 0
        self.cancelled = 0
        # {(operation, how): how many, those with a value excepted}
        self.by_operation: Counter[tuple[int, Ending]] = Counter()

    def add(self, how: Ending, operation: int | None = None) -> None:
        """Count one.

        Args:
          how: How it ended.
          operation: The number of what it asked for; None if it had none yet.
        """
        self.ended += 1
        if how == "value":
            return
        self.errors += how == "error"
        self.cancelled += how == "cancelled"
        if operation is not None:
            self.by_operation[operation, how] += 1


def _histogram(counts: memoryview, which: int) -> Histogram:
    base = which * HISTOGRAM
    *buckets, longest = counts[base : base + HISTOGRAM]
    reached = [*accumulate(buckets)]  # [bucket: how many took no longer]
    number = reached[-1]
    p50, p90, p99 = (
        min(_upper_edge(bisect_left(reached, number * share)), longest) / 1e9
        for share in (0.5, 0.9, 0.99)
    )
    return Histogram(number, p50, p90, p99, longest / 1e9)


def _upper_edge(bucket: int) -> int:
    if bucket < 16:  # below 8 ns each has its own; there are none from 8 to 15
        return bucket
    bits, quarter = bucket >> 2, bucket & 3
    return (4 + quarter + 1 << bits - 3) - 1
