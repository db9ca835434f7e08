"""How many workers to start."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Literal

__all__ = ["pool_size"]


def usable_cores() -> int:
    """Say how many cores this process may use: its affinity, capped by its cgroup's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _cgroup_quota())))


def _cgroup_quota(file: str = "/sys/fs/cgroup/cpu.max") -> float:
    """Read how many cores' worth of time the cgroup may use (cgroup v2); inf if not limited."""
    try:
        quota, period = Path(file).read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no cgroup v2, or "max"
        return math.inf


def pool_size(kind: Literal["cpu", "io", "mixed"] = "cpu") -> int:
    """Say how many workers suit a kind of work.

    Args:
      kind: ``"cpu"`` for one a core, ``"io"`` for two, ``"mixed"`` for one and a half.
    """
    factors = {"cpu": 1.0, "mixed": 1.5, "io": 2.0}
    if kind not in factors:
        raise ValueError(f"kind must be one of {', '.join(factors)}, not {kind!r}")
    return math.ceil(usable_cores() * factors[kind])
