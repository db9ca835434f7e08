"""Many items of `WorkerPool.map` in one request: what runs in the worker, and its log.

The log is where the results go, one by one. For worker processes it is in shared memory, so the
parent still has what was finished when the worker dies.

Rule 1: an item is finished when it is counted. The count is stored last, in one move.
Rule 2: whatever is out of the ordinary ends the chunk, at the item that it happens to: it raises,
    its result has no room in the log, it takes too long, it is cancelled, it kills the worker.
Rule 3: to a function, each item looks like a request: its clocks, its progress and its phase begin
    anew.
"""

from __future__ import annotations

import math
import pickle
import time
from itertools import pairwise
from typing import TYPE_CHECKING, final

from trioipc._errors import RequestInterrupt
from trioipc.memory._board import (
    CANCEL,
    DEFAULT_TOTAL,
    DONE,
    LIMIT,
    PHASE,
    STARTED_AT,
    TOTAL,
    clear_text,
)
from trioipc.memory._travel import carrying
from trioipc.protocol._pickling import dumps
from trioipc.worker.request import current_request

if TYPE_CHECKING:
    from collections.abc import Callable, MutableSequence, Sequence
    from typing import Any, TypeAlias

    from trioipc.memory._travel import Carried
    from trioipc.worker.request import CurrentRequest

    Log: TypeAlias = "SharedLog | ListLog"

# The cells at the head of a log. How many items are finished; how many of them, from the first on,
# are plain numbers, and of which type; whether any item was begun; whether the answer of the
# request is the result of the next item; and how long it all took, in nanoseconds.
FINISHED, NUMBERS, TYPE, BEGUN, ANSWERED, TOOK = range(6)
# What is in the place of BEGUN where a log was lost with its worker: all may have been begun.
ALL_BEGUN = 2
_HEAD = 8
_HEAD_BYTES = _HEAD * 8

_TYPES: tuple[type, ...] = (int, float)
_FORMATS = ("q", "d")

# Together with the items it is no more than what the parent copies without a pause, though of the
# log nothing is copied.
LOG_BYTES = 128 << 10
# Of a log whose length somebody has chosen, for each item.
_ITEM_BYTES = 32

# Results one behind the other are loaded as one list, in a seventh of the time. Newer protocols
# number what they remember by themselves, so a pickle means another thing behind another pickle.
_PROTOCOL = 3
_STOP = b"."
_BEFORE, _AFTER = b"(", b"l" + _STOP

# What holds nothing, and so no shared state, which travels beside a frame and not in a log.
_SIMPLE = frozenset((str, int, float, bool, complex, type(None)))

_FOR_EVER = 1 << 63

# So often the clocks of the items begin anew and the cancel word is looked at, at most: items that
# take no longer share a clock.
_LOOK_NANOSECONDS = 20_000


def log_bytes(length: int) -> int:
    """Say how large a log of up to ``length`` items is to be."""
    return max(LOG_BYTES, _HEAD_BYTES + length * _ITEM_BYTES)


@final
class SharedLog:
    """Results in shared memory: numbers in cells, everything else as pickles behind the cells.

    The cell of a pickle says where it ends. The one who reads and the one who writes each have
    a `SharedLog` of their own over the same memory.

    Args:
      memory: Of `log_bytes`.
      length: How many items the chunk has.
    """

    __slots__ = (
        "_carried",
        "_carrying",
        "_cells",
        "_end",
        "_pickles",
        "_room",
        "head",
        "memory",
        "number_type",
        "numbers",
    )

    def __init__(self, memory: memoryview, length: int) -> None:
        self.memory = memory
        self.head: MutableSequence[int] = memory[:_HEAD_BYTES].cast("q")  # type: ignore[assignment]
        self._cells = memory[_HEAD_BYTES : _HEAD_BYTES + length * 8]
        self._pickles = memory[_HEAD_BYTES + length * 8 :]
        self._room = len(self._pickles)
        self._end = 0
        # Shared state that a result holds, which has no place here.
        self._carried: Carried = {}
        self._carrying = carrying(self._carried)
        # Of what type a result must be that may be stored at its index in ``numbers``.
        self.number_type: type | None = None
        self.numbers: Any = self._cells.cast("q")

    def put(self, index: int, result: object) -> bool:
        """Store a result that is no number, or the first; return False if that cannot be."""
        if self.number_type is not None:
            self.number_type = None
            self.numbers = self._cells.cast("q")
            self.head[NUMBERS] = index
        kind = type(result)
        if index == 0 and kind in _TYPES and self._put_first_number(result):
            return True
        try:
            # What is most frequent goes without another call.
            is_simple = kind in _SIMPLE
            pickled = pickle.dumps(result, _PROTOCOL) if is_simple else self._pickle(result)
        except (Exception, SystemExit):  # the answer says what it was
            return False
        start = self._end
        end = start + len(pickled)
        if end > self._room:
            return False
        self._pickles[start:end] = pickled
        self.numbers[index] = self._end = end - 1  # the next one begins in place of its last byte
        return True

    def _put_first_number(self, result: object) -> bool:
        """Store the first result, which is a number, and expect the others to be such."""
        which = _TYPES.index(type(result))
        numbers = self._cells.cast(_FORMATS[which])  # type: ignore[call-overload]
        try:
            numbers[0] = result
        except ValueError:  # it is too large for a cell
            return False
        self.number_type, self.numbers = _TYPES[which], numbers
        self.head[TYPE], self.head[NUMBERS] = which, len(numbers)
        return True

    def _pickle(self, result: Any) -> bytes:
        """Pickle a result.

        Raises:
          ValueError: if it must travel as the answer of a request.
          Exception: if it cannot be pickled.
        """
        kind = type(result)
        if (kind is tuple or kind is list) and _SIMPLE.issuperset(map(type, result)):
            return pickle.dumps(result, _PROTOCOL)
        if (kind is bytes or kind is bytearray) and len(result) > self._room:
            raise ValueError("it is too large")
        with self._carrying:
            pickled = dumps(result, _PROTOCOL)
        if self._carried:
            self._carried.clear()
            raise ValueError("shared state travels beside a frame")
        return pickled

    # -- for the parent ---------------------------------------------------------------------

    def blank(self) -> None:
        """Forget what another chunk has left; before anybody writes."""
        self.memory[:_HEAD_BYTES] = bytes(_HEAD_BYTES)

    def results(self) -> list[Any]:
        """Return the results of the finished items.

        Raises:
          Exception: whatever unpickling them raises; `pickles` has them one by one.
        """
        values = self.leading_numbers()
        finished = self.head[FINISHED]
        if len(values) < finished:
            pickles = self._pickles[: self.numbers[finished - 1]]
            values += pickle.loads(b"".join((_BEFORE, pickles, _AFTER)))
        return values

    def leading_numbers(self) -> list[Any]:
        """Return the results, from the first on, that are numbers in cells."""
        form = _FORMATS[self.head[TYPE]]
        cells = self._cells.cast(form)  # type: ignore[call-overload]
        numbers: list[Any] = cells[: self._count_numbers()].tolist()
        return numbers

    def pickles(self) -> list[bytes]:
        """Return a pickle of each finished item that is no number in a cell."""
        first, last = self._count_numbers(), self.head[FINISHED]
        ends = [0, *self.numbers[first:last].tolist()]
        return [bytes(self._pickles[start:end]) + _STOP for start, end in pairwise(ends)]

    def _count_numbers(self) -> int:
        return min(self.head[FINISHED], self.head[NUMBERS])

    def written(self) -> int:
        """Say how many bytes of the memory hold something, from its first byte on."""
        end = len(self.memory) - len(self._pickles)
        finished = self.head[FINISHED]
        if finished > self._count_numbers():
            end += self.numbers[finished - 1] + 1
        return end

    def room(self) -> float:
        """Say how many such items would have filled the log, by those that are in it."""
        pickled = self.head[FINISHED] - self._count_numbers()
        each = 8.0
        if pickled:
            each += self.numbers[self.head[FINISHED] - 1] / pickled
        return (len(self._cells) + len(self._pickles)) / each


@final
class ListLog:
    """Results of a thread, which shares its memory: a list, in which they stay what they are."""

    __slots__ = ("_results", "head", "number_type", "numbers")

    def __init__(self) -> None:
        self.head: MutableSequence[int] = [0] * _HEAD
        self._results: list[Any] = []
        self.number_type = None
        self.numbers: Any = None

    def put(self, index: int, result: object) -> bool:
        """Store a result."""
        self._results.append(result)
        return True

    def results(self) -> list[Any]:
        """Return the results of the finished items."""
        return self._results[: self.head[FINISHED]]

    def room(self) -> float:
        """Say that there is no end of it."""
        return math.inf


def run_chunk(
    log: memoryview | ListLog,
    function: Callable[[Any], Any],
    items: Sequence[Any],
    quota: int,
) -> Any:
    """Call a function with one item after the other, until something is out of the ordinary.

    Args:
      log: Where the results go.
      function: What is called.
      items: Its arguments.
      quota: For how many nanoseconds another item may be begun.

    Returns:
      None; or the result that has no room in the log, if that says so.
    """
    request = current_request()
    book = log if isinstance(log, ListLog) else SharedLog(log, len(items))
    begun = time.perf_counter_ns()
    book.head[BEGUN] = 1
    try:
        return _run(request, book, function, items, begun, begun + quota)
    finally:
        now = time.perf_counter_ns()
        book.head[TOOK] = now - begun
        request._cells[STARTED_AT] = begun  # of the request, for whoever counts its time


def _run(
    request: CurrentRequest,
    log: Log,
    function: Callable[[Any], Any],
    items: Sequence[Any],
    started: int,
    end: int,
) -> Any:
    cells, head, clock = request._cells, log.head, time.perf_counter_ns
    limit = cells[LIMIT] or _FOR_EVER
    numbers, number_type = log.numbers, log.number_type
    cells[STARTED_AT] = started
    due = started + _LOOK_NANOSECONDS
    for index, item in enumerate(items):
        result = function(item)
        now = clock()
        is_kept = type(result) is number_type
        if is_kept:
            try:
                numbers[index] = result
            except ValueError:  # it is too large for a cell
                is_kept = False
        if not is_kept:
            if not log.put(index, result):
                head[ANSWERED] = 1
                return result
            numbers, number_type = log.numbers, log.number_type
        if now > due:  # a look at all the rest costs as much as all of the above
            # One that was late may just be found to be; no other may begin and end in its place.
            if now - started >= limit:
                head[ANSWERED] = 1
                return result
            head[FINISHED] = index + 1
            if now >= end:
                break
            cells[STARTED_AT] = started = now
            due = now + _LOOK_NANOSECONDS
            if cells[CANCEL] == request._generation:
                raise RequestInterrupt
            if cells[PHASE]:
                clear_text(cells, PHASE)
        else:
            head[FINISHED] = index + 1
        if request._progress is not None:
            _begin_anew(request)
    return None


def _begin_anew(request: CurrentRequest) -> None:
    """Let the next item find no progress of the last."""
    assert request._progress is not None
    request._progress._turn_to_scrap()
    request._progress = None
    request._cells[DONE], request._cells[TOTAL] = 0, DEFAULT_TOTAL
