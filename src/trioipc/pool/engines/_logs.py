"""Log records of workers, handed to the loggers of this process."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from typing import TYPE_CHECKING, final

import trio

from trioipc.protocol._records import decode_record, split_records

if TYPE_CHECKING:
    from collections.abc import Callable

# What is handled between two turns of the event loop: fifty records of the usual length.
_READ_SIZE = 16 << 10

_log = logging.getLogger("trioipc.worker")


def levels() -> dict[str, int]:
    """Return the level of each logger that has one; of the root logger, under ``""``."""
    root = logging.getLogger()
    found = {"": max(root.level, root.manager.disable + 1)}
    for name, logger in root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and logger.level:
            found[name] = max(logger.level, root.manager.disable + 1)
    return found


@final
class LogReader:
    """Reads what one worker logs.

    Args:
      descriptor: The pipe's, which does not block; closed by `close`.
      pid: The worker's.
      dropped: Says how many records the worker could not send so far.
    """

    def __init__(self, descriptor: int, pid: int, dropped: Callable[[], int]) -> None:
        self._descriptor = descriptor
        self._pid = pid
        self._dropped = dropped
        self._told = 0  # of those that were dropped
        self._rest = b""

    async def run(self) -> None:
        """Handle records until the worker is gone.

        Raises:
          RemoteProtocolError: if it sends something else.
        """
        while True:
            await trio.lowlevel.wait_readable(self._descriptor)
            if self._read() == b"":
                return

    def drain(self) -> None:
        """Handle what a worker that is gone has left."""
        while self._read():
            pass
        self._tell_dropped()

    def _read(self) -> bytes | None:
        """Handle what there is; return it, None if that is nothing yet."""
        try:
            data = os.read(self._descriptor, _READ_SIZE)
        except BlockingIOError:
            return None
        *bodies, self._rest = split_records(self._rest + data)
        for body in bodies:
            _handle(decode_record(body, self._pid))
        self._tell_dropped()
        return data

    def _tell_dropped(self) -> None:
        dropped = self._dropped()
        if dropped != self._told:
            number, self._told = dropped - self._told, dropped
            _log.warning("worker %d logged faster than it was read: %d lost", self._pid, number)

    def close(self) -> None:
        """Close the pipe."""
        if self._descriptor >= 0:
            trio.lowlevel.notify_closing(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


def warn_of_kill(pid: int | None, seconds: float) -> None:
    """Tell that a worker is killed in its lifespan, for what that leaves undone nobody else will.

    Args:
      pid: The worker's.
      seconds: How long it was given.
    """
    _log.warning("worker %s had not left its lifespan after %s s, and is killed", pid, seconds)


def _handle(record: logging.LogRecord) -> None:
    logger = logging.getLogger(record.name)
    try:
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    except Exception:  # of a filter, say: no reason for a pool to end. As logging itself does:
        if logging.raiseExceptions and sys.stderr is not None:
            traceback.print_exc()
