"""How a segment gets into another process, as part of a pickle.

Three ways, chosen when it is pickled:

- Into our own workers and back, its descriptor goes over the control socket, beside the frame: who
  encodes says so with `carrying`, who decodes with `receiving`.
- Into a process that multiprocessing is just starting, as multiprocessing hands over its own.
- Anywhere else, such as into a worker of trio-parallel that runs: the resource sharer of
  multiprocessing keeps a duplicate and gives it to the first that asks, so the sender may drop its
  object at once. If the same pickle is loaded again, the sender's own descriptor is tried, for as
  long as it has one.

Every ticket names the file by device and inode. Another file is an error, never a mapping.
"""

from __future__ import annotations

import errno
import os
import threading
from itertools import count
from typing import TYPE_CHECKING, Any, final

from trioipc._errors import SharedStateError
from trioipc.memory._segment import Segment, adopt

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    # {the segment: its number, and what is sent for it}
    Carried: TypeAlias = dict[Segment, tuple[int, "Parcel"]]
    # What is pickled: size, device and inode, and how to get it.
    Ticket: TypeAlias = tuple[int, tuple[int, int], "int | tuple[Any, int, int]"]

# Numbers of segments that this process sends, whatever is in them.
next_number: Callable[[], int] = count().__next__


@final
class Parcel:
    """A segment on its way: a descriptor of its own, since the sender may close his."""

    __slots__ = ("descriptor", "size")

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor: int | None = None  # if there is none left, there is none to close
        self.descriptor = os.dup(descriptor)
        self.size = size

    def __del__(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)


class _Here(threading.local):
    """What the encoding or decoding that this thread does says."""

    carried: Carried | None = None
    receive: Callable[[int], Segment] | None = None


_here = _Here()


@final
class carrying:
    """Put the segments that are pickled in this block into ``carried``, for a control socket."""

    __slots__ = ("_before", "_carried")

    def __init__(self, carried: Carried) -> None:
        self._carried = carried

    def __enter__(self) -> None:
        self._before, _here.carried = _here.carried, self._carried

    def __exit__(self, *_: object) -> None:
        _here.carried = self._before


@final
class receiving:
    """Ask ``receive`` for the segments that are unpickled in this block, by their numbers."""

    __slots__ = ("_before", "_receive")

    def __init__(self, receive: Callable[[int], Segment]) -> None:
        self._receive = receive

    def __enter__(self) -> None:
        self._before, _here.receive = _here.receive, self._receive

    def __exit__(self, *_: object) -> None:
        _here.receive = self._before


def give(segment: Segment) -> Ticket:
    """Make a ticket that is pickled in its place.

    Raises:
      SharedStateError: if only threads can share it.
    """
    if segment.descriptor is None:
        raise SharedStateError(
            "this state is in memory of this process alone and cannot go to another: "
            "there is no shared memory here, or it is closed"
        )
    return segment.size, _identity(segment.descriptor), _means(segment)


def _means(segment: Segment) -> int | tuple[Any, int, int]:
    assert segment.descriptor is not None
    if _here.carried is not None:
        known = _here.carried.get(segment)
        if known is None:
            known = next_number(), Parcel(segment.descriptor, segment.size)
            _here.carried[segment] = known
        return known[0]
    from multiprocessing import reduction  # loads sockets and more

    return reduction.DupFd(segment.descriptor), os.getpid(), segment.descriptor


def take(ticket: Ticket) -> Segment:
    """Map the segment of a ticket; its open file description is not yet this process's own.

    Raises:
      SharedStateError: if it cannot be had any more.
      OSError: if there is no descriptor left for it.
    """
    size, identity, means = ticket
    if isinstance(means, int):
        if _here.receive is None:
            raise SharedStateError("this state was sent to a worker of trioipc and not to us")
        segment = _here.receive(means)
        if segment.descriptor is None or _identity(segment.descriptor) != identity:
            raise SharedStateError("another file came in the place of this state's")
        return segment
    for find in (_from_sharer, _from_sender):
        descriptor = find(*means)
        if descriptor is None:
            continue
        if _identity(descriptor) == identity:
            return adopt(descriptor, size)
        os.close(descriptor)
    raise SharedStateError(
        "this state cannot be had: whoever sent it is gone or has closed it, or has sent it to "
        "one process and it was unpickled in two"
    )


def _from_sharer(duplicate: Any, pid: int, descriptor: int) -> int | None:
    try:
        return int(duplicate.detach())
    # It was fetched before, or the sender is gone; multiprocessing says RuntimeError if it came but
    # there was no descriptor left for it.
    except (OSError, EOFError, KeyError, RuntimeError):
        return None


def _from_sender(duplicate: Any, pid: int, descriptor: int) -> int | None:
    try:
        return os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):  # that is no fault of the sender's
            raise
        return None


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
