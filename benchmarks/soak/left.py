"""What a process has open, and how much memory it takes: to compare before and after."""

from __future__ import annotations

import gc
import os
import resource
import threading
import time
from pathlib import Path
from typing import Literal

import attrs

from trioipc.testing._leaks import children, open_descriptors


@attrs.frozen
class Holdings:
    """What could be left behind, each as texts that say what it is."""

    descriptors: frozenset[str]
    children: frozenset[str]
    threads: frozenset[str]
    segments: frozenset[str]
    maps: tuple[str, ...]

    def beyond(self, before: Holdings) -> dict[str, list[str]]:
        """Say what there is that there was not; of maps and threads, how many more."""
        found = {
            "descriptors": sorted(self.descriptors - before.descriptors),
            "children": sorted(self.children - before.children),
            "threads": sorted(self.threads - before.threads),
            "names in /dev/shm": sorted(self.segments - before.segments),
            "maps of shared memory": list(self.maps[len(before.maps) :]),
        }
        return {what: names for what, names in found.items() if names}


def holdings() -> Holdings:
    """Look."""
    return Holdings(
        frozenset(open_descriptors()),
        frozenset(map(str, children())),
        frozenset(f"{t.name} {t.ident}" for t in threading.enumerate()),
        # Semaphores are made by other programs only: trioipc has none.
        frozenset(name for name in os.listdir("/dev/shm") if not name.startswith("sem.")),
        tuple(_maps()),
    )


def settle(before: Holdings, seconds: float) -> dict[str, list[str]]:
    """Wait until there is no more than there was; return what there still is after ``seconds``."""
    deadline = time.monotonic() + seconds
    while (left := holdings().beyond(before)) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.02)
    return left


def resident(pid: int | Literal["self"] = "self") -> tuple[int, int]:
    """Return how many bytes of a process are in memory: its own, and shared ones.

    A process that has ended has none.
    """
    sizes = {"RssAnon:": 0, "RssShmem:": 0}
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("Rss"):
            name, size, _ = line.split()
            sizes[name] = int(size) * 1024
    return sizes["RssAnon:"], sizes["RssShmem:"]


def cpu_seconds() -> float:
    """Return what this process and all of its children that have ended have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _maps() -> list[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if "/memfd:" in line or "/dev/shm/" in line]
