"""The parent's end of the pipe into which a worker writes its stacks.

The text is the interpreter's: names of files and functions, and numbers of lines. No values.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from trioipc.pool.team._worker import Worker

# How the last line of all reads: the main thread comes last, and this is where multiprocessing
# began it.
_LAST_LINE = b'File "<string>", line 1 in <module>\n'
# Where that is not seen, for a stack is cut at 100 frames: so long without more is the end.
_QUIET_SECONDS = 0.1
# A hundred threads with a hundred frames each, the most that is written, are less than this.
_TEXT_LIMIT = 4 << 20

# How long `stacks_of` waits for those that do not answer, all together; and for each at least.
_SECONDS = 1.0
_LEAST_SECONDS = 0.2

_READ_SIZE = 64 << 10
_FATAL = b"Fatal Python error"


@final
class StackReader:
    """Reads what a worker says of its stacks.

    Args:
      descriptor: The pipe's, which does not block; closed by `close`.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = trio.Lock()
        # What was read after `note`, by whomever.
        self._noted = b""

    async def ask(self, signal: Callable[[], bool], seconds: float) -> str | None:
        """Have the stacks written, by ``signal``, and return them; None if the worker is silent.

        Cancellation: a checkpoint; what is then written is lost.
        """
        text = b""
        with trio.move_on_after(seconds):
            async with self._lock:
                self._read()  # what came too late for whoever asked before
                if signal():
                    while (data := await self._receive(text)) and len(text) < _TEXT_LIMIT:
                        text += data
        return text.decode(errors="replace") or None

    async def _receive(self, so_far: bytes) -> bytes:
        """Wait for more; return nothing at the end."""
        if so_far.endswith(_LAST_LINE):
            return b""
        data = None
        with trio.move_on_after(_QUIET_SECONDS if so_far else math.inf):
            while data is None:
                try:
                    await trio.lowlevel.wait_readable(self._descriptor)
                except trio.ClosedResourceError:
                    return b""
                data = self._read()
        return data or b""

    def _read(self) -> bytes | None:
        """Return what there is: None if that is nothing yet, and nothing at the end."""
        if self._descriptor < 0:
            return b""
        try:
            return os.read(self._descriptor, _READ_SIZE)
        except BlockingIOError:
            return None

    def note(self, signal: Callable[[], bool]) -> Callable[[], str | None]:
        """Have the stacks written, by ``signal``, and wait for nothing.

        Returns:
          What returns them, also after the worker's end; None if there is nothing yet.
        """
        self._read_all()
        self._noted = b""
        signal()

        def noted() -> str | None:
            self._read_all()
            return self._noted.decode(errors="replace").rstrip() or None

        return noted

    def _read_all(self) -> bytes:
        text = b""
        while (data := self._read()) and len(text) < _TEXT_LIMIT:
            text += data
        self._noted += text
        return text

    def last_words(self) -> str | None:
        """Return what a dead worker has said of its crash, if it could."""
        text = self._read_all()
        start = text.rfind(_FATAL)
        return None if start < 0 else text[start:].decode(errors="replace").rstrip()

    def close(self) -> None:
        """Close the pipe; who waits for it gets nothing more."""
        self._read_all()
        if self._descriptor >= 0:
            trio.lowlevel.notify_closing(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


async def stacks_of(workers: Iterable[Worker[Any]]) -> dict[int, str]:
    """Return the stacks of each worker that is ready; see `WorkerPool.dump_stacks`."""
    found = {}
    deadline = trio.current_time() + _SECONDS
    for worker in [*workers]:
        pid = worker.endpoint.pid
        if pid is not None and worker.state != "starting":
            seconds = max(deadline - trio.current_time(), _LEAST_SECONDS)
            found[pid] = await worker.endpoint.stacks(seconds) or "(it does not say)"
    return found
