"""What other processes do with shared state. Light: it is loaded by every kind of worker."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any


def count_up(counter: Any, times: int) -> int:
    """Add one, many times."""
    for _ in range(times):
        counter.increment()
    return times


def toggle(flag: Any, times: int) -> None:
    """Turn a flag over, many times."""
    for _ in range(times):
        flag.toggle()


def set_flag(flag: Any) -> bool:
    """Set a flag, and say what it was."""
    was = flag.is_set()
    flag.set()
    return bool(was)


def cancel(flag: Any, reason: str) -> None:
    """Set a cancellation."""
    flag.cancel(reason)


def advance(progress: Any, delta: int) -> int:
    """Move a progress on."""
    return int(progress.increment(delta))


def read(state: Any) -> str:
    """Say what a state holds here."""
    return repr(state)


def both(first: Any, second: Any) -> bool:
    """Say whether two objects are one state."""
    first.set(41)
    return bool(second.get() == 41)


def make_counter(initial: int) -> Any:
    """Return a state made here."""
    from trioipc import SharedCounter

    return SharedCounter(initial)


def hold_lock(counter: Any, ready: Any, how: str) -> None:
    """Take a counter's lock, say so, and stop or die with it."""

    def decide(value: int) -> int:
        ready.set()
        if how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGKILL)
        return value

    counter._change(decide)


def write_and_die(counter: Any) -> None:
    """Write again and again what may be written, until killed."""
    while True:
        counter.set(0x1111111111111111)
        counter.set(0x2222222222222222)


def store_forever(counter: Any, ready: Any, stop: Any) -> None:
    """Store two values in turn, unlocked, until told to stop."""
    cells = counter._cells
    ready.set()
    while not stop.is_set():
        for _ in range(2000):
            cells[0] = 0x1111111111111111
            cells[0] = 0x2222222222222222


def wait_and_answer(flag: Any, answer: Any) -> None:
    """Wait for one flag, then set another."""
    flag.wait()
    answer.set()


if __name__ == "__main__":  # an unrelated process: it opens the file of a buffer by its path
    import mmap

    from trioipc import SharedCounter

    descriptor = os.open(sys.argv[1], os.O_RDWR)
    memory = mmap.mmap(descriptor, 4096)
    counter = SharedCounter.from_buffer(memoryview(memory))
    counter.set(counter.get() + 1)
    time.sleep(0)
