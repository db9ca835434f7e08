"""What the threads of a process share that use one file, though each has its own segment of it."""

from __future__ import annotations

import os
import threading
import weakref
from typing import final


@final
class File:
    """What the threads of this process share that use one file."""

    __slots__ = ("__weakref__", "leaving", "lock", "may_close")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        # Whether it does not matter to a lock of ours when a descriptor is closed.
        self.may_close = True
        # Descriptors, and maps that have one, too, that nobody uses any more.
        self.leaving: list[tuple[int, object]] = []

    def __del__(self) -> None:
        self.settle()  # who holds the lock would hold us

    def settle(self) -> None:
        """Close what could not be closed before; for who has the lock of the threads."""
        while self.leaving:
            os.close(self.leaving.pop()[0])


# {(device, inode): the file}
_files: weakref.WeakValueDictionary[tuple[int, int], File] = weakref.WeakValueDictionary()
_files_lock = threading.Lock()


def file_of(descriptor: int) -> File:
    """Return the one for a descriptor's file."""
    status = os.fstat(descriptor)
    with _files_lock:
        return _files.setdefault((status.st_dev, status.st_ino), File())


def forget_files() -> None:
    """Begin anew, after a fork: a thread that is no longer there may have held any lock."""
    global _files_lock
    _files_lock = threading.Lock()
    _files.clear()
