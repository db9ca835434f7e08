"""Time counts as percentiles, and the rungs of the ladder."""

from __future__ import annotations

import math
import random

import pytest

from trioipc.memory._board import HISTOGRAM, HISTOGRAMS, QUEUE, RUN, WHOLE, count
from trioipc.pool._endpoint import Snapshot
from trioipc.pool._ladder import INTERRUPT_INTERVAL, KILL_INTERVAL, NEVER_LOOKED_SECONDS, Ladder
from trioipc.pool._progress import Progress, progress_of
from trioipc.pool._statistics import TimeCounts


def cells_of(times: dict[int, list[int]]) -> memoryview:
    """Count nanoseconds as a worker does."""
    cells = memoryview(bytearray(HISTOGRAM * HISTOGRAMS * 8)).cast("Q")
    for which, values in times.items():
        for value in values:
            count(cells, which * HISTOGRAM, value)
    return cells


def test_no_times() -> None:
    """Are zeros."""
    for histogram in TimeCounts().histograms([]):
        assert (histogram.count, histogram.p50, histogram.p99, histogram.max) == (0, 0, 0, 0)


@pytest.mark.parametrize("scale", [3, 500, 40_000, 7_000_000, 2_000_000_000, 10**13])
def test_percentiles_are_exact_to_a_fifth(scale: int) -> None:
    """Compared with the sorted times, never below, and at most a fifth above."""
    dice = random.Random(scale)
    times = sorted(dice.randrange(scale) for _ in range(999))
    counts = TimeCounts()
    counts.add(cells_of({RUN: times[:500]}))
    _, run, _ = counts.histograms([cells_of({RUN: times[500:]})])
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
    queue, run, total = counts.histograms([cells_of({RUN: [4000]}), cells_of({QUEUE: [70]})])
    assert (queue.count, run.count, total.count) == (3, 2, 3)
    assert (queue.max, run.max, total.max) == (70e-9, 4000e-9, 2000e-9)


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
