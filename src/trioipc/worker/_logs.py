"""A worker's log records, sent to the parent's loggers.

Only loaded where the parent asks for it.

Guarantees:

- Logging never waits for the parent: where the pipe is full, a record is dropped and counted.
- An interrupt never raises between two lines of `Forwarder`, so no record is sent in part.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, final

from trioipc.protocol._records import encode_record
from trioipc.worker._execute import OURS
from trioipc.worker.request import current_request

if TYPE_CHECKING:
    from collections.abc import Mapping


@final
class Forwarder(logging.Handler):
    """Sends each record that it is given.

    Args:
      descriptor: Of a pipe that does not block.
      dropped: The cell in which is counted what could not be sent.
    """

    def __init__(self, descriptor: int, dropped: memoryview) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._dropped = dropped
        self._rest = b""  # of a record of which the pipe took a part

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record; called by logging, which holds our lock."""
        try:
            frame = encode_record(record, current_request().id)
        except Exception:
            self.handleError(record)
            return
        if self._rest:
            self._rest = self._rest[self._write(self._rest) :]
        written = 0 if self._rest else self._write(frame)
        if written:
            self._rest = frame[written:]
        else:
            self._dropped[0] += 1

    def _write(self, data: bytes) -> int:
        try:
            return os.write(self._descriptor, data)
        except OSError:  # it is full, or nobody reads any more
            return 0


OURS.update((Forwarder.emit.__code__, Forwarder._write.__code__))


def forward_logs(descriptor: int, levels: Mapping[str, int], dropped: memoryview) -> None:
    """Send what is logged from now on.

    Args:
      descriptor: See `Forwarder`.
      levels: Those of the parent's loggers, by name; of the root logger, under ``""``.
      dropped: See `Forwarder`.
    """
    root = logging.getLogger()
    # What the main module has set up when it was imported here writes what the parent will write.
    before, root.handlers = root.handlers, [Forwarder(descriptor, dropped)]
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)
    if hasattr(os, "register_at_fork"):  # whose descriptor of that number may soon be anything
        os.register_at_fork(after_in_child=lambda: setattr(root, "handlers", before))
