"""Which items of a `WorkerPool.map` go together in one request, and in which order.

Rule 1: nothing here awaits, reads a clock or imports Trio.
Rule 2: an item is in the line, in one chunk; what had not begun when its chunk ended goes back to
    the place in the line where it was.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, final

import attrs

from trioipc.pool.engines._pace import AT_ONCE
from trioipc.worker._chunk import LOG_BYTES

if TYPE_CHECKING:
    from trioipc._errors import WorkerCrashedError
    from trioipc.pool._request import PoolRequest
    from trioipc.worker._chunk import Log

# For so many times what a chunk should take are items begun in it, at most: they may turn out to
# take longer than those before them.
_QUOTA_PARTS = 5
# How much a chunk may be larger, or smaller, than the one before.
_GROWTH = 4
# Beyond that there is nothing to be gained, and the event loop would wait for them to be pickled.
_MOST_ITEMS = 5000
# As many bytes of items go in one chunk: they are copied in one turn of the event loop.
CHUNK_BYTES = AT_ONCE - LOG_BYTES
# Results are not all of one size; so much of a log is counted on.
_FILL = 0.9

# How many items are pulled from the source, in chunks for each one that may be with the workers.
_AHEAD = 4


@final
@attrs.define(eq=False)
class Chunk:
    """Items that go in one request, and the request when it has been made."""

    items: list[Any]
    # Whether each goes in a request of its own, as if by `WorkerPool.run`.
    alone: bool = False
    # Of the one item, when it has been tried before.
    crashes: tuple[WorkerCrashedError, ...] = ()
    request: PoolRequest[Any] | None = attrs.field(default=None, init=False)
    log: Log | None = attrs.field(default=None, init=False)
    # Why there is no request: the item cannot be sent.
    failure: Exception | None = attrs.field(default=None, init=False)
    is_over: bool = attrs.field(default=False, init=False)


@final
@attrs.define(eq=False)
class Sizer:
    """How many items the next chunk has.

    Args:
      fixed: How many each has; None to find out.
      limit: How many it may have.
      seconds: What it should take: for worker processes, to which a request costs about 0.05 ms,
        anything between 0.25 and 10 ms made no difference.
    """

    _fixed: int | None = None
    _limit: float = math.inf
    _seconds: float = 0.002
    _wanted: float = attrs.field(default=1.0, init=False)
    # What their bytes allow, and those of their results.
    _sendable: float = attrs.field(default=math.inf, init=False)
    _storable: float = attrs.field(default=math.inf, init=False)

    @property
    def size(self) -> int:
        """How many items."""
        if self._fixed is not None:
            return self._fixed
        allowed = min(self._sendable, self._storable, self._limit, _MOST_ITEMS)
        return max(1, int(min(self._wanted, allowed)))

    @property
    def quota(self) -> float:
        """For how many seconds items of one chunk may be begun."""
        return _QUOTA_PARTS * self._seconds if self._fixed is None else math.inf

    def learn(self, sent: int, done: int, nanoseconds: int, room: float) -> None:
        """Take into account how a chunk went.

        Args:
          sent: How many items it had.
          done: How many of them are finished; the others, or one, were out of the ordinary.
          nanoseconds: How long that took.
          room: How many results such as these there is room for.
        """
        by_time = self._seconds * 1e9 * max(done, 1) / max(nanoseconds, 1)
        if done < sent:
            least, most = 1.0, float(done)
        else:  # not all at once: its worker may just have had to wait for a processor
            least, most = self._wanted / _GROWTH, max(self._wanted, _GROWTH * done)
        self._wanted = max(1, least, min(by_time, most))
        self._storable = room * _FILL

    def weigh(self, sent: int, nbytes: int) -> bool:
        """Take into account how many bytes a chunk has; say whether that is too many."""
        self._sendable = CHUNK_BYTES * sent / max(nbytes, 1)
        return nbytes > CHUNK_BYTES and sent > 1 and self._fixed is None


@final
class Line:
    """The chunks whose results have not been taken, in the order in which they will be.

    Args:
      ordered: Whether that is the order of the items; if not, that in which the chunks end.
    """

    def __init__(self, *, ordered: bool) -> None:
        self._ordered = ordered
        self._chunks: deque[Chunk] = deque()
        # Those that have no request yet, though there were others after them.
        self._unsent: deque[Chunk] = deque()

    def __bool__(self) -> bool:
        return bool(self._chunks or self._unsent)

    @property
    def has_unsent(self) -> bool:
        """Whether there is something to send that was there already."""
        return bool(self._unsent)

    def add(self, chunk: Chunk) -> None:
        """Let a new chunk, which is sent at once, be the last."""
        if self._ordered:
            self._chunks.append(chunk)

    def heard(self, chunk: Chunk) -> None:
        """Say that a chunk has ended."""
        chunk.is_over = True
        if not self._ordered:
            self._chunks.append(chunk)

    def head(self) -> Chunk | None:
        """Return the next chunk whose results can be taken."""
        if self._chunks and self._chunks[0].is_over:
            return self._chunks[0]
        return None

    def replace_head(self, rest: list[Chunk]) -> None:
        """Take the head away, and let others be sent in its place."""
        self._chunks.popleft()
        self.put_back(rest, 0)

    def put_back(self, chunks: list[Chunk], index: int | None = None) -> None:
        """Let chunks be sent before all others.

        Args:
          chunks: In their order.
          index: Their place in the line; None if they have one.
        """
        for chunk in reversed(chunks):
            self._unsent.appendleft(chunk)
            if self._ordered and index is not None:
                self._chunks.insert(index, chunk)

    def next_unsent(self, size: int) -> Chunk | None:
        """Return a chunk to be sent, with ``size`` items at most, or one, if each goes alone."""
        if not self._unsent:
            return None
        chunk = self._unsent[0]
        if chunk.alone:
            size = 1
        if len(chunk.items) <= size:
            return self._unsent.popleft()
        first = Chunk(chunk.items[:size], chunk.alone)
        del chunk.items[:size]
        if self._ordered:
            self._chunks.insert(self._chunks.index(chunk), first)
        return first

    def split(self, chunk: Chunk, size: int) -> None:
        """Leave ``size`` items in a chunk, and let the others be sent next, after it."""
        rest = Chunk(chunk.items[size:], chunk.alone)
        del chunk.items[size:]
        self.put_back([rest], self._chunks.index(chunk) + 1 if self._ordered else 0)

    def clear(self) -> None:
        """Forget all of it."""
        self._chunks.clear()
        self._unsent.clear()


def room_for(max_pending: int | None, window: int, size: int) -> int:
    """Say how many items may have been pulled and not handed over.

    Args:
      max_pending: If somebody has said it.
      window: How many chunks may be with the workers.
      size: Of a chunk.
    """
    return _AHEAD * window * size if max_pending is None else max_pending
