"""An engine without processes or threads, for tests in virtual time.

The simulated one of `trioipc.testing`, with more to turn: calls that must be loaded, or get lost,
and workers that say of themselves what the test wants. Nothing is pickled, so that functions may be
any; `Die` is how one ends its worker.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import attrs
import trio
from outcome import Value

from trioipc import WorkerStartError
from trioipc.protocol._codec import Encoded
from trioipc.testing import Hang
from trioipc.testing._engine import (
    Die,
    SimulatedAnswer,
    SimulatedCall,
    SimulatedEndpoint,
    SimulatedEngine,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trioipc.pool._endpoint import Call, Endpoint, Vitals
    from trioipc.testing._faults import Part

__all__ = ["Die", "FakeEngine", "start_error", "stubborn"]


async def stubborn() -> None:
    """Swallow every interrupt, so that only a kill ends it."""
    raise AssertionError("somebody else plays its part")


@attrs.define(eq=False)
class FakeCall(SimulatedCall):
    """A call as it is."""

    arguments: tuple[Any, ...] = ()
    loading: float | BaseException | None = None
    """Seconds that `load` takes, or what it raises."""

    def __attrs_post_init__(self) -> None:
        self.loads = self.loading is not None

    async def load(self) -> None:
        """Take as long as it was told."""
        if isinstance(self.loading, BaseException):
            raise self.loading
        await trio.sleep(self.loading or 0)

    def unpack(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Return it."""
        return self.function, self.arguments, {}


@attrs.define(eq=False, kw_only=True)
class FakeEngine(SimulatedEngine):
    """Makes fake workers, and remembers them."""

    places: int = 1
    starts: Any = ()
    """For each worker in turn, how long it takes to start or what it fails with; then at once."""
    loading: float | BaseException | None = None
    twins: dict[Callable[..., Any], Callable[..., Any]] = attrs.field(factory=dict)
    """Coroutine functions that stand for functions which would block."""
    watched: bool = False
    deaf: bool = False
    """Whether calls get lost on their way to the workers made from now on."""
    endpoints: list[FakeEndpoint] = attrs.field(factory=list, init=False)
    _waiting_starts: Iterable[float | BaseException] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._waiting_starts = iter(self.starts)
        self.stand_ins = {**self.twins, stubborn: Hang()}

    def prepare(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Call:
        """Make a call."""
        if not callable(function):
            raise TypeError(f"the function must be callable, not {type(function).__name__}")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError("a generator")
        number = self.ledger.number(function, arguments)
        return FakeCall(function, number, Encoded(b""), arguments=arguments, loading=self.loading)

    def answer(self, value: Any) -> SimulatedAnswer:
        """Return it as it is."""
        return SimulatedAnswer("value", Value(value))

    def endpoint(self) -> Endpoint:
        """Make a worker."""
        start = next(iter(self._waiting_starts), 0.0)
        endpoint = FakeEndpoint(self, start, len(self.endpoints) + 1)
        endpoint.deaf = self.deaf
        self.endpoints.append(endpoint)
        return endpoint


class FakeEndpoint(SimulatedEndpoint):
    """One fake worker."""

    def __init__(self, engine: FakeEngine, start: float | BaseException, pid: int) -> None:
        super().__init__(engine, start, pid)
        self.log: list[tuple[float, str]] = []
        self.deaf = False
        self.vital: Vitals | None = None
        self.bytes: int | None = 1000
        self.stack: Callable[[], str | None] = lambda: None

    def dump_stack(self) -> Callable[[], str | None]:
        """Say what the test has said."""
        return self.stack

    def memory(self) -> int | None:
        """Say what the test has said."""
        return self.bytes

    def vitals(self) -> Vitals | None:  # type: ignore[override]
        """Say what the test has said."""
        return self.vital

    async def _run(self, hear: Any, call: SimulatedCall, part: Part | None, *place: int) -> None:
        self._note(f"run {call.function.__name__}")
        await super()._run(hear, call, part, *place)

    def post(self, call: Call, *arguments: Any) -> None:
        """Have a call run, if it hears of it."""
        if not self.deaf:
            super().post(call, *arguments)

    def cancel(self, slot: int, generation: int, reason: str | None) -> None:
        """Set the cancel word."""
        self._note("cancel")
        super().cancel(slot, generation, reason)

    def interrupt(self) -> bool:
        """Cancel what runs, wherever its cancel word is set."""
        self._note("interrupt")
        return super().interrupt()

    def kill(self) -> bool:
        """End the worker."""
        self._note("kill")
        return super().kill()

    def close(self) -> None:
        """Take no more calls."""
        self._note("close")
        super().close()

    def _note(self, what: str) -> None:
        self.log.append((trio.current_time(), what))


def start_error(text: str = "no such luck") -> WorkerStartError:
    """Make the error of a worker that cannot start."""
    return WorkerStartError(text)
