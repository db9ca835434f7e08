"""What travels beside the frames, between the parent and one worker, seen from the parent.

The other half is `trioipc.worker._beside`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, final

from trioipc._errors import RemoteProtocolError
from trioipc.memory._arena import SMALLEST, Borrowed
from trioipc.memory._segment import Segment, adopt
from trioipc.protocol._codec import BESIDE, DROP, FORGET, FREE, places_of, slab_frame
from trioipc.worker._wires import receive_segment, send_segment

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from trioipc.memory._arena import Slab
    from trioipc.memory._travel import Parcel
    from trioipc.pool._store import Store


@final
class ParentBeside:
    """All slabs that go to and from one worker.

    Args:
      store: Of the pool.
      control: The socket by which descriptors come and go.
      send: Sends a frame at once.
      at_rest: Says whether the worker runs nothing, and all its answers have been heard.
    """

    def __init__(
        self,
        store: Store,
        control: socket.socket,
        send: Callable[[bytes], None],
        at_rest: Callable[[], bool],
    ) -> None:
        self._store = store
        self._control = control
        self._send = send
        self._at_rest = at_rest
        # The worker's slabs that we were shown.
        self._borrowed = Borrowed(store.budget)
        self._borrowed.poke = store.poke
        self._received: dict[int, Segment] = {}  # {number: what has arrived before it was wanted}
        # Of ours, what the worker was shown; and what it looks at, how often, and if it wipes it.
        self._shown: set[int] = set()
        self._loans: dict[int, tuple[Slab, int, bool]] = {}
        # What the worker is to be told with the next call.
        self._frames = b""
        store.traffics[self] = None

    # -- ours -------------------------------------------------------------------------------

    def lend(self, slab: Slab, *, wipe: bool) -> None:
        """Let the worker have a slab of ours, with the next frame.

        Args:
          slab: Which the caller uses as well.
          wipe: Whether the worker will wipe it when it has done with it.
        """
        if slab.number not in self._shown:
            self._shown.add(slab.number)
            self.send_segment(slab.number, slab.segment)
        _, loans, _ = self._loans.get(slab.number, (slab, 0, wipe))
        self._loans[slab.number] = slab, loans + 1, wipe
        slab.uses += 1

    def send_segment(self, number: int, segment: Segment | Parcel) -> None:
        """Send a descriptor."""
        with contextlib.suppress(OSError):  # it is dying; `live` will say so
            send_segment(self._control, number, segment)

    def returned(self, number: int) -> None:
        """Have a slab of ours back.

        Raises:
          RemoteProtocolError: if the worker did not have it.
        """
        if number not in self._loans:
            raise RemoteProtocolError(f"slab {number} was returned, but not lent")
        slab, loans, wiped = self._loans.pop(number)
        if loans > 1:
            self._loans[number] = slab, loans - 1, wiped
        if wiped:
            slab.dirty = 0
        self._store.release(slab)

    # -- the worker's -----------------------------------------------------------------------

    def take_in(
        self, body: bytes, flags: int
    ) -> tuple[list[memoryview], list[int], dict[int, Segment], bytes]:
        """Return the views of a body's places, their kinds, its whole segments, and its rest.

        Raises:
          RemoteProtocolError: if its table is broken.
          OSError: if a slab cannot be mapped, or did not come.
        """
        if not flags & BESIDE:
            return [], [], {}, body
        places, numbers, rest = places_of(body, flags)
        lengths: dict[int, int] = {}
        for number, offset, length, _ in places:
            lengths[number] = max(lengths.get(number, 0), offset + length)
        memory = {number: self._open(number, length) for number, length in lengths.items()}
        views = [memory[number][offset : offset + length] for number, offset, length, _ in places]
        segments = {number: self._receive(number) for number in numbers}
        return views, [place[3] for place in places], segments, rest

    def _open(self, number: int, length: int) -> memoryview:
        """Return the first ``length`` bytes of a slab of the worker's."""
        slab = self._borrowed.slabs.get(number)
        if slab is None:
            slab = self._borrowed.learn(number, self._receive(number))
        if length > slab.size:
            raise RemoteProtocolError(f"{length} bytes of a slab of {slab.size} bytes")
        if length < SMALLEST:  # a copy costs less than a lease, and holds nothing
            self._frames += slab_frame(FREE, number)
            if self._store.budget.is_over():
                self._store.poke()
            return memoryview(bytearray(slab.view(0, length)))
        return slab.lease()

    def _receive(self, number: int) -> Segment:
        while number not in self._received:
            arrived, size, descriptor = receive_segment(self._control)
            try:
                self._received[arrived] = adopt(descriptor, size)
            except ValueError as error:
                raise RemoteProtocolError(str(error)) from error
        return self._received.pop(number)

    # -- for the store ----------------------------------------------------------------------

    def frames(self) -> bytes:
        """Return what the worker is to be told now."""
        for slab, _ in self._borrowed.settle():
            self._frames += slab_frame(FREE, slab.number)
        frames, self._frames = self._frames, b""
        return frames

    def settle(self) -> None:
        """Tell the worker which of its slabs nobody looks at any more."""
        if frames := self.frames():
            self._send(frames)

    def idle(self) -> Iterator[Slab]:
        """Yield the worker's slabs that nobody looks at, if it runs nothing that may use them."""
        if self._at_rest():
            yield from self._borrowed.idle()

    def drop(self, slab: Slab) -> None:
        """Have the worker drop a slab of its own."""
        self._borrowed.forget(slab.number)
        self._send(self.frames() + slab_frame(DROP, slab.number))

    def forget(self, slab: Slab) -> None:
        """Have the worker forget a slab of ours, if it knows it."""
        if slab.number in self._shown:
            self._shown.discard(slab.number)
            self._send(self.frames() + slab_frame(FORGET, slab.number))

    def close(self) -> None:
        """Take everything back from a worker that is dead."""
        del self._store.traffics[self]
        for slab, loans, _ in self._loans.values():
            for _ in range(loans):
                self._store.release(slab)
        self._loans.clear()
        self._borrowed.poke = None
        for _ in self._borrowed.settle():
            pass
        for slab in [*self._borrowed.slabs.values()]:
            self._borrowed.forget(slab.number)
            if not slab.uses:
                self._store.condemn(slab, keep=False)
        self._store.settle()
