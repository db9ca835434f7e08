"""What `test_map` runs in workers."""

from __future__ import annotations

import os
import time
from typing import Any

import trio

from trioipc import SharedCounter, current_request, operation


def square(number: int) -> int:
    """Return a small result."""
    return number * number


def as_it_is(item: object) -> object:
    """Return the item."""
    return item


def leave_trace(path: str, number: int) -> None:
    """Write a line into a file that many write to."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{number}\n".encode())
    os.close(descriptor)


def die_at(task: tuple[str, int, int]) -> int:
    """Leave a trace, then die if the number is the one to die at."""
    path, deadly, number = task
    leave_trace(path, number)
    if number == deadly:
        os._exit(3)
    return number


def die_once_at(task: tuple[str, int, int]) -> int:
    """Likewise, but only if it has not happened before."""
    path, deadly, number = task
    leave_trace(path, number)
    if number == deadly and not os.path.exists(path + ".died"):
        leave_trace(path + ".died", number)
        os._exit(3)
    return number


@operation("map: die once", idempotent=True)
def die_once_idempotently(task: tuple[str, int, int]) -> int:
    """Likewise, and say that it may run twice."""
    return die_once_at(task)


def fail_at_sevens(number: int) -> int:
    """Raise for each seventh."""
    if number % 7 == 6:
        raise LookupError(number)
    return number


def stop_iteration(number: int) -> int:
    """Raise what would end an iteration."""
    raise (StopIteration, StopAsyncIteration)[number % 2]


def sleep_for(seconds: float) -> float:
    """Sleep, never looking."""
    time.sleep(seconds)
    return seconds


def cooperate_if_negative(number: int) -> int:
    """Look for ever whether it is cancelled, for numbers below zero."""
    request = current_request()
    while number < 0:
        request.checkpoint()
        time.sleep(0.002)
    return number


def wait_for_path(path: str) -> str:
    """Wait until a file is there; nothing to wait for if it has no name."""
    request = current_request()
    while path and not os.path.exists(path):
        request.checkpoint()
        time.sleep(0.001)
    return path


def fail_when_cancelled(path: str) -> None:
    """Raise something else when it is cancelled."""
    leave_trace(path, 0)
    request = current_request()
    try:
        while True:
            request.checkpoint()
            time.sleep(0.001)
    finally:
        raise LookupError("clean-up failed")


def progress_before(number: int) -> tuple[int, int]:
    """Return what the progress was before, and write some."""
    progress = current_request().progress
    before = progress.get(), progress.get_total()
    progress.set_total(10)
    progress.increment(number % 3 + 1)
    return before


def time_left(number: int) -> float:
    """Sleep a little, and return what is left of the run clock."""
    time.sleep(0.005)
    return current_request().time_left()


_kept: list[int] = []


def keep(number: int) -> list[int]:
    """Return the same list each time, with one more in it."""
    _kept[:] = [*_kept[-2:], number]
    return _kept


class HalfPickled:
    """Can be pickled, and not unpickled where it must not be."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.home = os.getpid()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HalfPickled) and other.number == self.number

    __hash__ = None  # type: ignore[assignment]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        if self.number % 5 == 4 and os.getpid() != self.home:
            raise ValueError("not here")


def half_pickled(number: int) -> HalfPickled:
    """Return what may not come home."""
    return HalfPickled(number)


class Unpicklable:
    """Cannot be pickled."""

    def __reduce__(self) -> str:
        raise ValueError("not me")


def unpicklable_thirds(number: int) -> object:
    """Return for each third what cannot be pickled."""
    return Unpicklable() if number % 3 == 2 else number


class Subclass(int):
    """An int that is more than one."""


def subclass(number: int) -> Subclass:
    """Return an int of one's own kind."""
    return Subclass(number)


def counter(number: int) -> SharedCounter:
    """Return shared state."""
    return SharedCounter(number)


def with_pid(number: int) -> tuple[int, int]:
    """Return the item, and where it was."""
    return number, os.getpid()


def expand(number: int) -> bytes:
    """Return much more than was given."""
    return bytes([number % 256]) * (50_000 if number % 2 else 10)


async def later(number: int) -> int:
    """Return the item, after a while; the first ones take longest."""
    await trio.sleep(0.05 / (number + 1))
    return number
