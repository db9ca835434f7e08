"""What functions in one worker process ask for, seen from the parent, and the replies.

The other half is `trioipc.worker._nesting`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import trio
from outcome import Error

from trioipc._errors import PayloadError, RemoteProtocolError
from trioipc.pool.engines._cargo import Cargo
from trioipc.protocol._codec import (
    ASK,
    ASK_NUMBER,
    ERROR,
    NONE,
    REPLY,
    STOPPED,
    VALUE,
    decode,
    payload_error,
)
from trioipc.worker._answer import encode_answer
from trioipc.worker._wires import LostSegmentError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from outcome import Outcome

    from trioipc.memory._segment import Segment
    from trioipc.pool._endpoint import Ask
    from trioipc.pool.engines._beside import ParentBeside
    from trioipc.pool.engines._outbox import Outbox
    from trioipc.pool.engines._store import Store


@final
class Asks:
    """What the functions in one worker have asked for, and nobody has replied to.

    Args:
      store: Of the pool.
      beside: What travels beside the frames to and from the worker.
      replies: The pipe to it.
    """

    def __init__(self, store: Store, beside: ParentBeside, replies: Outbox) -> None:
        self.store = store
        self.beside: ParentBeside | None = beside
        self._replies = replies
        self._open: dict[int, ProcessAsk] = {}  # {number: what was asked}

    def hear(
        self,
        kind: int,
        flags: int,
        generation: int,
        body: bytes,
        asked: Callable[[int, Ask], None],
    ) -> None:
        """Take in a frame of kind ASK or WITHDRAW.

        Raises:
          RemoteProtocolError, struct.error: if it is broken.
        """
        (number,) = ASK_NUMBER.unpack_from(body)
        if kind != ASK:
            if number in self._open:  # else the reply is on its way
                self._open[number].withdraw()
            return
        if number in self._open:
            raise RemoteProtocolError(f"something was asked for twice, as number {number}")
        assert self.beside is not None
        failure: PayloadError | None = None
        views: Sequence[memoryview] = ()
        segments: dict[int, Segment] = {}
        rest = b""
        try:
            views, _, segments, rest = self.beside.take_in(body[ASK_NUMBER.size :], flags)
        except LostSegmentError as error:
            failure = payload_error("what was asked for could not be received", error)
        ask = self._open[number] = ProcessAsk(self, number, flags, views, segments, rest, failure)
        asked(generation, ask)

    def close(self) -> None:
        """Reply to nothing more: the worker is gone."""
        self.beside = None
        self._open.clear()

    def send(self, number: int, kind: int, flags: int = 0, body: bytes = b"") -> None:
        """Send a reply, once."""
        if self._open.pop(number, None) is not None:
            self._replies.send(REPLY.pack(len(body), kind, flags, number) + body)


@final
class ProcessAsk:
    """One thing that was asked for; see `Ask`."""

    def __init__(
        self,
        asks: Asks,
        number: int,
        flags: int,
        views: Sequence[memoryview],
        segments: dict[int, Segment],
        body: bytes,
        failure: PayloadError | None,
    ) -> None:
        self._asks = asks
        self._number = number
        self._flags = flags
        self._views = views
        self._segments = segments
        self._body = body
        self._failure = failure
        self.on_withdrawal: Callable[[], object]

    def unpack(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Unpickle it, once; see `Ask.unpack`."""
        if self._failure is not None:
            raise self._failure
        try:
            function, arguments = decode(self._body, self._flags, self._views, self._segments)
        except (Exception, SystemExit) as error:
            raise payload_error("what was asked for could not be unpickled", error) from error
        finally:
            self._body, self._views, self._segments = b"", (), {}
        return function, arguments

    async def reply(self, outcome: Outcome[Any]) -> None:
        """Send how it ended; see `Ask.reply`."""
        asks = self._asks
        if isinstance(outcome, Error):
            kind, encoded = encode_answer(ERROR, outcome.error)
        else:
            value = outcome.unwrap()
            kind, encoded = encode_answer(NONE if value is None else VALUE, value)
        # It is not admitted as calls are: that might wait for the one that waits for this.
        cargo = Cargo(asks.store, encoded)
        try:
            for _ in cargo.copy():
                await trio.lowlevel.checkpoint()
            if asks.beside is not None:
                asks.send(self._number, kind, encoded.flags, cargo.lend(asks.beside))
        except OSError as error:  # no memory or descriptor for what is big in it, say
            kind, encoded = encode_answer(ERROR, payload_error("what came back", error))
            asks.send(self._number, kind, encoded.flags, encoded.body)
        finally:
            cargo.drop()

    def withdraw(self) -> None:
        """Do what is to be done when nobody waits for it any more."""
        self.on_withdrawal()

    def stop(self) -> None:
        """Send that there is no reply; see `Ask.stop`."""
        self._asks.send(self._number, STOPPED)
