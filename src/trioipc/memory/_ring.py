"""A big source that goes to a worker while the worker is already reading it.

A source as large as its payload leaves the cache before anybody reads it. Through a ring of some
MiB it does not: plain bytes then run nearly as fast as if they had lain in shared memory, and cost
no more memory than the ring, whatever their size.

One side fills, the other consumes; each writes one cell that only the other reads:

    FILLED     bytes ever written into the ring, by the side that fills
    CONSUMED   bytes ever read from it, by the side that consumes
    PASSES     how often the source will be read, by that side, before it reads anything

A `Streamed` is pickled, and arrives as a `RingReader`.
"""

from __future__ import annotations

import os
import pickle
import time
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Cells, each on a cache line of its own, and where the ring itself begins.
_FILLED, _CONSUMED, _PASSES = 0, 8, 16
_HEAD = 256

# What is copied at a time: 0.06 ms. An eighth of the ring: larger rings leave the cache, smaller
# ones make each side wait for the other (4 MiB: 0.97 of what copying nothing would give; 1 MiB and
# 32 MiB: 0.6 to 0.7).
STEP = 512 << 10
ROOM = 4 << 20
# In the first round the ring may be fresh memory, which takes ten times as long.
_FRESH_STEP = 128 << 10
# For slow consumers, such as hashes, which the side that fills can wait for in its sleep.
WIDE_STEP = 1 << 20
WIDE_ROOM = 8 << 20

# What is smaller is copied in one step or two, before it is sent.
WORTH_A_RING = 1 << 20

# How one side waits for the other: first awake, then in naps that get longer. `time.sleep(0)` is
# not free either: it takes 50 us.
_YIELDS = 64
_NAP = 20e-6
_LONGEST_NAP = 200e-6
_LONGEST_PAUSE = 0.02
# Who has not begun may wait for the processor that we run on, where a message has woken it up: if
# we do not sleep, it gets that after our 3 ms. (Hashing beside something that takes 60 % of one of
# two processors: 0.91 of what it gives here, instead of 0.86.)
_START = 0.002


@final
class RingSpace(bytearray):
    """Stands for the ring while a call is pickled; what carries it finds it room instead."""

    def __init__(self, source: memoryview, step: int, room: int) -> None:
        super().__init__(_HEAD)
        self.source = source
        self.step = step
        # No larger than what goes through it: all of it is set to zero afterwards.
        self.nbytes = _HEAD + min(room, -(-len(source) // step) * step)


@final
class Streamed:
    """A source that its reader gets through a ring. Pickled, it is a `RingReader`.

    Args:
      source: The bytes; they must stay as they are until the call has returned.
      step: How many are copied at a time.
      room: How large the ring is; a multiple of ``step``.
    """

    __slots__ = ("_space", "source")

    def __init__(self, source: memoryview, step: int = STEP, room: int = ROOM) -> None:
        self.source = source
        self._space = RingSpace(source, step, room)

    def __repr__(self) -> str:
        return f"<Streamed: {len(self.source)} bytes>"

    def __reduce__(self) -> tuple[Any, ...]:
        return RingReader, (pickle.PickleBuffer(self._space), len(self.source))


@final
class RingWriter:
    """The side that fills.

    Args:
      space: What was pickled.
      memory: The ring, all zero.
    """

    def __init__(self, space: RingSpace, memory: memoryview) -> None:
        self._source = space.source
        self._step = space.step
        self._room = space.nbytes - _HEAD
        self._cells = memory[:_HEAD].cast("Q")
        self._ring = memory[_HEAD : space.nbytes]
        self._filled = 0
        # What the other side had consumed when we looked last; when it began; when that changed.
        self._seen = 0
        self._began = 0.0
        self._changed = 0.0

    def is_done(self) -> bool:
        """Say whether all has been written that will ever be read."""
        passes = self._cells[_PASSES]
        return passes != 0 and self._filled >= passes * len(self._source)

    def fill(self) -> bool:
        """Copy one step; return False if there is no room for it, or nothing left to copy."""
        size = len(self._source)
        free = self._room - (self._filled - self._cells[_CONSUMED])
        passes = self._cells[_PASSES] or 1
        at, start = self._filled % self._room, self._filled % size
        step = self._step if self._filled >= self._room else _FRESH_STEP
        count = min(step, self._room - at, size - start, size * passes - self._filled)
        if count <= 0 or free < count:
            return False
        self._ring[at : at + count] = self._source[start : start + count]
        self._filled += count
        self._cells[_FILLED] = self._filled
        return True

    def pause(self, now: float) -> float:
        """Say how many seconds it will take until half the ring is free.

        Args:
          now: In seconds, of any clock that does not stop.
        """
        consumed = self._cells[_CONSUMED]
        if not self._changed:
            self._changed = now
        # It has not begun, or stands still: as long again as it has. Or it has even wiped the ring,
        # since it has no use for the rest, and we shall hear of that.
        if consumed <= self._seen:
            return min(max(now - self._changed, 0 if consumed else _START), _LONGEST_PAUSE)
        if not self._seen:
            self._began = self._changed
        self._seen, self._changed = consumed, now
        free = self._room - (self._filled - consumed)
        return max(0.0, (self._room / 2 - free) * (now - self._began) / consumed)


@final
class RingReader:
    """The side that consumes; a source like any other.

    Args:
      memory: The ring.
      size: Of the source, in bytes.
    """

    def __init__(self, memory: memoryview, size: int) -> None:
        self.size = size
        self._cells = memory[:_HEAD].cast("Q")
        self._ring = memory[_HEAD:]
        self._consumed = 0
        # Called while it waits; may raise to stop that.
        self.checkpoint: Callable[[], object] = _nothing

    def __repr__(self) -> str:
        return f"<RingReader: {self.size} bytes>"

    def expect(self, passes: int) -> None:
        """Say, before anything is read, how often all will be."""
        self._cells[_PASSES] = passes

    def steps(self, length: int) -> Iterator[memoryview]:
        """Read from the start, at most ``length`` bytes at a time.

        A step is valid until the next one is asked for.
        """
        room = len(self._ring)
        end = self._consumed + self.size
        if not self._cells[_PASSES]:
            self.expect(1)
        if end > self._cells[_PASSES] * self.size:  # nobody would fill it
            raise RuntimeError(f"a pass more than the {self._cells[_PASSES]} that were expected")
        while self._consumed < end:
            filled = min(self._wait(), end)
            while self._consumed < filled:
                at = self._consumed % room
                count = min(length, filled - self._consumed, room - at)
                yield self._ring[at : at + count]
                self._consumed += count
                self._cells[_CONSUMED] = self._consumed

    def _wait(self) -> int:
        """Wait until there is more than was consumed; return how much there has ever been."""
        cells, consumed = self._cells, self._consumed
        for _ in range(_YIELDS):
            if cells[_FILLED] > consumed:
                return cells[_FILLED]
            os.sched_yield()
        nap = _NAP
        while cells[_FILLED] <= consumed:
            self.checkpoint()
            time.sleep(nap)
            nap = min(2 * nap, _LONGEST_NAP)
        return cells[_FILLED]


def _nothing() -> None:
    """Do nothing."""
