"""Items on their way from a generator to whoever consumes them, in memory that both see.

A belt has one slot for each item that may wait on it. Item ``n`` lies in slot ``n`` modulo their
number, so nothing that one side writes tells the other where to look. Each cell has one writer:

    LAID    how many items were ever laid on the belt, by the side that makes them
    TAKEN   how many were ever taken off it, by the side that takes them
    BELL    how often that side has found nothing and was about to sleep; by that side as well

A `BeltTaker` is pickled, and arrives as a `BeltMaker`.

Rule 1: what the maker has written is not believed: counts and lengths are checked.
Rule 2: that a record is complete is said by LAID, which is written after it.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, final

from trioipc._errors import RemoteProtocolError
from trioipc.memory._arena import SMALLEST
from trioipc.memory._fence import fence

if TYPE_CHECKING:
    from typing import TypeAlias

    # The kind of a record, 0 to 255, and what it holds.
    Record: TypeAlias = tuple[int, memoryview]

# Cells, each on a cache line of its own, and where the slots begin.
_LAID, _TAKEN, _BELL = 0, 8, 16
_HEAD = 256

# A slot is as large as what travels in a pickle anyway, but all of them are no more than a belt
# should be. The least holds a table of some eighty places.
_SLOT = 8 << 10
_LEAST_SLOT = 2 << 10
_BELT = 1 << 20
# What is beyond this is no buffer but a store: 32 MiB of slots.
SLOTS_LIMIT = 16 << 10

# A record begins with one cell: its length, shifted by eight bits, and its kind.
_WORD = 8


def slot_bytes(slots: int) -> int:
    """Say how large each of so many slots is."""
    return max(_LEAST_SLOT, min(_SLOT, _BELT // slots // 64 * 64))


def belt_bytes(slots: int) -> int:
    """Say how much memory a belt takes: enough to travel without a copy."""
    return max(SMALLEST, _HEAD + slots * slot_bytes(slots))


class _Side:
    """What both sides of a belt see.

    Args:
      memory: Of the belt.
      slots: How many items may lie on it.
    """

    def __init__(self, memory: memoryview, slots: int) -> None:
        size = slot_bytes(slots)
        starts = [_HEAD + slot * size for slot in range(slots)]
        self._slots = slots
        self._cells = memory.cast("Q")
        # [slot: in which cell it begins], and its room
        self._words = [start // 8 for start in starts]
        self._rooms = [memory[start + _WORD : start + size] for start in starts]
        # How long a record may be.
        self.room = size - _WORD


@final
class BeltMaker(_Side):
    """The side that lays items on the belt."""

    def __init__(self, memory: memoryview, slots: int) -> None:
        super().__init__(memory, slots)
        self._laid = 0
        # How many may have been laid, as far as it has looked.
        self._limit = slots
        # What BELL was when it was last answered.
        self._answered = 0

    def __repr__(self) -> str:
        return f"<BeltMaker: {self._laid} laid>"

    def has_room(self) -> bool:
        """Say whether fewer items wait than may."""
        if self._laid == self._limit:
            self._limit = self._cells[_TAKEN] + self._slots
        return self._laid < self._limit

    def lay(self, kind: int, record: bytes) -> bool:
        """Lay down a record, for which there must be room; return whether to wake the taker."""
        laid, cells = self._laid, self._cells
        at = laid % self._slots
        length = len(record)
        self._rooms[at][:length] = record
        cells[self._words[at]] = length << 8 | kind
        self._laid = cells[_LAID] = laid + 1
        fence()  # the taker rings before it looks again: either we see that, or it sees the item
        bell = cells[_BELL]
        if bell == self._answered:
            return False
        self._answered = bell
        return True


@final
class BeltTaker(_Side):
    """The side that takes them off.

    Args:
      memory: Of the belt, `belt_bytes` long, all zero.
      slots: How many items may lie on it.
    """

    def __init__(self, memory: memoryview, slots: int) -> None:
        super().__init__(memory, slots)
        self._memory = memory
        self.taken = 0
        # How many are known to lie there.
        self.known = 0
        self._bells = 0

    def __repr__(self) -> str:
        return f"<BeltTaker: {self.taken} taken>"

    def __reduce__(self) -> tuple[Any, ...]:
        return BeltMaker, (pickle.PickleBuffer(self._memory), self._slots)

    def clear(self) -> None:
        """Begin anew, for another maker; the one before is gone."""
        self.taken = self.known = self._bells = 0
        for cell in (_LAID, _TAKEN, _BELL):
            self._cells[cell] = 0

    def count(self) -> int:
        """Say how many items lie on the belt.

        Raises:
          RemoteProtocolError: if that cannot be.
        """
        known = self._cells[_LAID] - self.taken
        if not 0 <= known <= self._slots:
            raise RemoteProtocolError(f"{known} items on a belt of {self._slots}")
        self.known = known
        return known

    def kind(self) -> int:
        """Say of which kind the first item is, of those that `count` has found."""
        return self._cells[self._words[self.taken % self._slots]] & 0xFF

    def room_of_first(self) -> memoryview:
        """Return its whole slot: what is in it ends by itself, as pickles do."""
        return self._rooms[self.taken % self._slots]

    def record(self, ahead: int = 0) -> Record:
        """Return an item, the first or one behind it.

        Raises:
          RemoteProtocolError: if it is longer than its slot.
        """
        at = (self.taken + ahead) % self._slots
        word = self._cells[self._words[at]]
        length = word >> 8
        if length > self.room:
            raise RemoteProtocolError(f"an item of {length} bytes in a slot of {self.room}")
        return word & 0xFF, self._rooms[at][:length]

    def advance(self) -> None:
        """Count the first item as taken; its slot is the maker's again."""
        self.known -= 1
        self.taken = self._cells[_TAKEN] = self.taken + 1

    def ask_to_be_woken(self) -> None:
        """Have the maker say so when it lays the next item. Then look once more before sleeping."""
        self._bells += 1
        self._cells[_BELL] = self._bells
        fence()
