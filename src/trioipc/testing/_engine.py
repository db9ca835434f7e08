"""An engine without processes or threads: its workers are tasks, in the time of the event loop.

It is held to the contract of `trioipc.pool._endpoint` by the same tests as the real ones.

Rules:

- Everything that takes time takes Trio's, so that it costs nothing under a `MockClock`.
- What a function gets, and gives, has been pickled, as if it had come from another process.
"""

from __future__ import annotations

import inspect
import math
import os
import time
from collections.abc import Hashable
from contextlib import AsyncExitStack
from itertools import count as counter
from typing import TYPE_CHECKING, Any, Literal

import attrs
import trio
from outcome import Error, Value
from trio.lowlevel import enable_ki_protection

from trioipc._errors import PayloadError, RequestInterrupt, WorkerStartError
from trioipc.memory._board import (
    CANCEL,
    DEFAULT_TOTAL,
    DONE,
    OVER,
    PHASE,
    QUEUE,
    REASON,
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
    read_text,
)
from trioipc.memory._segment import adopt
from trioipc.pool._endpoint import Death, Endpoint, Engine, LightCall, Snapshot, Vitals
from trioipc.pool._options import values_of
from trioipc.pool.engines._payload import (
    cannot_pickle,
    exit_error,
    refuse_asynchronous,
    refuse_no_generator,
    refuse_synchronous,
    refuse_values,
)
from trioipc.pool.engines._slot import set_cancel, set_limit, snapshot
from trioipc.protocol._codec import (
    PAYLOAD,
    VALUE,
    decode,
    encode,
    lift,
    lift_arguments,
    payload_error,
)
from trioipc.testing._faults import Crash, Delay, Hang, Stop
from trioipc.worker._answer import encode_answer
from trioipc.worker._chunk import run_chunk
from trioipc.worker._context import within
from trioipc.worker._lifespan import living, living_async
from trioipc.worker.registry import load, perform, registered
from trioipc.worker.request import CurrentRequest, set_context_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from outcome import Outcome

    from trioipc.pool._endpoint import Answer, Call
    from trioipc.pool._options import Lifespan
    from trioipc.pool.engines._inlet import Inlet
    from trioipc.protocol._codec import Encoded
    from trioipc.testing._faults import Part
    from trioipc.worker._context import Variable

# No process has such a number: a kernel gives none beyond 1 << 22.
_FIRST_PID = 10_000_000

# As many as a real one.
_IO_PLACES = 256


class Die(BaseException):
    """Ends the worker in whose function it is raised."""

    def __init__(self, exitcode: int) -> None:
        super().__init__(exitcode)
        self.exitcode = exitcode


def unpickled(encoded: Encoded) -> Any:
    """Return what was encoded, as another process would have it."""
    views = [memoryview(bytearray(buffer)) for buffer in encoded.buffers]
    segments = {
        number: adopt(os.dup(parcel.descriptor), parcel.size)
        for number, parcel in encoded.parcels
        if parcel.descriptor is not None
    }
    return decode(encoded.body, encoded.flags, views, segments)


@attrs.define(eq=False)
class SimulatedCall(LightCall):
    """A pickled call."""

    function: Callable[..., Any]
    operation: int
    encoded: Encoded
    prepared: float = attrs.field(factory=trio.current_time)

    def unpack(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Return a new copy of the function, its arguments, and values of context variables."""
        copies: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]] = unpickled(self.encoded)
        return copies


@attrs.define(eq=False)
class SimulatedStream(SimulatedCall):
    """A pickled call that runs a generator function."""

    inlet: Inlet = attrs.field(kw_only=True)

    def unpack(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Return what lays copies of what a copy of it yields where its items arrive."""
        from trioipc.worker._stream_io import produce_async

        function, arguments, values = SimulatedCall.unpack(self)
        return produce_async, (CopyingBelt(self.inlet), function, *arguments), values


class CopyingBelt:
    """Lays copies of items where they arrive.

    Args:
      inlet: Where that is.
    """

    def __init__(self, inlet: Any) -> None:
        self.has_room = inlet.has_room
        self._lay = inlet.lay

    def lay(self, item: object) -> None:
        """Lay down a copy of an item, for which there must be room.

        Raises:
          PayloadError: if it cannot be pickled.
        """
        try:
            self._lay(unpickled(encode(lift(item))))
        except Exception as error:
            raise payload_error(f"an item of type {type(item).__qualname__}", error) from error


@attrs.define(eq=False)
class SimulatedAnswer:
    """How a function ended."""

    kind: str
    outcome: Outcome[Any] = attrs.field(factory=lambda: Value(None))
    interrupted: bool = False
    lands: bool = attrs.field(default=False, init=False)

    async def land(self) -> None:
        """Do nothing."""

    def unpack(self) -> Outcome[Any]:
        """Return it; see `Answer.unpack`."""
        return self.outcome

    def drop(self) -> None:
        """Let go of it."""
        self.outcome = Value(None)


@attrs.define(eq=False, kw_only=True)
class SimulatedEngine(Engine):
    """Makes simulated workers; the fields are as in `open_test_pool`."""

    name: str = "test"
    kind: Literal["cpu", "io"] = "cpu"
    stand_ins: dict[Callable[..., Any], Part] = attrs.field(factory=dict)
    faults: dict[int, Part] = attrs.field(factory=dict)
    starts: dict[int, float | WorkerStartError] = attrs.field(factory=dict)
    modules: tuple[str, ...] = ()
    start_timeout: float = math.inf
    context: tuple[tuple[str, Variable], ...] = ()
    lifespan: Lifespan | None = None
    places: int = attrs.field()
    watched: bool = attrs.field()
    # Call them for the next number, of a request that is sent and of a worker.
    _sent: Callable[[], int] = attrs.field(factory=lambda: counter(1).__next__, init=False)
    _born: Callable[[], int] = attrs.field(factory=lambda: counter(1).__next__, init=False)

    @places.default
    def _places_of_kind(self) -> int:
        return _IO_PLACES if self.kind == "io" else 1

    @watched.default
    def _may_stop(self) -> bool:
        # Who is watched keeps the clock running, and a test that hangs would never end.
        return any(isinstance(p, Stop) for p in (*self.faults.values(), *self.stand_ins.values()))

    def prepare(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Call:
        """Make a call; see `Engine.prepare`."""
        if not callable(function):
            raise TypeError(f"the function must be callable, not {type(function).__name__}")
        if self.kind == "cpu":
            refuse_asynchronous(function)
        elif function is not perform:
            refuse_synchronous(function)
        if function is run_chunk:  # then each is given its part
            raise PayloadError("items of map go to simulated workers one by one")
        number = self.ledger.number(function, arguments)
        return SimulatedCall(function, number, self._pickle(function, arguments))

    def prepare_stream(
        self, inlet: Inlet, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Call:
        """Make a call that runs a generator function; see `Engine.prepare_stream`."""
        refuse_no_generator(function, asynchronous=self.kind == "io")
        encoded = self._pickle(function, arguments)
        return SimulatedStream(function, self.ledger.number(function), encoded, inlet=inlet)

    def _pickle(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Encoded:
        values = values_of(self.context)
        try:
            return encode((function, lift_arguments(arguments), values))
        except (Exception, SystemExit) as error:
            refuse_values(function, values)
            raise cannot_pickle(function, arguments, error) from error

    def part(self, function: Callable[..., Any]) -> Part | None:
        """Say what plays the part of a function in the next request that is sent; None if that."""
        fault = self.faults.get(self._sent())
        if fault is not None or not isinstance(function, Hashable):
            return fault
        return self.stand_ins.get(function)

    def endpoint(self) -> Endpoint:
        """Make a worker."""
        number = self._born()
        return SimulatedEndpoint(self, self.starts.get(number, 0.0), _FIRST_PID + number)

    def operations(self) -> tuple[tuple[str, str, bool], ...]:
        """Return those that this process knows."""
        return registered()

    def answer(self, value: Any) -> SimulatedAnswer:
        """Return the answer of a function that has returned."""
        kind, encoded = encode_answer(VALUE, value)
        try:
            copy = unpickled(encoded)
        except Exception as error:
            return SimulatedAnswer("value", Error(payload_error("the value that came back", error)))
        if kind == VALUE:
            return SimulatedAnswer("value", Value(copy))
        return SimulatedAnswer("payload" if kind == PAYLOAD else "error", Error(copy))


class SimulatedEndpoint(Endpoint):
    """One simulated worker."""

    def __init__(
        self, engine: SimulatedEngine, start: float | BaseException, pid: int | None
    ) -> None:
        self.pid = pid
        self._engine = engine
        self._start = start
        places = engine.places
        cells = memoryview(bytearray((places * SLOT + TIMES) * 8)).cast("Q")
        self._histograms = cells[places * SLOT :]
        self._slots = [cells[i * SLOT : (i + 1) * SLOT] for i in range(places)]
        self._started_at = [0.0] * places
        self._sender, self._calls = trio.open_memory_channel[
            tuple[SimulatedCall, "Part | None", int, int, int]
        ](math.inf)
        self._life = trio.CancelScope()
        self._scopes: dict[int, trio.CancelScope] = {}  # {slot: what runs there}
        self._state: Any = None  # what the lifespan has given
        self._death = Death(0)
        self._is_stopped = False

    @enable_ki_protection
    async def live(
        self,
        ready: Callable[[], None],
        hear: Callable[[int, Answer], None],
        lost: Callable[[Death], None] | None = None,
    ) -> Death:
        """Run calls until closed, killed, or a function raises `Die`."""
        with trio.CancelScope(shield=True), self._life:
            async with AsyncExitStack() as stack:
                try:
                    await self._begin()
                    self._state = await self._enter_lifespan(stack)
                except Exception as error:
                    return Death(error=error)
                ready()
                async with trio.open_nursery() as nursery:
                    async for call in self._calls:
                        nursery.start_soon(self._run, hear, *call)
        return self._death

    async def _begin(self) -> None:
        if isinstance(self._start, BaseException):
            raise self._start
        limit = self._engine.start_timeout
        await trio.sleep(min(self._start, limit))
        if self._start > limit:
            raise WorkerStartError(
                f"a worker process could not be started: it was not ready within {limit} s "
                "(start_timeout)"
            )
        load(self._engine.modules)

    async def _enter_lifespan(self, stack: AsyncExitStack) -> Any:
        make = self._engine.lifespan
        if make is None:
            return None
        if self._engine.kind == "io":
            return await stack.enter_async_context(living_async(make))
        return stack.enter_context(living(make))

    @enable_ki_protection
    async def _run(
        self,
        hear: Callable[[int, Answer], None],
        call: SimulatedCall,
        part: Part | None,
        slot: int,
        generation: int,
        serial: int,
    ) -> None:
        """Run a call to its end, and answer it."""
        cells = self._slots[slot]
        cells[DONE], cells[TOTAL], cells[TICK], cells[PHASE] = 0, DEFAULT_TOTAL, 0, 0
        cells[STARTED_AT] = time.perf_counter_ns()
        self._started_at[slot] = trio.current_time()
        cells[STATE] = generation << 2 | RUNNING
        if cells[CANCEL] == generation:
            answer = SimulatedAnswer("skipped")
        else:
            name = f"{self._engine.name}-{serial}"
            request = CurrentRequest(cells, generation, name, state=self._state)
            set_context_request(request)
            answer = await self._perform(call, part, slot)
            request._end()
        if self._life.cancel_called:
            return
        self._count(call, slot)
        cells[STATE] = generation << 2 | OVER
        hear(generation, answer)

    def _count(self, call: SimulatedCall, slot: int) -> None:
        now, began = trio.current_time(), self._started_at[slot]
        for which, seconds in (
            (RUN, now - began),
            (QUEUE, began - call.prepared),
            (WHOLE, now - call.prepared),
        ):
            count(self._histograms, histogram_base(0, call.operation, which), int(seconds * 1e9))

    async def _perform(self, call: SimulatedCall, part: Part | None, slot: int) -> SimulatedAnswer:
        """Have a part played; return how that ended."""
        try:
            unpacked = call.unpack()
        except Exception as error:
            return SimulatedAnswer("payload", Error(payload_error("the call", error)))
        with trio.CancelScope() as scope:
            if not isinstance(part, Hang | Stop):
                self._scopes[slot] = scope
            try:
                return self._engine.answer(await self._play(part, *unpacked))
            except trio.Cancelled:
                raise
            except RequestInterrupt:
                return SimulatedAnswer("stopped")
            except Die as death:
                self.die(death.exitcode)
                return SimulatedAnswer("stopped")
            except Exception as error:
                return SimulatedAnswer("error", Error(error))
            except BaseException as error:
                code = error.code if isinstance(error, SystemExit) else None
                failure = exit_error(type(error).__qualname__, code, "")
                return SimulatedAnswer("exit", Error(failure))
            finally:
                self._scopes.pop(slot, None)
        # In an io worker that is what a cancel does, and no interrupt.
        return SimulatedAnswer("stopped", interrupted=self._engine.kind == "cpu")

    async def _play(
        self,
        part: Part | None,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        values: dict[str, Any],
    ) -> Any:
        """Do what the part says; return what the function returns."""
        if isinstance(part, Crash):
            await trio.sleep(part.after)
            raise Die(part.exitcode)
        if isinstance(part, Hang | Stop):
            self._is_stopped = isinstance(part, Stop)
            await trio.sleep_forever()
        elif isinstance(part, Delay):
            await trio.sleep(part.seconds)
        elif part is not None:
            function = part
        value = within(values, function, *arguments)
        return await value if inspect.isawaitable(value) else value

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
        assert isinstance(call, SimulatedCall)
        set_limit(self._slots[slot], limit, left)
        part = self._engine.part(call.function)
        self._sender.send_nowait((call, part, slot, generation, serial))

    def cancel(self, slot: int, generation: int, reason: str | None) -> None:
        """Set the cancel word; in an io worker, cancel the function."""
        cells = self._slots[slot]
        set_cancel(cells, generation, reason)
        if self._engine.kind == "io" and slot in self._scopes:
            self._scopes[slot].cancel(reason=read_text(cells, REASON))

    def interrupt(self) -> bool:
        """Cancel what runs, wherever its cancel word is set; but in an io worker."""
        if self._engine.kind == "io":
            return False
        for slot, scope in [*self._scopes.items()]:
            if self._slots[slot][CANCEL] == self._slots[slot][STATE] >> 2:
                scope.cancel()
        return True

    def kill(self) -> bool:
        """End the worker."""
        self.die(-9)
        return True

    def die(self, exitcode: int) -> None:
        """End the worker as if it had done so itself."""
        self._death = Death(exitcode)
        self._life.cancel()

    def close(self) -> None:
        """Take no more calls."""
        self._sender.close()

    def look(self, slot: int, generation: int) -> Snapshot:
        """Read a slot, in Trio's time."""
        seen = snapshot(self._slots[slot], generation)
        if not seen.started:
            return seen
        return attrs.evolve(seen, seconds=trio.current_time() - self._started_at[slot])

    def vitals(self) -> Vitals:
        """Say whether it was stopped."""
        return Vitals("stopped" if self._is_stopped else "running", 0)

    def histograms(self) -> memoryview:
        """Return the time counts."""
        return self._histograms
