"""The standard streams as files: what comes in is whole before work begins, and what goes out too.

Rules:

- The descriptors are read and written by themselves, in threads that may be left behind: a pipe
  that nobody reads or writes must not keep Ctrl-C from ending the program, and a buffer's lock that
  such a thread holds would.
- What is kept meanwhile is in a file that has no name, but for a result, which has one in a folder
  of its own until it is opened.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import sys
import tempfile
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import trio

from trioipc.cli._errors import OutputError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import BinaryIO, TextIO

_STEP = 1 << 20


def write_line(text: str) -> None:
    """Write a line to the standard output, with the bytes of file names as they are.

    Raises:
      OutputError: if there is none, or no room for it.
      BrokenPipeError: if nobody reads it.
    """
    with _output_errors():
        stream = _present(sys.stdout)
        stream.buffer.write(os.fsencode(text + "\n"))
        if stream.isatty():
            stream.flush()


def flush() -> None:
    """Write what waits.

    Raises:
      OutputError: as for `write_line`.
      BrokenPipeError: likewise.
    """
    with _output_errors():
        if sys.stdout is not None:
            sys.stdout.flush()


@contextmanager
def _output_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(error.strerror) from None


def is_terminal(stream: TextIO | None) -> bool:
    """Say whether somebody looks at it."""
    return stream is not None and stream.isatty()


async def read_all() -> memoryview:
    """Return the standard input up to its end, in memory that the system may put on disk."""
    descriptor = _present(sys.stdin).fileno()
    with tempfile.TemporaryFile() as file:
        await trio.to_thread.run_sync(_copy, descriptor, file, abandon_on_cancel=True)
        if not file.tell():
            return memoryview(b"")
        # Never closed, only dropped: whoever has a view of it keeps it.
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _copy(descriptor: int, file: BinaryIO) -> None:
    while data := os.read(descriptor, _STEP):
        file.write(data)
    file.flush()


@asynccontextmanager
async def written_out() -> AsyncIterator[str]:
    """Give the path of a file to write, and write it to the standard output after the block."""
    descriptor = _present(sys.stdout).fileno()
    folder = tempfile.mkdtemp(prefix="trioipc-")
    try:
        path = os.path.join(folder, "output")
        yield path
        file = await trio.to_thread.run_sync(open, path, "rb")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    with file:
        await trio.to_thread.run_sync(_write_out, file, descriptor, abandon_on_cancel=True)


def _write_out(file: BinaryIO, descriptor: int) -> None:
    while data := memoryview(file.read(_STEP)):
        while data:
            data = data[os.write(descriptor, data) :]


def _present(stream: TextIO | None) -> TextIO:
    if stream is None:  # it was closed before we began
        raise OSError(errno.EBADF, "it is closed")
    return stream
