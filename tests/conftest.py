"""What every test is held to: it leaves nothing behind."""

from __future__ import annotations

import gc
import os
import time
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


# It comes with the first process that multiprocessing spawns, and stays as long as we do.
resource_tracker.ensure_running()


def open_descriptors() -> set[str]:
    """Say what is open, by number and what it is."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name}: {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:  # the folder that was listed
            pass
    return found


def children() -> set[int]:
    """Say which processes are children of this one, zombies included."""
    found = set()
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/children") as file:
                found.update(int(pid) for pid in file.read().split())
        except FileNotFoundError:  # it has ended
            pass
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a process or a descriptor."""
    before_children, before = children(), open_descriptors()
    yield
    deadline = time.monotonic() + 2  # a cached thread of Trio's may still be letting go
    while time.monotonic() < deadline and (
        children() - before_children or open_descriptors() - before
    ):
        gc.collect()  # a test holds its exceptions, and they its frame
        time.sleep(0.01)
    assert children() - before_children == set(), "a process is left"
    assert open_descriptors() - before == set(), "a descriptor is left"
