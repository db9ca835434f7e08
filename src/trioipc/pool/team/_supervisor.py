"""Start workers when they are wanted, and others in their place when they are gone.

Every task that hosts a worker is started here, by the supervisor's own task: a task inherits the
context variables of the one that starts it, and those of a caller are none of a worker's business.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, final

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from trioipc._errors import WorkerStartError
from trioipc.pool.team._breaker import Breaker
from trioipc.pool.team._health import TICK_SECONDS, counted
from trioipc.pool.team._recycling import Shrinking
from trioipc.pool.team._worker import Worker

if TYPE_CHECKING:
    from trioipc.pool._dispatch import Dispatcher
    from trioipc.pool._endpoint import Death
    from trioipc.pool._request import PoolRequest
    from trioipc.pool.team._breaker import CircuitState
    from trioipc.pool.team._team import Team


# Those that are leaving are processes too, for as long as their interpreters take to end; if many
# do so at once, replacements wait until no more than this many are too many.
_SURPLUS = 2


def wanted(
    *,
    size: int,
    target: int,
    alive: int,
    starting: int,
    waiting: int,
    benched: int = 0,
    spare: int = 0,
) -> int:
    """Say how many workers to start now.

    Args:
      size: The most there may be, without spares.
      target: How many are to be kept, whatever waits.
      alive: How many there are, those that are leaving excepted.
      starting: How many of those are not ready yet.
      waiting: How many requests wait for a worker.
      benched: How many of those alive are ready, but are given nothing yet.
      spare: How many there are to be beyond those that are given something.
    """
    in_use = alive - starting - benched
    return max(0, min(size, max(target, in_use + waiting)) + spare - alive)


@final
@attrs.define(eq=False)
class Supervisor:
    """Keeps a pool supplied with workers.

    Args:
      dispatcher: Whose workers they are.
    """

    _dispatcher: Dispatcher
    # How many are kept though nobody needs them; None to keep all that there ever were.
    _least: int | None = None
    _demand: trio.Event = attrs.field(factory=trio.Event, init=False)
    # Set when a worker is ready, or cannot be; then made anew.
    _news: trio.Event = attrs.field(factory=trio.Event, init=False)
    # The starts that have failed, and how the last of them did.
    _failures: int = attrs.field(default=0, init=False)
    _failure: WorkerStartError | None = attrs.field(default=None, init=False)
    _closing: bool = attrs.field(default=False, init=False)
    _breaker: Breaker = attrs.field(factory=Breaker, init=False)
    _team: Team = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._team = self._dispatcher.team

    def look(self) -> None:
        """Have it decided anew how many workers there should be."""
        if self.circuit() == "open":
            self._dispatcher.start_failed(self._refusal())
        self._demand.set()

    def circuit(self) -> CircuitState:
        """Say whether workers can be started."""
        breaker = self._breaker
        if breaker.useless and any(
            w.answered and w.started is not None and w.started > breaker.wasted_at
            for w in self._team.workers
        ):
            breaker.proved()
        return breaker.state(trio.current_time())

    def _refusal(self) -> WorkerStartError:
        """Make the error of one who would have to wait until the circuit closes."""
        breaker = self._breaker
        seconds = breaker.pause(trio.current_time())
        what = (
            f"{breaker.failures} starts in a row have failed, the last one with: {self._failure}"
            if breaker.failures
            else f"{breaker.useless} workers in a row have died before they began anything"
        )
        error = WorkerStartError(f"{what} (the next one is tried in {seconds:.1f} s)")
        error.__cause__ = self._failure if breaker.failures else None
        return error

    def close(self) -> None:
        """Start nothing more."""
        self._closing = True
        self._tell()

    @enable_ki_protection
    async def run(self, nursery: trio.Nursery) -> None:
        """Start workers in ``nursery`` until cancelled."""
        while True:
            self._team.fill()
            for _ in range(self._missing()):
                worker: Worker[PoolRequest[object]] = Worker(self._team.engine.endpoint())
                self._team.add(worker)
                nursery.start_soon(self._host, worker)
            self._demand = trio.Event()
            await self._demand.wait()
            await trio.lowlevel.checkpoint()  # who has just lost a worker may ask again first
            while (pause := self._breaker.pause(trio.current_time())) > 0:
                with trio.move_on_after(pause):
                    await self._news.wait()  # one that is ready may end the pause

    def _missing(self) -> int:
        if self._closing:
            return 0
        team = self._team
        alive = [w for w in team.workers if w.state != "leaving"]
        starting = sum(w.state == "starting" for w in alive)
        waiting = team.wanting
        if team.target:  # somebody has wanted one
            team.target = max(team.target, self._least or 0)
        team.target = min(team.size, max(team.target, team.scheduler.workers + waiting))
        missing = wanted(
            size=team.capacity,
            target=team.target,
            alive=len(alive),
            starting=starting,
            waiting=waiting,
            benched=len(team.bench),
            # None before the first one is wanted.
            spare=team.spare + team.due if team.target else 0,
        )
        if self.circuit() == "half-open":
            missing = min(missing, 1 - min(starting, 1))
        most = team.capacity + team.spare + _SURPLUS
        return max(0, min(missing, most - len(team.workers)))

    @enable_ki_protection
    async def _host(self, worker: Worker[PoolRequest[object]]) -> None:
        """Be there for as long as the worker lives. Never raises."""
        dispatcher = self._dispatcher

        def ready() -> None:
            self._breaker.ready()
            self._team.ready(worker)
            self._tell()

        worker.endpoint.asked = functools.partial(dispatcher.asked, worker)
        hear = functools.partial(dispatcher.answered, worker)
        self._mourn(
            worker,
            await worker.endpoint.live(ready, hear, functools.partial(self._mourn, worker)),
        )
        del worker.endpoint.asked  # which knows who knows it

    def _mourn(self, worker: Worker[PoolRequest[object]], death: Death) -> None:
        """Take in that a worker is dead, which may be said twice."""
        dispatcher, team, breaker = self._dispatcher, self._team, self._breaker
        if worker.state == "gone":
            return
        now = trio.current_time()
        failed = worker.state == "starting" and not self._closing
        if failed:
            self._failures += 1
            self._failure = _start_error(death.error)
            breaker.failed(now)
            # Not again before somebody asks: else a worker that cannot start starts for ever.
            team.target = min(team.target, max(1, team.scheduler.workers))
            if team.target == 1 and len(team.workers) == 1:
                team.target = 0
        elif worker.answered or team.has_begun(worker):
            breaker.proved()
        elif worker.reason is None:
            breaker.wasted(now)
        dispatcher.gone(worker, death)
        if failed and self._failure is not None:
            dispatcher.start_failed(self._failure)
        self._tell()

    @enable_ki_protection
    async def watch(self) -> None:
        """Look at all workers once a second, until cancelled: the health tick."""
        limits = self._team.limits
        ages = limits.max_age != math.inf or limits.max_memory != math.inf
        if not (self._team.engine.watched or ages or self._least is not None):
            return
        last = trio.current_time()
        shrinking = Shrinking(last)
        while True:
            await trio.sleep(TICK_SECONDS)
            now = trio.current_time()
            self._tick(now, counted(now - last))
            if self._least is not None:
                self._shrink(shrinking, now, self._least)
            last = now

    def _tick(self, now: float, elapsed: float) -> None:
        for worker in [*self._team.workers]:
            if worker.state != "starting":  # that has a timeout of its own
                self._feel(worker, elapsed)
            if worker.state in ("idle", "busy"):
                self._team.judge(worker, now)
        self._team.let_go(now)

    def _shrink(self, shrinking: Shrinking, now: float, least: int) -> None:
        """Let go of those that nobody has needed for a while."""
        scheduler, places = self._team.scheduler, self._team.engine.places
        size = scheduler.workers
        surplus = shrinking.surplus(now, scheduler.take_peak(), size, places, least)
        if surplus:
            self._team.shrink(size - surplus)

    async def resize(self, size: int) -> None:
        """Have no more than ``size`` workers; wait until those that are too many are gone."""
        self._team.size = size
        leaving = self._team.shrink(size)
        self.look()
        while any(worker in self._team.workers for worker in leaving):
            await self._news.wait()

    def _feel(self, worker: Worker[PoolRequest[object]], elapsed: float) -> None:
        """End a worker that is stopped or silent; what it holds is retried, or crashed."""
        vitals = worker.endpoint.vitals()
        if vitals is None:
            return
        wrong = worker.pulse.feel(vitals, elapsed, owes=self._team.owes(worker))
        if wrong is not None:
            worker.reason = wrong
            worker.endpoint.kill()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def wait_ready(self, number: int) -> None:
        """Wait until ``number`` workers are ready, starting them if need be.

        Raises:
          WorkerStartError: if one of them could not be started.
          trio.ClosedResourceError: if the pool is left meanwhile.
        """
        failures = self._failures
        if self._ready() < number and self.circuit() == "open":
            raise self._refusal()
        self._team.target = max(self._team.target, number)
        self.look()
        while self._ready() < number:
            failed = self._failures != failures and not self._may_be(number)
            if failed and self._failure is not None:
                raise self._failure
            if self._closing:
                raise trio.ClosedResourceError("the pool was left before its workers were ready")
            await self._news.wait()

    def _may_be(self, number: int) -> bool:
        """Say whether ``number`` workers may be ready without one more start."""
        starting = sum(w.state == "starting" for w in self._team.workers)
        return self._ready() + starting >= number

    def _ready(self) -> int:
        return sum(w.state in ("idle", "busy") for w in self._team.workers)

    async def wait_closed(self) -> None:
        """Wait until it was closed and there are no workers."""
        while not self._closing or self._team.workers:
            await self._news.wait()


def _start_error(error: BaseException | None) -> WorkerStartError:
    if isinstance(error, WorkerStartError):
        return error
    failure = WorkerStartError(f"a worker ended before it was ready: {error}")
    failure.__cause__ = error
    return failure
