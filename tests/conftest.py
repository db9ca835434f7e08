"""What every test is held to: it leaves nothing behind, and says nothing that nobody expects."""

from __future__ import annotations

import gc
import os
import re
import signal
import threading
import time
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

import pytest

from watched import Direct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background: tests send it
    signal.signal(signal.SIGINT, signal.default_int_handler)

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


def threads() -> set[str]:
    """Say which threads there are, but for those of Trio, which keeps them for ten seconds."""
    return {
        f"{thread.name} {thread.ident}"
        for thread in threading.enumerate()
        if not thread.name.startswith("Trio ")
    }


def segments() -> set[str]:
    """Say which pieces of shared memory are mapped, and which of ours have a name."""
    with open("/proc/self/maps") as file:
        maps = {line.partition(" ")[0] for line in file if "/memfd:trioipc" in line}
    return maps | {name for name in os.listdir("/dev/shm") if name.startswith("tipc")}


def holdings() -> dict[str, set[Any]]:
    """Say what there is of what could be left behind."""
    return {
        "process": children(),
        "descriptor": open_descriptors(),
        "thread": threads(),
        "segment": segments(),
    }


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a process, a descriptor, a thread or shared memory."""
    before = holdings()
    yield
    # A cached thread of Trio's may still be letting go, and a busy machine takes its time.
    deadline = time.monotonic() + 10
    while True:
        left = {
            kind: found - before[kind] for kind, found in holdings().items() if found - before[kind]
        }
        if not left or time.monotonic() > deadline:
            break
        gc.collect()  # a test holds its exceptions, and they its frame
        time.sleep(0.01)
    assert left == {}


@pytest.fixture(autouse=True)
def nothing_else_on_stderr(
    request: pytest.FixtureRequest,
    nothing_left_behind: None,  # which must not see the files that capfd captures into
) -> Iterator[None]:
    """Fail a test marked ``stderr(pattern)`` if what it and its workers print is not as expected.

    The pattern is for all of it. A suite says ``pytestmark = pytest.mark.stderr("")``, that is
    nothing; a test that expects some says what.
    """
    mark = request.node.get_closest_marker("stderr")
    if mark is None:
        yield
        return
    (pattern,) = mark.args
    capfd = request.getfixturevalue("capfd")
    yield
    text = capfd.readouterr().err
    assert re.fullmatch(pattern, text, re.DOTALL), text


@pytest.fixture
def direct() -> Direct:
    """Give a way to run operations without a pool, that notes what was asked."""
    return Direct()
