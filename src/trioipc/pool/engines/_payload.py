"""Calls and answers of worker processes: pickles, and shared memory for what is big."""

from __future__ import annotations

import functools
import inspect
import io
from typing import TYPE_CHECKING, final

import trio
from outcome import Error, Value

from trioipc._errors import PayloadError, RemoteProtocolError, RequestExitError
from trioipc.pool.engines._cargo import Cargo, is_big
from trioipc.pool.engines._pace import AT_ONCE, Pace
from trioipc.protocol._codec import (
    BYTEARRAY,
    BYTES,
    ERROR,
    EXIT,
    INTERRUPTED,
    NONE,
    PAYLOAD,
    SKIPPED,
    STOPPED,
    VALUE,
    Encoded,
    decode,
    encode,
    lift,
    payload_error,
)
from trioipc.protocol._pickling import dumps
from trioipc.protocol._plain import decode_plain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import Any

    from outcome import Outcome

    from trioipc.memory._segment import Segment
    from trioipc.pool.engines._beside import ParentBeside
    from trioipc.pool.engines._inlet import ProcessInlet
    from trioipc.pool.engines._store import Store
    from trioipc.pool.scheduling._expectation import Expectation
    from trioipc.protocol._codec import Buffer

# Calls that are sent ahead are no longer than this: 64 of them fit into a pipe.
AHEAD_LIMIT = 960

# The call of a function without arguments has nothing to send but the function's number.
NO_ARGUMENTS = Encoded(b"")


@final
class ProcessCall:
    """A pickled call."""

    __slots__ = (
        "_cargo",
        "_encoded",
        "_store",
        "body",
        "expected",
        "flags",
        "inlet",
        "loads",
        "number",
        "operation",
        "pickled_function",
        "plain",
        "waits",
    )

    def __init__(
        self,
        number: int,
        pickled_function: bytes,
        encoded: Encoded,
        store: Store,
        expected: Expectation | None = None,
    ) -> None:
        # How long it will run, if it is small enough to be sent ahead.
        is_small = not encoded.flags and len(encoded.body) <= AHEAD_LIMIT
        self.expected = expected if is_small else None
        self.number = number
        self.pickled_function = pickled_function
        self._encoded = encoded
        self._store = store
        # What of it is in shared memory, if anything is to be.
        self._cargo: Cargo | None = None
        self.flags = encoded.flags
        # Of the frame, if nothing is beside it.
        self.body = encoded.body
        # Whether so much must be copied that the event loop needs its turn meanwhile.
        self.loads = bool(encoded.buffers) and is_big(encoded.buffers)
        # Whether the answer must be plain data, whoever sends it.
        self.plain = False
        # Under which of the ledger's numbers it is counted.
        self.operation = 0
        # Whether it waits for room in the store.
        self.waits = True
        # Where its items arrive, if it is a stream.
        self.inlet: ProcessInlet | None = None

    @property
    def held(self) -> int:
        """How many bytes of ours it is, while it waits."""
        return self._encoded.held()

    @property
    def nbytes(self) -> int:
        """How many bytes are copied for it; see `Call.nbytes`."""
        return len(self.body) + sum(map(len, self._encoded.buffers))

    async def load(self) -> None:
        """Copy what is big; see `Call.load`."""
        cargo = Cargo(self._store, self._encoded, waits=self.waits)
        await cargo.load()
        self._cargo = cargo

    def lend(self, beside: ParentBeside) -> bytes:
        """Let a worker have what travels beside the frame; return the frame's body.

        Raises:
          OSError: if there is no memory left.
        """
        if self._cargo is None:
            self._cargo = Cargo(self._store, self._encoded)
            for _ in self._cargo.copy():
                pass
        return self._cargo.lend(beside)

    async def feed(self) -> None:
        """Go on copying; see `Call.feed`."""
        if self._cargo is not None:
            await self._cargo.feed()

    def drop(self) -> None:
        """Let go of the copies; see `Call.drop`."""
        if self._cargo is not None:
            self._cargo.drop()
            self._cargo = None
        if self.inlet is not None:
            self.inlet.detach()


# {kind of the codec: as which an answer counts}
KINDS = {
    NONE: "value",
    VALUE: "value",
    ERROR: "error",
    EXIT: "exit",
    PAYLOAD: "payload",
    SKIPPED: "skipped",
    STOPPED: "stopped",
}


def unpickle_answer(kind: int, unpickle: Callable[[], Any]) -> Outcome[Any]:
    """Make of what came back what the function gave, or why that is lost.

    Args:
      kind: One of the codec's, of those that have a value.
      unpickle: Gives the value.
    """
    try:
        value = unpickle()
    except (Exception, SystemExit) as error:
        lost = payload_error(f"the {KINDS[kind]} that came back", error)
        lost.__cause__ = error
        return Error(lost)
    try:
        if kind == VALUE:
            return Value(value)
        return Error(exit_error(*value) if kind == EXIT else value)
    finally:
        del value  # a traceback that was unpickled here holds this frame


@final
class ProcessAnswer:
    """How a function in a worker process ended."""

    __slots__ = (
        "_body",
        "_flags",
        "_kind",
        "_kinds",
        "_segments",
        "_views",
        "interrupted",
        "kind",
        "lands",
    )

    def __init__(
        self,
        kind: int,
        flags: int,
        views: Sequence[Buffer],
        kinds: list[int],
        segments: dict[int, Segment],
        body: bytes,
    ) -> None:
        self.kind = KINDS[kind]
        self.interrupted = bool(flags & INTERRUPTED)
        self._kind = kind
        self._flags = flags
        self._body = body
        self._views = [*views]
        self._kinds = kinds
        self._segments = segments
        self.lands = any(
            what in _MAKERS and len(view) > AT_ONCE for view, what in zip(views, kinds, strict=True)
        )

    async def land(self) -> None:
        """Copy what shall be bytes, in steps between which the event loop has its turn."""
        for index, what in enumerate(self._kinds):
            view = self._views[index]
            if what in _MAKERS and type(view) is memoryview and len(view) > AT_ONCE:
                self._views[index] = await _MAKERS[what](view)
        self.lands = False

    def unpack(self) -> Outcome[Any]:
        """Unpickle it; see `Answer.unpack`."""
        if self._kind == NONE:
            return Value(None)
        try:
            return unpickle_answer(self._kind, self._open)
        finally:
            self.drop()

    def _open(self) -> Any:
        return decode(self._body, self._flags, self._views, self._segments)

    def drop(self) -> None:
        """Let go of the bytes."""
        self._body = b""
        self._views = []
        self._segments = {}


@final
class PlainAnswer:
    """How a built-in operation ended; what it is has been read already."""

    __slots__ = ("_outcome", "interrupted", "kind", "lands")

    def __init__(self, kind: str, outcome: Outcome[Any], *, interrupted: bool = False) -> None:
        self.kind = kind
        self._outcome: Outcome[Any] | None = outcome
        self.interrupted = interrupted
        self.lands = False

    async def land(self) -> None:
        """Do nothing."""

    def unpack(self) -> Outcome[Any]:
        """Return it; see `Answer.unpack`."""
        outcome, self._outcome = self._outcome, None
        assert outcome is not None
        return outcome

    def drop(self) -> None:
        """Let go of it."""
        self._outcome = None


def plain_answer(kind: int, flags: int, views: Sequence[memoryview], body: bytes) -> PlainAnswer:
    """Read the answer of a built-in operation.

    Raises:
      RemoteProtocolError: if it is no plain data, or not what such an answer holds.
    """
    interrupted = bool(flags & INTERRUPTED)
    if kind in (NONE, SKIPPED, STOPPED):
        return PlainAnswer(KINDS[kind], Value(None), interrupted=interrupted)
    value = decode_plain(body, flags, views)
    outcome: Outcome[Any] = Value(value)
    if kind == EXIT:
        outcome = Error(_plain_exit(value))
    elif kind in (ERROR, PAYLOAD):
        if not isinstance(value, Exception):
            raise RemoteProtocolError("a built-in operation failed with what is no exception")
        outcome = Error(value)
    return PlainAnswer(KINDS[kind], outcome, interrupted=interrupted)


def _plain_exit(value: Any) -> RequestExitError:
    kinds = [*map(type, value)] if type(value) is tuple else []
    if len(kinds) != 3 or kinds[::2] != [str, str] or kinds[1] not in (str, int, type(None)):
        raise RemoteProtocolError("a built-in operation ended in no way that there is")
    return exit_error(*value)


def untrusted_answer(error: RemoteProtocolError) -> PlainAnswer:
    """Make the answer that stands for one which is not believed."""
    return PlainAnswer("payload", Error(error))


def lost_answer(flags: int, error: OSError) -> ProcessAnswer:
    """Make the answer that stands for one which this process has no room for."""
    encoded = encode(payload_error("the answer could not be received", error))
    return ProcessAnswer(PAYLOAD, flags & INTERRUPTED, [], [], {}, encoded.body)


async def _make_bytes(view: memoryview) -> bytes:
    # A BytesIO gives away its own memory, if nothing is written to it afterwards: no second copy.
    made = io.BytesIO()
    pace = Pace()
    for piece in pace.pieces(len(view)):
        made.write(view[piece])
        if pace.is_due():
            await trio.lowlevel.checkpoint()
    return made.getvalue()


async def _make_bytearray(view: memoryview) -> bytearray:
    made = bytearray()
    pace = Pace()
    for piece in pace.pieces(len(view)):
        made += view[piece]
        if pace.is_due():
            await trio.lowlevel.checkpoint()
    return made


_MAKERS: dict[int, Callable[[memoryview], Awaitable[bytes | bytearray]]] = {
    BYTES: _make_bytes,
    BYTEARRAY: _make_bytearray,
}


def exit_error(type_name: str, code: object, text: str) -> RequestExitError:
    """Say that a function raised what is no Exception."""
    shown = type_name if code is None else f"{type_name}({code!r})"
    error = RequestExitError(f"the function raised {shown}", type_name=type_name, code=code)
    error.add_note(text.rstrip())
    return error


def refuse_asynchronous(function: Callable[..., Any]) -> None:
    """Refuse functions that a cpu worker cannot call to the end.

    Raises:
      TypeError: if it is asynchronous or a generator.
    """
    name = function_name(function)
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"{name} is asynchronous; only workers of kind='io' run it")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{name} is a generator; its items come home by stream(), not run()")


def refuse_synchronous(function: Callable[..., Any]) -> None:
    """Refuse functions that would hold up all others of an io worker.

    Raises:
      TypeError: if it is not asynchronous.
    """
    target = function
    while isinstance(target, functools.partial):
        target = target.func
    if not inspect.iscoroutinefunction(target):
        name = function_name(function)
        raise TypeError(f"{name} is not asynchronous; only workers of kind='cpu' run it")


def refuse_no_generator(function: Callable[..., Any], *, asynchronous: bool) -> None:
    """Refuse what is no generator function of the kind that the workers run.

    Raises:
      TypeError: if it is not.
    """
    if not callable(function):
        raise TypeError(f"the function must be callable, not {type(function).__name__}")
    name = function_name(function)
    if inspect.isgeneratorfunction(function):
        if asynchronous:
            raise TypeError(f"{name} is not asynchronous; only workers of kind='cpu' stream it")
    elif inspect.isasyncgenfunction(function):
        if not asynchronous:
            raise TypeError(f"{name} is asynchronous; only workers of kind='io' stream it")
    else:
        raise TypeError(f"{name} is no generator function; what it returns comes home by run()")


def function_name(function: object) -> str:
    """Return how a function is called, for people."""
    while isinstance(function, functools.partial):
        function = function.func
    module = getattr(function, "__module__", None) or type(function).__module__
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{module}.{name}"


def refuse_values(function: Callable[..., Any], values: dict[str, Any]) -> None:
    """Refuse context variables whose values cannot be pickled.

    Raises:
      PayloadError: if one of them is such.
    """
    for name, value in values.items():
        try:
            encode(value)
        except (Exception, SystemExit) as error:
            what = f"{name}, a context variable for {function_name(function)}, cannot be sent"
            raise payload_error(f"{what} to a worker", error) from error


def pickled_function(function: Callable[..., Any]) -> bytes:
    """Pickle a function alone.

    Raises:
      PayloadError: if it cannot be.
    """
    try:
        return dumps(function)
    except (Exception, SystemExit) as error:
        raise cannot_pickle(function, (), error) from error


def cannot_pickle(
    function: Callable[..., Any], arguments: tuple[Any, ...], error: BaseException
) -> PayloadError:
    """Find out what of a call cannot be pickled, and say it."""
    name = function_name(function)
    try:
        encode(function)
    except (Exception, SystemExit) as reason:
        return payload_error(f"the function {name} cannot be sent to a worker", reason)
    for index, argument in enumerate(arguments):
        try:
            encode(lift(argument))
        except (Exception, SystemExit) as reason:
            kind = type(argument).__qualname__
            what = f"argument {index} of {name}, of type {kind}, cannot be sent to a worker"
            return payload_error(what, reason)
    return payload_error(f"the arguments of {name} cannot be sent to a worker", error)
