"""What the tests of lifespans run in workers, and the lifespans."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import trio

from trioipc import current_request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path
    from typing import Self


class Diary:
    """A lifespan that writes down, in a file of this worker's, when it is entered and left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Self:
        self.path = self.folder / f"{os.getpid()}-{threading.get_ident()}"
        self.write("entered")
        return self

    def __exit__(self, *raised: object) -> None:
        self.write("left" if raised == (None, None, None) else f"left with {raised}")

    def write(self, line: str) -> None:
        """Add a line."""
        with self.path.open("a") as file:
            file.write(line + "\n")


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """Give a connection, which only the thread may use that has made it."""
    connection = sqlite3.connect(":memory:")
    connection.execute("create table numbers (number int)")
    try:
        yield connection
    finally:
        connection.close()


@asynccontextmanager
async def background(folder: Path) -> AsyncIterator[list[int]]:
    """Count in a task of the worker's own."""
    counted: list[int] = []

    async def count() -> None:
        while True:
            counted.append(len(counted))
            await trio.sleep(0.001)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        yield counted
        nursery.cancel_scope.cancel()
    (folder / "left").touch()


@asynccontextmanager
async def short_lived() -> AsyncIterator[trio.Event]:
    """Fail in a task of the worker's own, when that is asked for."""

    async def fail(when: trio.Event) -> None:
        await when.wait()
        raise ArithmeticError("in the background")

    async with trio.open_nursery() as nursery:
        event = trio.Event()
        nursery.start_soon(fail, event)
        yield event
        nursery.cancel_scope.cancel()


class Unpicklable(Exception):
    """Holds what stays where it is."""

    def __init__(self, text: str) -> None:
        super().__init__(text, threading.Lock())


def fails_to_be_made() -> Any:
    """Fail before there is a context manager."""
    raise LookupError("no such thing")


@contextmanager
def fails_on_entering(error: BaseException) -> Iterator[None]:
    """Fail when it is entered."""
    raise error
    yield


@contextmanager
def cannot_be_told(text: str) -> Iterator[None]:
    """Fail with what does not travel."""
    raise Unpicklable(text)
    yield


@contextmanager
def dies_on_entering() -> Iterator[None]:
    """End the process."""
    os._exit(7)
    yield


@contextmanager
def hangs_on_entering() -> Iterator[None]:
    """Never be ready."""
    time.sleep(1000)
    yield


@contextmanager
def fails_later(flag: Path) -> Iterator[None]:
    """Fail from the second worker on."""
    if flag.exists():
        raise LookupError("not twice")
    flag.touch()
    yield


@contextmanager
def fails_on_leaving() -> Iterator[None]:
    """Fail when it is left."""
    yield
    raise LookupError("something was not flushed")


@asynccontextmanager
async def fails_on_leaving_async() -> AsyncIterator[None]:
    """Fail when it is left."""
    yield
    await trio.lowlevel.checkpoint()
    raise LookupError("something was not flushed")


@contextmanager
def hangs_on_leaving() -> Iterator[None]:
    """Never be done."""
    yield
    time.sleep(1000)


@contextmanager
def logs() -> Iterator[None]:
    """Say when it is entered and left."""
    logging.getLogger("shop").warning("entered")
    yield
    logging.getLogger("shop").warning("left")


def state() -> Any:
    """Return what the lifespan has given."""
    return current_request().state


async def state_async() -> Any:
    """Return the same in an io worker."""
    return current_request().state


async def type_of_state() -> str:
    """Return what it is, for what cannot travel."""
    return type(current_request().state).__name__


def write(line: str) -> str:
    """Write into the diary; return where that is."""
    current_request().state.write(line)
    return str(current_request().state.path)


def write_from_a_thread(line: str) -> None:
    """Write into the diary from a thread of the function's own."""
    thread = threading.Thread(target=write, args=(line,))
    thread.start()
    thread.join()


def insert(number: int) -> int:
    """Add a number to the database of this worker; return the sum of all."""
    connection: sqlite3.Connection = current_request().state
    connection.execute("insert into numbers values (?)", (number,))
    (total,) = connection.execute("select sum(number) from numbers").fetchone()
    return int(total)


async def wait_for_count(number: int) -> bool:
    """Wait until the task of the lifespan has counted so far."""
    while len(current_request().state) < number:
        await trio.sleep(0.001)
    return True


async def set_event() -> None:
    """Set the event that the lifespan has given, and wait."""
    current_request().state.set()
    await trio.sleep_forever()


def die() -> None:
    """End the process."""
    os.kill(os.getpid(), signal.SIGKILL)


def fork_and_return() -> int:
    """Come back twice."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    return pid
