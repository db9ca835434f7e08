"""Requests that wait, by priority.

Higher priority first; within one, first come, first served. But none starves: when so many have
gone before the first of a lower priority since it is the first, it is its turn. No clock is needed
for that, and under whatever load each priority keeps a share.

Before all of them go those in the line ``"first"``, for which somebody waits who has a place.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar, final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final, Literal, TypeAlias

    from trioipc.protocol._messages import Priority

    Line: TypeAlias = Priority | Literal["first"]

R = TypeVar("R")  # a request

PASSES: Final = 16
"""How many of higher priority go before one that waits. Small enough that low priority gets a
seventeenth of the places, large enough that high priority hardly notices."""


@final
class PriorityQueue(Generic[R]):
    """Requests that wait."""

    __slots__ = (
        "_first",
        "_high",
        "_lines",
        "_low",
        "_low_passed",
        "_normal",
        "_normal_passed",
        "size",
    )

    def __init__(self) -> None:
        # OrderedDicts so that one that is cancelled leaves at once. {request: None}
        self._first: OrderedDict[R, None] = OrderedDict()
        self._high: OrderedDict[R, None] = OrderedDict()
        self._normal: OrderedDict[R, None] = OrderedDict()
        self._low: OrderedDict[R, None] = OrderedDict()
        self._lines = {
            "first": self._first,
            "high": self._high,
            "normal": self._normal,
            "low": self._low,
        }
        # How many have gone before the first of these.
        self._normal_passed = 0
        self._low_passed = 0
        self.size = 0
        """How many wait."""

    def add(self, request: R, priority: Line) -> None:
        """Let ``request`` wait, behind those of its priority."""
        self._lines[priority][request] = None
        self.size += 1

    def put_back(self, request: R, priority: Line) -> None:
        """Let ``request`` wait, before those of its priority."""
        self.add(request, priority)
        self._lines[priority].move_to_end(request, last=False)

    def discard(self, request: R, priority: Line) -> bool:
        """Forget ``request``; return whether it was there."""
        if self._lines[priority].pop(request, self) is self:
            return False
        self.size -= 1
        return True

    @property
    def is_urgent(self) -> bool:
        """Whether who is next goes before every priority."""
        return bool(self._first)

    def first(self) -> R:
        """Return who is next; there must be one."""
        return next(iter(self._next_line()))

    def pop(self) -> tuple[R, Line]:
        """Take out who is next; there must be one."""
        line = self._next_line()
        request, _ = line.popitem(last=False)
        self.size -= 1
        return request, self._note(line)

    def take(self, request: R) -> Line:
        """Take out one that somebody else has chosen; it must be there."""
        for line in self._lines.values():
            if line.pop(request, self) is None:
                self.size -= 1
                return self._note(line)
        raise KeyError(request)

    def __contains__(self, request: object) -> bool:
        return any(request in line for line in self._lines.values())

    def __iter__(self) -> Iterator[R]:
        """Yield who is next, then the others, higher priority first."""
        if not self.size:
            return
        first = self.first()
        yield first
        for line in self._lines.values():
            for request in line:
                if request is not first:
                    yield request

    def _next_line(self) -> OrderedDict[R, None]:
        if self._first:
            return self._first
        if self._low and self._low_passed >= PASSES:
            return self._low
        if self._normal and self._normal_passed >= PASSES:
            return self._normal
        return self._high or self._normal or self._low

    def _note(self, line: OrderedDict[R, None]) -> Line:
        """Count whom one that has gone has passed; return its line."""
        if line is self._first:
            return "first"
        if line is self._low:
            self._low_passed = 0
            return "low"
        self._low_passed = self._low_passed + 1 if self._low else 0
        if line is self._normal:
            self._normal_passed = 0
            return "normal"
        self._normal_passed = self._normal_passed + 1 if self._normal else 0
        return "high"
