"""The workers of a pool: who is given requests, who sits on the bench, and who leaves when.

Synchronous: nothing here awaits. The supervisor starts and watches processes; it and the dispatcher
tell the team what has happened, and the team tells the scheduler who may be given something.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import attrs
import trio

from trioipc.pool._statistics import TimeCounts
from trioipc.pool.team._recycling import IDLE_SECONDS, Limits

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal, TypeAlias

    from trioipc.pool._endpoint import Death, Engine
    from trioipc.pool._instruments import Instruments
    from trioipc.pool._request import PoolRequest
    from trioipc.pool.scheduling._scheduler import Scheduler
    from trioipc.pool.team._worker import Worker

    Request: TypeAlias = PoolRequest[object]
    PoolWorker: TypeAlias = Worker[PoolRequest[object]]


@final
@attrs.define(eq=False, repr=False)
class Team:
    """Who works in a pool.

    Args:
      engine: Makes them.
      scheduler: Gives those that are not on the bench requests.
      size: The most there may be, without spares.
      room: Callers that wait for room in the queue: what they bring needs a worker, too.
      on_places: Called when the scheduler has more places to give.
      on_leave: Called with one that is to be given nothing more.
    """

    engine: Engine
    scheduler: Scheduler[Request, PoolWorker]
    size: int
    _room: trio.lowlevel.ParkingLot
    _on_places: Callable[[], None]
    _on_leave: Callable[[PoolWorker], None]
    # Called when more workers, or others, may be wanted.
    on_demand: Callable[[], None] = attrs.field(default=lambda: None, init=False)
    # How long each may serve.
    limits: Limits = attrs.field(factory=Limits, init=False)
    # How many are kept ready beyond those that are given requests.
    spare: int = attrs.field(default=0, init=False)
    # How many are given requests, and are replaced if they die: as many as were ever wanted.
    target: int = attrs.field(default=0, init=False)
    workers: dict[PoolWorker, None] = attrs.field(factory=dict, init=False)
    # Those that are ready and not given requests yet.
    bench: dict[PoolWorker, None] = attrs.field(factory=dict, init=False)
    # Requests that have a place and wait for others that they have asked for. {request: how many}
    lenders: dict[Request, int] = attrs.field(factory=dict, init=False)
    # How many of the bench are kept for them, and when so many were last needed.
    _kept: int = attrs.field(default=0, init=False)
    _kept_at: float = attrs.field(default=-math.inf, init=False)
    # Whether more may be given requests than there may be, until one of them is idle.
    overdrawn: bool = attrs.field(default=False, init=False)
    # Of those that are gone: how many for which reason, and the times that they had counted.
    restarts: dict[str, int] = attrs.field(factory=dict, init=False)
    times: TimeCounts = attrs.field(factory=TimeCounts, init=False)
    # Who is told of them; None if nobody is.
    instruments: Instruments | None = attrs.field(default=None, init=False)

    @property
    def wanting(self) -> int:
        """How many requests wait for a worker, or for room in the queue, or were sent ahead."""
        return self.scheduler.waiting + self.scheduler.ahead + len(self._room)

    # -- places that are lent ---------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """The most there may be now, without spares: with those in the place of who waits."""
        return self.size + len(self.lenders) // self.engine.places

    def lend(self, request: Request) -> None:
        """Let one more of those that a request has asked for have its place, one at a time."""
        self.lenders[request] = self.lenders.get(request, 0) + 1
        extra = self.capacity - self.size
        if extra and extra >= self._kept:
            self._kept, self._kept_at = extra, trio.current_time()

    def take_back(self, request: Request) -> None:
        """Let a request have its place again, if that was the last of them."""
        self.lenders[request] -= 1
        if not self.lenders[request]:
            del self.lenders[request]
            self.settle()

    def settle(self) -> None:
        """Bench those that are too many, since a place was taken back; busy ones, when they end."""
        surplus = self.scheduler.workers - self.capacity
        for worker in [*self.workers]:
            if surplus > 0 and worker.state == "idle" and worker not in self.bench:
                self.scheduler.remove_worker(worker)
                self.bench[worker] = None
                surplus -= 1
        self.overdrawn = surplus > 0

    def let_go(self, now: float) -> None:
        """Let those leave in whose place nobody has been for a while."""
        if self._kept and now - self._kept_at > IDLE_SECONDS:
            self._kept, self._kept_at = self.capacity - self.size, now
            self.fill()

    def prospects(self) -> Literal["good", "lent", "bad"]:
        """Say whether there is, or will be, a worker for what waits.

        Returns:
          ``"lent"`` if all that there are run requests that wait for others.
        """
        states = [worker.state for worker in self.workers]
        if "starting" in states or "idle" in states:
            return "good"
        busy = [worker for worker in self.workers if worker.state == "busy"]
        if any(request not in self.lenders for worker in busy for request in worker.held.values()):
            return "good"
        return "lent" if busy else "bad"

    def ask_for_help(self) -> None:
        """Have another worker do what waits, from the bench or started for it, if there may be."""
        if self.bench:
            self.fill()
        if len(self.workers) < self.capacity + self.spare:
            self.on_demand()

    def add(self, worker: PoolWorker) -> None:
        """Know a worker that is being started."""
        self.workers[worker] = None

    def ready(self, worker: PoolWorker) -> None:
        """Use a worker that is ready."""
        if worker.state != "starting":
            return
        worker.step("ready")
        worker.started = trio.current_time()
        worker.slots = list(range(self.engine.slots))
        limits = self.limits
        memory = worker.endpoint.memory() if limits.max_memory != math.inf else None
        worker.service = limits.begin(worker.started, memory)
        self.bench[worker] = None
        if self.instruments is not None:
            self.instruments.call("worker_started", worker.info())
        worker.notice = worker.service.notice
        if not worker.notice:
            self.served(worker)
        self.fill()

    def fill(self) -> None:
        """Give requests to workers from the bench, if others are missing or something waits."""
        while self.bench:
            worker = next(iter(self.bench))
            if not self._is_wanted():
                leaver = self._leaver()
                if leaver is None:
                    return
                sat = leaver in self.bench
                self._dismiss(leaver, leaver.service.due or "surplus")
                if sat:
                    continue
            del self.bench[worker]
            self.scheduler.add_worker(worker, self.engine.places)
            self._on_places()

    def _is_wanted(self) -> bool:
        """Say whether one more worker is to be given requests."""
        scheduler = self.scheduler
        if scheduler.workers >= self.capacity:
            return False
        return bool(self.wanting or scheduler.workers < self.target)

    def _leaver(self) -> PoolWorker | None:
        """Return a worker in whose place one on the bench is to be; or that, if it is too many."""
        for worker in self.workers:
            if worker.state in ("idle", "busy") and worker.service.is_over(worker.answered):
                return worker
        if len(self.bench) > self.spare + self.due + self._kept:
            return next(iter(self.bench))
        return None

    @property
    def due(self) -> int:
        """How many workers that are given requests are to be replaced before they leave."""
        return sum(
            w.service.due is not None and w.state in ("idle", "busy") and w not in self.bench
            for w in self.workers
        )

    def served(self, worker: PoolWorker) -> None:
        """Replace a worker that has answered as many requests as it may, or soon will have."""
        worker.service.count()
        worker.notice = worker.service.quota
        if worker.service.is_over(worker.answered) and not self.bench and not worker.held:
            self.retire(worker, "max_requests")
        self.fill()
        self.on_demand()

    def judge(self, worker: PoolWorker, now: float) -> None:
        """Have a worker replaced that is too old, or has grown too much."""
        memory = worker.endpoint.memory() if self.limits.max_memory != math.inf else None
        worker.service.judge(now, memory, worker.answered, busy=bool(worker.held))
        if worker.service.due is not None:
            self.fill()
            self.on_demand()

    def shrink(self, size: int) -> list[PoolWorker]:
        """Let workers leave until no more than ``size`` are given requests; return which.

        Those that hold nothing go first.
        """
        self.target = min(self.target, size)
        team = [w for w in self.workers if w.state in ("idle", "busy") and w not in self.bench]
        team.sort(key=lambda worker: len(worker.held))
        leaving = team[: max(0, len(team) - size)]
        for worker in leaving:
            self._dismiss(worker, "surplus")
        self.fill()
        self._on_places()
        return leaving

    def has_begun(self, worker: PoolWorker) -> bool:
        """Say whether a worker has begun any of the requests that it holds."""
        look = worker.endpoint.look
        return any(look(r._slot, r._generation).started for r in worker.held.values())

    def owes(self, worker: PoolWorker) -> bool:
        """Say whether a worker was sent requests, and has begun none."""
        sent = any(r._state != "loading" for r in worker.held.values())
        return sent and not self.has_begun(worker)

    def retire(self, worker: PoolWorker, reason: str) -> None:
        """Give a worker nothing more, and let it end when it holds nothing."""
        if worker.state in ("leaving", "gone"):
            return
        self._dismiss(worker, reason)
        self.fill()
        self._on_places()
        self.on_demand()

    def _dismiss(self, worker: PoolWorker, reason: str) -> None:
        worker.reason = worker.reason or reason
        worker.step("retire")
        self._on_leave(worker)
        self.scheduler.remove_worker(worker)
        self.bench.pop(worker, None)
        if not worker.held:
            worker.endpoint.close()

    def lose(self, worker: PoolWorker, death: Death, *, closed: bool) -> None:
        """Forget a worker that is dead, but not what it had done."""
        was = worker.state
        self.scheduler.remove_worker(worker)
        self.bench.pop(worker, None)
        worker.step("die")
        del self.workers[worker]
        histograms = worker.endpoint.histograms()
        if histograms is not None:
            self.times.add(histograms)
        reason = worker.reason or "crashed"
        if was != "starting" and not closed and reason != "surplus":
            self.restarts[reason] = self.restarts.get(reason, 0) + 1
        if self.instruments is not None:
            self.instruments.worker_ended(worker, was, death)
