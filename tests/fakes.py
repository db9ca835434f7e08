"""An engine without processes or threads, for tests in virtual time.

`test_endpoint` holds it to the same contract as the real ones. Its workers run coroutine functions
as tasks, and plain functions at once; `Die` is how a function ends its worker.
"""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import attrs
import trio
from outcome import Error, Value

from trioipc import RequestInterrupt, WorkerStartError
from trioipc.memory._board import (
    CANCEL,
    DEFAULT_TOTAL,
    DONE,
    OVER,
    PHASE,
    RUN,
    RUNNING,
    SLOT,
    STATE,
    TICK,
    TIMES,
    TOTAL,
    count,
    histogram_base,
)
from trioipc.pool._endpoint import Death, Endpoint, Engine, Snapshot, Vitals
from trioipc.pool._payload import exit_error
from trioipc.pool._slot import set_cancel, set_limit, snapshot
from trioipc.worker.request import CurrentRequest, set_context_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from outcome import Outcome

    from trioipc.pool._endpoint import Answer, Call


class Die(BaseException):
    """Raised by a function, ends the worker with this exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


async def stubborn() -> None:
    """Swallow every interrupt, so that only a kill ends it."""
    await trio.sleep_forever()


@attrs.define(eq=False)
class FakeCall:
    """A call as it is."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    loading: float | BaseException | None = None
    """Seconds that `load` takes, or what it raises."""
    loads: bool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.loads = self.loading is not None

    held: int = attrs.field(default=0, init=False)
    operation: int = 0
    nbytes: int = attrs.field(default=0, init=False)
    expected: None = attrs.field(default=None, init=False)

    async def feed(self) -> None:
        """Do nothing."""

    async def load(self) -> None:
        """Take as long as it was told."""
        if isinstance(self.loading, BaseException):
            raise self.loading
        await trio.sleep(self.loading or 0)

    def drop(self) -> None:
        """Do nothing."""


@attrs.define(eq=False)
class FakeAnswer:
    """How a function ended."""

    kind: str
    value: Any = None
    interrupted: bool = False
    lands: bool = attrs.field(default=False, init=False)

    async def land(self) -> None:
        """Do nothing."""

    def unpack(self) -> Outcome[Any]:
        """Return it."""
        return Value(self.value) if self.kind == "value" else Error(self.value)

    def drop(self) -> None:
        """Let go of it."""
        self.value = None


@attrs.define(eq=False)
class FakeEngine(Engine):
    """Makes fake workers, and remembers them."""

    places: int = 1
    starts: Iterable[float | BaseException] = ()
    """For each worker in turn, how long it takes to start or what it fails with; then at once."""
    loading: float | BaseException | None = None
    twins: dict[Callable[..., Any], Callable[..., Any]] = attrs.field(factory=dict)
    """Coroutine functions that stand for functions which would block."""
    watched: bool = False
    deaf: bool = False
    """Whether calls get lost on their way to the workers made from now on."""
    endpoints: list[FakeEndpoint] = attrs.field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self._starts = iter(self.starts)

    def prepare(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Call:
        """Make a call."""
        if not callable(function):
            raise TypeError(f"the function must be callable, not {type(function).__name__}")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError("a generator")
        number = self.ledger.number(function, arguments)
        return FakeCall(self.twins.get(function, function), arguments, self.loading, number)

    def endpoint(self) -> Endpoint:
        """Make a worker."""
        endpoint = FakeEndpoint(self.places, next(self._starts, 0.0), len(self.endpoints) + 1)
        endpoint.deaf = self.deaf
        self.endpoints.append(endpoint)
        return endpoint


class FakeEndpoint(Endpoint):
    """One fake worker."""

    def __init__(self, places: int, start: float | BaseException, pid: int) -> None:
        self.pid = pid
        self.log: list[tuple[float, str]] = []
        self.deaf = False
        self.vital: Vitals | None = None
        self.bytes: int | None = 1000
        self.stack: Callable[[], str | None] = lambda: None
        self._start = start
        cells = memoryview(bytearray((places * SLOT + TIMES) * 8)).cast("Q")
        self._histograms = cells[places * SLOT :]
        self._slots = [cells[i * SLOT : (i + 1) * SLOT] for i in range(places)]
        self._started_at = [0.0] * places
        self._sender, self._calls = trio.open_memory_channel[tuple[FakeCall, int, int, int]](
            math.inf
        )
        self._life = trio.CancelScope()
        self._scopes: dict[int, trio.CancelScope] = {}  # {slot: what runs there}
        self._death = Death(0)

    def dump_stack(self) -> Callable[[], str | None]:
        """Say what the test has said."""
        return self.stack

    def memory(self) -> int | None:
        """Say what the test has said."""
        return self.bytes

    def vitals(self) -> Vitals | None:
        """Say what the test has said."""
        return self.vital

    async def live(
        self,
        ready: Callable[[], None],
        hear: Callable[[int, Answer], None],
        lost: Callable[[Death], None] | None = None,
    ) -> Death:
        """Run calls until closed, killed, or a function raises `Die`."""
        with trio.CancelScope(shield=True), self._life:
            if isinstance(self._start, BaseException):
                return Death(error=self._start)
            await trio.sleep(self._start)
            ready()
            async with trio.open_nursery() as nursery:
                async for call, slot, generation, serial in self._calls:
                    nursery.start_soon(self._run, call, slot, generation, serial, hear)
        return self._death

    async def _run(
        self,
        call: FakeCall,
        slot: int,
        generation: int,
        serial: int,
        hear: Callable[[int, Answer], None],
    ) -> None:
        cells = self._slots[slot]
        cells[DONE], cells[TOTAL], cells[TICK], cells[PHASE] = 0, DEFAULT_TOTAL, 0, 0
        self._started_at[slot] = began = trio.current_time()
        cells[STATE] = generation << 2 | RUNNING
        self.log.append((began, f"run {call.function.__name__}"))
        if cells[CANCEL] == generation:
            answer = FakeAnswer("skipped")
        else:
            request = CurrentRequest(cells, generation, f"fake-{serial}")
            set_context_request(request)
            answer = await self._perform(call, slot)
            request._end()
        if self._life.cancel_called:
            return
        count(
            self._histograms,
            histogram_base(0, call.operation, RUN),
            int((trio.current_time() - began) * 1e9),
        )
        cells[STATE] = generation << 2 | OVER
        hear(generation, answer)

    async def _perform(self, call: FakeCall, slot: int) -> FakeAnswer:
        with trio.CancelScope() as scope:
            if call.function is not stubborn:
                self._scopes[slot] = scope
            try:
                value = call.function(*call.arguments)
                if inspect.isawaitable(value):
                    value = await value
                return FakeAnswer("value", value)
            except trio.Cancelled:
                raise
            except RequestInterrupt:
                return FakeAnswer("stopped")
            except Die as death:
                self._death = Death(death.code)
                self._life.cancel()
                return FakeAnswer("stopped")
            except Exception as error:
                return FakeAnswer("error", error)
            except BaseException as error:
                code = error.code if isinstance(error, SystemExit) else None
                return FakeAnswer("exit", exit_error(type(error).__qualname__, code, ""))
        return FakeAnswer("stopped", interrupted=True)

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
        """Have a call run."""
        assert isinstance(call, FakeCall)
        set_limit(self._slots[slot], limit, left)
        if not self.deaf:
            self._sender.send_nowait((call, slot, generation, serial))

    def cancel(self, slot: int, generation: int, reason: str | None) -> None:
        """Set the cancel word."""
        self._note("cancel")
        set_cancel(self._slots[slot], generation, reason)

    def interrupt(self) -> bool:
        """Cancel what runs, wherever its cancel word is set."""
        self._note("interrupt")
        for slot, scope in [*self._scopes.items()]:
            if self._slots[slot][CANCEL] == self._slots[slot][STATE] >> 2:
                scope.cancel()
        return True

    def kill(self) -> bool:
        """End the worker."""
        self._note("kill")
        self._death = Death(-9)
        self._life.cancel()
        return True

    def die(self, code: int) -> None:
        """End the worker as if it had done so itself."""
        self._death = Death(code)
        self._life.cancel()

    def close(self) -> None:
        """Take no more calls."""
        self._note("close")
        self._sender.close()

    def look(self, slot: int, generation: int) -> Snapshot:
        """Read a slot, in virtual time."""
        seen = snapshot(self._slots[slot], generation)
        if not seen.started:
            return seen
        return attrs.evolve(seen, seconds=trio.current_time() - self._started_at[slot])

    def histograms(self) -> memoryview:
        """Return the time counts."""
        return self._histograms

    def _note(self, what: str) -> None:
        self.log.append((trio.current_time(), what))


def start_error(text: str = "no such luck") -> WorkerStartError:
    """Make the error of a worker that cannot start."""
    return WorkerStartError(text)
