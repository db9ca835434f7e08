"""What came of a soak, for people and for programs."""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from pathlib import Path

import attrs

from benchmarks.measure import Figure, machine
from benchmarks.soak.run import Result, soak

# Memory is looked at from here on, in parts of the whole: before, it is still being warmed.
_WARM = 0.3
# {what is looked at: under which name it is in the samples}
_MEMORY = {
    "this process's own memory": "own",
    "its shared memory": "shared",
    "all workers' memory": "workers",
}
# A run that is shorter, in seconds, says nothing about it.
_SHORTEST = 60.0
# It has grown if it did by more than this part, and by more than the spread of the samples.
_GROWTH = 0.05


def main() -> None:
    """Soak, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--seconds", type=float, default=120, help="how long (120)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of all chance")
    parser.add_argument(
        "--requests",
        type=int,
        default=math.inf,
        help="how many, evenly over that time (as many as can be)",
    )
    parser.add_argument("--faults", type=float, default=5, help="in a second, in the mean (5)")
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--table", type=Path, help="write a page of the docs there")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    result = soak(options.seconds, options.seed, options.faults, options.requests)
    figures = judge(result)
    page = _page(result, figures, _command(options))
    print(page)
    for text in [*result.wrong, *(f"left: {what}" for what in result.left.items())]:
        print(text, file=sys.stderr)
    if options.table:
        options.table.write_text(page)
    if options.json:
        options.json.write_text(json.dumps(_everything(result, figures), indent=2) + "\n")
    sys.exit(not all(figure.reached for figure in figures))


def judge(result: Result) -> list[Figure]:
    """Say what must be zero, and what it was."""
    warm = [sample for sample in result.samples if sample.seconds >= _WARM * result.seconds]
    trends = {
        what: trend([(sample.seconds, getattr(sample, name)) for sample in warm])
        for what, name in _MEMORY.items()
    }
    return [
        Figure("wrong answers", sum(n for (_, how), n in result.ends.items() if how == "wrong"), 0),
        Figure("wrong counts and other findings", len(result.wrong), 0),
        Figure(
            "requests lost", len(result.lost) - sum(min(n, 0) for n in result.surplus.values()), 0
        ),
        Figure("requests ended twice", sum(max(n, 0) for n in result.surplus.values()), 0),
        Figure("things left behind", sum(map(len, result.left.values())), 0),
        *(
            Figure(
                f"growth of {what}, MiB",
                growth / (1 << 20),
                math.inf if result.seconds < _SHORTEST else noise / (1 << 20),
            )
            for what, (growth, noise) in trends.items()
        ),
    ]


def trend(samples: list[tuple[float, int]]) -> tuple[float, float]:
    """Fit a line by least squares; return what it grows by, and what is no growth, in bytes.

    Args:
      samples: Seconds and bytes.
    """
    times, sizes = [seconds for seconds, _ in samples], [size for _, size in samples]
    middle, mean = sum(times) / len(times), sum(sizes) / len(sizes)
    spread = sum((time - middle) ** 2 for time in times)
    if not spread:
        return 0.0, math.inf
    slope = sum((t - middle) * (s - mean) for t, s in zip(times, sizes, strict=True)) / spread
    rest = [s - mean - slope * (t - middle) for t, s in zip(times, sizes, strict=True)]
    deviation = math.sqrt(sum(value * value for value in rest) / len(rest))
    return slope * (times[-1] - times[0]), max(2 * deviation, _GROWTH * mean)


def _command(options: argparse.Namespace) -> str:
    """Say how it was asked for, without where the report was to go."""
    command = f"python -m benchmarks.soak --seconds {options.seconds:.0f}"
    if options.requests != math.inf:
        command += f" --requests {options.requests}"
    return f"{command} --faults {options.faults:g} --seed {options.seed}"


def _page(result: Result, figures: list[Figure], command: str) -> str:
    """Write it as Markdown."""
    faults = sum(result.faults.values())
    lines = [
        "# Soaked",
        "",
        f"Made by `{command}`:",
        f"{result.requests:,} requests of all kinds in {result.seconds:,.0f} s "
        f"({result.requests / result.seconds:,.0f} in a second), while {faults:,} times",
        "a worker was killed or stopped, or was given what breaks it. All processes together used "
        f"{result.cpu_seconds / result.seconds:.2f} cores.",
        "",
        ", ".join(f"{name} {value}" for name, value in machine().items()) + ".",
        "",
        "| | measured | limit | |",
        "| --- | ---: | ---: | --- |",
    ]
    lines += [
        f"| {f.what} | {f.got:.3g} | <= {f.limit:.3g} "
        f"| {'reached' if f.reached else '**missed**'} |"
        for f in figures
    ]
    lines += ["", "| done to workers | times |", "| --- | ---: |"]
    lines += [f"| {what} | {n:,} |" for what, n in sorted(result.faults.items())]
    ends = sorted({how for _, how in result.ends})
    lines += ["", f"| requests | {' | '.join(ends)} |", f"| --- {'| ---: ' * len(ends)}|"]
    for kind in sorted({kind for kind, _ in result.ends}):
        lines.append(f"| {kind} | " + " | ".join(f"{result.ends[kind, h]:,}" for h in ends) + " |")
    return "\n".join(lines) + "\n"


def _everything(result: Result, figures: list[Figure]) -> dict[str, object]:
    everything = attrs.asdict(result)
    everything["ends"] = [[*key, number] for key, number in sorted(result.ends.items())]
    return {"machine": machine(), "figures": [attrs.asdict(f) for f in figures], **everything}
