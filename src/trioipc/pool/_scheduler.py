"""Which worker runs which request next.

Rule 1: nothing here awaits, sleeps, reads a clock or imports Trio. The pool asks; the scheduler
    answers, and never acts.
Rule 2: a request is either waiting, or has a place on exactly one worker, or is forgotten.
Rule 3: higher priority first; within one, first come, first served.
Rule 4: no request is sent ahead, to a worker that is busy, while there is one that is not.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, Literal, TypeAlias, TypeVar, final

import attrs

from trioipc.pool._expectation import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trioipc.protocol._messages import Priority

StrategyName: TypeAlias = Literal["least-busy", "round-robin"]
STRATEGIES: tuple[StrategyName, ...] = ("least-busy", "round-robin")

R = TypeVar("R")  # a request
W = TypeVar("W")  # a worker


# So much work is sent ahead to a worker, the request that it runs included. Where functions take
# longer than this, waiting for the next one costs little; what is ahead cannot be overtaken.
AHEAD_NANOSECONDS = 200_000


@final
@attrs.define(eq=False)
class _Desk(Generic[R]):
    """What the scheduler knows of one worker."""

    places: int
    held: dict[R, int] = attrs.field(factory=dict, init=False)  # {request: nanoseconds expected}
    load: int = attrs.field(default=0, init=False)  # of all of them
    turn: int = attrs.field(default=0, init=False)  # when it was last given something


@final
@attrs.define(eq=False, repr=False)
class Scheduler(Generic[R, W]):
    """Match waiting requests to workers with a free place.

    Args:
      strategy: ``"least-busy"`` takes the worker that holds the fewest requests and, among
        equals, the one that has been idle longest; ``"round-robin"`` goes round, skipping full
        ones.
      max_waiting: How many requests may wait.
      max_weight: How heavy they may be together; one that makes them heavier still may wait.
      weigh: Says how heavy one is.
      expect: Says how many nanoseconds one will run; `UNKNOWN` if it must not be sent ahead.
      admits: Says whether a busy worker can be sent one.
    """

    _strategy: StrategyName = "least-busy"
    _max_waiting: float = math.inf
    _max_weight: float = math.inf
    _weigh: Callable[[R], int] = lambda _: 0
    _expect: Callable[[R], int] = lambda _: UNKNOWN
    _admits: Callable[[W, R], bool] = lambda _, __: True
    # How much work is sent ahead.
    ahead_nanoseconds: int = attrs.field(default=AHEAD_NANOSECONDS, init=False)
    # Of all that wait.
    _weight: int = attrs.field(default=0, init=False)
    # An OrderedDict so that one that is cancelled leaves at once. {request: None}
    _high: OrderedDict[R, None] = attrs.field(factory=OrderedDict, init=False)
    _normal: OrderedDict[R, None] = attrs.field(factory=OrderedDict, init=False)
    _low: OrderedDict[R, None] = attrs.field(factory=OrderedDict, init=False)
    _queues: dict[Priority, OrderedDict[R, None]] = attrs.field(init=False)
    _desks: dict[W, _Desk[R]] = attrs.field(factory=dict, init=False)  # {worker: what it holds}
    _turn: int = attrs.field(default=0, init=False)
    # Requests that workers hold, places in all, and how many of them are free.
    _held: int = attrs.field(default=0, init=False)
    _places: int = attrs.field(default=0, init=False)
    _free: int = attrs.field(default=0, init=False)
    # The most places that were taken since somebody asked.
    _peak: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        if self._strategy not in STRATEGIES:
            raise ValueError(
                f"strategy must be one of {', '.join(STRATEGIES)}, not {self._strategy!r}"
            )
        self._queues = {"high": self._high, "normal": self._normal, "low": self._low}

    def __repr__(self) -> str:
        return f"<Scheduler: {self.waiting} waiting, {self._held} held, {len(self._desks)} workers>"

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._high) + len(self._normal) + len(self._low)

    @property
    def held(self) -> int:
        """How many requests workers hold, those sent ahead included."""
        return self._held

    @property
    def ahead(self) -> int:
        """How many of those were sent ahead: their workers are busy with others."""
        return self._held - self._places + self._free

    @property
    def is_lopsided(self) -> bool:
        """Whether a worker has nothing to do while another has more than it can do at a time."""
        return self._free > 0 and self._held > self._places - self._free

    @property
    def workers(self) -> int:
        """How many workers it may give something to."""
        return len(self._desks)

    def take_peak(self) -> int:
        """Return the most places that were taken at a time since this was last called."""
        peak, self._peak = self._peak, self._places - self._free
        return peak

    def is_full(self) -> bool:
        """Say whether one more request would have to be refused."""
        if self._free > 0:
            return False
        return self.waiting + self.ahead >= self._max_waiting or self._weight > self._max_weight

    def add(self, request: R, priority: Priority) -> None:
        """Let ``request`` wait, behind those of its priority."""
        self._queues[priority][request] = None
        self._weight += self._weigh(request)

    def put_back(self, request: R, priority: Priority) -> None:
        """Let ``request`` wait again, before those of its priority."""
        self.add(request, priority)
        self._queues[priority].move_to_end(request, last=False)

    def discard(self, request: R, priority: Priority) -> None:
        """Forget a request that waits; one that does not wait is fine too."""
        if self._queues[priority].pop(request, self) is None:
            self._weight -= self._weigh(request)

    def requests(self) -> Iterator[R]:
        """Yield those that wait, in the order in which they will be served."""
        for queue in self._queues.values():
            yield from queue

    def add_worker(self, worker: W, places: int) -> None:
        """Let ``worker`` have up to ``places`` requests at a time."""
        self._desks[worker] = _Desk(places)
        self._places += places
        self._free += places

    def remove_worker(self, worker: W) -> None:
        """Give ``worker`` nothing more; what it holds is forgotten."""
        desk = self._desks.pop(worker, None)
        if desk is not None:
            self._places -= desk.places
            self._free -= max(0, desk.places - len(desk.held))
            self._held -= len(desk.held)

    def free(self, worker: W, request: R) -> None:
        """Say that ``worker`` no longer holds ``request``."""
        desk = self._desks.get(worker)
        if desk is not None:
            desk.load -= desk.held.pop(request)
            self._held -= 1
            if len(desk.held) < desk.places:
                self._free += 1

    def drags_on(self, worker: W, request: R) -> None:
        """Say that ``request`` takes longer than expected, and nobody knows how long."""
        desk = self._desks.get(worker)
        if desk is not None:
            desk.load += UNKNOWN - desk.held[request]
            desk.held[request] = UNKNOWN

    def place(self, request: R, priority: Priority) -> W | None:
        """Give a new request a place at once and return whose; or None, and it waits.

        As `add` and `next_pair`, for the usual case that nobody waits.
        """
        if self._free > 0 and not (self._high or self._normal or self._low):
            return self._take_place(request)
        self.add(request, priority)
        return None

    def next_pair(self) -> tuple[W, R] | None:
        """Give the next request that waits a place; None if there is none, or no place."""
        if self._free <= 0:
            return None
        queue = self._high or self._normal or self._low
        if not queue:
            return None
        request, _ = queue.popitem(last=False)
        self._weight -= self._weigh(request)
        return self._take_place(request), request

    def next_ahead(self) -> tuple[W, R] | None:
        """Send the next request that waits ahead, to the worker that will be done first.

        None if it must wait: for a worker that is free, or since it or what all hold may take long.
        """
        queue = self._high or self._normal or self._low
        if not queue or self._free > 0 or not self._desks:
            return None
        request = next(iter(queue))
        expected = self._expect(request)
        if expected > self.ahead_nanoseconds:
            return None
        worker, desk = min(self._desks.items(), key=_load)
        if desk.load + expected > self.ahead_nanoseconds or not self._admits(worker, request):
            return None
        del queue[request]
        self._weight -= self._weigh(request)
        self._hand(desk, request, expected)
        return worker, request

    def _take_place(self, request: R) -> W:
        worker, desk = self._choose()
        self._hand(desk, request, self._expect(request))
        self._free -= 1
        taken = self._places - self._free
        if taken > self._peak:
            self._peak = taken
        return worker

    def _hand(self, desk: _Desk[R], request: R, expected: int) -> None:
        self._turn += 1
        desk.turn = self._turn
        desk.held[request] = expected
        desk.load += expected
        self._held += 1

    def _choose(self) -> tuple[W, _Desk[R]]:
        if len(self._desks) == 1:
            return next(iter(self._desks.items()))
        free = [(w, desk) for w, desk in self._desks.items() if len(desk.held) < desk.places]
        if len(free) == 1:
            return free[0]
        if self._strategy == "round-robin":
            return min(free, key=lambda pair: pair[1].turn)
        return min(free, key=lambda pair: (len(pair[1].held), pair[1].turn))


def _load(pair: tuple[W, _Desk[R]]) -> int:
    return pair[1].load
