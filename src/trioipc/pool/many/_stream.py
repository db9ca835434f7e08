"""`WorkerPool.stream`: what a generator in a worker yields, as an asynchronous iterator.

A stream is one request, whose function runs the generator. Its items do not come in its answer but
through an `Inlet`, while it runs.

Rule 1: what was produced before the end, however it ended, is delivered before that is told.
Rule 2: nothing is taken that is not handed out: who is cancelled has missed no item.
"""

from __future__ import annotations

import math
import os
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic, TypeVar, TypeVarTuple, final

import attrs
import trio
from trio import current_effective_deadline
from trio.lowlevel import (
    checkpoint,
    checkpoint_if_cancelled,
    current_task,
    enable_ki_protection,
    wait_task_rescheduled,
)

from trioipc._errors import PayloadError, RemoteProtocolError
from trioipc.memory._belt import SLOTS_LIMIT
from trioipc.pool._admission import wait_for_room
from trioipc.pool._block import block
from trioipc.pool._hold import hold
from trioipc.pool._options import count
from trioipc.pool._request import unwrap_again
from trioipc.pool._waiting import call_back
from trioipc.pool.engines._inlet import NOTHING, Landing
from trioipc.pool.engines._payload import function_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
    from typing import TypeAlias

    from trioipc.memory.state import SharedCancellation
    from trioipc.pool._dispatch import Dispatcher
    from trioipc.pool._progress import Progress
    from trioipc.pool._request import PoolRequest
    from trioipc.pool.engines._inlet import Inlet
    from trioipc.pool.pool import WorkerPool
    from trioipc.protocol._messages import Priority

    Callback: TypeAlias = Callable[[Progress], object | Awaitable[object]]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# The event loop has its turn at least this often, in seconds, while items are there at once.
_TURN = 1e-3

# Who finds nothing looks this long for what is about to come, in seconds, before anybody sleeps: a
# turn of the event loop takes as long as a generator takes for ten items.
_PEEK = 40e-6
# So often it is not looked for after it was looked for in vain.
_LESSON = 16


def check_buffer(buffer: object) -> int:
    """Check how many items may wait.

    Raises:
      ValueError, TypeError: if it is no number of them.
    """
    slots = int(count("buffer", buffer, 1, finite=True))
    if slots > SLOTS_LIMIT:
        raise ValueError(f"buffer must be at most {SLOTS_LIMIT}, not {slots}")
    return slots


@block
async def stream_items(  # noqa: D417 - it is a method of `WorkerPool`
    self: WorkerPool,
    generator_fn: Callable[[*Ts], Iterable[T] | AsyncIterable[T]],
    *args: *Ts,
    buffer: int = 8,
    timeout: float | None = None,
    queue_timeout: float | None = None,
    priority: Priority = "normal",
    on_progress: Callback | None = None,
    cancellation: SharedCancellation | None = None,
    max_retries: int | None = None,
    idempotent: bool | None = None,
    grace: float | None = None,
) -> AsyncIterator[AsyncIterator[T]]:
    """Run a generator in a worker, and iterate over what it yields.

    The generator is never more than ``buffer`` items ahead of whoever iterates: it is resumed
    only while fewer than that many have been yielded and not been handed out. Leaving the block
    closes it, which runs its ``finally``, and waits for that; then the ladder goes on, as for
    any request. What it would have raised behind the items that were taken is not told.

    Items are pickled; ``bytes``, ``memoryview`` and the like travel and arrive as the results
    of `run` do, but are always copied.

    Args:
      generator_fn: A generator function that can be pickled by name; an asynchronous one where
        the workers are of kind ``"io"``. What it returns is dropped.
      *args: Its arguments.
      buffer: How many items may wait, 1 to 16384.
      timeout: Seconds that it may run in all, also while it waits for room.
      queue_timeout: As in `run`.
      priority: As in `run`.
      on_progress: Called with the generator's own `Progress`, within the task that iterates,
        while it does.
      cancellation: As in `run`.
      max_retries: As in `run`, but only until the first item has been handed out.
      idempotent: As in `run`.
      grace: As in `run`.

    Raises:
      TypeError: if ``generator_fn`` is no generator function, or not of the right kind.
      ValueError: if ``buffer`` is not as said.

    While iterating, after the items that were yielded before:
      PayloadError: if an item could not be pickled or unpickled.
      RemoteProtocolError: if what the worker sent is no item; it is killed.
      WorkerCrashedError: if the worker died.
      trio.BusyResourceError: if another task is iterating.
      trio.ClosedResourceError: if the pool was closed, or the block was left.
      Exception: what the generator raised, and the others of `run`.

    Cancellation: entering is a checkpoint; leaving waits for the generator, whatever is
    cancelled. Each item is a point at which a cancel is seen, and the event loop has its turn
    whenever there is none, and once a millisecond. Who is cancelled has missed no item, and may
    go on iterating.
    """
    await checkpoint()
    deadline = current_effective_deadline()
    self._check_home()
    slots = check_buffer(buffer)
    terms = self._factory.terms(
        generator_fn,
        timeout,
        queue_timeout,
        priority,
        cancellation,
        max_retries,
        idempotent,
        grace,
    )
    if self._dispatcher.scheduler.is_full():
        terms = await wait_for_room(self._dispatcher, generator_fn, terms)
        self._check_home()
    inlet = self._dispatcher.engine.open_inlet(slots)
    request = self._factory.make(generator_fn, args, terms, inlet=inlet)
    request._deadline = deadline
    stream: Stream[T] = Stream(self._dispatcher, request, inlet, on_progress)
    try:
        async with hold(self._dispatcher, request):
            try:
                yield stream
            finally:
                stream._close()
    finally:
        stream._let_go()


@final
class Stream(Generic[T]):
    """The items of a generator in a worker, from `WorkerPool.stream`."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        request: PoolRequest[None],
        inlet: Inlet,
        on_progress: Callback | None,
    ) -> None:
        self._dispatcher = dispatcher
        self._request = request
        self._inlet = inlet
        self._on_progress = on_progress
        # Takes an item, or says that there is none.
        self._take: Callable[[], Any] = self._take_first
        # When the event loop is to have its turn.
        self._due = -math.inf
        self._waiting = False
        self._lesson = 0
        # Whether it has been iterated to its end, or its block was left.
        self._finished = False
        self._closed = False
        inlet.wake = request._wake
        request._rescue = inlet.rescue
        if on_progress is not None:
            request._wants_progress = True
            _ = request.progress  # makes its channel
            dispatcher.sampler.listen(request, self._look)

    def __repr__(self) -> str:
        state = "closed" if self._closed else self._request._state
        return f"<Stream {self._request.id}: {function_name(self._request._function)}, {state}>"

    def __aiter__(self) -> Stream[T]:
        return self

    @enable_ki_protection
    async def __anext__(self) -> T:
        if perf_counter() < self._due:
            await checkpoint_if_cancelled()
        else:
            await self._turn()
        try:
            item = self._take()
            if item is NOTHING:
                item = self._peek()
            if item is NOTHING or type(item) is Landing:
                item = await self._wait_for(item)
        except (PayloadError, RemoteProtocolError) as error:
            if not self._finished:  # else it is how the generator ended
                self._request._annotate(error)
                self._give_up()
                if isinstance(error, RemoteProtocolError):
                    self._inlet.kill()
            raise
        return item  # type: ignore[no-any-return]

    async def _turn(self) -> None:
        """Let the event loop have its turn, and tell of progress."""
        await checkpoint()
        self._due = perf_counter() + _TURN
        if self._on_progress is not None:
            await self._report(self._on_progress)

    # -- taking -----------------------------------------------------------------------------

    def _take_first(self) -> Any:
        item = self._inlet.take()
        if item is not NOTHING:  # from now on, a second try would produce it a second time
            self._request._terms = attrs.evolve(self._request._terms, retries=0)
            self._take = self._inlet.take
        return item

    def _take_nothing(self) -> Any:
        return NOTHING

    async def _wait_for(self, item: Any) -> Any:
        """Return an item when it is there; raise how the stream ended if it is not to come."""
        if self._waiting:
            raise trio.BusyResourceError("another task is iterating over this stream")
        self._waiting = True
        try:
            if item is NOTHING:
                await checkpoint()
                item = self._take()
            while item is NOTHING:
                await self._check_end()
                await self._sleep()
                item = self._take()
            return await self._land(item) if type(item) is Landing else item
        finally:
            self._waiting = False

    def _peek(self) -> Any:
        """Look for an item that may be a matter of microseconds, and save the event loop a turn."""
        if self._lesson:
            self._lesson -= 1
            return NOTHING
        if self._waiting or self._request._state != "sent":
            return NOTHING
        end = perf_counter() + _PEEK
        while perf_counter() < end:
            os.sched_yield()
            item = self._take()
            if item is not NOTHING:
                return item
        self._lesson = _LESSON
        return NOTHING

    async def _check_end(self) -> None:
        """Raise how the stream ended, where there is nothing to be taken."""
        if self._closed:
            raise trio.ClosedResourceError("the block of this stream was left")
        if not self._finished and self._request._is_over():
            await self._finish()
        if self._finished:
            raise StopAsyncIteration

    async def _sleep(self) -> None:
        """Wait until there may be an item, or progress, or the end."""
        if self._on_progress is not None and await self._report(self._on_progress):
            return
        if self._inlet.is_empty():
            self._request._waiter = current_task()
            await wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._request._waiter = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def _land(self, landing: Landing) -> Any:
        """Copy what is big, and hand it out. If cancelled, it is the first one next time."""
        inlet, answer = self._inlet, landing.answer
        if answer.lands:
            await answer.land()
        inlet.advance()
        return answer.unpack().unwrap()

    # -- ending -----------------------------------------------------------------------------

    async def _finish(self) -> None:
        """Raise how the request ended, if not with a value."""
        if self._on_progress is not None:
            await self._report(self._on_progress)
        await self._request._land()
        self._finished = True
        self._request._asked = True
        unwrap_again(self._request._conclude())

    def _give_up(self) -> None:
        """Have the request end, since nobody will have any more of it."""
        request = self._request
        self._finished = True
        self._take = self._take_nothing
        request._dropped = request._stopped = True
        self._dispatcher.cancel(request, None)

    def _close(self) -> None:
        """Hand out nothing more. How far ahead the generator had failed is not to be told."""
        request = self._request
        self._closed = True
        self._take = self._take_nothing
        if request._state == "ended":
            request._asked = True
        request._wake()

    def _let_go(self) -> None:
        """Forget the memory: errors that came out hold frames, and they this."""
        del self._inlet
        self._request._rescue = None

    # -- progress ---------------------------------------------------------------------------

    def _look(self) -> None:
        self._request._publish()
        self._request._wake()

    async def _report(self, on_progress: Callback) -> bool:
        """Call ``on_progress`` with what is new; return whether there was something."""
        try:
            progress = self._request.progress.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return False
        try:
            await call_back(on_progress, progress)
        except trio.Cancelled:
            raise
        except BaseException:
            self._give_up()
            raise
        return True
