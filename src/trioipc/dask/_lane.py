"""A worker, as the pool sees it, on a cluster: a lane on which one request travels at a time.

Which process runs it is Dask's affair, and may be another each time. A lane dies with the process
that ran its request; another takes its place at once.
"""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING, final

import trio
from trio.lowlevel import enable_ki_protection

from trioipc._errors import WorkerError, WorkerStartError
from trioipc.dask._link import Errand
from trioipc.dask._payload import ClusterAnswer, ClusterCall
from trioipc.memory._board import QUEUE, RUN, TIMES, WHOLE, count, histogram_base
from trioipc.pool._endpoint import Death, Endpoint, Snapshot
from trioipc.protocol._codec import SKIPPED

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioipc.dask._engine import ClusterEngine
    from trioipc.pool._endpoint import Answer, Call


@final
class Lane(Endpoint):
    """One lane."""

    queues = True

    def __init__(self, engine: ClusterEngine) -> None:
        self._engine = engine
        self._life = trio.CancelScope()
        self._over = trio.Event()
        self._death = Death()
        # The last call, and the last cancel word.
        self._errand: Errand | None = None
        self._word = 0
        self._cells = memoryview(bytearray(TIMES * 8)).cast("Q")
        self._hear: Callable[[int, Answer], None]

    @enable_ki_protection
    async def live(
        self,
        ready: Callable[[], None],
        hear: Callable[[int, Answer], None],
        lost: Callable[[Death], None] | None = None,
    ) -> Death:
        """Be there for calls until closed, or the process that runs one is lost."""
        self._hear = hear
        with self._life:
            try:
                await self._engine.connect()
            except WorkerStartError as error:
                return Death(error=error)
            self._life.shield = True
            self._engine.lanes[self] = None
            ready()
            await self._over.wait()
            self._engine.lanes.pop(self, None)
        return self._death

    def post(
        self,
        call: Call,
        slot: int,
        generation: int,
        serial: int,
        limit: float,
        since: int,
        left: float = math.inf,
    ) -> None:
        """Hand a call to the cluster; see `Endpoint.post`."""
        assert isinstance(call, ClusterCall)
        key, name, parcel = self._engine.pack(call, generation, serial, limit, left)
        errand = Errand(key, name, generation, call, parcel, since, self._told)
        self._errand = errand
        if self._word == generation:
            self._told(errand, ClusterAnswer(SKIPPED, None))
        else:
            self._engine.link.send(errand)

    def _told(self, errand: Errand, end: ClusterAnswer | Death) -> None:
        """Take in how a call ended, in any thread."""
        with contextlib.suppress(trio.RunFinishedError):
            self._engine.token.run_sync_soon(self._conclude, errand, end)

    def _conclude(self, errand: Errand, end: ClusterAnswer | Death) -> None:
        if errand.is_over or self._over.is_set():
            return
        errand.is_over = True
        self.pid = errand.pid or self.pid
        if isinstance(end, Death):
            errand.lose()
            self._die(end)
            self._engine.look()
            return
        self._count(errand)
        self._hear(errand.generation, end)

    def _count(self, errand: Errand) -> None:
        if not errand.has_begun:
            return
        whole = time.perf_counter_ns() - errand.since
        ran = int(errand.seen[0] * 1e9)
        for which, nanoseconds in ((RUN, ran), (QUEUE, whole - ran), (WHOLE, whole)):
            count(self._cells, histogram_base(0, errand.call.operation, which), nanoseconds)

    def _die(self, death: Death) -> None:
        self._death = death
        self._over.set()

    def lose(self, what: str) -> None:
        """Die with the connection to the scheduler."""
        if self._over.is_set():
            return
        if self._errand is not None and not self._errand.is_over:
            self._errand.is_over = True
            self._errand.lose()
        self._die(Death(error=WorkerError(what)))

    def waits_for(self) -> str | None:
        """Return the key of the task that it waits for, if it waits for one."""
        errand = self._errand
        return None if errand is None or errand.is_over else errand.key

    def cancel(self, slot: int, generation: int, reason: str | None) -> None:
        """Set the cancel word."""
        self._word = generation
        errand = self._errand
        if errand is not None and errand.generation == generation and not errand.is_over:
            self._engine.link.cancel(errand, reason)

    def interrupt(self) -> bool:
        """Return False: a thread of Dask's cannot be interrupted."""
        return False

    def kill(self) -> bool:
        """Kill the process that runs the call, by its nanny; see `Endpoint.kill`."""
        if self._over.is_set():
            return True
        errand = self._errand
        if not self._engine.is_connected:
            self._life.cancel()
        elif errand is None or errand.is_over:
            self._die(Death())
        elif not self._engine.has_nannies:
            return False
        else:
            self._engine.link.kill(errand)
        return True

    def close(self) -> None:
        """Take no more calls; `live` returns."""
        self._over.set()

    def look(self, slot: int, generation: int) -> Snapshot:
        """Say what was heard of a call; see `Endpoint.look`."""
        errand = self._errand
        if errand is None or errand.generation != generation:
            return Snapshot(started=False)
        return errand.snapshot()

    def histograms(self) -> memoryview:
        """Return the time counts of this lane."""
        return self._cells
