"""What the tests of payloads run in workers."""

from __future__ import annotations

import os
import resource
from typing import Any

from trioipc import SharedCounter, current_request


def make(nbytes: int, fill: int = 1) -> memoryview:
    """Return allocated memory, all of it ``fill``."""
    view = current_request().allocate(nbytes)
    view[:] = bytes([fill]) * nbytes
    return view


def count(*arguments: object) -> int:
    """Return how many there are."""
    return len(arguments)


def sums(*views: memoryview) -> list[int]:
    """Return the sum of the first three bytes of each."""
    return [sum(view[:3]) for view in views]


def use_up_descriptors(spare: int) -> int:
    """Open so many files that only ``spare`` more can be opened; return how many there are."""
    highest = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, highest + 64), hard))
    while True:
        try:
            _kept.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            break
    for _ in range(spare):
        os.close(_kept.pop())
    return len(_kept)


def free_descriptors() -> None:
    """Close what `use_up_descriptors` has opened."""
    while _kept:
        os.close(_kept.pop())


# What stays after a request, in the worker.
_kept: list[Any] = []


def counter() -> SharedCounter:
    """Return shared state."""
    return SharedCounter(7)
