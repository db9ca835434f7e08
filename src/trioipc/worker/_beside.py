"""What travels beside the frames, seen from the worker: slabs of the parent's, and of its own.

Calls come in slabs that the parent owns, results go in slabs that this worker owns. Each slab is
shown to the other side once, by its descriptor, and named by its number after that. See
`trioipc.memory._arena`.
"""

from __future__ import annotations

import math
import sys
import threading
from typing import TYPE_CHECKING, final

from trioipc.memory._arena import SMALLEST, Arena, Borrowed, Budget, offsets_of
from trioipc.protocol._codec import (
    DROP,
    FORGET,
    FREE,
    LOST,
    PARCELS_LIMIT,
    WIPE,
    places_of,
    return_frame,
)
from trioipc.worker._wires import Arrivals, LostSegmentError, send_segment

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Sequence

    from trioipc.memory._arena import Slab
    from trioipc.memory._segment import Segment
    from trioipc.protocol._codec import Buffer, Place


@final
class Beside:
    """All slabs that this worker knows.

    Args:
      control: The socket by which descriptors come and go.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        # The parent says what is kept of it.
        self._arena = Arena(Budget(math.inf), wipes=True)
        self._borrowed = Borrowed(Budget(math.inf))
        self._arrivals = Arrivals(control)
        # Frames for slabs of the parent's that could not be mapped.
        self._lost = b""
        # Of ours, what the parent has been shown.
        self._shown: set[int] = set()
        # Of the parent's, what is to be returned, and whether it is to be wiped before.
        self._done: list[tuple[Slab, bool]] = []
        # Functions may start threads, which may allocate.
        self._lock = threading.Lock()

    # -- calls ------------------------------------------------------------------------------

    def take_in(
        self, body: bytes, flags: int
    ) -> tuple[list[memoryview], dict[int, Segment], bytes]:
        """Return the views of a body's places, its whole segments, and the rest of it.

        Raises:
          RemoteProtocolError: if its table is broken.
          OSError: if something cannot be mapped. All of it has been received, or is lost.
        """
        with self._lock:  # what a thread has asked for may come while a call does
            return self._take_in(body, flags)

    def _take_in(
        self, body: bytes, flags: int
    ) -> tuple[list[memoryview], dict[int, Segment], bytes]:
        places, numbers, rest = places_of(body, flags)
        wanted: dict[int, tuple[int, bool]] = {}  # {number: how much of it, and whether to wipe it}
        for number, offset, length, kind in places:
            end, _ = wanted.get(number, (0, False))
            wanted[number] = max(end, offset + length), bool(kind & WIPE)
        leases: dict[int, memoryview] = {}
        segments: dict[int, Segment] = {}
        failure: OSError | None = None
        for number, (end, wipe) in wanted.items():
            try:
                leases[number] = self._lease(number, end, wipe=wipe)
            except LostSegmentError as error:
                failure = error
                self._lost += return_frame(number, LOST)
        for number in numbers:
            try:
                segments[number] = self._arrivals.take(number)
            except LostSegmentError as error:
                failure = error
        try:
            if failure is not None:
                raise failure
            return (
                [leases[number][at : at + length] for number, at, length, _ in places],
                segments,
                rest,
            )
        finally:
            del failure, leases  # which would hold each other

    def _lease(self, number: int, end: int, *, wipe: bool) -> memoryview:
        slab = self._borrowed.slabs.get(number)
        if slab is None:
            slab = self._borrowed.learn(number, self._arrivals.take(number))
        slab.dirty = max(slab.dirty, end)
        return slab.lease(wipe=wipe)

    def losses(self) -> bytes:
        """Return the frames for slabs that were lost; the parent must have them first."""
        with self._lock:
            frames, self._lost = self._lost, b""
            return frames

    def returns(self, limit: int = sys.maxsize) -> bytes:
        """Return the frames for slabs that nobody looks at any more, having wiped those.

        Args:
          limit: How many bytes may be wiped; what is larger is left for the next time.
        """
        with self._lock:
            return self._returns(limit)

    def _returns(self, limit: int) -> bytes:
        self._done += self._borrowed.settle()
        frames = b""
        later: list[tuple[Slab, bool]] = []
        for slab, wipe in self._done:
            if wipe and slab.dirty > limit:
                later.append((slab, True))
                continue
            if wipe:
                slab.wipe()
            frames += return_frame(slab.number)
        self._done = later
        return frames

    # -- results ----------------------------------------------------------------------------

    def allocate(self, nbytes: int, blank: bool) -> memoryview:
        """Return memory that can travel home as it is; see `CurrentRequest.allocate`."""
        with self._lock:
            self._arena.drain()
            return self._allocate(nbytes, blank=blank)[1][:nbytes]

    def _allocate(self, nbytes: int, *, blank: bool) -> tuple[Slab, memoryview]:
        """Return a slab, and a view that alone keeps it."""
        slab = self._arena.take(nbytes, blank=blank)
        view = slab.lease()
        self._arena.release(slab)
        return slab, view

    def put(self, buffers: Sequence[Buffer], *, copy: bool = False) -> list[Place]:
        """Find or make room in slabs for ``buffers``, and show the parent those slabs.

        Args:
          buffers: What is to be there.
          copy: Whether to copy also what is in such a slab already, and may yet be written to.

        Raises:
          OSError: if there is no memory left.
        """
        with self._lock:
            self._arena.drain()
            return self._put(buffers, copy=copy)

    def _put(self, buffers: Sequence[Buffer], *, copy: bool) -> list[Place]:
        homes = [None if copy else self._home_of(buffer) for buffer in buffers]
        lent = self._presentable({home[0]: None for home in homes if home is not None})
        places = [
            (home[0].number, home[1], len(buffer)) if home and home[0] in lent else None
            for home, buffer in zip(homes, buffers, strict=True)
        ]
        if None in places:
            copies, _kept = self._copy(buffers, places)
            lent.add(copies)
        for slab in lent:
            self._show(slab)
        for slab in lent:  # when all are shown: what fails before leaves none of them lent
            slab.uses += 1
        return places  # type: ignore[return-value] # each None has been replaced

    def _presentable(self, slabs: Iterable[Slab]) -> set[Slab]:
        """Return those that can be lent now: no more new ones than fit the control socket."""
        new = [slab for slab in slabs if slab.number not in self._shown]
        return {*slabs} - {*new[PARCELS_LIMIT - 1 :]}

    def _home_of(self, buffer: Buffer) -> tuple[Slab, int] | None:
        return self._arena.find(buffer) if len(buffer) >= SMALLEST else None

    def _copy(
        self, buffers: Sequence[Buffer], places: list[Place | None]
    ) -> tuple[Slab, memoryview]:
        """Copy those that have no place yet into one slab; see `_allocate`."""
        homeless = [index for index, place in enumerate(places) if place is None]
        offsets, size = offsets_of(len(buffers[index]) for index in homeless)
        slab, view = self._allocate(size, blank=False)
        for index, offset in zip(homeless, offsets, strict=True):
            end = offset + len(buffers[index])
            view[offset:end] = buffers[index]
            places[index] = (slab.number, offset, end - offset)
        return slab, view

    def _show(self, slab: Slab) -> None:
        if slab.number not in self._shown:
            send_segment(self._control, slab.number, slab.segment)
            slab.segment.release()
            self._shown.add(slab.number)

    def tidy(self) -> None:
        """Let go of what was allocated for nothing: the parent, who decides, does not know it."""
        with self._lock:
            self._arena.drain()
            for slab in [*self._arena.idle()]:
                if slab.number not in self._shown:
                    self._arena.forget(slab.number)

    # -- what the parent says -----------------------------------------------------------------

    def hear(self, kind: int, number: int) -> None:
        """Do what a frame about a slab says."""
        with self._lock:
            slab = self._arena.slabs.get(number)
            if kind == FORGET:
                self._borrowed.forget(number)
            elif slab is not None and kind == FREE:
                self._arena.release(slab)
            elif slab is not None and kind == DROP:
                self._drop(slab)

    def _drop(self, slab: Slab) -> None:
        self._shown.discard(slab.number)
        self._arena.forget(slab.number)
        start = slab.size if slab.uses else 0  # used: by a function that has kept what it returned
        while start < slab.size:
            start = slab.let_go(start)

    def wipe_step(self) -> bool:
        """Wipe a part of what nobody uses; return False if there is nothing to wipe."""
        with self._lock:
            return self._arena.wipe_step()
