"""What of a call travels beside its frame: copied into slabs, through rings, or there already."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import trio

from trioipc.memory._arena import SMALLEST, offsets_of
from trioipc.memory._ring import RingSpace, RingWriter
from trioipc.pool.engines._pace import AT_ONCE, Pace
from trioipc.protocol._codec import PARCELS_LIMIT, Encoded, with_places

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trioipc.memory._arena import Slab
    from trioipc.pool.engines._beside import ParentBeside
    from trioipc.pool.engines._store import Store
    from trioipc.protocol._codec import Buffer, Place

# How long the side that fills a ring must have to wait before it sleeps: less, and it would not be
# back in time, for a sleep of Trio's takes a millisecond more than it was asked to.
_WORTH_A_SLEEP = 0.0015


def is_big(buffers: Sequence[Buffer]) -> bool:
    """Say whether there is more to copy than fits between two turns of the event loop."""
    return sum(map(_room_of, buffers)) > AT_ONCE


def _room_of(buffer: Buffer) -> int:
    """Say how many bytes of shared memory a buffer takes."""
    space = _ring_of(buffer)
    return len(buffer) if space is None else space.nbytes


def _ring_of(buffer: Buffer) -> RingSpace | None:
    if type(buffer) is memoryview and type(buffer.obj) is RingSpace:
        return buffer.obj
    return None


@final
class Cargo:
    """What of one call is in shared memory.

    Args:
      store: Of the pool.
      encoded: The call; its buffers are not looked at before `load` or `copy`.
      waits: Whether `load` waits for room.
    """

    __slots__ = (
        "_admitted",
        "_encoded",
        "_over",
        "_places",
        "_slabs",
        "_store",
        "_waits",
        "_writers",
    )

    def __init__(self, store: Store, encoded: Encoded, *, waits: bool = True) -> None:
        self._store = store
        self._waits = waits
        self._encoded = encoded
        self._slabs: dict[Slab, bool] = {}  # {slab: whether all in it is a copy of ours}
        self._places: list[Place] = []
        self._writers: list[RingWriter] = []
        self._admitted = 0
        self._over = False

    async def load(self) -> None:
        """Copy the buffers in steps, between which the event loop has its turn.

        When it is cancelled or raises, nothing is left of it.
        """
        try:
            size = sum(_room_of(b) for b in self._encoded.buffers if not self._is_ours(b))
            if self._waits:
                self._over = await self._store.admit(size)
                self._admitted = size
            for _ in self.copy():
                await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint_if_cancelled()
        except BaseException:
            self.drop()
            raise

    def _is_ours(self, buffer: Buffer) -> bool:
        return len(buffer) >= SMALLEST and self._store.arena.find(buffer) is not None

    def copy(self) -> Iterator[None]:
        """Find each buffer a place, and copy it there; yields when the event loop is due.

        Raises:
          OSError: if there is no memory left.
        """
        buffers = self._encoded.buffers
        places = [self._place_of(buffer) for buffer in buffers]
        homeless = [index for index, place in enumerate(places) if place is None]
        if homeless:
            offsets, size = offsets_of(len(buffers[index]) for index in homeless)
            slab = self._take(size)
            pace = Pace()
            for index, offset in zip(homeless, offsets, strict=True):
                buffer = memoryview(buffers[index])
                places[index] = (slab.number, offset, len(buffer))
                target = slab.view(offset, offset + len(buffer))
                for piece in pace.pieces(len(buffer)):
                    target[piece] = buffer[piece]
                    if pace.is_due():
                        yield
        self._places = places  # type: ignore[assignment] # each None has been replaced

    def _place_of(self, buffer: Buffer) -> Place | None:
        """Return where a buffer is that need not be copied, at least not now."""
        space = _ring_of(buffer)
        if space is not None:
            slab = self._take(space.nbytes)
            self._writers.append(RingWriter(space, slab.view(0, space.nbytes)))
            return slab.number, 0, space.nbytes
        found = self._store.arena.find(buffer) if len(buffer) >= SMALLEST else None
        if found is None:
            return None
        slab, offset = found
        if slab not in self._slabs:
            if len(self._slabs) >= PARCELS_LIMIT:  # more may not fit into the socket
                return None
            slab.uses += 1
            self._slabs[slab] = False
        return slab.number, offset, len(buffer)

    def _take(self, nbytes: int) -> Slab:
        slab = self._store.take(nbytes)
        self._slabs[slab] = True
        return slab

    def lend(self, beside: ParentBeside) -> bytes:
        """Let a worker have it; return the body of the call's frame.

        Raises:
          OSError: if that cannot be sent now; the worker has none of it.
        """
        for slab in self._slabs:
            beside.show(slab)
        for number, parcel in self._encoded.parcels:
            beside.send_segment(number, parcel)
        for slab, wipe in self._slabs.items():
            beside.lend(slab, wipe=wipe)
        copies = {slab.number for slab, wipe in self._slabs.items() if wipe}
        return with_places(self._encoded, self._places, copies)

    async def feed(self) -> None:
        """Fill the rings, if there are any, while the worker consumes what is in them."""
        for writer in self._writers:
            # Dropped while we slept, and it may be somebody else's memory by now: none are left.
            while self._writers and not writer.is_done():
                pause = 0.0 if writer.fill() else writer.pause(trio.current_time())
                if pause > _WORTH_A_SLEEP:
                    await trio.sleep(pause)
                else:
                    await trio.lowlevel.checkpoint()

    def drop(self) -> None:
        """Let go of it; a worker that has it gives it back by itself."""
        for slab in self._slabs:
            self._store.release(slab)
        self._slabs.clear()
        self._writers.clear()
        if self._admitted:
            self._store.dismiss(self._admitted, over=self._over)
            self._admitted = 0
