"""Measuring: interleaved rounds, medians, and what it was measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Call = Callable[..., Awaitable[object]]

PACKAGES = ("trioipc", "trio", "trio-parallel", "anyio", "loky", "joblib")


@attrs.frozen
class Figure:
    """A figure that must be reached, and what it was."""

    what: str
    got: float
    limit: float
    at_most: bool = True

    @property
    def reached(self) -> bool:
        """Whether it was."""
        return self.got <= self.limit if self.at_most else self.got >= self.limit

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        verdict = "reached" if self.reached else "MISSED"
        return f"{self.what}: {self.got:.3g} (must be {sign} {self.limit:g}) {verdict}"


async def timed(call: Callable[[], Awaitable[object]], number: int, gap: float = 0.0) -> float:
    """Return the median time of a call, in seconds.

    Args:
      call: What is timed.
      number: How often.
      gap: Seconds of rest before each, in which other processes fall asleep.
    """
    times = []
    for _ in range(number):
        if gap:
            await trio.sleep(gap)
        start = time.perf_counter()
        await call()
        times.append(time.perf_counter() - start)
    return median(times)


async def interleaved(
    measures: dict[str, Callable[[], Awaitable[float]]], rounds: int
) -> dict[str, float]:
    """Take each measure in turn, round after round; return the median of each."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(await measure())
    return {name: median(values) for name, values in found.items()}


async def requests_per_second(call: Call, callers: int, seconds: float) -> float:
    """Return how many calls a number of callers get done, each waiting for its own."""
    done = 0
    start = time.perf_counter()
    end = start + seconds

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await call()
            done += 1

    async with trio.open_nursery() as nursery:
        for _ in range(callers):
            nursery.start_soon(caller)
    return done / (time.perf_counter() - start)


def machine() -> dict[str, str]:
    """Describe what this runs on."""
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else "?",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "Python": platform.python_version(),
    }
    for name in PACKAGES:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = "not installed"
    return facts


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
