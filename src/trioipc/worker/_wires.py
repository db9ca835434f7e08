"""What connects a worker process to its parent, seen from the worker.

A control socket for the handshake and for descriptors, three pipes for frames, and one for the text
of stacks. A write and a read on a pipe take a third of the time that a Unix socket takes.

Handshake: the worker connects to the address of its ticket and says `HELLO` (the ticket's token,
its pid and version). The parent compares, then sends one byte with five descriptors: the read end
of the calls, the write ends of the answers and of the stacks, the board, and the read end of the
replies to what functions ask for; and if the parent wants our log records, the write end of a pipe
for those.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trioipc.memory._segment import Segment
    from trioipc.memory._travel import Parcel

# token, pid, protocol version, package version
HELLO = struct.Struct("<32sQI20s")
# number of a segment, its size; its descriptor travels along
SEGMENT = struct.Struct("<QQ")


# Plain classes: those of attrs take each worker 3 ms to make.


@final
class Ticket:
    """What a new worker is told: where to report and what to become.

    Args:
      address: Of the parent's socket.
      token: What the parent knows us by; one-time and secret.
      version: Of the parent's trioipc.
      protocol: Of the parent's frames.
      kind: ``"cpu"`` or ``"io"``.
      name: The pool's name, the first half of each request's id.
      modules: What to load before we are ready.
      slots: How many the board has.
      board_bytes: How long the board is.
      timeout: Seconds to wait for the parent in the handshake.
      scrub_environment: Whether to forget most of our environment.
      log_levels: ``{name: level}`` of the parent's loggers, to whom we send what we log; None if
        we send nothing.
      lifespan: What makes the context manager that we live in, pickled; None if there is none.
    """

    __slots__ = (
        "address",
        "board_bytes",
        "kind",
        "lifespan",
        "log_levels",
        "modules",
        "name",
        "protocol",
        "scrub_environment",
        "slots",
        "timeout",
        "token",
        "version",
    )

    def __init__(
        self,
        *,
        address: str,
        token: bytes,
        version: str,
        protocol: int,
        kind: str,
        name: str,
        modules: tuple[str, ...],
        slots: int,
        board_bytes: int,
        timeout: float,
        scrub_environment: bool = False,
        log_levels: Mapping[str, int] | None = None,
        lifespan: bytes | None = None,
    ) -> None:
        self.address = address
        self.token = token
        self.version = version
        self.protocol = protocol
        self.kind = kind
        self.name = name
        self.modules = modules
        self.slots = slots
        self.board_bytes = board_bytes
        self.timeout = timeout
        self.scrub_environment = scrub_environment
        self.log_levels = log_levels
        self.lifespan = lifespan


@final
class Wires:
    """The worker's ends: the control socket, and the descriptors of pipes and board."""

    __slots__ = ("answers", "board", "calls", "control", "logs", "replies", "stacks")

    def __init__(
        self,
        control: socket.socket,
        calls: int,
        answers: int,
        stacks: int,
        board: int,
        replies: int,
        logs: int | None = None,
    ) -> None:
        self.control = control
        self.calls = calls
        self.answers = answers
        self.stacks = stacks
        self.board = board
        self.replies = replies
        self.logs = logs

    def close(self) -> None:
        """Close what is ours alone: a crash may need the stacks' even later.

        Nor the replies', from which a thread may be reading.
        """
        self.control.close()
        os.close(self.calls)
        os.close(self.answers)


def report(ticket: Ticket) -> socket.socket:
    """Tell the parent that we are there; return the control socket.

    Raises:
      OSError: if the parent is gone.
    """
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.settimeout(ticket.timeout)
    control.connect(ticket.address)
    version = ticket.version.encode()[:20]
    control.sendall(HELLO.pack(ticket.token, os.getpid(), ticket.protocol, version))
    return control


def take_over(control: socket.socket, *, logs: bool = False) -> Wires:
    """Take the descriptors that the parent hands over.

    Args:
      control: From `report`.
      logs: Whether there is one more, of a pipe for log records.

    Raises:
      OSError: if the parent is gone or does not want us.
    """
    expected = 6 if logs else 5
    data, descriptors, _, _ = socket.recv_fds(control, 1, expected)
    if not data or len(descriptors) != expected:
        raise ConnectionError("the parent closed the connection during the handshake")
    control.settimeout(None)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return Wires(control, *descriptors)


def send_segment(control: socket.socket, number: int, segment: Segment | Parcel) -> None:
    """Hand a segment's descriptor over; it may be closed on this side afterwards."""
    assert segment.descriptor is not None
    socket.send_fds(control, [SEGMENT.pack(number, segment.size)], [segment.descriptor])


def receive_segment(control: socket.socket) -> tuple[int, int, int | None]:
    """Take over the next segment: its number, size and descriptor.

    The descriptor is None if this process has no room for it: the kernel has closed it then.

    Raises:
      ConnectionError: if the other side is gone, or sent something else.
      BlockingIOError: if the socket does not block and nothing is there.
    """
    data, descriptors, flags, _ = socket.recv_fds(control, SEGMENT.size, 1)
    is_lost = bool(flags & socket.MSG_CTRUNC) and not descriptors
    if len(data) != SEGMENT.size or (len(descriptors) != 1 and not is_lost):
        for descriptor in descriptors:
            os.close(descriptor)
        raise ConnectionError(f"expected a segment, got {len(data)} bytes")
    number, size = SEGMENT.unpack(data)
    if is_lost:
        return number, size, None
    os.set_inheritable(descriptors[0], False)
    return number, size, descriptors[0]


class LostSegmentError(OSError):
    """A segment was sent to this process, which has no room for it."""


@final
class Arrivals:
    """The segments that the other side sends, each to be had by its number.

    Args:
      control: The socket by which they come.
      steady: Whether one that could shrink under its readers is refused.
    """

    __slots__ = ("_control", "_here", "_steady")

    def __init__(self, control: socket.socket, *, steady: bool = False) -> None:
        self._control = control
        self._steady = steady
        # {number: what has arrived before it was wanted, or why it cannot be had}
        self._here: dict[int, Segment | OSError] = {}

    def take(self, number: int) -> Segment:
        """Return a segment that was sent.

        Raises:
          LostSegmentError: if it has come, but cannot be mapped; it is lost.
          ConnectionError: if the other side is gone, or sent something else.
          BlockingIOError: if the socket does not block and it has not come.
          ValueError: if one is smaller than was said.
          RemoteProtocolError: if one could become so.
        """
        while number not in self._here:
            arrived, size, descriptor = receive_segment(self._control)
            if self._steady and descriptor is not None:
                _refuse_shaky(descriptor)
            self._here[arrived] = _adopted(descriptor, size)
        found = self._here.pop(number)
        if isinstance(found, OSError):
            raise LostSegmentError(*found.args) from found
        return found


def _refuse_shaky(descriptor: int) -> None:
    from trioipc._errors import RemoteProtocolError
    from trioipc.memory._segment import is_steady

    if not is_steady(descriptor):
        os.close(descriptor)
        raise RemoteProtocolError("a segment that could shrink while it is read")


def _adopted(descriptor: int | None, size: int) -> Segment | OSError:
    from trioipc.memory._segment import adopt  # a worker reports before it needs that

    if descriptor is None:
        return OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    try:
        return adopt(descriptor, size)
    except OSError as error:
        return error.with_traceback(None)
