"""A worker that is a thread of this process: the same face, for the fallback.

Its cancel ladder has one rung, the cancel word: a thread cannot be interrupted or killed, and is
never abandoned. It is one thread from the first call to the last, since what a lifespan opens may
belong to the thread that opened it, as a connection of `sqlite3` does.
"""

from __future__ import annotations

import math
import os
import queue
import sys
import threading
import time
import traceback
from contextlib import nullcontext
from contextvars import copy_context
from typing import TYPE_CHECKING, final

import attrs
import trio
from outcome import Error, Value
from trio.lowlevel import enable_ki_protection

from trioipc._errors import RequestInterrupt, WorkerStartError
from trioipc.memory._board import (
    CANCEL,
    DEFAULT_TOTAL,
    DONE,
    OVER,
    PHASE,
    QUEUE,
    RUN,
    RUNNING,
    SLOT,
    STARTED_AT,
    STATE,
    TICK,
    TIMES,
    TOTAL,
    WHOLE,
    count,
    histogram_base,
)
from trioipc.pool._endpoint import Death, Endpoint, Engine, LightCall, Snapshot
from trioipc.pool._options import values_of
from trioipc.pool.engines._payload import exit_error, refuse_asynchronous, refuse_no_generator
from trioipc.pool.engines._slot import set_cancel, set_limit, snapshot
from trioipc.pool.engines._thread_asks import ThreadAsker
from trioipc.worker._context import within
from trioipc.worker._lifespan import living
from trioipc.worker._stream import produce
from trioipc.worker.registry import load, registered
from trioipc.worker.request import CurrentRequest, set_context_request

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from outcome import Outcome

    from trioipc.pool._endpoint import Answer, Call
    from trioipc.pool._options import Lifespan
    from trioipc.worker._context import Variable

    # A call, its generation, its serial number, and when it was submitted.
    _Posted: TypeAlias = tuple["ThreadCall", int, int, int]
    from trioipc.pool.engines._inlet import Inlet


@final
@attrs.define(eq=False)
class ThreadCall(LightCall):
    """A call as it is: threads share their memory."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    values: dict[str, Any] = attrs.Factory(dict)  # of context variables
    operation: int = 0


@final
@attrs.define(eq=False)
class ThreadAnswer:
    """How a function on a thread ended."""

    kind: str
    _value: Any
    interrupted: bool = attrs.field(default=False, init=False)
    lands: bool = attrs.field(default=False, init=False)

    async def land(self) -> None:
        """Do nothing."""

    def unpack(self) -> Outcome[Any]:
        """Return it; see `Answer.unpack`."""
        # Kept no longer: frames in the traceback of an error hold this.
        value, self._value = self._value, None
        try:
            return Value(value) if self.kind == "value" else Error(value)
        finally:
            del value

    def drop(self) -> None:
        """Let go of the value."""
        self._value = None


@final
@attrs.define(eq=False)
class ThreadEngine(Engine):
    """Makes worker threads.

    Args:
      name: The pool's name.
      modules: What is loaded before the first one is ready, in this process.
      context: The context variables that travel with each call, with their names.
      lifespan: What makes the context manager that each thread lives in.
    """

    name: str
    modules: tuple[str, ...] = ()
    context: tuple[tuple[str, Variable], ...] = ()
    lifespan: Lifespan | None = None
    places: int = attrs.field(default=1, init=False)
    shares_memory: bool = attrs.field(default=True, init=False)

    def prepare(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Call:
        """Make a call; see `Engine.prepare`."""
        if not callable(function):
            raise TypeError(f"the function must be callable, not {type(function).__name__}")
        refuse_asynchronous(function)
        number = self.ledger.number(function, arguments)
        return ThreadCall(function, arguments, values_of(self.context), number)

    def prepare_stream(
        self, inlet: Inlet, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Call:
        """Make a call that runs a generator function; see `Engine.prepare_stream`."""
        refuse_no_generator(function, asynchronous=False)
        number = self.ledger.number(function)
        return ThreadCall(produce, (inlet, function, *arguments), values_of(self.context), number)

    def endpoint(self) -> Endpoint:
        """Make a worker thread, not started yet."""
        return ThreadEndpoint(self)

    def operations(self) -> tuple[tuple[str, str, bool], ...]:
        """Return those that this process knows."""
        return registered()


@final
class ThreadEndpoint(Endpoint):
    """One worker thread."""

    def __init__(self, engine: ThreadEngine) -> None:
        self._engine = engine
        self.pid = os.getpid()
        # What it is to do; None to end.
        self._calls: queue.SimpleQueue[_Posted | None] = queue.SimpleQueue()
        # What the lifespan has given.
        self._state: Any = None
        self._token: trio.lowlevel.TrioToken
        self._cells = memoryview(bytearray((SLOT + TIMES) * 8)).cast("Q")

    @enable_ki_protection
    async def live(
        self,
        ready: Callable[[], None],
        hear: Callable[[int, Answer], None],
        lost: Callable[[Death], None] | None = None,
    ) -> Death:
        """Run calls until closed; see `Endpoint.live`."""
        self._token = trio.lowlevel.current_trio_token()
        # Of its own, so that waiting for threads of the application cannot hold it up.
        limiter = trio.CapacityLimiter(1)
        with trio.CancelScope(shield=True):
            try:
                await trio.to_thread.run_sync(self._work, ready, hear, limiter=limiter)
            except WorkerStartError as error:
                return Death(error=error)
        return Death()

    def _asker(self) -> ThreadAsker:
        return ThreadAsker(self._token, self.asked)

    def _work(self, ready: Callable[[], None], hear: Callable[[int, Answer], None]) -> None:
        """Be the thread, from the first call to the last."""
        load(self._engine.modules)
        make = self._engine.lifespan
        with nullcontext() if make is None else living(make) as self._state:
            self._token.run_sync_soon(ready)
            while self._work_once(hear):
                pass

    def _work_once(self, hear: Callable[[int, Answer], None]) -> bool:
        """Run the next call; return False if there is none to come."""
        # In a function, so that what it holds of a call goes when that has ended.
        posted = self._calls.get()
        if posted is None:
            return False
        answer = copy_context().run(self._run, *posted)
        self._token.run_sync_soon(self._tell, hear, posted[1], answer)
        return True

    def _tell(self, hear: Callable[[int, Answer], None], generation: int, answer: Answer) -> None:
        self._cells[STATE] = generation << 2 | OVER
        hear(generation, answer)

    def _run(self, call: ThreadCall, generation: int, serial: int, since: int) -> Answer:
        cells = self._cells
        started = time.perf_counter_ns()
        cells[DONE], cells[TOTAL], cells[TICK], cells[PHASE] = 0, DEFAULT_TOTAL, 0, 0
        cells[STARTED_AT] = started
        cells[STATE] = generation << 2 | RUNNING
        if cells[CANCEL] == generation:
            return ThreadAnswer("skipped", None)
        request = CurrentRequest(
            cells, generation, f"{self._engine.name}-{serial}", state=self._state, asker=self._asker
        )
        set_context_request(request)
        try:
            return ThreadAnswer("value", within(call.values, call.function, *call.arguments))
        except RequestInterrupt:
            return ThreadAnswer("stopped", None)
        except Exception as error:
            return ThreadAnswer("error", error)
        except BaseException as error:
            code = error.code if isinstance(error, SystemExit) else None
            return ThreadAnswer("exit", exit_error(type(error).__qualname__, code, ""))
        finally:
            request._end()
            now = time.perf_counter_ns()
            for which, begin, end in (
                (RUN, started, now),
                (QUEUE, since, started),
                (WHOLE, since, now),
            ):
                count(cells, histogram_base(1, call.operation, which), end - begin)

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
        """Hand a call to the thread; see `Endpoint.post`."""
        assert isinstance(call, ThreadCall)
        set_limit(self._cells, limit, left)
        self._calls.put((call, generation, serial, since))

    def cancel(self, slot: int, generation: int, reason: str | None) -> None:
        """Set the cancel word."""
        set_cancel(self._cells, generation, reason)

    def interrupt(self) -> bool:
        """Return False: a thread cannot be interrupted."""
        return False

    def kill(self) -> bool:
        """Return False: a thread cannot be killed."""
        return False

    def close(self) -> None:
        """Take no more calls; `live` returns after the one that runs."""
        self._calls.put(None)

    def look(self, slot: int, generation: int) -> Snapshot:
        """Read the slot; see `Endpoint.look`."""
        return snapshot(self._cells, generation)

    async def stacks(self, seconds: float) -> str | None:
        """Return those of this process; see `Endpoint.stacks`."""
        await trio.lowlevel.checkpoint()
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        return "\n".join(
            f"Thread {names.get(ident)}:\n" + "".join(traceback.format_stack(frame))
            for ident, frame in sys._current_frames().items()
        )

    def histograms(self) -> memoryview:
        """Return the thread's time counts."""
        return self._cells[SLOT:]
