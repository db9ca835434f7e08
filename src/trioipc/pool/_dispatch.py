"""What happens to requests and workers, event by event. Synchronous: nothing here awaits.

The pool and the supervisor tell it what has happened; it asks the scheduler, moves requests along
their life cycle and talks to endpoints, all within one turn of the event loop.
"""

from __future__ import annotations

import math
import random
from itertools import count
from typing import TYPE_CHECKING, Literal, final

import attrs
import trio
from outcome import Error

from trioipc._errors import (
    LocalProtocolError,
    RequestCancelledError,
    RequestTimeoutError,
    WorkerStartError,
)
from trioipc.memory._fence import IS_FULL
from trioipc.pool._climbing import Climber
from trioipc.pool._clocks import Clocks
from trioipc.pool._loading import Loader, stop_loading
from trioipc.pool._statistics import LadderTimes, Tally
from trioipc.pool.scheduling._gate import gate_of
from trioipc.pool.team._team import Team
from trioipc.protocol._lifecycle import REQUEST, WORKER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from trioipc.pool._endpoint import Answer, Ask, Death, Engine, Snapshot
    from trioipc.pool._progress import Sampler
    from trioipc.pool._request import PoolRequest, Terms
    from trioipc.pool.scheduling._gate import Gate
    from trioipc.pool.scheduling._scheduler import Scheduler
    from trioipc.pool.team._worker import Worker

    Request: TypeAlias = PoolRequest[object]
    PoolWorker: TypeAlias = Worker[PoolRequest[object]]

# Before the first retry, doubled for each further one, give or take a half: a crash whose cause is
# outside, such as memory that is short, may be over then, and what crashed together does not try
# again together. A start takes longer, so only who has a worker waits for this.
_RETRY_SECONDS = 0.01
_RETRY_DOUBLINGS = 7

# A request that runs as long as this keeps none waiting behind it, if there are other workers.
_DRAGS_SECONDS = 0.001

_REFUSED = "the strategy gave no request to any worker, though some wait and no worker is busy"

# Of priorities, for engines that have queues of their own.
RANKS = {"low": -1, "normal": 0, "high": 1}

# A request whose workers die before they have begun it is moved on, but not for ever.
_MOVES_LIMIT = 5


@final
@attrs.define(eq=False, repr=False)
class Dispatcher:
    """The synchronous heart of a pool."""

    name: str
    engine: Engine
    scheduler: Scheduler[Request, PoolWorker]
    sampler: Sampler
    # The most workers there may be, at first.
    _size: int
    # Refuses other threads, runs and processes.
    check_run: Callable[[], None]
    # Call them for the next number.
    serial: Callable[[], int] = attrs.field(factory=lambda: count(1).__next__, init=False)
    _generation: Callable[[], int] = attrs.field(factory=lambda: count(1).__next__, init=False)
    # Of functions and operations of which only so many may run at once. {which: its gate}
    gates: dict[object, Gate[Request]] = attrs.field(factory=dict, init=False)
    # Callers that wait for room in the queue.
    room: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)
    # Why no worker could be started, when last there was none and none could be.
    last_failure: WorkerStartError | None = attrs.field(default=None, init=False)
    # Requests that are tried again in a moment. {request: None}
    resting: dict[Request, None] = attrs.field(factory=dict, init=False)
    _random: Callable[[], float] = attrs.field(default=random.random, init=False)
    quiet: trio.Event = attrs.field(factory=trio.Event, init=False)
    # Callers whose requests have ended, and who have not gone on yet.
    returning: int = attrs.field(default=0, init=False)
    closed: bool = attrs.field(default=False, init=False)
    _aborted: bool = attrs.field(default=False, init=False)
    tally: Tally = attrs.field(factory=Tally, init=False)
    ladders: LadderTimes = attrs.field(factory=LadderTimes, init=False)
    team: Team = attrs.field(init=False)
    clocks: Clocks = attrs.field(init=False)
    _climber: Climber = attrs.field(init=False)
    _loader: Loader = attrs.field(init=False)
    # Called with a worker, the generation of a call there, and what its function asks for.
    asked: Callable[[PoolWorker, int, Ask], None] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.team = Team(
            self.engine, self.scheduler, self._size, self.room, self.assign, self._take_back
        )
        self._climber = Climber(self.engine, self.team)
        self._loader = Loader(self._loaded, self._fail)
        self.clocks = Clocks(
            self._requests, self._climb, self._try_again, self.cancel, self._balance
        )

    def _requests(self) -> Iterator[Request]:
        for worker in self.team.workers:
            yield from worker.held.values()
        yield from self.scheduler.requests()
        yield from self.resting

    # -- requests ---------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Take a new request in; it may be sent on return. Then `attend` to it."""
        terms = request._terms
        if request._depth:  # who waits for it may have what it would wait for
            request._gate = request._label = None
        elif self.gates and request._gate is None:
            request._gate = gate_of(self.gates, request._function)
        if terms.guarded and not self._guard(request, terms):
            return
        scheduler = self.scheduler
        if (worker := scheduler.place(request)) is not None:
            self._give(worker, request)
        elif (worker := scheduler.place_ahead(request)) is not None:
            self._give(worker, request, ahead=True)
            self._look_for_delays()
            self.team.ask_for_help()
        else:
            scheduler.add(request, terms.priority)
            self.assign()
            if request._state == "waiting" or request._was_ahead:
                self.team.ask_for_help()
        if self.room:
            self.offer_room()

    def offer_room(self) -> None:
        """Wake a caller that waits for room in the queue, if there is some.

        To be called whenever there may be, also by one who was woken and then needs none.
        """
        if self.room and not self.scheduler.is_full():
            self.room.unpark()

    def attend(self, request: Request) -> None:
        """Go on with a request that was submitted and now has its nursery."""
        if request._state == "sent":
            assert request._worker is not None
            # Where several others are about to go on, they have something to do meanwhile.
            wait = self.returning < 2 or not self.scheduler.sends_ahead
            request._worker.endpoint.peek(wait=wait)
        elif request._state == "waiting":
            for worker in [*self.team.workers]:
                worker.endpoint.peek(wait=False)
        elif request._state == "loading":
            self._loader.begin(request)

    def _guard(self, request: Request, terms: Terms) -> bool:
        """Watch its flag and its clocks; return False if it is over before it began."""
        flag = terms.cancellation
        if flag is not None:
            if flag.is_cancelled():
                request._cause = self._flagged(request)
                request._stopped = True
                self._end(request, "cancel")
                return False
            self.sampler.watch(request, flag, lambda: self.cancel(request, self._flagged(request)))
        if terms.queue_timeout != math.inf or terms.total_timeout != math.inf:
            now = trio.current_time()
            request._queue_expires = now + terms.queue_timeout
            request._expires = now + terms.total_timeout
            self.clocks.arm(request, min(request._queue_expires, request._expires))
        return True

    def _flagged(self, request: Request) -> RequestCancelledError:
        flag = request._terms.cancellation
        reason = None if flag is None else flag.reason()
        message = f"{request.id} was cancelled by its SharedCancellation"
        return RequestCancelledError(message + (f": {reason}" if reason else ""), reason=reason)

    def listen(self, request: Request) -> None:
        """Sample the request's progress from now on."""
        if request._state != "ended":
            self.sampler.listen(request, request._publish)
        elif request._channel is not None:
            if request._final is not None:
                request._channel.publish(request._final, max(request._attempts, 1))
            request._channel.close()

    def assign(self) -> None:
        """Give waiting requests the places that are free."""
        if self.scheduler.waiting:
            self._match()
        self._look_for_delays()
        if self.room:
            self.offer_room()

    def _match(self) -> None:
        try:
            while (pair := self.scheduler.next_pair()) is not None:
                self._give(*pair)
        except LocalProtocolError as error:  # by a strategy of the user's
            self._fail_waiting(error)
        if self.scheduler.is_refused() and all(w.state == "idle" for w in self.team.workers):
            self._fail_waiting(LocalProtocolError(_REFUSED))
        self._send_ahead()

    def _fail_waiting(self, error: LocalProtocolError) -> None:
        """End all that wait for a worker, for nobody says who that would be."""
        while (request := next(self.scheduler.waiting_for_workers(), None)) is not None:
            self._forget(request)
            failure = LocalProtocolError(str(error))
            failure.__cause__ = error.__cause__
            request._failure = failure
            self._end(request, "end")

    def _give(self, worker: PoolWorker, request: Request, *, ahead: bool = False) -> None:
        """Send a request to a worker that has a place for it, or soon will have."""
        request._was_ahead = ahead
        generation = self._generation()
        request._worker = worker
        request._generation = generation
        request._slot = worker.slots.pop()
        worker.held[generation] = request
        worker.state = WORKER[worker.state]["fill"]
        if request._call.loads:
            request._step("load")
            if request._nursery is not None:  # else `attend` does it
                self._loader.begin(request)
        else:
            self._post(request, worker)

    def _loaded(self, request: Request) -> None:
        """Send a request whose buffers are there."""
        assert request._worker is not None
        self._post(request, request._worker)
        if request._state == "ended":  # it could not be sent
            self.assign()

    def _fail(self, request: Request, error: Exception) -> None:
        """End a request whose buffers could not be copied."""
        if request._state == "loading":
            request._loader = None
            self._give_back(request)
            request._failure = error
            self._end(request, "end")
            self.assign()
        else:
            request._resolve(Error(error))

    # -- sending ahead ------------------------------------------------------------------------

    def _send_ahead(self) -> None:
        """Send what waits to workers that will soon have done what they hold."""
        while (pair := self.scheduler.next_ahead()) is not None:
            self._give(*pair, ahead=True)

    def _recall(self, request: Request) -> bool:
        """Take a request back from its worker; return False if it may have begun."""
        worker = request._worker
        assert worker is not None
        if not worker.endpoint.recall(request._slot, request._generation):
            request._recalled_in_vain = request._generation
            return False
        del worker.held[request._generation]
        worker.recalled[request._generation] = request._slot
        self.scheduler.free(worker, request)
        request._attempts -= 1
        return True

    def _take_back(self, worker: PoolWorker) -> None:
        """Let all wait again that a worker has not begun; its first one stays."""
        if self._aborted:
            return
        for request in reversed([*worker.held.values()][1:]):
            if request._state == "sent" and self._recall(request):
                self._requeue(request)

    def keep_clear(self, worker: PoolWorker, request: Request) -> None:
        """Have nothing wait behind a request, for nobody knows how long that will be."""
        self.scheduler.drags_on(worker, request)
        if len(worker.held) > 1 and self.engine.places == 1:
            self._take_back(worker)

    def _look_for_delays(self) -> None:
        """Look in a moment whether what workers run takes longer than expected."""
        if self.clocks.balances_at == math.inf and self.scheduler.can_help and IS_FULL:
            for worker in self.team.workers:
                worker.seen = next(iter(worker.held), None)
            self.clocks.arm_balance(_DRAGS_SECONDS)

    def _balance(self) -> None:
        """Take back what waits behind a request that takes long, for other workers."""
        if not self.scheduler.can_help:
            return
        for worker in [*self.team.workers]:
            first = worker.first()
            if first is not None and len(worker.held) > 1 and worker.seen == first._generation:
                self.scheduler.drags_on(worker, first)
                self._take_back(worker)
        self.assign()

    # -- posting and answers ------------------------------------------------------------------

    def _post(self, request: Request, worker: PoolWorker) -> None:
        request._state = REQUEST[request._state]["send"]
        request._attempts += 1
        endpoint = worker.endpoint
        request._pid = endpoint.pid
        terms = request._terms
        left = math.inf
        if request._deadline != math.inf or terms.guarded:
            left = min(request._deadline, request._expires) - trio.current_time()
        if terms.guarded:
            self.clocks.posted(request)
        if self.engine.ranks:
            request._call.rank = RANKS[terms.priority]  # type: ignore[attr-defined]
        try:
            endpoint.post(
                request._call,
                request._slot,
                request._generation,
                request._serial,
                terms.timeout,
                request._submitted_at,
                left,
            )
        except Exception as error:  # no memory or descriptor for what is big in it, say
            self._give_back(request)
            request._failure = error
            self._end(request, "end")
        else:
            if request._watch is not None:
                request._watch.sent(request)

    def answered(self, worker: PoolWorker, generation: int, answer: Answer) -> None:
        """Take an answer in."""
        request = worker.held.pop(generation, None)
        if request is None:
            self._skipped(worker, generation, answer)
            return
        if answer.kind == "skipped" and self._is_refused(worker, request):
            self._refused(worker, request)
            return
        worker.answered += 1
        if answer.kind != "value" or request._wants_progress:
            self._look_at_the_end(worker, request)
        self._free(worker, request)
        if self.team.overdrawn:
            self.team.settle()
        if answer.interrupted:
            self.team.retire(worker, "interrupted")
        elif worker.answered >= worker.notice:
            self.team.served(worker)
        request._answer = answer
        self._end(request, "end")
        self.assign()

    def _is_refused(self, worker: PoolWorker, request: Request) -> bool:
        """Say whether a request that was skipped is to run all the same, on another worker.

        One was interrupted before it, and the worker runs nothing more; or it was recalled when it
        was about to begin, so that its worker had said so already.
        """
        in_vain = request._recalled_in_vain == request._generation
        ends = request._stopped or self._aborted
        return not ends and (in_vain or worker.state == "leaving")

    def _skipped(self, worker: PoolWorker, generation: int, answer: Answer) -> None:
        """Have the place back of a request that was recalled."""
        answer.drop()
        slot = worker.recalled.pop(generation, None)
        if slot is None:  # an answer to nothing: this worker cannot be trusted
            worker.endpoint.kill()
            return
        worker.slots.append(slot)
        self.assign()

    def _refused(self, worker: PoolWorker, request: Request) -> None:
        """Let a request wait again that its worker has skipped."""
        self._free(worker, request)
        request._worker = None
        request._attempts -= 1
        self._requeue(request)
        self.assign()

    def _look_at_the_end(self, worker: PoolWorker, request: Request) -> None:
        snapshot = worker.endpoint.look(request._slot, request._generation)
        request._pid = worker.endpoint.pid
        request._final = snapshot
        request._seconds = snapshot.seconds
        if request._channel is not None:
            request._channel.publish(snapshot, max(request._attempts, 1))

    def _free(self, worker: PoolWorker, request: Request) -> None:
        worker.slots.append(request._slot)
        self.scheduler.free(worker, request)
        if not worker.held and worker.state in ("busy", "leaving"):
            worker.step("free")
            if worker.state == "leaving":
                worker.endpoint.close()

    def _give_back(self, request: Request) -> None:
        """Free the place of a request that was not sent."""
        worker = request._worker
        assert worker is not None
        if worker.held.pop(request._generation, None) is not None:
            self._free(worker, request)
        request._worker = None

    def _end(self, request: Request, event: Literal["cancel", "end"]) -> None:
        request._state = REQUEST[request._state][event]
        if request._terms.guarded or request._channel is not None:
            self.sampler.forget(request)
            request._take_stack()
        how = request._ending()
        self.tally.add(how, request._call.operation)
        if how != "value" and request._ladder is not None:
            seconds = trio.current_time() - request._ladder.began
            self.ladders.add(request._rung(request._answer), seconds)
        if request._watch is not None:
            request._watch.ended(request)
        request._worker = None
        if request._rescue is not None:
            request._rescue()
        if request._gate is not None:
            self.scheduler.leave(request)
        stop_loading(request)
        del request._call  # its errors may hold the request, but need not hold its arguments
        if request._return_place is not None:
            request._return_place()
        if request._children:  # then it ends with the last of them
            request._stop_children()
        else:
            request._end()
        if self.room:
            self.offer_room()
        if self.closed and not self.busy:
            self.quiet.set()

    @property
    def busy(self) -> bool:
        """Whether there is any request that has not ended."""
        return any(worker.held for worker in self.team.workers) or self.waiting > 0

    @property
    def waiting(self) -> int:
        """How many requests wait: for a worker, or behind another on one, or to be tried again."""
        scheduler = self.scheduler
        return scheduler.waiting + scheduler.gated + scheduler.ahead + len(self.resting)

    # -- cancelling ---------------------------------------------------------------------------

    def cancel(
        self,
        request: Request,
        cause: RequestCancelledError | RequestTimeoutError | None,
    ) -> None:
        """Send a request down the ladder. The first cause stays."""
        if request._state == "ended":
            return
        if request._cause is None and request._raise_cancel is None:
            request._cause = cause
        request._stopped = True
        if request._watch is not None:
            request._watch.cancelled(request)
        if request._state == "waiting":
            self._forget(request)
            self._end(request, "cancel")
            self.assign()
        elif request._state == "loading":
            self._give_back(request)
            self._end(request, "cancel")
            self.assign()
        elif request._state == "sent":
            if request._is_behind() and self._recall(request):
                self._end(request, "end")
                self.assign()
            else:
                due = self._climber.begin(request, trio.current_time())
                self.clocks.arm(request, due)
                request._stop_children()

    def _forget(self, request: Request) -> None:
        """Let a request wait no more."""
        self.resting.pop(request, None)
        self.scheduler.discard(request, request._terms.priority)

    def _climb(self, request: Request, now: float) -> None:
        self.clocks.arm(request, self._climber.climb(request, now))

    # -- deaths -------------------------------------------------------------------------------

    def gone(self, worker: PoolWorker, death: Death) -> None:
        """Decide what the end of a worker means for what it held."""
        self.team.lose(worker, death, closed=self.closed)
        first = worker.first()
        for request in reversed(worker.held.values()):
            self._bereave(request, worker, death, was_first=request is first)
        worker.held.clear()
        worker.recalled.clear()
        self.team.fill()
        self.assign()
        self.team.on_demand()

    def _bereave(
        self, request: Request, worker: PoolWorker, death: Death, *, was_first: bool
    ) -> None:
        snapshot = worker.endpoint.look(request._slot, request._generation)
        request._worker = None
        request._stop_children()
        if request._ladder is not None or request._failure is not None:
            request._seconds = snapshot.seconds
            self._end(request, "end")
        elif request._was_ahead and not was_first and not snapshot.started:
            request._attempts -= 1
            self._requeue(request)  # not its doing, however often
        elif request._state == "loading" or (
            not snapshot.started and request._moves < _MOVES_LIMIT
        ):
            self._move_on(request)
        else:
            self._crashed(request, snapshot, death, worker.reason)

    def _move_on(self, request: Request) -> None:
        """Let a request that had not begun wait for another worker."""
        if request._state == "sent":
            request._attempts -= 1
        request._moves += 1
        self._requeue(request)

    def _requeue(self, request: Request) -> None:
        request._step("requeue")
        stop_loading(request)
        self.scheduler.put_back(request, request._terms.priority)
        self.clocks.arm_waiting(request)

    def _rest(self, request: Request) -> None:
        """Let a request that has crashed wait a little before it waits for another worker."""
        request._step("requeue")
        stop_loading(request)
        doublings = min(len(request._crashes) - 1, _RETRY_DOUBLINGS)
        pause = _RETRY_SECONDS * 2**doublings * (0.5 + self._random())
        request._rests_until = trio.current_time() + pause
        self.resting[request] = None
        self.scheduler.leave(request)
        self.clocks.arm_waiting(request)

    def _try_again(self, request: Request) -> None:
        del self.resting[request]
        request._rests_until = math.inf
        self.scheduler.put_back(request, request._terms.priority)
        self.clocks.arm_waiting(request)
        self.assign()
        if request._state == "waiting":
            self.team.ask_for_help()

    def _crashed(
        self, request: Request, snapshot: Snapshot, death: Death, reason: str | None
    ) -> None:
        request._crash(death, snapshot, reason)
        if len(request._crashes) <= request._terms.retries and not self._aborted:
            request._queue_expires = math.inf  # it has waited its time
            self._rest(request)
        else:
            request._failure = request._give_up()
            self._end(request, "end")

    def start_failed(self, error: WorkerStartError) -> None:
        """Fail what waits, if there is no worker that could ever serve it."""
        state = self.team.prospects()
        if state == "good":
            return
        for request in [*self.scheduler.requests()]:
            if state == "lent" and not request._depth:  # it has a place when those have ended
                continue
            self.scheduler.discard(request, request._terms.priority)
            request._failure = again(error)
            self._end(request, "end")
        if state == "bad":
            self.last_failure = error
            self.room.unpark_all()

    def abort(self) -> None:
        """End everything: what waits at once, what runs by killing its worker."""
        self._aborted = True
        for request in [*self.scheduler.requests(), *self.resting]:
            self._forget(request)
            request._failure = _aborted()
            self._end(request, "end")
        for worker in [*self.team.workers]:
            for request in [*worker.held.values()]:
                self._abort_held(request, worker)
            if worker.held or worker.state == "starting":
                worker.endpoint.kill()
        self.room.unpark_all()

    def _abort_held(self, request: Request, worker: PoolWorker) -> None:
        if request._state == "loading":
            self._give_back(request)
            request._failure = _aborted()
            self._end(request, "end")
            return
        worker.reason = "closed"
        worker.endpoint.cancel(request._slot, request._generation, "the pool was closed")
        if request._cause is None and request._raise_cancel is None:
            request._failure = _aborted()
            request._crashes = ()


def again(error: WorkerStartError) -> WorkerStartError:
    """Make an error of one's own of one that ends several requests."""
    failure = WorkerStartError(str(error))
    failure.__cause__ = error
    return failure


def _aborted() -> trio.ClosedResourceError:
    """Make the error of a request that an abort ends; each has its own."""
    return trio.ClosedResourceError("the pool was closed before the request ended")
