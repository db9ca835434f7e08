"""A short soak; for a long one: ``python -m benchmarks.soak``, or TRIOIPC_SOAK_SECONDS=120."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.soak.requests import BAD as BAD_KINDS
from benchmarks.soak.run import Turns

BAD = {kind.__name__ for kind in BAD_KINDS}
ROOT = Path(__file__).parent.parent
SECONDS = float(os.environ.get("TRIOIPC_SOAK_SECONDS", "8"))


def soak(path: Path, *arguments: str, change: str = "") -> tuple[int, dict[str, float], str]:
    """Run the command; return its exit code, the figures, and all that it printed."""
    command = f"""
if __name__ == "__main__":
    import sys
    from benchmarks.soak import report, requests, run
    {change}
    sys.argv[1:] = {[*arguments, "--json", str(path)]!r}
    report.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS + 90,
    )
    report = json.loads(path.read_text())
    return done.returncode, {f["what"]: f["got"] for f in report["figures"]}, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
def test_nothing_is_wrong_lost_or_left(tmp_path: Path) -> None:
    """While workers are killed, stopped and fed what breaks them; the seed is in the output."""
    path = tmp_path / "report.json"
    code, figures, text = soak(path, "--seconds", str(SECONDS))
    assert code == 0, text
    # Growth has its limit, and the code says whether that holds.
    assert {got for what, got in figures.items() if not what.startswith("growth")} == {0}, text
    report = json.loads(path.read_text())
    assert report["requests"] > 5 * SECONDS  # on a machine with much else to do
    assert sum(report["faults"].values()) > SECONDS
    # Not too many: two pools of two workers, one of one, one more being replaced in each, and the
    # resource tracker.
    assert report["most_children"] <= 2 + 2 + 1 + 3 + 1


@pytest.mark.slow
def test_a_number_of_requests_is_made_evenly(tmp_path: Path) -> None:
    """No more than one caller's worth before its time, all in the end, and bad ones besides."""
    path = tmp_path / "report.json"
    code, _, text = soak(path, "--seconds", "3", "--requests", "150", "--faults", "3")
    assert code == 0, text
    report = json.loads(path.read_text())
    bad = sum(n for what, n in report["faults"].items() if what in BAD)
    assert report["requests"] == 150 + bad
    assert report["seconds"] >= 3 * 149 / 150
    for sample in report["samples"]:
        assert sample["requests"] <= 50 * sample["seconds"] + 1 + bad


@pytest.mark.parametrize(
    ("requests", "now", "turns"),
    [
        (4, 10.0, [10.0, 11.0, 12.0, 13.0, None]),
        (4, 99.0, [10.0, 11.0, 12.0, 13.0, None]),  # too late, but all of them
        (math.inf, 13.9, [10.0, 10.0, 10.0, 10.0, 10.0]),
        (math.inf, 14.0, [None]),
    ],
)
def test_turns(requests: float, now: float, turns: list[float | None]) -> None:
    """Four seconds that begin at ten."""
    plan = Turns(10.0, 4.0, requests)
    assert [plan.take(now) for _ in turns] == turns


# What breaks the soak, as it would be broken by what it soaks.
ANOTHER_ANSWER = "requests.jobs.echo = requests.jobs.count_to"
NOT_COUNTED = (
    "requests.Requests.ask = lambda self, operation, *arguments, **options: "
    "operation(*arguments, **options)"
)
LEFT_OPEN = (
    "import os; settle = run.left.settle; "
    "run.left.settle = lambda before, seconds: (os.pipe(), settle(before, 0))[1]"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("wrong answers", ANOTHER_ANSWER),
        ("requests ended twice", NOT_COUNTED),
        ("things left behind", LEFT_OPEN),
    ],
)
def test_it_would_be_found(what: str, change: str, tmp_path: Path) -> None:
    """A soak of something that is broken says so."""
    arguments = ("--seconds", "1", "--faults", "0")
    code, figures, text = soak(tmp_path / "report.json", *arguments, change=change)
    assert code == 1, text
    assert figures[what] > 0, text
