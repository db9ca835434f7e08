"""What a function asks its pool for while it runs: another call, which the parent makes for it.

Only loaded when a function asks.

A call goes to the parent as a frame of kind ASK, with a number, on the pipe of the answers. The
reply comes back with that number on a pipe of its own: any thread of this process may wait for one,
while the pipe of the calls is for the loop alone. One thread reads them all.

Rules:

- Each ASK is replied to exactly once, or this process dies.
- An interrupt may end the wait for a reply, but never strikes while something is being sent.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from itertools import count
from typing import TYPE_CHECKING, final

from trioipc._errors import RequestInterrupt
from trioipc.protocol._codec import (
    ASK,
    BESIDE,
    NONE,
    REPLY,
    STOPPED,
    VALUE,
    WITHDRAW,
    Encoded,
    decode,
    encode,
    lift_arguments,
    payload_error,
    split_frames,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol, TypeAlias

    from trioipc.memory._segment import Segment
    from trioipc.worker.request import Asks, CurrentRequest

    # Returns what came back, or raises it.
    Reply: TypeAlias = Callable[[], Any]

    class House(Protocol):
        """What this asks of the server whose requests ask."""

        def send_ask(
            self, kind: int, number: int, request: CurrentRequest, encoded: Encoded
        ) -> None:
            """Send a frame."""

        def take_in(
            self, request: CurrentRequest, body: bytes, flags: int
        ) -> tuple[list[memoryview], dict[int, Segment], bytes]:
            """Take in what travels beside a frame."""


_READ_SIZE = 64 << 10


@final
class Asker:
    """Asks the parent, for all requests of this process.

    Args:
      house: Sends frames.
      replies: The descriptor from which replies are read.
    """

    def __init__(self, house: House, replies: int) -> None:
        self._house = house
        self._replies = replies
        self._number = count().__next__
        # {number: who asked, and what takes the reply}
        self._waiting: dict[int, tuple[CurrentRequest, Callable[[Reply], object]]] = {}
        threading.Thread(target=self._read, name="trioipc replies", daemon=True).start()

    def ask(
        self,
        request: CurrentRequest,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        deliver: Callable[[Reply], object],
    ) -> Callable[[], None]:
        """Send a call; return what has it cancelled, after which its reply still comes.

        Args:
          request: Who asks.
          function: What is to be called.
          arguments: With what.
          deliver: Is given the reply, in another thread.
        """
        try:
            encoded = encode((function, lift_arguments(arguments)))
        except Exception as error:
            name = getattr(function, "__qualname__", type(function).__qualname__)
            raise payload_error(f"the call of {name} cannot be sent to a worker", error) from error
        number = self._number()
        self._waiting[number] = request, deliver
        self._house.send_ask(ASK, number, request, encoded)
        return lambda: self._house.send_ask(WITHDRAW, number, request, Encoded(b""))

    def _read(self) -> None:
        """Hand out replies until the parent is gone; this is a thread."""
        rest = b""
        while data := os.read(self._replies, _READ_SIZE):
            rest = split_frames(rest + data if rest else data, REPLY, self._hear)

    def _hear(self, head: tuple[Any, ...], body: bytes) -> None:
        _, kind, flags, number = head
        request, deliver = self._waiting.pop(number)
        deliver(lambda: self._open(request, kind, flags, body))

    def _open(self, request: CurrentRequest, kind: int, flags: int, body: bytes) -> Any:
        """Return what a reply brings, or raise it, in the thread or task that waits for it."""
        if kind == NONE:
            return None
        if kind == STOPPED:
            raise RequestInterrupt
        try:
            if flags & BESIDE:
                views, segments, rest = self._house.take_in(request, body, flags)
                value = decode(rest, flags, views, segments)
            else:
                value = decode(body, flags, ())
        except Exception as error:
            raise payload_error("what came back", error) from error
        if kind == VALUE:
            return value
        raise value


def call(
    asker: Asks,
    request: CurrentRequest,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> Any:
    """Have ``function(*arguments)`` called, and wait, holding this thread.

    Raises:
      RuntimeError: if a Trio task runs in it.
    """
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        raise RuntimeError("run_sync() would block the event loop; await run() instead")
    replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
    asker.ask(request, function, arguments, replies.put)
    return replies.get()()
