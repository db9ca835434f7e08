"""Time counts as percentiles, and the rungs of the ladder."""

from __future__ import annotations

import functools
import math
import random
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import jobs
from trioipc import Histogram, RequestTimes, open_worker_pool
from trioipc.memory._board import OPERATIONS, QUEUE, RUN, TIMES, WHOLE, count, histogram_base
from trioipc.pool._endpoint import Snapshot
from trioipc.pool._ladder import INTERRUPT_INTERVAL, KILL_INTERVAL, NEVER_LOOKED_SECONDS, Ladder
from trioipc.pool._ledger import Ledger, operation_name
from trioipc.pool._progress import Progress, progress_of
from trioipc.pool._statistics import TimeCounts, add_up, times_of
from trioipc.worker.registry import perform


def cells_of(times: dict[int, list[int]], operation: int = 0) -> memoryview:
    """Count nanoseconds as a worker does."""
    cells = memoryview(bytearray(TIMES * 8)).cast("Q")
    for which, values in times.items():
        for value in values:
            count(cells, histogram_base(0, operation, which), value)
    return cells


def all_times(counts: TimeCounts, *living: memoryview) -> RequestTimes:
    """Return those of all operations together."""
    return times_of(add_up(counts.by_operation(living, OPERATIONS)))


def test_no_times() -> None:
    """Are zeros."""
    assert all_times(TimeCounts()) == RequestTimes(*[Histogram(0, 0.0, 0.0, 0.0, 0.0)] * 3)


@pytest.mark.parametrize("scale", [3, 500, 40_000, 7_000_000, 2_000_000_000, 10**13])
def test_percentiles_are_exact_to_a_fifth(scale: int) -> None:
    """Compared with the sorted times, never below, and at most a fifth above."""
    dice = random.Random(scale)
    times = sorted(dice.randrange(scale) for _ in range(999))
    counts = TimeCounts()
    counts.add(cells_of({RUN: times[:500]}))
    run = all_times(counts, cells_of({RUN: times[500:]})).run_time
    assert run.count == 999
    assert run.max == times[-1] / 1e9
    for share, found in ((0.5, run.p50), (0.9, run.p90), (0.99, run.p99)):
        exact = times[math.ceil(share * 999) - 1] / 1e9
        assert exact <= found * 1.000001
        assert found <= exact * 1.2 + 2e-9


def test_each_clock_has_its_own() -> None:
    """Queue, run and total are not mixed up, over several workers."""
    counts = TimeCounts()
    counts.add(cells_of({RUN: [1000], QUEUE: [50, 60], WHOLE: [2000] * 3}))
    times = all_times(counts, cells_of({RUN: [4000]}), cells_of({QUEUE: [70]}))
    found = times.queue_time, times.run_time, times.total_time
    assert [histogram.count for histogram in found] == [3, 2, 3]
    assert [histogram.max for histogram in found] == [70e-9, 4000e-9, 2000e-9]


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 2), st.integers(0, 1 << 60)),
        max_size=50,
    )
)
def test_operations_are_kept_apart(
    requests: list[tuple[int, int, int, int]],
) -> None:
    """Over workers that live and that are gone, each has what was counted under it."""
    workers = [cells_of({}) for _ in range(3)]
    for worker, operation, which, time in requests:
        count(workers[worker], histogram_base(0, operation, which), time)
    counts = TimeCounts()
    counts.add(workers[0])
    found = [times_of(some) for some in counts.by_operation(workers[1:], 4)]
    for number, times in enumerate(found):
        for which, histogram in enumerate([times.run_time, times.queue_time, times.total_time]):
            ours = [t for _, o, w, t in requests if (o, w) == (number, which)]
            assert histogram.count == len(ours)
            assert histogram.max == max(ours, default=0) / 1e9


# ---- by operation and worker


def test_what_operations_are_called() -> None:
    """A registered one by its name, whichever way it is asked for; a function by its own."""
    assert operation_name(jobs.double) == "custom/double"
    assert operation_name(perform, ("custom", "double", 3)) == "custom/double"
    assert operation_name(functools.partial(jobs.add, 1)) == "jobs.add"
    assert operation_name(print) == "builtins.print"


def test_numbers_run_out() -> None:
    """What comes after that shares the first."""
    ledger = Ledger()
    numbers = [ledger.number(perform, ("custom", str(n))) for n in range(OPERATIONS + 5)]
    assert numbers == [*range(1, OPERATIONS), *[0] * 6]
    assert ledger.number(perform, ("custom", "7")) == 8
    assert len(ledger.names) == OPERATIONS


@pytest.mark.parametrize("kind", ["cpu", "thread"])
async def test_a_pool_counts_by_operation_and_worker(kind: Any) -> None:
    """With what failed and what was cancelled, also of workers that are gone."""
    async with open_worker_pool(2, kind=kind, modules=["jobs"]) as pool:
        await pool.warm()
        for number in range(3):
            await pool.run(jobs.double, number)
            await pool.execute({"type": "double", "payload": number})
        await pool.run(functools.partial(jobs.add, 1), 2)
        with pytest.raises(ValueError, match="no"):
            await pool.run(jobs.fail, ValueError("no"))
        with trio.move_on_after(0.1):
            await pool.run(jobs.cooperate)
        await pool.resize(1)
        statistics = pool.statistics()
    found = {
        name: (operation.times.run_time.count, operation.errors, operation.cancelled)
        for name, operation in statistics.operations.items()
    }
    assert found == {
        "custom/double": (6, 0, 0),
        "jobs.add": (1, 0, 0),
        "jobs.fail": (1, 1, 0),
        "jobs.cooperate": (1, 0, 1),
    }
    assert statistics.run_time.count == 9
    assert statistics.operations["jobs.cooperate"].times.run_time.max >= 0.05
    (worker,) = statistics.workers
    assert worker.times is not None
    assert 0 < worker.times.run_time.count == worker.requests < 9


# ---- progress


def test_progress_says_how_much_is_left() -> None:
    """Fraction, rate and time left follow from value, total and time."""
    progress = progress_of(Snapshot(True, 2.0, 30, 120, "reading", 5, True), 2)
    assert progress == Progress(30, 120, "reading", 2.0, 2)
    assert (progress.fraction, progress.percent) == (0.25, 25.0)
    assert (progress.rate, progress.eta) == (15.0, 6.0)


@pytest.mark.parametrize(
    ("value", "total", "elapsed", "fraction", "rate", "eta"),
    [
        (0, 0, 1.0, 1.0, 0.0, None),
        (0, 9, 1.0, 0.0, 0.0, None),
        (12, 9, 2.0, 1.0, 6.0, 0.0),
        (5, 9, 0.0, 5 / 9, 0.0, None),
    ],
)
def test_progress_at_its_edges(
    value: int, total: int, elapsed: float, fraction: float, rate: float, eta: float | None
) -> None:
    """No total, nothing done, beyond the total, no time yet."""
    progress = Progress(value, total, None, elapsed, 1)
    assert (progress.fraction, progress.rate, progress.eta) == (fraction, rate, eta)


# ---- the ladder


def test_asking_too_early_changes_nothing() -> None:
    """Until it is due, it waits."""
    ladder = Ladder.begin(1.0, 100.0)
    assert ladder.due == 100.0 + NEVER_LOOKED_SECONDS
    assert ladder.climb(100.01, looked=False) == "wait"
    assert ladder.rung == "checkpoint"


def test_the_stairs_of_one_that_never_looked() -> None:
    """Interrupted after 50 ms, again and again for a grace, then killed again and again."""
    ladder = Ladder.begin(0.05, 0.0)
    steps = []
    while len(steps) < 6:
        steps.append((round(ladder.due, 3), ladder.climb(ladder.due, looked=False), ladder.rung))
    assert steps == [
        (0.05, "interrupt", "interrupt"),
        (0.07, "interrupt", "interrupt"),
        (0.09, "interrupt", "interrupt"),
        (0.1, "kill", "kill"),
        (0.1 + KILL_INTERVAL, "kill", "kill"),
        (0.1 + 2 * KILL_INTERVAL, "kill", "kill"),
    ]
    assert INTERRUPT_INTERVAL == 0.02


def test_one_that_has_looked_keeps_its_grace() -> None:
    """All of it, before the interrupt."""
    ladder = Ladder.begin(3.0, 0.0)
    assert ladder.climb(ladder.due, looked=True) == "wait"
    assert ladder.due == 3.0
    assert ladder.climb(3.0, looked=True) == "interrupt"


def test_a_short_grace_is_not_lengthened() -> None:
    """The 50 ms are no more than the grace; no grace is no rung."""
    assert Ladder.begin(0.01, 0.0).due == 0.01
    ladder = Ladder.begin(0.0, 5.0)
    assert ladder.climb(5.0, looked=False) == "kill"


def test_a_ladder_can_end_early() -> None:
    """Where there are no more rungs it asks no more."""
    ladder = Ladder.begin(1.0, 0.0)
    ladder.stay()
    assert ladder.climb(1e9, looked=False) == "wait"
