"""Where the items of a stream arrive: by a belt from another process, or as they are.

An `Inlet` is what a `trioipc.pool.many._stream.Stream` takes from. Synchronous: nothing awaits.
"""

from __future__ import annotations

from collections import deque
from pickle import loads
from typing import TYPE_CHECKING, Protocol, final

import attrs

from trioipc._errors import RemoteProtocolError
from trioipc.pool.engines._payload import ProcessAnswer, lost_answer
from trioipc.protocol._codec import (
    BESIDE,
    ITEM_BESIDE,
    ITEM_INLINE,
    PICKLE_BESIDE,
    VALUE,
    payload_error,
)
from trioipc.worker._wires import LostSegmentError

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio

    from trioipc.memory._belt import BeltTaker
    from trioipc.pool.engines._beside import ParentBeside


@final
@attrs.define(eq=False)
class Landing:
    """An item that may have to be copied before it can be handed out."""

    answer: ProcessAnswer


# What `Inlet.take` returns if there is nothing.
NOTHING = object()


class Inlet(Protocol):
    """Where the items of one stream arrive."""

    wake: Callable[[], object]
    """Called when there is an item, for whom asked to be woken."""

    def take(self) -> object:
        """Take an item; `NOTHING` if there is none, a `Landing` if it must land first.

        Of that one, `advance` says that it has; until then it is the one that is returned.

        Raises:
          RemoteProtocolError: if what arrived is no item; nothing more is to be believed.
          PayloadError: if it could not be unpickled.
        """

    def advance(self) -> None:
        """Count an item that has landed as taken."""

    def is_empty(self) -> bool:
        """Ask to be woken by the next item; say whether there is none yet."""

    def rescue(self) -> None:
        """Keep what is left, for the request has ended and its worker may go."""

    def kill(self) -> None:
        """Kill the worker, if it can be."""


def _nothing() -> None:
    """Do nothing."""


@final
class ProcessInlet:
    """Takes the items of a worker process off their belt.

    Args:
      belt: In memory that this process lends to the worker.
    """

    def __init__(self, belt: BeltTaker) -> None:
        self.wake: Callable[[], object] = _nothing
        self.belt = belt
        # What belongs to the worker that runs the generator, while one does.
        self._beside: ParentBeside | None = None
        self._kill: Callable[[], object] = _nothing
        # {how many items are taken before it: what is beside an item that has been taken in}
        self._arrived: dict[int, Landing] = {}
        # Why what is left after the end is not believed.
        self._broken: RemoteProtocolError | None = None

    def attach(self, beside: ParentBeside, kill: Callable[[], object]) -> None:
        """Begin, or begin anew, with a worker that is about to run the generator."""
        self.belt.clear()
        self._arrived.clear()
        self._beside, self._kill = beside, kill
        self.wake()  # who waits must ask for it again

    def detach(self) -> None:
        """Have nothing from that worker any more; what it has made is made again, or is rescued."""
        if self._beside is not None:
            self._beside = None
            self.belt.known = 0

    def take(self) -> object:
        """Take an item; see `Inlet.take`."""
        belt = self.belt
        if not belt.known and not self._look():
            return NOTHING
        if belt.kind() != ITEM_INLINE:
            return self._receive(*belt.record(), belt.taken)
        try:
            return loads(belt.room_of_first())
        except (Exception, SystemExit) as error:
            raise payload_error("an item that came back", error) from error
        finally:
            belt.advance()

    def _look(self) -> int:
        if self._broken is not None:
            raise self._broken
        return 0 if self._beside is None else self.belt.count()

    def _receive(self, kind: int, record: memoryview, number: int) -> Landing:
        """Take in what is beside an item, once."""
        landing = self._arrived.get(number)
        if landing is None:
            if kind != ITEM_BESIDE:
                raise RemoteProtocolError(f"there are no items of kind {kind}")
            landing = self._arrived[number] = Landing(self._take_in(bytes(record)))
        return landing

    def _take_in(self, body: bytes) -> ProcessAnswer:
        flags = BESIDE | PICKLE_BESIDE
        assert self._beside is not None
        try:
            views, kinds, segments, rest = self._beside.take_in(body, flags)
        except LostSegmentError as error:
            return lost_answer(0, error)
        except RemoteProtocolError:
            raise
        except Exception as error:  # whatever it is
            raise RemoteProtocolError("an item that is none") from error
        self._beside.settle()  # the worker runs, and would hear of its free slabs at the end only
        return ProcessAnswer(VALUE, flags, views, kinds, segments, rest)

    def advance(self) -> None:
        """Count an item that has landed as taken."""
        del self._arrived[self.belt.taken]
        self.belt.advance()

    def is_empty(self) -> bool:
        """Ask to be woken; see `Inlet.is_empty`."""
        self.belt.ask_to_be_woken()
        return self._beside is None or not self.belt.count()

    def rescue(self) -> None:
        """Take in what is beside the items that are left; see `Inlet.rescue`."""
        if self._beside is None:
            return
        belt, good = self.belt, 0
        try:
            for ahead in range(belt.count()):
                kind, record = belt.record(ahead)
                if kind != ITEM_INLINE:
                    self._receive(kind, record, belt.taken + ahead)
                good += 1
        except RemoteProtocolError as error:
            self._broken = error
        self._beside, belt.known = None, good

    def kill(self) -> None:
        """Kill the worker."""
        self._kill()


@final
class LocalInlet:
    """Takes items from a thread of this process; the belt and its taker in one.

    Args:
      buffer: How many items may wait.
      token: Of the run that takes them.
    """

    def __init__(self, buffer: int, token: trio.lowlevel.TrioToken) -> None:
        self.wake: Callable[[], object] = _nothing
        self._buffer = buffer
        self._token = token
        self._items: deque[object] = deque()
        # Each written by one side: how many were laid down and taken, how often the taker slept.
        self._laid = 0
        self._taken = 0
        self._bells = 0
        self._answered = 0

    # -- for the thread ---------------------------------------------------------------------

    def has_room(self) -> bool:
        """Say whether fewer items wait than may."""
        return self._laid - self._taken < self._buffer

    def lay(self, item: object) -> None:
        """Lay down an item, for which there must be room."""
        self._items.append(item)
        self._laid += 1
        bells = self._bells
        if bells != self._answered:
            self._answered = bells
            self._token.run_sync_soon(self.wake)

    # -- for the stream ---------------------------------------------------------------------

    def take(self) -> object:
        """Take an item; see `Inlet.take`."""
        if not self._items:
            return NOTHING
        self._taken += 1
        return self._items.popleft()

    def advance(self) -> None:
        """Do nothing: no item has to land."""

    def is_empty(self) -> bool:
        """Ask to be woken; see `Inlet.is_empty`."""
        self._bells += 1
        return not self._items

    def rescue(self) -> None:
        """Do nothing: they are here."""

    def kill(self) -> None:
        """Do nothing: a thread cannot be killed."""
