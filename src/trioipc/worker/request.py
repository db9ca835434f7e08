"""The request as its function sees it: progress, checkpoint, time left.

Rules:

- Nothing here but `run` sends a message. Progress and phase are stores into the slot; a checkpoint
  is a load.
- When a request has ended, what it handed out writes to scrap, so a thread that a function left
  behind can never write into the next request's slot.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

from trioipc._errors import RequestInterrupt
from trioipc.memory._board import (
    CANCEL,
    DEADLINE,
    DONE,
    LIMIT,
    PHASE,
    REASON,
    SLOT,
    STARTED_AT,
    TICK,
    TOTAL,
    write_text,
)

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Awaitable, Callable, Iterator
    from typing import Any, Protocol, TypeVar, TypeVarTuple

    from trioipc.memory.state import SharedCancellation, SharedProgress
    from trioipc.worker._serve import Server

    T = TypeVar("T")
    Ts = TypeVarTuple("Ts")

    class Asks(Protocol):
        """Asks the pool that this worker belongs to."""

        def ask(
            self,
            request: CurrentRequest,
            function: Callable[..., Any],
            arguments: tuple[Any, ...],
            deliver: Callable[[Callable[[], Any]], object],
        ) -> Callable[[], None]:
            """Have a function called, and the reply delivered in another thread.

            Returns:
              What has it cancelled.
            """


# Less than this is not worth a slab: it is copied when it travels.
OUT_OF_ARENA = 64 << 10


@final
class CurrentRequest:
    """The request that this code is running for; get it from `current_request`."""

    __slots__ = (
        "_allocator",
        "_asker",
        "_cancellation",
        "_cells",
        "_generation",
        "_progress",
        "_server",
        "_shields",
        "id",
        "state",
    )

    id: str | None
    """The request's name, as in errors and logs; None if there is no request."""

    state: Any
    """What this worker's lifespan has given; None if the pool has no ``lifespan``."""

    def __init__(
        self,
        cells: memoryview,
        generation: int,
        id: str | None,
        allocator: Callable[[int, bool], memoryview] | None = None,
        state: Any = None,
        asker: Callable[[], Asks] | None = None,
    ) -> None:
        self._cells = cells
        self._generation = generation
        self._progress: SharedProgress | None = None
        self._cancellation: SharedCancellation | None = None
        self._shields = 0
        # Where `allocate` gets big memory from; None if it need not travel.
        self._allocator = allocator
        # Makes what asks the pool; None if there is no pool.
        self._asker = asker
        # What runs it, in a worker process.
        self._server: Server | None = None
        self.id = id
        self.state = state

    def __repr__(self) -> str:
        return f"<CurrentRequest: {self.id}>"

    @property
    def progress(self) -> SharedProgress:
        """What the caller sees as progress. Write to it; it starts at 0 of 100."""
        if self._progress is None:
            from trioipc.memory.state import SharedProgress  # not before a worker is ready

            self._progress = SharedProgress._over(self._cells[DONE : TOTAL + 1])
        return self._progress

    @property
    def cancellation(self) -> SharedCancellation:
        """Whether the request is cancelled, and why. Only the caller can set it."""
        if self._cancellation is None:
            from trioipc.memory.state import SharedCancellation

            self._cancellation = SharedCancellation._over(
                self._cells[CANCEL : REASON + 11], self._generation, REASON - CANCEL
            )
        return self._cancellation

    def checkpoint(self) -> None:
        """Stop here if the request is cancelled.

        Call it every few milliseconds: it costs about 0.2 us. A function that never looks is
        interrupted, then killed.

        Raises:
          RequestInterrupt: if the request is cancelled or out of time. Let it pass.
        """
        cells = self._cells
        cells[TICK] += 1
        if cells[CANCEL] == self._generation:
            raise RequestInterrupt

    def time_left(self) -> float:
        """Return how many seconds are left for this; `math.inf` if nothing limits it.

        What limits it is the request's own clocks and the cancel scopes around the call. Those are
        known as they were when it was made: only `checkpoint` knows whether it is to end.
        """
        limit, deadline = self._cells[LIMIT], self._cells[DEADLINE]
        end = self._cells[STARTED_AT] + limit if limit else math.inf
        if deadline:
            end = min(end, deadline)
        return (end - time.perf_counter_ns()) / 1e9

    def set_phase(self, text: str) -> None:
        """Say what is going on; it travels with the progress and stands in crash errors.

        Args:
          text: At most 40 bytes of UTF-8; the rest is cut off.
        """
        write_text(self._cells, PHASE, text)

    def allocate(self, nbytes: int) -> memoryview:
        """Return ``nbytes`` of writable memory, all zero, in which to build a result.

        As the result, or one level inside a tuple, list or dict that is the result, it travels
        home without a copy. So does an array over it.

        Raises:
          ValueError: if ``nbytes`` is negative.
          OSError: if there is no memory left.
        """
        return self._allocate(nbytes, blank=True)

    def _allocate(self, nbytes: int, *, blank: bool) -> memoryview:
        """Return memory; what earlier results left may be in it, if it need not be blank."""
        if nbytes < 0:
            raise ValueError(f"nbytes must be >= 0, not {nbytes}")
        allocator = self._allocator  # the request may end while a thread is here
        if allocator is None or nbytes < OUT_OF_ARENA:
            return memoryview(bytearray(nbytes))
        self._shields += 1  # an interrupt half-way would leave memory that nobody owns
        try:
            return allocator(nbytes, blank)
        finally:
            self._shields -= 1

    @contextmanager
    def uninterruptible(self) -> Iterator[None]:
        """Let no interrupt into the block; `checkpoint` still raises there.

        For a few lines that must not stop half-way. A block that lasts longer than the ladder's
        grace is killed with its worker.
        """
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1

    def run_sync(self, fn: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run ``fn(*args)`` on this pool, and wait for what it returns.

        It is a part of this request: it ends when this ends, however that ends, and its failure is
        raised here, as itself. Meanwhile this request lends its place: the pool starts another
        worker if it must, so that functions may ask for others however few workers there are. For
        several at once, call this from threads of your own.

        Where no worker runs this, it just calls ``fn``.

        Args:
          fn: A function that can be pickled by name, and that this pool runs.
          *args: Its arguments.

        Raises:
          RequestInterrupt: if this request is cancelled. Let it pass.
          WorkerCrashedError: if the worker that ran it died. You don't get this if that of this
            request does.
          PayloadError: if the call, its result or its exception could not be pickled.
          RecursionError: if this request was asked for by another, and that by another, and so on
            for 16 times.
          RuntimeError: on a Trio task, which it would block: there, await `run`. Or if this request
            has ended, or this process was forked from a worker.
          Exception: whatever ``fn`` raised, and what else `WorkerPool.run` raises.
        """
        asker = self._ready_to_ask()
        if asker is None:
            return fn(*args)
        from trioipc.worker._nesting import call

        result: T = call(asker, self, fn, args)
        return result

    async def run(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run ``fn(*args)`` on this pool of kind ``"io"``, and wait for what it returns.

        As `run_sync`, but for asynchronous functions.

        Cancellation: a checkpoint. If cancelled, ``fn`` has ended, too.
        """
        asker = self._ready_to_ask()
        if asker is None:
            return await fn(*args)
        from trioipc.worker._nesting_io import call_async

        result: T = await call_async(asker, self, fn, args)
        return result

    def _ready_to_ask(self) -> Asks | None:
        if self._cells is _SCRAP:
            raise RuntimeError("this request has ended, so it cannot ask its pool for another")
        self.checkpoint()
        if self._asker is None:
            return None
        self._shields += 1  # what is made half-way would be made again
        try:
            return self._asker()
        finally:
            self._shields -= 1

    def _end(self) -> None:
        """Cut the ties to the slot; what was handed out writes to scrap from now on."""
        self._cells = _SCRAP
        self._allocator = self._asker = self._server = None
        if self._progress is not None:
            self._progress._turn_to_scrap()
        if self._cancellation is not None:
            self._cancellation.close()


def _scrap() -> memoryview:
    return memoryview(bytearray(SLOT * 8)).cast("Q")


# Where requests that have ended write; nobody reads it.
_SCRAP = _scrap()

# What a whole worker process runs: one request, whichever thread asks. [0] is that request.
_of_process: list[CurrentRequest | None] = [None]

# What this task or thread runs, where many run at once. Nothing before the first one, for a worker
# that runs one at a time needs no context variables, and to load them takes it half a millisecond.
_of_context: list[contextvars.ContextVar[CurrentRequest]] = []


def current_request() -> CurrentRequest:
    """Return the request that this code runs for.

    In a worker process it is the one request of that process, also for threads that the function
    starts; on threads and in io workers it is the request of this thread or task. Anywhere else
    it is a request that does nothing, so that a function can be called and tested directly.
    """
    request = _of_process[0]
    if request is not None:
        return request
    request = _of_context[0].get(None) if _of_context else None
    return request or CurrentRequest(_scrap(), 1, None)


def set_process_request(request: CurrentRequest | None) -> None:
    """Say what this worker process runs."""
    _of_process[0] = request


def set_context_request(request: CurrentRequest) -> None:
    """Say what this thread or task runs."""
    if not _of_context:
        from contextvars import ContextVar

        _of_context.append(ContextVar("trioipc_request"))
    _of_context[0].set(request)
