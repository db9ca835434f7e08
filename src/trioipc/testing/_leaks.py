"""What a piece of code may have left behind: processes, descriptors, threads, shared memory."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from trioipc.pool._options import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_POLL_SECONDS = 0.01


@contextmanager
def check_leaks(*, timeout: float = 10.0) -> Iterator[None]:
    """Fail if the block leaves a process, a descriptor, a thread or shared memory behind.

    Put it around `trio.run`, or around the body of a test. A busy machine takes its time to let go,
    so it looks again, blocking the thread, before it says so. Threads that Trio keeps for a while
    do not count. If the block raises, that comes out, and nothing is looked at.

    Of everything on Linux. Elsewhere of threads, of processes that ``multiprocessing`` has started,
    and of descriptors where the system lists them.

    Args:
      timeout: How many seconds it may take until all is gone.

    Raises:
      AssertionError: if something was not there before, and is not gone.
    """
    seconds("timeout", timeout)
    _start_tracker()
    before = holdings()
    yield
    deadline = time.monotonic() + timeout
    while (left := _left(before)) and time.monotonic() < deadline:
        gc.collect()  # what is left may hang on a traceback
        time.sleep(_POLL_SECONDS)
    if left:
        raise AssertionError("left behind: " + "; ".join(left))


def _start_tracker() -> None:
    """Have the helper of multiprocessing that comes with the first process, and stays."""
    if sys.platform != "win32":
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()


def _left(before: dict[str, set[Any]]) -> list[str]:
    """Say what there is now and was not before."""
    return [
        f"{kind} {one}"
        for kind, found in holdings().items()
        for one in sorted(found - before[kind])
    ]


def holdings() -> dict[str, set[Any]]:
    """Say what there is of what could be left behind."""
    return {
        "process": children(),
        "descriptor": open_descriptors(),
        "thread": threads(),
        "shared memory": segments(),
    }


def children() -> set[int]:
    """Say which processes are children of this one, zombies included."""
    if sys.platform != "linux":
        return {process.pid or 0 for process in multiprocessing.active_children()}
    found: set[int] = set()
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/children") as file:
                found.update(int(pid) for pid in file.read().split())
        except (FileNotFoundError, ProcessLookupError):  # it has ended, maybe since it was opened
            pass
    return found


def open_descriptors() -> set[str]:
    """Say what is open, by number and, where that is known, what it is."""
    if sys.platform != "linux":
        return set(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else set()
    found: set[str] = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name}: {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:  # the folder that was listed
            pass
    return found


def threads() -> set[str]:
    """Say which threads there are, but for those of Trio, which keeps them for ten seconds."""
    return {
        f"{thread.name} {thread.ident}"
        for thread in threading.enumerate()
        if not thread.name.startswith("Trio ")
    }


def segments() -> set[str]:
    """Say which pieces of shared memory of ours are mapped, and which have a name."""
    if sys.platform != "linux":
        return set()
    with open("/proc/self/maps") as file:
        maps = {line.partition(" ")[0] for line in file if "/memfd:trioipc" in line}
    return maps | {name for name in os.listdir("/dev/shm") if name.startswith("tipc")}
