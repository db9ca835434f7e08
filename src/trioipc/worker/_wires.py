"""What connects a worker process to its parent, seen from the worker.

A control socket for the handshake and for descriptors, and two pipes for frames. A write and a
read on a pipe take a third of the time that a Unix socket takes.

Handshake: the worker connects to the address of its ticket and says `HELLO` (the ticket's token,
its pid and version). The parent compares, then sends one byte with three descriptors: the read end
of the calls, the write end of the answers, and the board.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
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
    """

    __slots__ = (
        "address",
        "board_bytes",
        "kind",
        "modules",
        "name",
        "protocol",
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


@final
class Wires:
    """The worker's ends: the control socket, and the descriptors of pipes and board."""

    __slots__ = ("answers", "board", "calls", "control")

    def __init__(self, control: socket.socket, calls: int, answers: int, board: int) -> None:
        self.control = control
        self.calls = calls
        self.answers = answers
        self.board = board

    def close(self) -> None:
        """Close everything; the board's descriptor is the segment's, which closes it."""
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


def take_over(control: socket.socket) -> Wires:
    """Take the descriptors that the parent hands over.

    Raises:
      OSError: if the parent is gone or does not want us.
    """
    data, descriptors, _, _ = socket.recv_fds(control, 1, 3)
    if not data or len(descriptors) != 3:
        raise ConnectionError("the parent closed the connection during the handshake")
    control.settimeout(None)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return Wires(control, *descriptors)


def send_segment(control: socket.socket, number: int, segment: Segment | Parcel) -> None:
    """Hand a segment's descriptor over; it may be closed on this side afterwards."""
    assert segment.descriptor is not None
    socket.send_fds(control, [SEGMENT.pack(number, segment.size)], [segment.descriptor])


def receive_segment(control: socket.socket) -> tuple[int, int, int]:
    """Take over the next segment: its number, size and descriptor.

    Raises:
      ConnectionError: if the other side is gone, or sent something else.
      BlockingIOError: if the socket does not block and nothing is there.
    """
    data, descriptors, _, _ = socket.recv_fds(control, SEGMENT.size, 1)
    if len(data) != SEGMENT.size or len(descriptors) != 1:
        for descriptor in descriptors:
            os.close(descriptor)
        raise ConnectionError(f"expected a segment, got {len(data)} bytes")
    os.set_inheritable(descriptors[0], False)
    number, size = SEGMENT.unpack(data)
    return number, size, descriptors[0]
