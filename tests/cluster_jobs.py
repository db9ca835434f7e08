"""What the tests run on a cluster."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from trioipc import SharedCounter, current_request, operation


@operation("double there", idempotent=True)
def double(payload: int) -> int:
    """Return twice as much."""
    return 2 * payload


def append(path: str, seconds: float = 0.0) -> None:
    """Say in a file that it was called, and take some time."""
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(seconds)


def append_and_die(path: str) -> None:
    """Say in a file that it was called, and take the process along."""
    append(path)
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(number: int, path: str) -> int:
    """Append to a file, and die at 50, once or always, as the file's neighbour says."""
    append(path)
    if number == 50 and not (os.path.exists(path + ".dead") and os.path.exists(path + ".once")):
        Path(path + ".dead").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def ten_milliseconds(number: int) -> int:
    """Take that long."""
    time.sleep(0.01)
    return number


def make_counter() -> SharedCounter:
    """Return what cannot travel."""
    return SharedCounter()


def wait_for(path: str) -> int:
    """Wait until a file is there; return the process."""
    while not os.path.exists(path):
        current_request().checkpoint()
        time.sleep(0.002)
    return os.getpid()


def slow_steps(path: str) -> None:
    """Write progress and a phase, then go on when a file is there."""
    request = current_request()
    request.progress.set_total(3)
    request.progress.set(1)
    request.set_phase("first")
    wait_for(path)
    request.progress.set(3)


def thread_name() -> str:
    """Return the name of this thread."""
    return threading.current_thread().name


def reciprocal(number: int) -> float:
    """Return one by it."""
    return 1 / number
