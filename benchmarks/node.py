"""Piscina, the pool that Node's programs take: threads of V8, where Node and it are installed.

npm install --prefix benchmarks/piscina
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from statistics import median

import attrs

HERE = Path(__file__).parent / "piscina"


@attrs.frozen
class Piscina:
    """What was measured of it, as `benchmarks.dispatch.Row` and `benchmarks.sweeps.callers`."""

    back_to_back: float
    with_gap: float
    rates: dict[int, float]


def is_installed() -> bool:
    """Say whether it can be measured."""
    return shutil.which("node") is not None and (HERE / "node_modules" / "piscina").is_dir()


def measure(rounds: int) -> Piscina:
    """Measure it in a program of its own, which nothing of ours runs beside."""
    found = []
    for _ in range(rounds):
        done = subprocess.run(
            ["node", "measure.mjs"], cwd=HERE, check=True, capture_output=True, text=True
        )
        found.append(json.loads(done.stdout))
    return Piscina(
        median(one["back_to_back"] for one in found),
        median(one["with_gap"] for one in found),
        {
            int(callers): median(one["rates"][callers] for one in found)
            for callers in found[0]["rates"]
        },
    )
