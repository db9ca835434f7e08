"""What connects a worker process to its parent, seen from the parent.

The other half, and the handshake's story, is in `trioipc.worker._wires`.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import socket
import struct
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, final

import attrs
import trio

from trioipc._errors import WorkerStartError
from trioipc.pool.engines._outbox import Outbox
from trioipc.pool.engines._stacks import StackReader
from trioipc.protocol._codec import VERSION
from trioipc.worker._wires import HELLO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trioipc.memory._segment import Segment

# A child of ours says hello at once; whoever does not is not ours.
_HELLO_SECONDS = 5.0


@final
@attrs.define(eq=False)
class Listener:
    """Waits for one worker at an address that only we and the worker know."""

    address: str
    token: bytes
    _socket: trio.socket.SocketType

    async def accept(self) -> tuple[socket.socket, int]:
        """Wait for the worker of our token; return its control socket and its pid."""
        while True:
            connection, _ = await self._socket.accept()
            with connection:  # closed, unless it is detached
                pid = await self._greet(connection)
                if pid is not None:
                    return socket.socket(fileno=connection.detach()), pid

    async def _greet(self, connection: trio.socket.SocketType) -> int | None:
        """Return the pid of a peer that is our child and has our token."""
        pid = _peer_pid(connection)
        if pid is not None and not _is_child(pid):
            return None
        hello = b""
        with trio.move_on_after(_HELLO_SECONDS):
            while len(hello) < HELLO.size:
                data = await connection.recv(HELLO.size - len(hello))
                if not data:
                    return None
                hello += data
        if len(hello) < HELLO.size:
            return None
        token, said, protocol, version = HELLO.unpack(hello)
        if not hmac.compare_digest(token, self.token) or pid not in (None, said):
            return None
        if protocol != VERSION:
            found = version.rstrip(b"\0").decode(errors="replace")
            raise WorkerStartError(
                f"the worker speaks protocol {protocol} (trioipc {found}), we speak {VERSION}"
            )
        return int(said)


@contextlib.contextmanager
def listen() -> Iterator[Listener]:
    """Open an address for one worker, for as long as the block lasts."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        if sys.platform == "linux":
            # Abstract: no file, so nothing to clean up and nothing that a crash could leave.
            address = f"\0trioipc-{secrets.token_hex(16)}"
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tipc"))
            address = str(Path(folder) / "s")  # short: macOS takes 104 bytes
        listener.bind(address)
        listener.listen()
        wrapped = trio.socket.from_stdlib_socket(listener)
        yield Listener(address, secrets.token_bytes(32), wrapped)


def _peer_pid(connection: trio.socket.SocketType) -> int | None:
    """Ask the kernel who is at the other end; None where it does not say."""
    if sys.platform != "linux":
        return None
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    return pid if uid == os.getuid() else -1


def _is_child(pid: int) -> bool:
    """Say whether ``pid`` is a child of ours; does not reap it."""
    if sys.platform != "linux" or pid <= 0:
        return False
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


@final
@attrs.define(eq=False)
class ParentWires:
    """The parent's ends; see `hand_over`."""

    control: socket.socket
    calls: Outbox
    answers: int
    stacks: StackReader
    # Where replies to what functions ask for go.
    replies: Outbox
    # The read end of the log records, for whoever reads it; None if there is none.
    logs: int | None = None

    def close(self) -> None:
        """Close everything."""
        self.calls.close()
        self.control.close()
        if self.answers >= 0:
            os.close(self.answers)
            self.answers = -1
        self.replies.close()
        self.stacks.close()


def hand_over(control: socket.socket, board: Segment, *, with_logs: bool = False) -> ParentWires:
    """Make the pipes, and give the worker its ends and the board.

    Args:
      control: The socket to the worker.
      board: Its board.
      with_logs: Whether there is a pipe for its log records.

    Raises:
      OSError: if there is no descriptor left, or the worker is gone.
    """
    assert board.descriptor is not None
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        their_calls, calls = _pipe(theirs, ours)
        answers, their_answers = _pipe(ours, theirs)
        stacks, their_stacks = _pipe(ours, theirs)
        their_replies, replies = _pipe(theirs, ours)
        sent = [their_calls, their_answers, their_stacks, board.descriptor, their_replies]
        logs = None
        if with_logs:
            logs, their_logs = _pipe(ours, theirs)
            os.set_blocking(logs, False)
            os.set_blocking(their_logs, False)
            sent.append(their_logs)
        for descriptor in (calls, answers, stacks, their_stacks, replies):
            os.set_blocking(descriptor, False)
        socket.send_fds(control, [b"\0"], sent)
        ours.pop_all()
    control.setblocking(False)
    return ParentWires(control, Outbox(calls), answers, StackReader(stacks), Outbox(replies), logs)


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """Make a pipe whose ends are closed by these."""
    ends = os.pipe()
    reader.callback(os.close, ends[0])
    writer.callback(os.close, ends[1])
    return ends
