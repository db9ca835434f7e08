"""Changing a cell that others change too: under a lock that dies with its holder.

A cell is 64 bits, aligned. To load or to store one is a single move, and needs no lock. To change
one by what it holds does: ``+=`` from two processes loses half of the additions.

Guarantees:

- The lock is the kernel's, on a byte of the segment's own file. When its holder dies it is free at
  once, and the cell holds a value that somebody has stored: to store is the last thing done.
- It belongs to an open file description, so each process must have opened the file itself, also
  after a fork. Where that is not possible (no /proc, no descriptor left) it belongs to the process.
- Such a lock is released when *any* descriptor of its file is closed, fcntl(2). So those of states
  are then closed only while nobody here holds it. What is left: a view of `get_buffer` that is the
  last to go, before Python 3.13, and a state that is sent on while another thread counts with it.
- Threads of a process would share either, so there is a `threading.Lock` for each file as well.
- Nobody waits for ever: a holder that was stopped is a `SharedStateError` after a second.

Never ``multiprocessing.Lock``: it cannot be handed to a process that runs, and a killed holder
leaves it locked for ever.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, final

from trioipc._errors import SharedStateError
from trioipc.memory._file import file_of, forget_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioipc.memory._segment import Segment

# Somebody who holds the lock is about to let go, for a load and a store take a microsecond. So
# first the processor is yielded, then it is slept.
_YIELDS = 64
_FIRST_NAP = 20e-6
_LONGEST_NAP = 1e-3
_PATIENCE_SECONDS = 1.0


_living: weakref.WeakSet[CellLock] = weakref.WeakSet()


@final
class CellLock:
    """The lock of the cells of one segment, or of any memory that one object uses.

    Args:
      segment: None for memory that has no file.
      is_own: Whether its open file description is this process's own already; if not, it is
        opened anew where that is possible.
    """

    __slots__ = ("__weakref__", "_drop", "_segment", "_take", "_thread_lock")

    def __init__(self, segment: Segment | None = None, *, is_own: bool = True) -> None:
        self._segment = segment
        self._take: Callable[[], object] | None = None
        self._drop: Callable[[], object] | None = None
        self._thread_lock = threading.Lock()
        if segment is not None and segment.descriptor is not None:
            self._use(segment, segment.descriptor, is_own=is_own)
            _living.add(self)

    def _use(self, segment: Segment, descriptor: int, *, is_own: bool) -> None:
        segment.file = file = file_of(descriptor)
        self._thread_lock = file.lock
        with file.lock:
            file.settle()
            is_own = is_own or segment.reopen()
            if not is_own:
                file.may_close = False
        assert segment.descriptor is not None
        self._take, self._drop = _file_lock(segment.descriptor, is_own=is_own)

    def change(
        self, cells: memoryview, index: int, decide: Callable[[int], int | None]
    ) -> int | None:
        """Store in a cell what ``decide`` makes of its value, and return that.

        If ``decide`` raises or returns None, nothing is stored.

        Raises:
          SharedStateError: if somebody who was stopped holds the lock.
        """
        with self._thread_lock:
            take, drop = self._take, self._drop
            if drop is None or take is None:
                new = decide(cells[index])
                if new is not None:
                    cells[index] = new
                return new
            # Taken within the try, so that no signal can come between that and the release, which
            # does no harm to a lock that was not taken.
            try:
                try:
                    take()
                except (BlockingIOError, PermissionError):  # POSIX allows either
                    _wait(take)
                new = decide(cells[index])
                if new is not None:
                    cells[index] = new
                return new
            finally:
                drop()

    def close(self) -> None:
        """Forget the segment, when nobody of this process holds the lock."""
        with self._thread_lock:
            self._take = self._drop = None
            if self._segment is not None:
                self._segment.release()
                self._segment = None

    def _after_fork(self) -> None:
        """Have an open file description that is not the parent's."""
        segment = self._segment
        if segment is not None and segment.descriptor is not None:
            self._use(segment, segment.descriptor, is_own=False)


def _wait(take: Callable[[], object]) -> None:
    """Take a lock that somebody else holds.

    Raises:
      SharedStateError: if it was not to be had.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    tries, nap = 0, _FIRST_NAP
    while True:
        try:
            take()
            return
        except (BlockingIOError, PermissionError):
            tries += 1
        if tries < _YIELDS:
            os.sched_yield()
            continue
        if time.monotonic() > deadline:
            raise SharedStateError(
                f"the lock of this state was not free for {_PATIENCE_SECONDS} s; "
                "the process that holds it must have been stopped"
            )
        time.sleep(nap)
        nap = min(2 * nap, _LONGEST_NAP)


def _file_lock(
    descriptor: int, *, is_own: bool
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return what takes the lock of a file, without waiting, and what drops it."""
    import fcntl

    if sys.platform != "linux":
        return (
            partial(fcntl.lockf, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1),
            partial(fcntl.lockf, descriptor, fcntl.LOCK_UN, 1),
        )
    command = fcntl.F_OFD_SETLK if is_own else fcntl.F_SETLK
    # fcntl(2): type, whence, start, length, pid, which must be 0. One byte will do.
    take = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    drop = struct.pack("hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, 0, 1, 0)
    return partial(fcntl.fcntl, descriptor, command, take), partial(
        fcntl.fcntl, descriptor, command, drop
    )


def _after_fork() -> None:
    forget_files()
    for lock in list(_living):
        lock._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
