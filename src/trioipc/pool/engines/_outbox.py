"""Frames into a pipe that does not block: at once, or what does not fit by a task of its own."""

from __future__ import annotations

import os
from typing import final

import trio
from trio.lowlevel import enable_ki_protection


@final
class Outbox:
    """The writing end of a pipe. Sending never waits, and does not raise when nobody reads.

    Args:
      descriptor: The pipe's, which does not block; closed by `close`.
    """

    __slots__ = ("_descriptor", "_held", "_holds", "_unsent", "_wake", "is_closed")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._unsent: list[bytes] = []
        self._wake = trio.Event()
        self._holds = False
        self._held: list[bytes] = []
        self.is_closed = False

    def send(self, frame: bytes) -> None:
        """Send a frame in one write, or leave the rest to `run`."""
        if self._holds:
            self._held.append(frame)
            return
        if self._unsent:
            self._unsent.append(frame)
            return
        if self.is_closed:
            return
        try:
            written = os.write(self._descriptor, frame)
        except BlockingIOError:
            written = 0
        except OSError:  # it is dying; whoever hosts it will say so
            return
        if written < len(frame):
            self._unsent.append(frame[written:])
            self._wake.set()

    def hold(self) -> None:
        """Keep what is sent from now on, for one write."""
        self._holds = True

    def let_go(self) -> None:
        """Send what was kept."""
        self._holds = False
        if self._held:
            frames, self._held = self._held, []
            self.send(b"".join(frames))

    @enable_ki_protection
    async def run(self) -> None:
        """Send what the pipe would not take at once; almost never has anything to do."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._unsent:
                try:
                    await trio.lowlevel.wait_writable(self._descriptor)
                    data = b"".join(self._unsent)
                    written = os.write(self._descriptor, data)
                except BlockingIOError:
                    continue
                except (OSError, trio.ClosedResourceError):
                    return
                self._unsent = [data[written:]] if written < len(data) else []

    def close(self) -> None:
        """Close the pipe; twice is fine."""
        if not self.is_closed:
            self.is_closed = True
            trio.lowlevel.notify_closing(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
