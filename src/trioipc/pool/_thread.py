"""A worker that is a thread of this process: the same face, for the fallback.

Its cancel ladder has one rung, the cancel word: a thread cannot be interrupted or killed, and is
never abandoned.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
import traceback
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
    HISTOGRAM,
    HISTOGRAMS,
    OVER,
    PHASE,
    QUEUE,
    RUN,
    RUNNING,
    SLOT,
    STARTED_AT,
    STATE,
    TICK,
    TOTAL,
    WHOLE,
    count,
)
from trioipc.pool._endpoint import Death, Endpoint, Engine, Snapshot
from trioipc.pool._options import values_of
from trioipc.pool._payload import exit_error, refuse_asynchronous
from trioipc.pool._slot import set_cancel, set_limit, snapshot
from trioipc.worker._context import within
from trioipc.worker.registry import load, registered
from trioipc.worker.request import CurrentRequest, set_context_request

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import ContextVar
    from typing import Any

    from outcome import Outcome

    from trioipc.pool._endpoint import Answer, Call


@final
@attrs.define(eq=False)
class ThreadCall:
    """A call as it is: threads share their memory."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    values: dict[str, Any] = attrs.Factory(dict)  # of context variables
    loads: bool = attrs.field(default=False, init=False)
    held: int = attrs.field(default=0, init=False)
    expected: None = attrs.field(default=None, init=False)

    async def load(self) -> None:
        """Do nothing."""

    async def feed(self) -> None:
        """Do nothing."""

    def drop(self) -> None:
        """Do nothing."""


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
        if self.kind == "value":
            return Value(self._value)
        return Error(self._value)

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
    """

    name: str
    modules: tuple[str, ...] = ()
    context: tuple[tuple[str, ContextVar[Any]], ...] = ()
    places: int = attrs.field(default=1, init=False)

    def prepare(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Call:
        """Make a call; see `Engine.prepare`."""
        if not callable(function):
            raise TypeError(f"the function must be callable, not {type(function).__name__}")
        refuse_asynchronous(function)
        return ThreadCall(function, arguments, values_of(self.context))

    def endpoint(self) -> Endpoint:
        """Make a worker thread, not started yet."""
        return ThreadEndpoint(self.name, self.modules)

    def operations(self) -> tuple[tuple[str, str, bool], ...]:
        """Return those that this process knows."""
        return registered()


@final
class ThreadEndpoint(Endpoint):
    """One worker thread, from Trio's cache while it has something to do."""

    def __init__(self, name: str, modules: tuple[str, ...]) -> None:
        self._name = name
        self._modules = modules
        self.pid = os.getpid()
        self._cells = memoryview(bytearray((SLOT + HISTOGRAMS * HISTOGRAM) * 8)).cast("Q")
        self._calls, self._todo = trio.open_memory_channel[tuple[ThreadCall, int, int, int]](1)
        # Of its own, so that waiting for threads of the application cannot hold it up.
        self._limiter = trio.CapacityLimiter(1)

    @enable_ki_protection
    async def live(
        self,
        ready: Callable[[], None],
        hear: Callable[[int, Answer], None],
        lost: Callable[[Death], None] | None = None,
    ) -> Death:
        """Run calls until closed; see `Endpoint.live`."""
        with trio.CancelScope(shield=True):
            try:
                await trio.to_thread.run_sync(load, self._modules, limiter=self._limiter)
            except WorkerStartError as error:
                return Death(error=error)
            ready()
            async for call, generation, serial, since in self._todo:
                answer = await trio.to_thread.run_sync(
                    self._run, call, generation, serial, since, limiter=self._limiter
                )
                self._cells[STATE] = generation << 2 | OVER
                hear(generation, answer)
                del call, answer  # which nobody here looks at while it waits
        return Death()

    def _run(self, call: ThreadCall, generation: int, serial: int, since: int) -> Answer:
        cells = self._cells
        started = time.perf_counter_ns()
        cells[DONE], cells[TOTAL], cells[TICK], cells[PHASE] = 0, DEFAULT_TOTAL, 0, 0
        cells[STARTED_AT] = started
        cells[STATE] = generation << 2 | RUNNING
        if cells[CANCEL] == generation:
            return ThreadAnswer("skipped", None)
        request = CurrentRequest(cells, generation, f"{self._name}-{serial}")
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
                count(cells, SLOT + which * HISTOGRAM, end - begin)

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
        self._calls.send_nowait((call, generation, serial, since))

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
        self._calls.close()

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
