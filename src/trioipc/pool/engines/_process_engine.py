"""Worker processes as an engine: how calls are pickled for them, and how they are made.

One such worker is `_process`.
"""

from __future__ import annotations

import copyreg
import math
import multiprocessing
import multiprocessing.connection
import types
from typing import TYPE_CHECKING, final

import attrs

from trioipc._errors import PayloadError, WorkerStartError
from trioipc.memory._belt import BeltTaker, belt_bytes
from trioipc.pool._endpoint import Endpoint, Engine
from trioipc.pool._ledger import PERFORMERS
from trioipc.pool._options import values_of
from trioipc.pool.engines._host import EXIT_SECONDS
from trioipc.pool.engines._inlet import ProcessInlet
from trioipc.pool.engines._payload import (
    NO_ARGUMENTS,
    ProcessCall,
    cannot_pickle,
    pickled_function,
    refuse_asynchronous,
    refuse_no_generator,
    refuse_synchronous,
    refuse_values,
)
from trioipc.pool.engines._process import ProcessEndpoint
from trioipc.pool.engines._store import Store
from trioipc.pool.scheduling._expectation import Expectation
from trioipc.protocol._codec import CONTEXT, INLINE, PICKLE_LIMIT, encode, lift_arguments
from trioipc.worker._stream import produce
from trioipc.worker.registry import perform

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal, NoReturn

    from trioipc.pool._endpoint import Call
    from trioipc.pool._statistics import ArenaStatistics
    from trioipc.pool.engines._inlet import Inlet
    from trioipc.worker._context import Variable

# Seconds that a worker has to get ready, if nobody says otherwise.
START_TIMEOUT = 30.0

# How many requests an io worker holds: each is a slot of 256 bytes, whether used or not.
_IO_PLACES = 256

# How many a cpu worker may hold, those included that were sent ahead: beyond that, more of them
# gain nothing (205,000 requests/s with 8, 244,000 with 64).
_CPU_SLOTS = 64

# Functions whose workers need not be trusted.
_BUILTIN = "trioipc.builtin."


def _refuse_connection(connection: object) -> NoReturn:
    raise TypeError(
        f"cannot pickle a {type(connection).__name__}, whose descriptor is of here only"
    )


# Plain pickle sends the bare number of its descriptor, and the worker would read, write and close
# whatever has that number there. multiprocessing's own pickles do not ask copyreg for it.
copyreg.pickle(multiprocessing.connection.Connection, _refuse_connection)


def _is_plain(function: object) -> bool:
    """Say whether it is the same wherever it is loaded, so that its pickle need be sent only once.

    A bound method of a builtin, such as ``items.copy``, is not: what it gives depends on ``items``.
    """
    if type(function) is types.FunctionType:
        return True
    if type(function) is not types.BuiltinFunctionType:
        return False
    return function.__self__ is None or type(function.__self__) is types.ModuleType


def refuse_nested() -> None:
    """Refuse to start workers where they cannot be: in a process that is itself starting.

    Raises:
      WorkerStartError: in a worker, or in a child that imports an unguarded main module.
    """
    process = multiprocessing.current_process()
    if getattr(process, "_inheriting", False):
        raise WorkerStartError(
            "a process that is still starting cannot start workers: the main module opens a "
            "pool without `if __name__ == '__main__':` around it"
        )
    if process.daemon:
        raise WorkerStartError("a worker process cannot start worker processes of its own")


@final
@attrs.define(eq=False)
class ProcessEngine(Engine):
    """Makes worker processes.

    Args:
      name: The pool's name.
      modules: What each worker loads before it is ready.
      start_timeout: Seconds until a worker that is not ready has failed.
      kind: ``"cpu"`` or ``"io"``.
      arena_bytes: How much shared memory for payloads is kept.
      memory_limit: How many bytes of private memory a worker may have.
      scrub_environment: Whether workers forget most of their environment.
      forward_logs: Whether what workers log is handed to the loggers of this process.
      context: The context variables that travel with each call, with their names.
      lifespan: What makes the context manager that each worker lives in, pickled.
      exit_seconds: How long a worker that is closed may take to end.
    """

    name: str
    modules: tuple[str, ...] = ()
    start_timeout: float = START_TIMEOUT
    kind: Literal["cpu", "io"] = "cpu"
    arena_bytes: float = 256 << 20
    memory_limit: float = math.inf
    scrub_environment: bool = False
    forward_logs: bool = False
    context: tuple[tuple[str, Variable], ...] = ()
    lifespan: bytes | None = None
    exit_seconds: float = EXIT_SECONDS
    places: int = attrs.field(init=False)
    slots: int = attrs.field(init=False)
    watched: bool = attrs.field(default=True, init=False)
    store: Store = attrs.field(init=False)
    # {function: its call without arguments, which is always the same}
    _functions: dict[Any, ProcessCall] = attrs.field(factory=dict, init=False)
    # Of all calls that are sent with their function.
    _expected: Expectation | None = attrs.field(default=None, init=False)
    known_operations: tuple[tuple[str, str, bool], ...] = attrs.field(default=(), init=False)

    def __attrs_post_init__(self) -> None:
        self.places = _IO_PLACES if self.kind == "io" else 1
        self.slots = _IO_PLACES if self.kind == "io" else _CPU_SLOTS
        self.store = Store(self.arena_bytes)
        self._expected = self._expectation()

    def _expectation(self) -> Expectation | None:
        return Expectation() if self.slots > self.places else None

    def prepare(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Call:
        """Pickle a call; see `Engine.prepare`."""
        values = values_of(self.context) if self.context else None
        if not values:
            return self._prepare(function, arguments)
        try:
            call = self._prepare(function, (*arguments, values))
        except PayloadError:
            refuse_values(function, values)
            raise
        call.flags |= CONTEXT
        return call

    def exempt(self, call: Call) -> None:
        """Have it not wait for room in the store; see `Engine.exempt`."""
        if call.loads:  # the others may be shared, and need no room
            assert isinstance(call, ProcessCall)
            call.waits = False

    def _prepare(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> ProcessCall:
        if not _is_plain(function):
            return self._prepare_inline(function, arguments)
        known = self._functions.get(function)
        if known is None:
            self._refuse(function)
            pickled = pickled_function(function)
            if len(pickled) > PICKLE_LIMIT:  # more than a frame holds
                return self._prepare_inline(function, arguments)
            known = ProcessCall(
                len(self._functions), pickled, NO_ARGUMENTS, self.store, self._expectation()
            )
            known.plain = (function.__module__ or "").startswith(_BUILTIN)
            if function not in PERFORMERS:
                known.operation = self.ledger.number(function)
            self._functions[function] = known
        if not arguments:
            return known
        try:
            encoded = encode(lift_arguments(arguments))
        except (Exception, SystemExit) as error:
            raise cannot_pickle(function, arguments, error) from error
        call = ProcessCall(
            known.number, known.pickled_function, encoded, self.store, known.expected
        )
        call.plain = known.plain
        call.operation = known.operation
        if function in PERFORMERS:
            call.operation = self.ledger.number(function, arguments)
        return call

    def _prepare_inline(
        self, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> ProcessCall:
        if not callable(function):
            raise TypeError(f"the function must be callable, not {type(function).__name__}")
        self._refuse(function)
        try:
            encoded = encode((function, lift_arguments(arguments)))
            call = ProcessCall(INLINE, b"", encoded, self.store, self._expected)
            call.operation = self.ledger.number(function)
            return call
        except (Exception, SystemExit) as error:
            raise cannot_pickle(function, arguments, error) from error

    def _refuse(self, function: Callable[..., Any]) -> None:
        """Refuse functions that workers of this kind do not run."""
        if self.kind == "cpu":
            refuse_asynchronous(function)
        elif function is not perform:
            refuse_synchronous(function)

    def open_inlet(self, buffer: int) -> Inlet:
        """Lay a belt; see `Engine.open_inlet`."""
        return ProcessInlet(BeltTaker(self.store.allocate(belt_bytes(buffer)), buffer))

    def prepare_stream(
        self, inlet: Inlet, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Call:
        """Pickle a call that runs a generator function; see `Engine.prepare_stream`."""
        assert isinstance(inlet, ProcessInlet)
        refuse_no_generator(function, asynchronous=self.kind == "io")
        try:
            call = self.prepare(self._runner(), (inlet.belt, function, *arguments))
        except PayloadError as error:
            raise cannot_pickle(function, arguments, error.__cause__ or error) from error
        assert isinstance(call, ProcessCall)
        call.inlet = inlet
        call.operation = self.ledger.number(function)
        call.expected = None  # how long it runs is for who iterates to say
        return call

    def _runner(self) -> Callable[..., Any]:
        """Return what runs a generator function in workers of this kind."""
        if self.kind == "cpu":
            return produce
        from trioipc.worker._stream_io import produce_async

        return produce_async

    def endpoint(self) -> Endpoint:
        """Make a worker process, not started yet."""
        return ProcessEndpoint(self)

    def operations(self) -> tuple[tuple[str, str, bool], ...]:
        """Return what the last worker that became ready has registered."""
        return self.known_operations

    def allocate(self, nbytes: int) -> memoryview:
        """Return memory that workers see as well; see `Engine.allocate`."""
        return self.store.allocate(nbytes)

    async def tend(self) -> None:
        """Keep the shared memory in order; see `Engine.tend`."""
        await self.store.tend()

    async def close(self) -> None:
        """Let go of the shared memory."""
        await self.store.close()

    def memory(self) -> ArenaStatistics:
        """Say how much shared memory there is."""
        return self.store.statistics()
