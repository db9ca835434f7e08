"""The results of a `WorkerPool.map`, as one iterates over them: the asynchronous shell.

Chunks are requests that no task waits for. They are sent by whoever consumes the results, or pulls
the items of an asynchronous source, and the end of each rings a bell.

Guarantees:

- Whatever step it is cancelled at, no result is lost: the next step gives it.
- What is awaited here, beside callbacks of the user's, is the bell, or room in the pool's queue.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import chain
from time import monotonic
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

import attrs
import trio
from outcome import Error
from trio.lowlevel import checkpoint, current_task, enable_ki_protection

from trioipc._errors import RequestInterrupt
from trioipc.pool._admission import wait_for_room
from trioipc.pool._ledger import operation_name
from trioipc.pool._progress import Progress
from trioipc.pool._request import PoolRequest
from trioipc.pool._waiting import call_back, wait_out, wait_out_children
from trioipc.pool.engines._payload import function_name
from trioipc.pool.many._chunking import Chunk, Line, Sizer, room_for
from trioipc.pool.many._settling import settle
from trioipc.protocol._codec import lift
from trioipc.worker._chunk import (
    FINISHED,
    TOOK,
    ListLog,
    SharedLog,
    log_bytes,
    run_chunk,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from trioipc.pool._dispatch import Dispatcher
    from trioipc.pool._endpoint import Call
    from trioipc.pool._request import Terms
    from trioipc.pool.many._source import Source

T = TypeVar("T")

# At least so often the event loop has its turn.
_TURN_SECONDS = 0.001

# What holds no buffer, so that nobody need look for one.
_SMALL = frozenset((int, float, bool, str, type(None)))
_FLAT = frozenset((tuple, list))

_ALWAYS_ASK = SimpleNamespace(_cancel_status=SimpleNamespace(effectively_cancelled=True))

_NO_QUOTA = 1 << 62
_STALL_PARTS = 10


@final
@attrs.frozen(kw_only=True)
class MapOptions:
    """What `WorkerPool.map` was given, checked."""

    ordered: bool
    max_pending: int | None
    # How many items; None for as many as is best.
    chunk_size: int | None
    collect: bool
    on_progress: Callable[[Progress], object | Awaitable[object]] | None
    # How many items there are; 0 if nobody knows.
    total: int
    # What the pool's strategy wants to know of a request, if anything.
    label: Callable[[Any, tuple[Any, ...]], object] | None
    # Whether each item goes in a request of its own, whatever the chunk size.
    alone: bool


@final
class MapResults(Generic[T]):
    """What `WorkerPool.map` gives: the results, for one task."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        function: Callable[[Any], T],
        source: Source,
        terms: Terms,
        options: MapOptions,
        nursery: trio.Nursery,
    ) -> None:
        self._dispatcher = dispatcher
        self._function = function
        self._source = source
        self._terms = terms
        # A crash is the end of a chunk; one item of it is tried again.
        self._chunk_terms = attrs.evolve(terms, retries=0)
        self._options = options
        self._nursery = nursery
        limit = math.inf
        if options.max_pending is not None:
            limit = max(1, options.max_pending // self._window)
        seconds = dispatcher.engine.chunk_seconds
        self._sizer = Sizer(1 if options.alone else options.chunk_size, limit, seconds)
        self._line = Line(ordered=options.ordered)
        self._sent: dict[Chunk, None] = {}
        # Memory for logs that no chunk has now.
        self._logs: list[memoryview] = []
        # Requests that were under way when it was over.
        self._cancelled: list[PoolRequest[Any]] = []
        # What the next steps give, and what is raised after it.
        self._values: Iterator[Any] = iter(())
        self._error: BaseException | None = None
        # How many items have been pulled and not handed over; and of those, how many are in
        # ``_values``.
        self._pending = 0
        self._in_hand = 0
        self._is_finished = False
        self._left = False
        self._bell = trio.Event()
        self._deadline = trio.current_effective_deadline()
        self._turn_due = 0.0
        self._task = _task()
        # Of all items, how many are done; and how many somebody was told of.
        self._done = 0
        self._told = -1
        self._began = trio.current_time()
        self._next_report = self._began

    def __repr__(self) -> str:
        state = "left" if self._left else "finished" if self._is_finished else "open"
        return f"<map of {function_name(self._function)}: {self._done} done, {state}>"

    def begin(self) -> None:
        """Send the first items, and pull from an asynchronous source."""
        self._source.start(self._nursery, self._may_pull, self._pulled)
        self._send_more()

    def __aiter__(self) -> MapResults[T]:
        return self

    @enable_ki_protection
    async def __anext__(self) -> T:
        """Return the next result.

        Raises:
          StopAsyncIteration: after the last.
          trio.ClosedResourceError: after the block.

        Cancellation: a cancel point each time, a schedule point whenever it waits and once a
        millisecond. If cancelled, nothing was lost; the next call gives it.
        """
        # What `checkpoint_if_cancelled` would look at, which takes as long as all the rest.
        if self._task._cancel_status.effectively_cancelled or monotonic() > self._turn_due:
            await checkpoint()
            self._turn_due = monotonic() + _TURN_SECONDS
        for value in self._values:
            result: T = value
            return result
        return await self._next()

    # -- consuming --------------------------------------------------------------------------

    async def _next(self) -> T:
        """Take chunks until one of them has a value."""
        self._dispatcher.check_run()
        self._task = _task()
        while True:
            self._hand_over()
            if self._left:
                raise trio.ClosedResourceError("the block of this map was left")
            await self._take(await self._wait_for_head())
            for value in self._values:
                result: T = value
                return result

    def _hand_over(self) -> None:
        """Count what was in hand as handed over."""
        self._pending -= self._in_hand
        self._in_hand = 0
        self._source.make_room()

    def _raise_error(self) -> None:
        self.finish()
        error, self._error = self._error, None
        try:
            assert error is not None
            raise error
        finally:
            del error

    async def _wait_for_head(self) -> Chunk:
        """Wait until the next chunk in line is over.

        Raises:
          StopAsyncIteration: if there is none, and none comes.
          BaseException: what an item has raised, or then the source.
        """
        while not self._is_finished:
            self._error = self._error or self._source.interrupt()
            if self._error is not None:
                break
            is_all_sent = self._send_more()
            await self._report()
            head = self._line.head()
            if head is not None:
                return head
            if not is_all_sent:
                await checkpoint()
                continue
            if not self._has_more():
                await self._report(last=True)
                self._error, self._source.error = self._source.error, None
                self.finish()
                break
            await self._wait()
        if self._error is not None:
            self._raise_error()
        raise StopAsyncIteration

    def _has_more(self) -> bool:
        source = self._source
        return bool(self._line or self._sent) or source.has_more or not source.is_exhausted

    async def _wait(self) -> None:
        """Wait until something has ended, or has come, or progress is to be told."""
        dispatcher = self._dispatcher
        if not self._sent and (self._line.has_unsent or self._source.has_more):
            if dispatcher.closed:
                self.finish()
                raise trio.ClosedResourceError("the pool is closed")
            if dispatcher.scheduler.is_full():
                await wait_for_room(dispatcher, self._function, self._terms)
                self._send_more()
                dispatcher.offer_room()
                return
        self._bell = trio.Event()
        until = self._next_report if self._has_news() else math.inf
        with trio.CancelScope(deadline=until):
            await self._bell.wait()
        self._turn_due = monotonic() + _TURN_SECONDS

    async def _take(self, chunk: Chunk) -> None:
        """Take the results of a chunk in hand, and send what has not been done of it again."""
        request = chunk.request
        if request is not None:
            await request._land()
        found = settle(chunk, self._terms.retries)
        self._line.replace_head(found.rest)
        self._learn(chunk)
        values = found.values
        done = len(values) + len(found.outcomes)
        self._done += done - _counted(chunk)
        self._give_up_log(chunk)
        for outcome in found.outcomes:
            if isinstance(outcome, Error):
                if not self._options.collect:
                    self._error = outcome.error
                    break
                values.append(outcome.error)
            else:
                values.append(outcome.unwrap())
        self._error = self._error or found.failure
        self._values = iter(values)
        self._in_hand = done
        if self._error is None:
            self._send_more()

    def _learn(self, chunk: Chunk) -> None:
        log = chunk.log
        if log is not None and log.head[TOOK]:
            done = log.head[FINISHED]
            self._sizer.learn(len(chunk.items), done, log.head[TOOK], log.room())

    # -- sending ----------------------------------------------------------------------------

    @property
    def _places(self) -> int:
        """How many requests the workers hold, all together."""
        return self._dispatcher.team.size * self._dispatcher.engine.places

    @property
    def _window(self) -> int:
        """How many chunks may be sent: one waits for each worker, which never waits for us."""
        return self._places + self._dispatcher.team.size

    def _room(self) -> int:
        """Return how many items more may be pulled."""
        room = room_for(self._options.max_pending, self._window, self._sizer.size)
        return room - self._pending - self._source.held

    def _may_pull(self) -> bool:
        return self._room() > 0

    def _pulled(self) -> None:
        """Send what has come from an asynchronous source, if it is to be sent now."""
        self._send_more()
        self._bell.set()

    def _send_more(self) -> bool:
        """Send chunks, as many as may be with the workers; return False if there was no time."""
        until = monotonic() + _TURN_SECONDS
        while self._may_send():
            chunk = self._line.next_unsent(self._sizer.size) or self._new_chunk()
            if chunk is None:
                return True
            self._send(chunk)
            if monotonic() > until:
                return False
        return True

    def _may_send(self) -> bool:
        dispatcher = self._dispatcher
        return not (
            self._is_finished
            or dispatcher.closed
            or len(self._sent) >= self._window
            or dispatcher.scheduler.is_full()
        )

    def _new_chunk(self) -> Chunk | None:
        hungry = len(self._sent) < self._places
        items = self._source.take(self._sizer.size, self._room(), hungry=hungry)
        if not items:
            return None
        self._pending += len(items)
        chunk = Chunk(items, self._options.alone)
        self._line.add(chunk)
        return chunk

    def _send(self, chunk: Chunk) -> None:
        """Make a request of a chunk; or let its items go one by one, if they cannot go together."""
        try:
            call = self._prepare(chunk)
            label = self._label(chunk)
        except Exception as error:
            self._give_up_log(chunk)
            if chunk.alone:
                chunk.failure = error
                self._heard(chunk)
            else:
                chunk.alone = True
                self._line.put_back([chunk])
            return
        terms = self._terms if chunk.alone else self._chunk_terms
        request: PoolRequest[Any] = PoolRequest(self._dispatcher, self._function, call, terms)
        request._label = label
        request._crashes = chunk.crashes
        request._attempts = len(chunk.crashes)
        request._deadline = self._deadline
        request._nursery = self._nursery
        request._on_end = partial(self._heard, chunk)
        chunk.request = request
        self._sent[chunk] = None
        self._watch(request, call, chunk)
        self._dispatcher.submit(request)

    def _watch(self, request: PoolRequest[Any], call: Call, chunk: Chunk) -> None:
        """Let instruments know; not before, since one that cannot be prepared is none of theirs."""
        instruments = self._dispatcher.team.instruments
        if instruments is not None:
            name = operation_name(self._function)
            instruments.watch(request, name if chunk.alone else f"map({name})", lambda: call)

    def _prepare(self, chunk: Chunk) -> Call:
        """Make the call of a chunk; it may be left with fewer items."""
        engine = self._dispatcher.engine
        if chunk.alone:
            return engine.prepare(self._function, (chunk.items[0],))
        while True:
            log = self._log_for(chunk)
            items = chunk.items if engine.shares_memory else _lifted(chunk.items)
            call = engine.prepare(run_chunk, (log, self._function, items, self._quota()))
            if not self._sizer.weigh(len(chunk.items), call.nbytes - _log_length(log)):
                return call
            self._line.split(chunk, min(self._sizer.size, len(chunk.items) // 2))
            self._give_up_log(chunk)

    def _label(self, chunk: Chunk) -> object:
        """Return what a strategy wants to know of an item; those that go together have nothing."""
        label = self._options.label
        return label(self._function, (chunk.items[0],)) if chunk.alone and label else None

    def _quota(self) -> int:
        """Return for how many nanoseconds items of a chunk may be begun."""
        # Between items nothing moves that the stall clock would see.
        seconds = min(self._sizer.quota, self._terms.stall_timeout / _STALL_PARTS)
        return _NO_QUOTA if seconds == math.inf else int(seconds * 1e9)

    def _log_for(self, chunk: Chunk) -> memoryview | ListLog:
        if self._dispatcher.engine.shares_memory:
            chunk.log = ListLog()
            return chunk.log
        memory = self._logs.pop() if self._logs else self._new_log()
        chunk.log = SharedLog(memory, len(chunk.items))
        chunk.log.blank()
        return memory

    def _new_log(self) -> memoryview:
        most = self._options.chunk_size or 0
        return self._dispatcher.engine.allocate(log_bytes(most))

    def _give_up_log(self, chunk: Chunk) -> None:
        """Let another chunk have the memory of a log that nobody writes to any more."""
        if isinstance(chunk.log, SharedLog):
            self._logs.append(chunk.log.memory)
        chunk.log = None

    def _heard(self, chunk: Chunk) -> None:
        """Note that the request of a chunk has ended; called by the dispatcher, which is busy."""
        self._sent.pop(chunk, None)
        self._line.heard(chunk)
        self._done += _counted(chunk)
        self._bell.set()
        if not self._is_finished and self._source.held:
            self._nursery.start_soon(self._send_later)

    @enable_ki_protection
    async def _send_later(self) -> None:
        """Send what was held back for a full chunk; the consumer may be busy."""
        while not self._send_more():
            await trio.lowlevel.cancel_shielded_checkpoint()

    # -- progress ---------------------------------------------------------------------------

    def _has_news(self) -> bool:
        return self._options.on_progress is not None and self._done != self._told

    async def _report(self, *, last: bool = False) -> None:
        """Tell how far it is, if somebody wants to know and was not told just now."""
        on_progress = self._options.on_progress
        now = trio.current_time()
        if (
            on_progress is None
            or self._told == self._done
            or not (last or now >= self._next_report)
        ):
            return
        self._told = self._done
        self._next_report = now + self._dispatcher.sampler.interval
        try:
            total = self._options.total
            progress = Progress(self._done, total, None, now - self._began, 1)
            await call_back(on_progress, progress)
        except trio.Cancelled:
            raise
        except BaseException:
            self.finish()
            raise

    # -- leaving ----------------------------------------------------------------------------

    def finish(self) -> None:
        """Give no more results, and cancel what is under way."""
        self._is_finished = True
        self._line.clear()
        for chunk in [*self._sent]:
            request = chunk.request
            assert request is not None
            if not request._dropped:
                request._dropped = request._stopped = True
                self._cancelled.append(request)
                self._dispatcher.cancel(request, None)

    async def close(self) -> BaseException | None:
        """Leave the block; return what went wrong meanwhile.

        That is a Ctrl-C, or what a function raised while it was cancelled, or the source while it
        was closed.
        """
        self.finish()
        self._left = True
        self._values = iter(())
        self._error = None
        failure = await self._source.close()
        while self._sent:
            self._bell = trio.Event()
            failure = await wait_out(self._bell) or failure
        failure = await wait_out_children(self._nursery) or failure
        self._logs.clear()
        return failure or next(filter(None, map(_raised_in_cleanup, self._cancelled)), None)


def _raised_in_cleanup(request: PoolRequest[Any]) -> BaseException | None:
    """Return what a function raised because it was cancelled, if that is no cancel."""
    outcome = request._conclude()
    found = error = outcome.error if isinstance(outcome, Error) else None
    while error is not None:
        if isinstance(error, RequestInterrupt | trio.Cancelled):
            return found
        error = error.__cause__ or error.__context__
    return None


def _task() -> Any:
    """Return the current task, for what it knows of its cancellation.

    Trio has no public name for that. If it should change, each item is a checkpoint.
    """
    task = current_task()
    if hasattr(getattr(task, "_cancel_status", None), "effectively_cancelled"):
        return task
    return _ALWAYS_ASK


def _log_length(log: memoryview | ListLog) -> int:
    return 0 if isinstance(log, ListLog) else len(log)


def _counted(chunk: Chunk) -> int:
    """Say how many items of a chunk were done when it ended, without a closer look."""
    if chunk.log is not None:
        return chunk.log.head[FINISHED]
    return len(chunk.items)


def _lifted(items: list[Any]) -> list[Any]:
    """Mark the big buffers in each item, as in the arguments of a request."""
    kinds = {*map(type, items)}
    if kinds <= _SMALL:
        return items
    if kinds <= _FLAT and _SMALL.issuperset(map(type, chain.from_iterable(items))):
        return items
    return [lift(item) for item in items]
