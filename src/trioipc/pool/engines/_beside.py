"""What travels beside the frames, between the parent and one worker, seen from the parent.

The other half is `trioipc.worker._beside`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, final

from trioipc._errors import RemoteProtocolError
from trioipc.memory._arena import BIG, SMALLEST, Borrowed
from trioipc.protocol._codec import BESIDE, DROP, FORGET, FREE, places_of, slab_frame
from trioipc.worker._wires import Arrivals, LostSegmentError, send_segment

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from trioipc.memory._arena import Slab
    from trioipc.memory._segment import Segment
    from trioipc.memory._travel import Parcel
    from trioipc.pool.engines._store import Store

# Half of the descriptors that a process usually has.
_MANY_SLABS = 512


@final
class ParentBeside:
    """All slabs that go to and from one worker.

    Args:
      store: Of the pool.
      control: The socket by which descriptors come and go.
      send: Sends a frame at once.
      at_rest: Says whether the worker runs nothing, and all its answers have been heard.
      steady: Whether its segments must be such as cannot shrink.
    """

    def __init__(
        self,
        store: Store,
        control: socket.socket,
        send: Callable[[bytes], None],
        at_rest: Callable[[], bool],
        *,
        steady: bool,
    ) -> None:
        self._store = store
        self._control = control
        self._send = send
        self._at_rest = at_rest
        # The worker's slabs that we were shown.
        self._borrowed = Borrowed(store.budget)
        self._borrowed.poke = store.poke
        self._arrivals = Arrivals(control, steady=steady)
        # Of ours, what the worker was shown; and what it looks at, how often, and if it wipes it.
        self._shown: set[int] = set()
        self._loans: dict[int, tuple[Slab, int, bool]] = {}
        # What the worker is to be told with the next call.
        self._frames = b""
        store.traffics[self] = None

    # -- ours -------------------------------------------------------------------------------

    def show(self, slab: Slab) -> None:
        """Send a slab of ours, which will be lent, if the worker does not know it.

        Raises:
          OSError: if it cannot be sent.
        """
        if slab.number not in self._shown:
            self.send_segment(slab.number, slab.segment)
            self._shown.add(slab.number)

    def lend(self, slab: Slab, *, wipe: bool) -> None:
        """Let the worker have a slab of ours that it was shown, with the next frame.

        Args:
          slab: Which the caller uses as well.
          wipe: Whether the worker will wipe it when it has done with it.
        """
        _, loans, _ = self._loans.get(slab.number, (slab, 0, wipe))
        self._loans[slab.number] = slab, loans + 1, wipe
        slab.uses += 1

    def send_segment(self, number: int, segment: Segment | Parcel) -> None:
        """Send a descriptor.

        Raises:
          OSError: if too many are under way.
        """
        with contextlib.suppress(ConnectionError):  # it is dying; `live` will say so
            send_segment(self._control, number, segment)

    def lost(self, number: int) -> None:
        """Have a slab of ours back that the worker could not map.

        Raises:
          RemoteProtocolError: if the worker was not to have it.
        """
        self._shown.discard(number)
        self.returned(number, wiped=False)

    def returned(self, number: int, *, wiped: bool = True) -> None:
        """Have a slab of ours back.

        Args:
          number: Of the slab.
          wiped: Whether the worker has wiped it, if it was to.

        Raises:
          RemoteProtocolError: if the worker did not have it.
        """
        if number not in self._loans:
            raise RemoteProtocolError(f"slab {number} was returned, but not lent")
        slab, loans, wipe = self._loans.pop(number)
        if loans > 1:
            self._loans[number] = slab, loans - 1, wipe
        if wipe and wiped:
            slab.dirty = 0
        self._store.release(slab)

    # -- the worker's -----------------------------------------------------------------------

    def take_in(
        self, body: bytes, flags: int
    ) -> tuple[list[memoryview], list[int], dict[int, Segment], bytes]:
        """Return the views of a body's places, their kinds, its whole segments, and its rest.

        Raises:
          RemoteProtocolError: if its table is broken.
          LostSegmentError: if something cannot be mapped. All has been received, or is lost.
          OSError: if something did not come.
        """
        if not flags & BESIDE:
            return [], [], {}, body
        places, numbers, rest = places_of(body, flags)
        lengths: dict[int, int] = {}
        for number, offset, length, _ in places:
            lengths[number] = max(lengths.get(number, 0), offset + length)
        memory: dict[int, memoryview] = {}
        segments: dict[int, Segment] = {}
        failure: OSError | None = None
        for number, length in lengths.items():
            try:
                memory[number] = self._open(number, length)
            except LostSegmentError as error:
                failure = error
                self._frames += slab_frame(DROP, number)
        for number in numbers:
            try:
                segments[number] = self._take(number)
            except LostSegmentError as error:
                failure = error
        try:
            if failure is not None:
                raise failure
            views = [memory[number][at : at + length] for number, at, length, _ in places]
            return views, [place[3] for place in places], segments, rest
        finally:
            del failure, memory  # which would hold each other

    def _open(self, number: int, length: int) -> memoryview:
        """Return the first ``length`` bytes of a slab of the worker's."""
        slab = self._borrowed.slabs.get(number)
        if slab is None:
            slab = self._borrowed.learn(number, self._take(number))
        if length > slab.size:
            raise RemoteProtocolError(f"{length} bytes of a slab of {slab.size} bytes")
        # A copy costs less than a lease, and holds nothing. A map holds a descriptor, and so many
        # results may be kept that there would be none left.
        if length < (SMALLEST if self._store.budget.slabs < _MANY_SLABS else BIG):
            self._frames += slab_frame(FREE, number)
            if self._store.budget.is_over():
                self._store.poke()
            return memoryview(bytearray(slab.view(0, length)))
        return slab.lease()

    def _take(self, number: int) -> Segment:
        try:
            return self._arrivals.take(number)
        except ValueError as error:
            raise RemoteProtocolError(str(error)) from error

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
