"""Generators that the tests run in workers; each that ends in ``_async`` is for io workers."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import tblib.pickling_support
import trio

from trioipc import current_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from trioipc import SharedCounter, SharedFlag


def count_to(number: int) -> Iterator[int]:
    """Yield 0, 1 and so on; what is returned is nobody's business."""
    yield from range(number)
    return "dropped"


async def count_to_async(number: int) -> AsyncIterator[int]:
    """Yield 0, 1 and so on."""
    for item in range(number):
        yield item


def count_loudly(counter: SharedCounter, number: int) -> Iterator[int]:
    """Yield 0, 1 and so on, and count each time before that."""
    for item in range(number):
        counter.increment()
        yield item


async def count_loudly_async(counter: SharedCounter, number: int) -> AsyncIterator[int]:
    """Do the same."""
    for item in range(number):
        counter.increment()
        yield item


def count_slowly(number: int, seconds: float) -> Iterator[int]:
    """Take a while for each item."""
    for item in range(number):
        time.sleep(seconds)
        yield item


async def count_slowly_async(number: int, seconds: float) -> AsyncIterator[int]:
    """Take a while for each item."""
    for item in range(number):
        await trio.sleep(seconds)
        yield item


def nothing() -> Iterator[None]:
    """Yield nothing."""
    return
    yield


async def nothing_async() -> AsyncIterator[None]:
    """Yield nothing."""
    return
    yield


def fail_after(number: int, error: BaseException) -> Iterator[int]:
    """Yield some, then raise."""
    yield from range(number)
    raise error


async def fail_after_async(number: int, error: BaseException) -> AsyncIterator[int]:
    """Yield some, then raise."""
    for item in range(number):
        yield item
    raise error


def note_the_end(flag: SharedFlag) -> Iterator[int]:
    """Yield for ever; set a flag in the ``finally``."""
    try:
        item = 0
        while True:
            yield item
            item += 1
    finally:
        flag.set()


async def note_the_end_async(flag: SharedFlag) -> AsyncIterator[int]:
    """Do the same."""
    try:
        item = 0
        while True:
            yield item
            item += 1
    finally:
        flag.set()


def yield_exits(number: int) -> Iterator[SystemExit]:
    """Yield them where somebody has called tblib's ``install``, as importing Dask does."""
    tblib.pickling_support.install()
    yield from map(SystemExit, range(number))


def yield_all(*items: object) -> Iterator[object]:
    """Yield what one was given."""
    yield from items


async def yield_all_async(*items: object) -> AsyncIterator[object]:
    """Yield what one was given."""
    for item in items:
        yield item


def fail_to_clean_up() -> Iterator[int]:
    """Raise when it is closed."""
    try:
        yield 1
        yield 2
    finally:
        raise ValueError("no way to clean up")


def ignore_the_close() -> Iterator[int]:
    """Go on yielding when it is closed."""
    while True:
        try:
            yield 1
        except GeneratorExit:
            pass


def never_look(flag: SharedFlag) -> Iterator[int]:
    """Hang behind the first item, as C code does, having said so."""
    yield 1
    flag.set()
    time.sleep(60)


def hang_in_the_end(flag: SharedFlag) -> Iterator[int]:
    """Hang in the ``finally``, having said that it will."""
    try:
        yield 1
        flag.set()
        yield 2
    finally:
        time.sleep(60)


def mark(number: int) -> Iterator[bytes]:
    """Yield big memory that is filled anew for each item."""
    memory = current_request().allocate(200_000)
    for item in range(number):
        memory[:] = bytes([item]) * len(memory)
        yield memory  # type: ignore[misc]


def mixed(number: int) -> Iterator[object]:
    """Yield items of all sizes in turn."""
    for item in range(number):
        yield (item, bytes([item % 256]) * SIZES[item % len(SIZES)])


# Around what fits a slot, a slab, and what is copied at a time.
SIZES = (0, 1, 100, 2000, 8100, 8192, 8193, 60_000, 65_536, 300_000, 1_100_000)


def die_after(number: int, item: object = None) -> Iterator[object]:
    """Yield some, then let the worker die."""
    for index in range(number):
        yield index if item is None else item
    os._exit(3)


async def die_after_async(number: int) -> AsyncIterator[object]:
    """Yield some, then let the worker die."""
    for index in range(number):
        yield index
    os._exit(3)


def die_once(path: str, number: int) -> Iterator[object]:
    """Yield some and die; at the second try, yield others."""
    if os.path.exists(path):
        yield from "second"
        return
    open(path, "w").close()
    yield from range(number)
    os._exit(3)


def stop_iteration() -> Iterator[int]:
    """Raise what a generator must not."""
    yield 1
    raise StopIteration(2)


def no_pickle() -> Iterator[object]:
    """Yield what cannot be pickled."""
    yield 1
    yield threading.Lock()
    yield 2


class Unloadable:
    """Pickled, but cannot be unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return _refuse, ("not here",)


def _refuse(text: str) -> object:
    raise RuntimeError(text)


def unloadable() -> Iterator[object]:
    """Yield what cannot be unpickled."""
    yield 1
    yield Unloadable()
    yield 2


def progress(number: int) -> Iterator[int]:
    """Report progress with each item."""
    current = current_request()
    current.progress.set_total(number)
    for item in range(number):
        current.progress.increment()
        yield item


def fork() -> Iterator[int]:
    """Fork, and go on in both processes."""
    yield 1
    pid = os.fork()
    yield 2
    if pid:
        os.waitpid(pid, 0)
    yield 3


def two_many() -> Iterator[object]:
    """Yield more buffers than a record can name."""
    yield [bytes([index % 256]) * 8192 for index in range(700)]


def share(flag: SharedFlag) -> Iterator[object]:
    """Yield shared state."""
    yield flag
    yield [flag, bytes(100_000)]


def hoard(number: int, size: int) -> Iterator[int]:
    """Yield many that take a slab each, and at last how large the process has become."""
    for _ in range(number):
        yield bytes(size)  # type: ignore[misc]
    with open("/proc/self/statm") as file:
        yield int(file.read().split()[2]) << 12  # what is shared


# ---- a worker gone mad


def scribble(where: str, value: int) -> Iterator[object]:
    """Write into the cells of the belt what no maker of ours would write."""
    frame = sys._getframe()
    while "belt" not in frame.f_locals:
        frame = frame.f_back  # type: ignore[assignment]
    belt: Any = frame.f_locals["belt"]
    yield 1
    yield 2
    if where == "laid":
        while not belt._cells[8]:  # one was taken: else it could be true that there is none
            time.sleep(0.001)
        belt._cells[0] = value
    elif where == "word":  # of the third item
        belt._cells[belt._words[2]] = value
        belt._cells[0] = 3
    server = current_request()._server
    assert server is not None
    server.wake(current_request()._generation)
    time.sleep(60)
