"""The shared memory of a pool: what its calls travel in, and how much of it is kept warm.

Rule 1: what is kept is decided here, for the workers' slabs as well: one budget, one who counts.
Rule 2: a call that finds no room in the budget gets it all the same, but one at a time: so memory
    is bounded by the budget and one call, and nobody waits for ever.
Rule 3: what takes long is done in steps, between which the event loop has its turn.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, Protocol, final

import trio
from trio.lowlevel import enable_ki_protection

from trioipc.memory._arena import SMALLEST, Arena, Budget
from trioipc.pool._statistics import ArenaStatistics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trioipc.memory._arena import Slab

# Each slab takes a descriptor or two; so many that nobody uses are kept at most.
_IDLE_LIMIT = 64


class Traffic(Protocol):
    """What a store asks of the slabs that go to and from one worker."""

    def settle(self) -> None:
        """Find out which leases have ended, and tell the worker."""

    def idle(self) -> Iterator[Slab]:
        """Yield the worker's slabs that may be dropped now."""

    def drop(self, slab: Slab) -> None:
        """Have the worker drop a slab of its own."""

    def forget(self, slab: Slab) -> None:
        """Have the worker forget a slab of ours, if it knows it."""


@final
class Store:
    """The arena of a pool, and who borrows from it.

    Args:
      limit: How many bytes of slabs are kept.
    """

    def __init__(self, limit: float) -> None:
        # Where every slab of the pool is counted, the workers' as well.
        self.budget = Budget(limit)
        self.arena = Arena(self.budget, wipes=False)
        self.arena.poke = self.poke
        self.traffics: dict[Traffic, None] = {}
        # Bytes of calls that have been admitted, and whether one of them is over the limit.
        self._admitted = 0
        self._over = False
        self._lot = trio.lowlevel.ParkingLot()
        # Slabs to let go of: where to go on, and whether their worker keeps them.
        self._condemned: deque[tuple[Slab, int, bool]] = deque()
        self._chores = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None

    def allocate(self, nbytes: int) -> memoryview:
        """Return blank memory; see `WorkerPool.allocate`."""
        if nbytes < SMALLEST:
            return memoryview(bytearray(nbytes))
        slab = self.take(nbytes)
        view = slab.lease()[:nbytes]
        slab.uses -= 1
        return view

    def release(self, slab: Slab) -> None:
        """End one use of a slab of the arena; drop something at once if there is too much."""
        self.arena.release(slab)
        if self.arena.is_soiled():
            self._chores.set()
        if self.budget.is_over():
            self.poke()

    # -- calls ------------------------------------------------------------------------------

    async def admit(self, nbytes: int) -> bool:
        """Wait until a call may take ``nbytes``; return whether it is over the limit.

        Then `dismiss` it, when its request has ended or is to be sent again.
        """
        while self._over and self._admitted + nbytes > self.budget.limit:
            await self._lot.park()
        over = self._admitted + nbytes > self.budget.limit
        self._over = self._over or over
        self._admitted += nbytes
        return over

    def dismiss(self, nbytes: int, *, over: bool) -> None:
        """Let others have the room of a call that was admitted."""
        self._admitted -= nbytes
        if over:
            self._over = False
        if self._lot:
            self._lot.unpark_all()

    def take(self, nbytes: int) -> Slab:
        """Return a blank slab, with one use; what nobody uses makes room for it.

        Raises:
          OSError: if there is no memory or descriptor left.
        """
        self.arena.drain()
        if self.arena.is_soiled():
            self._chores.set()
        if not self.arena.has(nbytes):
            self._trim(nbytes)
        return self.arena.take(nbytes, blank=True)

    # -- keeping and dropping -----------------------------------------------------------------

    def poke(self) -> None:
        """Have it settled soon which leases have ended. From anywhere, at any moment."""
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self.settle, idempotent=True)

    def settle(self) -> None:
        """Find out which leases have ended; keep what the budget allows, and drop the rest."""
        self.arena.drain()
        for traffic in [*self.traffics]:
            traffic.settle()
        self._trim(0)
        self._chores.set()

    def _trim(self, wanted: int) -> None:
        """Drop idle slabs until there is room, those that were used last at the end."""
        budget, limit = self.budget, self.budget.limit - wanted
        own = [*self.arena.idle()]
        while own and (budget.used > limit or len(own) > _IDLE_LIMIT):
            self._drop(own.pop(0))
        for traffic in [*self.traffics]:
            idle = [*traffic.idle()]
            while idle and (budget.used > limit or len(idle) > _IDLE_LIMIT):
                slab = idle.pop(0)
                traffic.drop(slab)
                self.condemn(slab, keep=True)

    def _drop(self, slab: Slab) -> None:
        self.arena.forget(slab.number)
        for traffic in self.traffics:
            traffic.forget(slab)
        self.condemn(slab, keep=False)

    def condemn(self, slab: Slab, *, keep: bool) -> None:
        """Have a slab's pages given back; its worker keeps its own, or there is none."""
        self._condemned.append((slab, 0, keep))
        self._chores.set()

    @enable_ki_protection
    async def tend(self) -> None:
        """Wipe and drop, in steps, until cancelled."""
        self._token = trio.lowlevel.current_trio_token()
        while True:
            await self._chores.wait()
            self._chores = trio.Event()
            while self._let_go_step() or self.arena.wipe_step():
                await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        """Drop everything, when there are no workers. What somebody still looks at stays mapped."""
        self._token = None
        self.arena.poke = None
        self.arena.drain()
        for slab in [*self.arena.idle()]:
            self._drop(slab)
        for number in [*self.arena.slabs]:
            self.arena.forget(number)
        while self._let_go_step():
            await trio.lowlevel.checkpoint()

    def _let_go_step(self) -> bool:
        """Let go of some pages; return False if there are none to let go of."""
        if not self._condemned:
            return False
        slab, start, keep = self._condemned.popleft()
        start = slab.let_go(start, keep=keep)
        if start < slab.size:
            self._condemned.appendleft((slab, start, keep))
        return True

    def statistics(self) -> ArenaStatistics:
        """Return how much memory there is."""
        budget = self.budget
        return ArenaStatistics(
            limit=budget.limit,
            size=budget.used,
            slabs=budget.slabs,
            reused=self.arena.reused,
            made=self.arena.made,
        )
