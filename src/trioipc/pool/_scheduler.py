"""Which worker runs which request next.

Rule 1: nothing here awaits, sleeps, reads a clock or imports Trio. The pool asks; the scheduler
    answers, and never acts.
Rule 2: a request is either waiting, or has a place on exactly one worker, or is forgotten.
Rule 3: higher priority first; within one, first come, first served.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, Literal, TypeAlias, TypeVar, final

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trioipc.protocol._messages import Priority

StrategyName: TypeAlias = Literal["least-busy", "round-robin"]
STRATEGIES: tuple[StrategyName, ...] = ("least-busy", "round-robin")

R = TypeVar("R")  # a request
W = TypeVar("W")  # a worker


@final
@attrs.define(eq=False)
class _Desk:
    """What the scheduler knows of one worker."""

    places: int
    held: int = 0
    turn: int = 0  # when it was last given something, in assignments


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
    """

    _strategy: StrategyName = "least-busy"
    _max_waiting: float = math.inf
    _max_weight: float = math.inf
    _weigh: Callable[[R], int] = lambda _: 0
    # Of all that wait.
    _weight: int = attrs.field(default=0, init=False)
    # An OrderedDict so that one that is cancelled leaves at once. {request: None}
    _high: OrderedDict[R, None] = attrs.field(factory=OrderedDict, init=False)
    _normal: OrderedDict[R, None] = attrs.field(factory=OrderedDict, init=False)
    _low: OrderedDict[R, None] = attrs.field(factory=OrderedDict, init=False)
    _queues: dict[Priority, OrderedDict[R, None]] = attrs.field(init=False)
    _desks: dict[W, _Desk] = attrs.field(factory=dict, init=False)  # {worker: what it holds}
    _turn: int = attrs.field(default=0, init=False)
    # Requests with places and places in all, so that "is one free?" costs nothing.
    _held: int = attrs.field(default=0, init=False)
    _places: int = attrs.field(default=0, init=False)
    # The most that had places since somebody asked.
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
        """How many requests have a place."""
        return self._held

    @property
    def workers(self) -> int:
        """How many workers it may give something to."""
        return len(self._desks)

    def take_peak(self) -> int:
        """Return the most requests that had a place at a time since this was last called."""
        peak, self._peak = self._peak, self._held
        return peak

    def is_full(self) -> bool:
        """Say whether one more request would have to be refused."""
        if self._held < self._places:
            return False
        return self.waiting >= self._max_waiting or self._weight > self._max_weight

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

    def remove_worker(self, worker: W) -> None:
        """Give ``worker`` nothing more; what it holds is forgotten."""
        desk = self._desks.pop(worker, None)
        if desk is not None:
            self._places -= desk.places
            self._held -= desk.held

    def free(self, worker: W) -> None:
        """Say that one of the requests of ``worker`` has ended."""
        desk = self._desks.get(worker)
        if desk is not None:
            desk.held -= 1
            self._held -= 1

    def place(self, request: R, priority: Priority) -> W | None:
        """Give a new request a place at once and return whose; or None, and it waits.

        As `add` and `next_pair`, for the usual case that nobody waits.
        """
        if self._held < self._places and not (self._high or self._normal or self._low):
            return self._take_place()
        self.add(request, priority)
        return None

    def next_pair(self) -> tuple[W, R] | None:
        """Give the next request that waits a place; None if there is none, or no place."""
        if self._held >= self._places:
            return None
        queue = self._high or self._normal or self._low
        if not queue:
            return None
        request, _ = queue.popitem(last=False)
        self._weight -= self._weigh(request)
        return self._take_place(), request

    def _take_place(self) -> W:
        worker, desk = self._choose()
        self._turn += 1
        desk.turn = self._turn
        desk.held += 1
        self._held += 1
        if self._held > self._peak:
            self._peak = self._held
        return worker

    def _choose(self) -> tuple[W, _Desk]:
        if len(self._desks) == 1:
            return next(iter(self._desks.items()))
        free = [(w, desk) for w, desk in self._desks.items() if desk.held < desk.places]
        if len(free) == 1:
            return free[0]
        if self._strategy == "round-robin":
            return min(free, key=lambda pair: pair[1].turn)
        return min(free, key=lambda pair: (pair[1].held, pair[1].turn))
