"""Warm memory for payloads: slabs that are mapped once, and used again and again.

Warmth is the whole point: a first copy into fresh memory takes ten times as long as one into memory
that was written before, since the kernel must find and clear each page.

An `Arena` makes slabs and owns them. It lends them to another process, which maps each once and
keeps it in its `Borrowed`. Both give their users views, and know by a `Lease` when the last of
those is gone.

Guarantees:

- A slab is used again only when its last view is gone on both sides.
- What it held is zero again before anybody sees it as blank memory.
- A map is never closed, only dropped: a view that somebody still holds keeps it, and nothing else.

What ends a lease runs wherever the last view dies: in any thread, within a collection of garbage,
at exit. So it only appends to a deque, which the owner settles when it likes.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections import deque
from functools import cache
from typing import TYPE_CHECKING, Any, final

from trioipc.memory._segment import Segment, create
from trioipc.memory._travel import next_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

# No slab is smaller. Below it, a copy costs less than what keeps a lease.
SMALLEST = 64 << 10

# From here on it matters at once that a lease has ended, not only when the next call is sent.
BIG = 1 << 20

# A cache line: no two pieces share one.
_ALIGNMENT = 64

# How much is set to zero, or given back to the kernel, at a time: about 0.1 and 0.5 ms.
WIPE_STEP = 2 << 20
_LET_GO_STEP = 2 << 20


def size_class(nbytes: int) -> int:
    """Return the size of the slab that ``nbytes`` get: four sizes for each power of two."""
    if nbytes <= SMALLEST:
        return SMALLEST
    step = 1 << (nbytes - 1).bit_length() - 3
    return -(-nbytes // step) * step


def offsets_of(lengths: Iterable[int]) -> tuple[list[int], int]:
    """Lay pieces out one behind the other; return where each begins, and the size of all."""
    offsets = []
    size = 0
    for length in lengths:
        offsets.append(size)
        size += -(-length // _ALIGNMENT) * _ALIGNMENT
    return offsets, size


@final
class Budget:
    """How many bytes of slabs there may be, and are.

    Args:
      limit: In bytes, or `math.inf`.
    """

    __slots__ = ("limit", "slabs", "used")

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.used = 0
        # In how many slabs.
        self.slabs = 0

    def is_over(self) -> bool:
        """Say whether there are more than there may be."""
        return self.used > self.limit


@final
class Slab:
    """One segment that payloads travel in.

    Args:
      number: What both sides call it.
      segment: Its memory.
      home: Whose it is; told of the end of each lease.
    """

    __slots__ = ("address", "dirty", "home", "number", "segment", "size", "uses")

    def __init__(self, number: int, segment: Segment, home: Home) -> None:
        self.number = number
        self.segment = segment
        self.size = segment.size
        self.home = home
        # Where its memory begins.
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(segment.memory))
        # Why it is not free: leases, loans, copies under way.
        self.uses = 0
        # How many of its first bytes may be other than zero.
        self.dirty = 0

    def __repr__(self) -> str:
        return f"<Slab {self.number}: {self.size} bytes, {self.uses} uses>"

    def view(self, start: int, end: int) -> memoryview:
        """Return a part of its memory, without a lease: for a moment only."""
        return memoryview(self.segment.memory)[start:end]

    def lease(self, *, wipe: bool = False) -> memoryview:
        """Return a view of all of it that counts as a use until its last slice is gone.

        Args:
          wipe: Handed on to who is told of the end.
        """
        lease = _lease_type(self.size).from_buffer(self.segment.memory)
        lease.slab = self
        lease.wipe = wipe
        self.uses += 1
        return memoryview(lease).cast("B")

    def wipe(self, limit: int = sys.maxsize) -> bool:
        """Set up to ``limit`` bytes to zero; return whether all of it now is."""
        start = max(0, self.dirty - limit)
        ctypes.memset(self.address + start, 0, self.dirty - start)  # lets go of the GIL
        self.dirty = start
        return not start

    def let_go(self, start: int, *, keep: bool = False) -> int:
        """Let the kernel have pages back from ``start`` on, a few; return where to go on.

        Unmapping what is left costs nothing, where a map full of pages holds up its process.

        Args:
          start: Where to begin.
          keep: Whether others still use the slab: then only this process lets go of its pages.
        """
        memory = self.segment.memory
        if isinstance(memory, bytearray) or not hasattr(mmap, "MADV_REMOVE"):
            return self.size
        length = min(_LET_GO_STEP, self.size - start)
        try:
            memory.madvise(mmap.MADV_DONTNEED if keep else mmap.MADV_REMOVE, start, length)
        except OSError:  # a file system that cannot; they go with the last map
            return self.size
        return start + length


@cache
def _lease_type(size: int) -> Any:
    """Make the type of leases of slabs of ``size`` bytes.

    An array of ctypes over a map keeps the map, exports its memory and is kept by each view of it,
    and its end costs 0.7 us; a `weakref.finalize` costs twice that.
    """

    class Lease(ctypes.Array[ctypes.c_ubyte]):
        _type_ = ctypes.c_ubyte
        _length_ = size

        # By this name Trio knows code that a Ctrl-C must not end half-way.
        def __del__(self) -> None:
            slab = self.slab
            slab.home.tell(slab, self.wipe)

        slab: Slab
        wipe: bool

    return Lease


class Home:
    """Knows slabs by their numbers, and hears of leases that have ended."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.slabs: dict[int, Slab] = {}  # {number: slab}
        self.ended: deque[tuple[Slab, bool]] = deque()
        # Called from anywhere when the end of a lease matters at once.
        self.poke: Callable[[], object] | None = None

    def tell(self, slab: Slab, wipe: bool) -> None:
        """Take note that a lease has ended; from any thread, at any moment."""
        if slab.number not in self.slabs:  # forgotten: nobody counts, and its map goes with it
            return
        self.ended.append((slab, wipe))
        poke = self.poke
        if poke is not None and (slab.size >= BIG or self.budget.is_over()):
            poke()

    def settle(self) -> Iterator[tuple[Slab, bool]]:
        """Count the leases that have ended; yield their slabs, and whether to wipe them."""
        while self.ended:
            slab, wipe = self.ended.popleft()
            slab.uses -= 1
            yield slab, wipe

    def _know(self, number: int, segment: Segment) -> Slab:
        slab = self.slabs[number] = Slab(number, segment, self)
        self.budget.used += slab.size
        self.budget.slabs += 1
        return slab

    def forget(self, number: int) -> Slab | None:
        """Know a slab no longer; return it if it was known."""
        slab = self.slabs.pop(number, None)
        if slab is not None:
            self.budget.used -= slab.size
            self.budget.slabs -= 1
            slab.segment.release()
        return slab


@final
class Arena(Home):
    """The slabs that this process makes and lends.

    Args:
      budget: Where their bytes are counted.
      wipes: Whether a slab may be wiped when it is wanted. If not, one that still holds something
        is not used again before `wipe_step` has been there.
    """

    def __init__(self, budget: Budget, *, wipes: bool) -> None:
        super().__init__(budget)
        self._wipes = wipes
        # {number: slab} that nobody uses, the one used last at the end.
        self._blank: dict[int, Slab] = {}
        self._soiled: dict[int, Slab] = {}
        # For the statistics: how often memory was there, and how often it had to be made.
        self.reused = 0
        self.made = 0

    def take(self, nbytes: int, *, blank: bool) -> Slab:
        """Return a slab with one use: that of the caller, who will `release` it.

        Args:
          nbytes: What shall fit.
          blank: Whether it must be all zero.

        Raises:
          OSError: if there is no memory or descriptor left.
        """
        size = size_class(nbytes)
        shelves = [self._blank]
        if self._wipes:
            shelves.insert(1 if blank else 0, self._soiled)
        slab = next((slab for shelf in shelves if (slab := _last_of(shelf, size))), None)
        if slab is None:
            slab = self._know(next_number(), create(size))
            self.made += 1
        else:
            self._take_down(slab)
            self.reused += 1
            if blank and slab.dirty:
                slab.wipe()
        slab.uses = 1
        slab.dirty = max(slab.dirty, nbytes)
        return slab

    def has(self, nbytes: int) -> bool:
        """Say whether there is a blank slab for ``nbytes``, which nobody uses."""
        return _last_of(self._blank, size_class(nbytes)) is not None

    def release(self, slab: Slab) -> None:
        """End one use of a slab."""
        slab.uses -= 1
        self._shelve(slab)

    def drain(self) -> None:
        """Find out which leases have ended."""
        for slab, _ in self.settle():
            self._shelve(slab)

    def _shelve(self, slab: Slab) -> None:
        if not slab.uses and slab.number in self.slabs:
            shelf = self._soiled if slab.dirty else self._blank
            shelf[slab.number] = slab

    def _take_down(self, slab: Slab) -> None:
        self._blank.pop(slab.number, None)
        self._soiled.pop(slab.number, None)

    def find(self, buffer: object) -> tuple[Slab, int] | None:
        """Say in which slab that somebody uses a buffer lies, and at which offset."""
        if len(self.slabs) == len(self._blank) + len(self._soiled):
            return None
        address, length = _address(buffer)
        for slab in self.slabs.values():
            offset = address - slab.address
            if slab.uses and 0 <= offset <= slab.size - length:
                return slab, offset
        return None

    def is_soiled(self) -> bool:
        """Say whether there is something to wipe."""
        return bool(self._soiled)

    def wipe_step(self) -> bool:
        """Wipe a part of a slab that nobody uses; return False if there is nothing to wipe."""
        slab = next(iter(self._soiled.values()), None)
        if slab is None:
            return False
        if slab.wipe(WIPE_STEP):
            self._take_down(slab)
            self._shelve(slab)
        return True

    def idle(self) -> Iterator[Slab]:
        """Yield the slabs that nobody uses, those that were used last at the end."""
        yield from self._soiled.values()
        yield from self._blank.values()

    def forget(self, number: int) -> Slab | None:
        """Know a slab no longer; see `Home.forget`."""
        slab = super().forget(number)
        if slab is not None:
            self._take_down(slab)
        return slab


@final
class Borrowed(Home):
    """The slabs that another process owns and has shown to this one."""

    def learn(self, number: int, segment: Segment) -> Slab:
        """Know a slab that has arrived."""
        segment.release()
        return self._know(number, segment)

    def idle(self) -> Iterator[Slab]:
        """Yield the slabs that their owner may use."""
        return (slab for slab in self.slabs.values() if not slab.uses)


def _last_of(shelf: dict[int, Slab], size: int) -> Slab | None:
    return next((slab for slab in reversed(shelf.values()) if slab.size == size), None)


def is_lendable(view: memoryview) -> bool:
    """Say whether a view is of memory that its owner, this process, can lend as it is."""
    slab = getattr(view.obj, "slab", None)
    return isinstance(slab, Slab) and isinstance(slab.home, Arena)


class _Buffer(ctypes.Structure):
    """The C structure ``Py_buffer``; only its first fields and its size matter here."""

    _fields_ = (
        ("address", ctypes.c_void_p),
        ("owner", ctypes.c_void_p),
        ("length", ctypes.c_ssize_t),
        ("rest", ctypes.c_void_p * 9),
    )


def _address(buffer: object) -> tuple[int, int]:
    """Return where the bytes of a contiguous buffer are, and how many there are.

    Also of one that is read-only, or an array of somebody else's over our memory.
    """
    found = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(buffer), ctypes.byref(found), 0)
    try:
        return found.address or 0, found.length
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(found))


# What may run in the middle of anybody's code, and must not be interrupted there.
UNINTERRUPTED = (_lease_type(SMALLEST).__del__.__code__, Home.tell.__code__)
