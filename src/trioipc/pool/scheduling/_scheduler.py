"""Which worker runs which request next.

Rule 1: nothing here awaits, sleeps, reads a clock or imports Trio. The pool asks; the scheduler
    answers, and never acts.
Rule 2: a request is either waiting, or has a place on exactly one worker, or is forgotten.
Rule 3: higher priority first; within one, first come, first served; none starves (`_queue`).
Rule 4: no request is sent ahead, to a worker that is busy, while there is one that is not.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Generic, Literal, TypeAlias, TypeVar, final

import attrs

from trioipc.pool.scheduling._expectation import UNKNOWN
from trioipc.pool.scheduling._queue import PriorityQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trioipc.pool.scheduling._gate import Gate
    from trioipc.pool.scheduling._planner import Planner
    from trioipc.pool.scheduling._queue import Line
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

    number: int
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
      gate: Says which gate one must pass before it may run, if there are any gates.
      planner: Asks a strategy of the user's, if there is one; then nothing is sent ahead.
      is_urgent: Says whether one goes before all others, and to any worker.
    """

    _strategy: StrategyName = "least-busy"
    _max_waiting: float = math.inf
    _max_weight: float = math.inf
    _weigh: Callable[[R], int] = lambda _: 0
    _expect: Callable[[R], int] = lambda _: UNKNOWN
    _admits: Callable[[W, R], bool] = lambda _, __: True
    _gate: Callable[[R], Gate[R] | None] | None = None
    _planner: Planner[R, W] | None = None
    _is_urgent: Callable[[R], bool] = lambda _: False
    # What the planner has said and was not done yet.
    _plan: deque[tuple[W, R]] = attrs.field(factory=deque, init=False)
    # How much work is sent ahead.
    ahead_nanoseconds: int = attrs.field(default=AHEAD_NANOSECONDS, init=False)
    # Of all that wait.
    _weight: int = attrs.field(default=0, init=False)
    _queue: PriorityQueue[R] = attrs.field(factory=PriorityQueue, init=False)
    # Of those that wait in front of a gate.
    _gated: dict[R, Gate[R]] = attrs.field(factory=dict, init=False)
    _desks: dict[W, _Desk[R]] = attrs.field(factory=dict, init=False)  # {worker: what it holds}
    _turn: int = attrs.field(default=0, init=False)
    _joined: int = attrs.field(default=0, init=False)
    # Requests that workers hold, places in all, and how many of them are free.
    _held: int = attrs.field(default=0, init=False)
    _places: int = attrs.field(default=0, init=False)
    _free: int = attrs.field(default=0, init=False)
    # The most places that were taken since somebody asked.
    _peak: int = attrs.field(default=0, init=False)

    # Whether what waits does so for a place, and for nothing else.
    _waits_for_places: bool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._waits_for_places = self._gate is None and self._planner is None
        if self._strategy not in STRATEGIES:
            raise ValueError(
                f"strategy must be one of {', '.join(STRATEGIES)}, not {self._strategy!r}"
            )

    def __repr__(self) -> str:
        return f"<Scheduler: {self.waiting} waiting, {self._held} held, {len(self._desks)} workers>"

    @property
    def waiting(self) -> int:
        """How many requests wait for a worker."""
        return self._queue.size

    @property
    def gated(self) -> int:
        """How many requests wait for others of their operation to end."""
        return len(self._gated)

    @property
    def held(self) -> int:
        """How many requests workers hold, those sent ahead included."""
        return self._held

    @property
    def ahead(self) -> int:
        """How many of those were sent ahead: their workers are busy with others."""
        return self._held - self._places + self._free

    @property
    def sends_ahead(self) -> bool:
        """Whether it sends anything ahead at all; not with a strategy of the user's."""
        return self._planner is None and self.ahead_nanoseconds > 0

    @property
    def can_help(self) -> bool:
        """Whether some were sent ahead, and there are other workers that could have them."""
        return self._held > self._places - self._free and len(self._desks) > 1

    @property
    def workers(self) -> int:
        """How many workers it may give something to."""
        return len(self._desks)

    def take_peak(self) -> int:
        """Return the most places that were taken at a time since this was last called."""
        peak, self._peak = self._peak, self._places - self._free
        return peak

    def is_full(self) -> bool:
        """Say whether one more request would have to be refused.

        With gates or a strategy of the user's, requests may wait though places are free.
        """
        none_waits = not self._queue.size and not self._gated
        if self._free > 0 and (self._waits_for_places or none_waits):
            return False
        waiting = self._queue.size + len(self._gated) + self.ahead
        return waiting >= self._max_waiting or self._weight > self._max_weight

    def add(self, request: R, priority: Priority) -> None:
        """Let ``request`` wait, behind those of its priority."""
        self._weight += self._weigh(request)
        if self._may_enter(request, priority):
            self._queue.add(request, self._line(request, priority))

    def put_back(self, request: R, priority: Priority) -> None:
        """Let ``request`` wait again, before those of its priority."""
        self._weight += self._weigh(request)
        if self._may_enter(request, priority):
            self._queue.put_back(request, self._line(request, priority))

    def discard(self, request: R, priority: Priority) -> None:
        """Forget a request that waits; one that does not wait is fine too."""
        gate = self._gated.pop(request, None)
        queue = self._queue if gate is None else gate.outside
        if queue.discard(request, self._line(request, priority)):
            self._weight -= self._weigh(request)

    def leave(self, request: R) -> None:
        """Say that ``request`` runs no more, so that another of its operation may."""
        gate = None if self._gate is None else self._gate(request)
        if gate is not None and (pair := gate.leave(request)) is not None:
            del self._gated[pair[0]]
            self._queue.put_back(*pair)  # it has waited longer than most

    def requests(self) -> Iterator[R]:
        """Yield those that wait, in the order in which they will be served."""
        yield from self._queue
        yield from self._gated

    def waiting_for_workers(self) -> Iterator[R]:
        """Yield those of them that wait for a worker, and not in front of a gate."""
        yield from self._queue

    def _line(self, request: R, priority: Priority) -> Line:
        return "first" if self._is_urgent(request) else priority

    def _may_enter(self, request: R, priority: Priority) -> bool:
        gate = None if self._gate is None else self._gate(request)
        if gate is None or gate.enter(request, priority):
            return True
        self._gated[request] = gate
        return False

    def add_worker(self, worker: W, places: int) -> None:
        """Let ``worker`` have up to ``places`` requests at a time."""
        self._joined += 1
        self._desks[worker] = _Desk(self._joined, places)
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

    def place(self, request: R) -> W | None:
        """Give a new request a place at once and return whose; None if it must wait.

        As `add` and `next_pair`, for the usual case that nobody waits.
        """
        if self._free > 0 and not self._queue.size and self._waits_for_places:
            return self._take_place(request)
        return None

    def place_ahead(self, request: R) -> W | None:
        """Send a new request ahead at once and return to whom; None if it must wait.

        As `add` and `next_ahead`, for the usual case that nobody waits.
        """
        if self._free > 0 or self._queue.size or not self._waits_for_places:
            return None
        return self._take_place_ahead(request)

    def next_pair(self) -> tuple[W, R] | None:
        """Give the next request that waits a place; None if there is none, or no place.

        Raises:
          LocalProtocolError: if a strategy of the user's raises, or answers nonsense.
        """
        if self._free <= 0 or not self._queue.size:
            return None
        if self._planner is not None and not self._queue.is_urgent:
            return self._next_planned(self._planner)
        request, _ = self._queue.pop()
        self._weight -= self._weigh(request)
        return self._take_place(request), request

    def _next_planned(self, planner: Planner[R, W]) -> tuple[W, R] | None:
        if not self._plan:
            self._plan.extend(planner.plan(self._queue, self._desks))
        while self._plan:
            worker, request = self._plan.popleft()
            desk = self._desks.get(worker)  # it may have left, or been given something
            if desk is not None and len(desk.held) < desk.places and request in self._queue:
                self._queue.take(request)
                self._weight -= self._weigh(request)
                self._occupy(desk, request)
                return worker, request
        return None

    def is_refused(self) -> bool:
        """Say whether a strategy of the user's has given nothing, though no worker is busy."""
        return self._planner is not None and self._queue.size > 0 < self._free and not self._held

    def next_ahead(self) -> tuple[W, R] | None:
        """Send the next request that waits ahead, to the worker that will be done first.

        None if it must wait: for a worker that is free, or since it or what all hold may take long.
        """
        queue = self._queue
        if not queue.size or self._free > 0 or not self.sends_ahead:
            return None
        request = queue.first()
        worker = self._take_place_ahead(request)
        if worker is None:
            return None
        queue.pop()
        self._weight -= self._weigh(request)
        return worker, request

    def _take_place_ahead(self, request: R) -> W | None:
        expected = self._expect(request)
        if expected > self.ahead_nanoseconds or not self._desks:
            return None
        worker, desk = min(self._desks.items(), key=_load)
        if desk.load + expected > self.ahead_nanoseconds or not self._admits(worker, request):
            return None
        self._hand(desk, request, expected)
        return worker

    def _take_place(self, request: R) -> W:
        worker, desk = self._choose()
        self._occupy(desk, request)
        return worker

    def _occupy(self, desk: _Desk[R], request: R) -> None:
        self._hand(desk, request, self._expect(request))
        self._free -= 1
        taken = self._places - self._free
        if taken > self._peak:
            self._peak = taken

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
