"""Start workers when they are wanted, and others in their place when they are gone.

Every task that hosts a worker is started here, by the supervisor's own task: a task inherits the
context variables of the one that starts it, and those of a caller are none of a worker's business.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, final

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from trioipc._errors import WorkerStartError
from trioipc.pool._worker import Worker

if TYPE_CHECKING:
    from trioipc.pool._dispatch import Dispatcher
    from trioipc.pool._request import PoolRequest


# What fails to start is tried again, for it may be the machine that is short of something, but less
# and less often: each try costs a process.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 10.0


def wanted(*, size: int, target: int, alive: int, starting: int, waiting: int) -> int:
    """Say how many workers to start now.

    Args:
      size: The most there may be.
      target: How many are to be kept, whatever waits.
      alive: How many there are that take requests, those that start included.
      starting: How many of those are not ready yet.
      waiting: How many requests wait for a worker.
    """
    for_requests = max(0, waiting - starting)
    return max(0, min(size, max(target, alive + for_requests)) - alive)


@final
@attrs.define(eq=False)
class Supervisor:
    """Keeps a pool supplied with workers.

    Args:
      dispatcher: Whose workers they are.
    """

    _dispatcher: Dispatcher
    # How many are kept: as many as were ever wanted.
    _target: int = attrs.field(default=0, init=False)
    _demand: trio.Event = attrs.field(factory=trio.Event, init=False)
    # Set when a worker is ready, or cannot be; then made anew.
    _news: trio.Event = attrs.field(factory=trio.Event, init=False)
    # The starts that have failed, and how the last of them did.
    _failures: int = attrs.field(default=0, init=False)
    _failure: WorkerStartError | None = attrs.field(default=None, init=False)
    _closing: bool = attrs.field(default=False, init=False)
    # Seconds before another start, since the last ones failed.
    _pause: float = attrs.field(default=0.0, init=False)

    def look(self) -> None:
        """Have it decided anew how many workers there should be."""
        self._demand.set()

    def close(self) -> None:
        """Start nothing more."""
        self._closing = True
        self._tell()

    @enable_ki_protection
    async def run(self, nursery: trio.Nursery) -> None:
        """Start workers in ``nursery`` until cancelled."""
        while True:
            for _ in range(self._missing()):
                worker: Worker[PoolRequest[object]] = Worker(self._dispatcher.engine.endpoint())
                self._dispatcher.add(worker)
                nursery.start_soon(self._host, worker)
            self._demand = trio.Event()
            await self._demand.wait()
            await trio.sleep(self._pause)

    def _missing(self) -> int:
        if self._closing:
            return 0
        alive = [w for w in self._dispatcher.workers if w.state != "leaving"]
        missing = wanted(
            size=self._dispatcher.size,
            target=self._target,
            alive=len(alive),
            starting=sum(w.state == "starting" for w in alive),
            # Who waits for room in the queue waits for a worker, too.
            waiting=self._dispatcher.scheduler.waiting + len(self._dispatcher.room),
        )
        self._target = max(self._target, len(alive) + missing)
        return missing

    @enable_ki_protection
    async def _host(self, worker: Worker[PoolRequest[object]]) -> None:
        """Be there for as long as the worker lives. Never raises."""
        dispatcher = self._dispatcher

        def ready() -> None:
            self._pause = 0.0
            dispatcher.ready(worker)
            self._tell()

        death = await worker.endpoint.live(ready, functools.partial(dispatcher.answered, worker))
        failed = worker.state == "starting" and not self._closing
        if failed:
            self._failures += 1
            self._failure = _start_error(death.error)
            self._pause = min(max(_FIRST_PAUSE, 2 * self._pause), _LONGEST_PAUSE)
            # Not again before somebody asks: else a worker that cannot start starts for ever.
            self._target = max(1, sum(w.state != "starting" for w in dispatcher.workers))
            if self._target == 1 and len(dispatcher.workers) == 1:
                self._target = 0
        dispatcher.gone(worker, death)
        if failed and self._failure is not None:
            dispatcher.start_failed(self._failure)
        self._tell()

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
        self._target = max(self._target, number)
        self.look()
        while self._ready() < number:
            if self._failures != failures and self._failure is not None:
                raise self._failure
            if self._closing:
                raise trio.ClosedResourceError("the pool was left before its workers were ready")
            await self._news.wait()

    def _ready(self) -> int:
        return sum(w.state in ("idle", "busy") for w in self._dispatcher.workers)

    async def wait_closed(self) -> None:
        """Wait until it was closed and there are no workers."""
        while not self._closing or self._dispatcher.workers:
            await self._news.wait()


def _start_error(error: BaseException | None) -> WorkerStartError:
    if isinstance(error, WorkerStartError):
        return error
    failure = WorkerStartError(f"a worker ended before it was ready: {error}")
    failure.__cause__ = error
    return failure
