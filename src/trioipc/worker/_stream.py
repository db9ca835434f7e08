"""A generator that runs in a worker: what it yields is laid on a belt, as far ahead as may be.

Rule 1: the generator is resumed only while fewer of its items wait than may.
Rule 2: an interrupt is raised within the generator and nowhere else. Where it waits at a ``yield``,
    a cancel needs none: it is closed, which runs its ``finally``.
"""

from __future__ import annotations

import os
import pickle
import time
from typing import TYPE_CHECKING, Protocol, final

from trioipc.memory._belt import BeltMaker
from trioipc.memory._travel import carrying
from trioipc.protocol._codec import (
    BESIDE,
    ITEM_BESIDE,
    ITEM_INLINE,
    PICKLE_BESIDE,
    VIEW,
    Encoded,
    encode,
    lift,
    payload_error,
    places_that_fit,
)
from trioipc.protocol._pickling import dumps
from trioipc.worker._execute import OURS
from trioipc.worker.request import current_request

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any

    from trioipc.memory._travel import Carried
    from trioipc.worker._serve import Server
    from trioipc.worker.request import CurrentRequest

    class Belt(Protocol):
        """What items are laid on."""

        def has_room(self) -> bool:
            """Say whether fewer items wait than may."""

        def lay(self, item: object) -> None:
            """Lay down an item, for which there must be room."""


# How a generator waits for room: first awake, then in naps that get longer. Capped at 0.3 ms it
# takes 8 % of a processor, and is that much late.
YIELDS = 64
NAP = 20e-6
LONGEST_NAP = 300e-6

# They hold no buffers and no shared state.
_SCALARS = frozenset((int, float, str, bool, type(None), complex))


def produce(
    belt: BeltMaker | Belt, function: Callable[..., Generator[Any, Any, Any]], *arguments: Any
) -> None:
    """Run a generator function to its end, and lay what it yields on a belt.

    Raises:
      PayloadError: if an item cannot be pickled.
      RequestInterrupt: if the request is cancelled; the generator has been closed.
      BaseException: whatever the generator raises.
    """
    request = current_request()
    items = function(*arguments)
    del arguments  # the generator holds them for as long as it wants them
    request._shields += 1
    try:
        outlet = outlet_of(belt, request)
        while True:
            request.checkpoint()
            if not outlet.has_room():
                _wait_for_room(outlet, request)
            request._shields -= 1
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                request._shields += 1
            outlet.lay(item)
            del item
    finally:
        request._shields -= 1
        items.close()


def _wait_for_room(outlet: Belt, request: CurrentRequest) -> None:
    for _ in range(YIELDS):
        os.sched_yield()
        if outlet.has_room():
            return
    nap = NAP
    while not outlet.has_room():
        request.checkpoint()
        time.sleep(nap)
        nap = min(2 * nap, LONGEST_NAP)


OURS.add(produce.__code__)


def outlet_of(belt: BeltMaker | Belt, request: CurrentRequest) -> Belt:
    """Return what takes items as they are; those for another process are pickled before."""
    if not isinstance(belt, BeltMaker):
        return belt
    assert request._server is not None
    return _Outlet(belt, request._server, request._generation)


@final
class _Outlet:
    """Lays items on a belt that leads to another process.

    Args:
      belt: Where their pickles go, if they fit and nothing is beside them.
      server: Sends what is beside them.
      generation: Of the request.
    """

    def __init__(self, belt: BeltMaker, server: Server, generation: int) -> None:
        self.has_room = belt.has_room
        self._belt = belt
        self._server = server
        self._generation = generation
        self._places = places_that_fit(belt.room)
        self._buffers: list[object] = []
        self._carried: Carried = {}
        self._carrying = carrying(self._carried)

    def lay(self, item: object) -> None:
        """Lay down an item.

        Raises:
          PayloadError: if it cannot be pickled, or there is no memory left for it.
        """
        if self._server.is_fork:  # it is no worker, and its parent's belt is none of its business
            os._exit(1)
        try:
            kind, record = ITEM_INLINE, self._pickle(item)
            if self._buffers or self._carried or len(record) > self._belt.room:
                kind, record = self._encode(item, record)
        except Exception as error:
            name = f"{type(item).__module__}.{type(item).__qualname__}"
            raise payload_error(f"an item of type {name}", error) from error
        if self._belt.lay(kind, record):
            self._server.wake(self._generation)

    def _pickle(self, item: object) -> bytes:
        """Pickle an item, and find out whether there is something that must travel beside it."""
        if type(item) in _SCALARS:
            return pickle.dumps(item, 5)
        with self._carrying:
            return dumps(lift(item), 5, self._buffers.append)

    def _encode(self, item: object, pickled: bytes) -> tuple[int, bytes]:
        """Make a record of an item that may not fit; send what is beside it."""
        encoded = Encoded(b"", 0, (pickled,), (VIEW,))
        if self._buffers or self._carried:
            self._buffers.clear()
            self._carried.clear()
            encoded = encode(lift(item), self._belt.room, self._places)
            if not encoded.flags:  # they were small
                return ITEM_INLINE, encoded.body
            if not encoded.flags & PICKLE_BESIDE:  # with the table, it may be too much
                encoded.buffers = (*encoded.buffers, encoded.body)
                encoded.kinds = (*encoded.kinds, VIEW)
        encoded.body, encoded.flags = b"", BESIDE | PICKLE_BESIDE
        self._server.hear()
        return ITEM_BESIDE, self._server.send_item(encoded)
