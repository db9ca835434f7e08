"""The command line as its users have it: another process, on pipes or on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

COMMAND = [sys.executable, "-X", "dev", "-W", "error", "-m", "trioipc"]
SECONDS = 60


def environment(**more: str) -> dict[str, str]:
    """Return what a user's has, without what would choose for us."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("TRIOIPC_")}
    return {**kept, "TERM": "xterm", "PYTHON_COLORS": "0", **more}


def trioipc(
    *arguments: str | bytes | Path, cwd: Path, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end."""
    command: list[Any] = [*COMMAND, *arguments]
    options = {"stdin": subprocess.DEVNULL, "env": environment()} | options
    if "input" in options:
        del options["stdin"]
    return subprocess.run(command, cwd=cwd, capture_output=True, timeout=SECONDS, **options)


@contextmanager
def line_to_read(text: str) -> Iterator[int]:
    """Give a descriptor from which a line can be read."""
    read, write = os.pipe()
    os.write(write, text.encode() + b"\n")
    os.close(write)
    try:
        yield read
    finally:
        os.close(read)


def with_password(
    password: str, *arguments: str | Path, cwd: Path
) -> subprocess.CompletedProcess[bytes]:
    """Run a command that needs one."""
    command, *rest = arguments
    with line_to_read(password) as descriptor:
        return trioipc(
            command, "--password-fd", str(descriptor), *rest, cwd=cwd, pass_fds=[descriptor]
        )


@final
class Terminal:
    """A terminal of 80 columns with a program on it.

    Args:
      command: The program and its arguments.
      cwd: Where it runs.
    """

    def __init__(self, command: list[str], cwd: Path) -> None:
        self.text = b""
        self.pid, self._descriptor = pty.fork()
        if self.pid == 0:
            size = struct.pack("HHHH", 24, 80, 0, 0)
            fcntl.ioctl(0, termios.TIOCSWINSZ, size)
            os.chdir(cwd)
            os.execve(command[0], command, environment())

    def wait_for(self, pattern: bytes) -> None:
        """Read until it has written that."""
        deadline = time.monotonic() + SECONDS
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, self.text
            assert self._read(1.0), self.text

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._descriptor, text.encode())

    def end(self) -> int:
        """Read until all who have it open are gone; return the exit code."""
        while self._read(SECONDS):
            pass
        os.close(self._descriptor)
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def lines(self) -> list[str]:
        """Return what stood in its lines, one after the other, without commands to it."""
        plain = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", self.text).decode()
        return [line for line in re.split(r"[\r\n]+", plain) if line]

    def _read(self, seconds: float) -> bool:
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return seconds < SECONDS
        try:
            data = os.read(self._descriptor, 1 << 16)
        except OSError:  # nobody has it open any more
            return False
        self.text += data
        return bool(data)


@contextmanager
def terminal(*arguments: str, cwd: Path, command: list[str] = COMMAND) -> Iterator[Terminal]:
    """Run a command on a terminal; kill it at the end if it has not been waited for."""
    opened = Terminal([*command, *arguments], cwd)
    try:
        yield opened
    except BaseException:
        os.kill(opened.pid, signal.SIGKILL)
        opened.end()
        raise
