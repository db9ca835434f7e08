"""The one seam to what executes: processes and threads here, or a cluster elsewhere.

Nothing above it may know which it is talking to. An `Engine` prepares calls and makes endpoints; an
`Endpoint` is one worker, for as long as that lives.

Rules:

- What endpoints do, but for `Endpoint.live`, is synchronous, never blocks, and does not raise when
  the worker is gone: `live` will say so soon enough.
- A call that was posted is answered exactly once through ``hear``, or `live` returns without an
  answer to it, which means that it died with the worker.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import attrs
import trio

from trioipc.pool._ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from outcome import Outcome

    from trioipc.pool._statistics import ArenaStatistics
    from trioipc.pool.engines._inlet import Inlet
    from trioipc.pool.scheduling._expectation import Expectation


@attrs.define  # frozen, it would take three times as long to make, for each request
class Snapshot:
    """What a worker has written about one request, at one moment."""

    started: bool
    """Whether it has taken the request up."""

    seconds: float = 0.0
    """Since then."""

    value: int = 0
    total: int = 0
    phase: str | None = None

    ticks: int = 0
    """How often the function has looked whether it is cancelled."""

    written: bool = False
    """Whether the function has said anything about its progress."""


VitalState: TypeAlias = Literal["running", "sleeping", "stopped", "traced"]


@attrs.frozen
class Vitals:
    """How a worker's process is, at one moment."""

    state: VitalState
    """``"stopped"`` by a signal; ``"traced"`` if a debugger holds it."""

    processor_time: int
    """How much of a processor it has used, in no particular unit."""


@attrs.frozen
class Death:
    """How a worker ended."""

    exitcode: int | None = None
    """Negative for signals; None if it could not be learnt."""

    error: BaseException | None = None
    """Why it could not even be started, or what else went wrong with it."""

    stack: str | None = None
    """Where it was in its code when it crashed, if it could still say so."""


class Call(Protocol):
    """A function and its arguments, as an engine likes them."""

    @property
    def loads(self) -> bool:
        """Whether so much must be copied that the event loop needs its turn meanwhile."""

    @property
    def held(self) -> int:
        """How many bytes of the pool's memory it takes while it waits."""

    @property
    def operation(self) -> int:
        """Under which of the ledger's numbers it is counted."""

    @property
    def nbytes(self) -> int:
        """How many bytes are copied for it, in all."""

    @property
    def expected(self) -> Expectation | None:
        """How long such calls take; None for one that must not be sent ahead."""

    async def load(self) -> None:
        """Copy it, before the call is posted. After a cancel, or an error: `drop`."""

    async def feed(self) -> None:
        """Go on copying, after one that `loads` was posted. May be cancelled at any time."""

    def drop(self) -> None:
        """Let go of what was copied; the call may be loaded and posted again."""


@attrs.define(eq=False)
class LightCall:
    """A `Call` for which nothing is copied; it takes none of the pool's memory but what it says."""

    loads: bool = attrs.field(default=False, init=False)
    held: int = attrs.field(default=0, init=False)
    nbytes: int = attrs.field(default=0, init=False)
    expected: None = attrs.field(default=None, init=False)

    async def load(self) -> None:
        """Do nothing."""

    async def feed(self) -> None:
        """Do nothing."""

    def drop(self) -> None:
        """Do nothing."""


class Answer(Protocol):
    """How a function ended."""

    @property
    def kind(self) -> str:
        """``"value"``, ``"error"``, ``"exit"``, ``"payload"``, ``"skipped"`` or ``"stopped"``."""

    @property
    def interrupted(self) -> bool:
        """Whether the interrupt rung has raised in the function."""

    @property
    def lands(self) -> bool:
        """Whether something big must be copied, by `land`, before it is unpacked."""

    async def land(self) -> None:
        """Copy it, letting the event loop turn. Cancel-safe; may be called again after that."""

    def unpack(self) -> Outcome[Any]:
        """Return the value, or the exception as it comes home; once. Unpickles."""

    def drop(self) -> None:
        """Let go of what the answer holds, without looking."""


class Ask(Protocol):
    """What a function asks for while it runs: that another is called."""

    def unpack(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return the function and its arguments, once.

        Raises:
          PayloadError: if they did not arrive.
        """

    async def reply(self, outcome: Outcome[Any]) -> None:
        """Tell who asked how it ended, copying what is big."""

    def stop(self) -> None:
        """Tell it at once that there will be no other reply: it is to stop. Or it has one."""

    on_withdrawal: Callable[[], object]
    """Called when who asked does so no more; then `reply` or `stop` all the same."""


class Engine(ABC):
    """Makes workers of one kind, and calls that they understand."""

    places: int
    """How many requests one worker runs at a time."""

    shares_memory: bool = False
    """Whether functions are given their arguments as they are, and give their results so."""

    watched: bool = False
    """Whether its workers may stop, or go mad, and so must be looked at."""

    ranks: bool = False
    """Whether calls take their priority along, in ``rank``: 1 is high, -1 is low."""

    chunk_seconds: float = 0.002
    """How much work is sent at a time by a map: a request costs some per cent of it."""

    natural_size: int | None = None
    """How many workers there are to be if nobody says; None if that is asked before it is known."""

    @cached_property
    def ledger(self) -> Ledger:
        """Under which number each operation is counted."""
        return Ledger()

    @property
    def slots(self) -> int:
        """How many one worker may hold: more than it runs if some may be sent ahead."""
        return self.places

    @abstractmethod
    def prepare(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Call:
        """Make a call of a function and its arguments.

        Raises:
          PayloadError: if they cannot travel.
          TypeError: if workers of this kind do not run such functions.
        """

    def exempt(self, call: Call) -> None:  # noqa: B027 - most have nothing to wait for
        """Have a call not wait for memory, for what waits for it may hold that."""

    def open_inlet(self, buffer: int) -> Inlet:
        """Make where the items of a stream arrive.

        Args:
          buffer: How many may wait.

        Raises:
          OSError: if there is no memory left for them.
        """
        from trioipc.pool.engines._inlet import LocalInlet

        return LocalInlet(buffer, trio.lowlevel.current_trio_token())

    @abstractmethod
    def prepare_stream(
        self, inlet: Inlet, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Call:
        """Make a call that runs a generator function.

        Args:
          inlet: From `open_inlet`.
          function: The generator function.
          arguments: Its arguments.

        Raises:
          PayloadError: if they cannot travel.
          TypeError: if workers of this kind do not run such functions.
        """

    @abstractmethod
    def endpoint(self) -> Endpoint:
        """Make a worker, not started yet."""

    def operations(self) -> tuple[tuple[str, str, bool], ...]:
        """Return ``(channel, name, idempotent)`` of every operation that the workers know."""
        return ()

    def allocate(self, nbytes: int) -> memoryview:
        """Return ``nbytes`` of blank memory, such as travel to these workers fastest."""
        return memoryview(bytearray(nbytes))

    def memory(self) -> ArenaStatistics | None:
        """Say how much shared memory there is; None if these workers need none."""
        return None

    async def tend(self) -> None:
        """Do what is to be done beside the requests, until cancelled."""
        await trio.sleep_forever()

    async def close(self) -> None:  # noqa: B027 - most have nothing to do
        """Let go of everything; there are no workers left."""


class Endpoint(ABC):
    """One worker."""

    pid: int | None = None
    """Its process; None before it is known, and for threads that of this process."""

    queues: bool = False
    """Whether a call may wait there for others before it begins, and so has no clock before."""

    asked: Callable[[int, Ask], None]
    """Called with the generation of a call whose function asks for something, and what."""

    @abstractmethod
    async def live(
        self,
        ready: Callable[[], None],
        hear: Callable[[int, Answer], None],
        lost: Callable[[Death], None] | None = None,
    ) -> Death:
        """Start the worker and stay until it is gone.

        When cancelled, kills the worker and returns when it is gone.

        Args:
          ready: Called once, when calls can be posted.
          hear: Called with the generation and the answer of each call, as they come.
          lost: May be called once, after the last answer, by one that has died and has to tidy
            up before it returns.
        """

    @abstractmethod
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
        """Send a call.

        Raises:
          OSError: if there is no memory for what is big in it; nothing was sent.

        Args:
          call: From `Engine.prepare`, loaded.
          slot: Which of the worker's places it takes.
          generation: Its number, never used again.
          serial: The number of its request, for its name.
          limit: For how many seconds the function may run.
          since: When it was submitted, by `time.perf_counter_ns`.
          left: For how many seconds from now somebody waits for it, as far as is known.
        """

    def peek(self, *, wait: bool) -> None:  # noqa: B027 - most have nothing to do
        """Hear at once what has been answered, if the last call was one of microseconds.

        Args:
          wait: Whether to wait for it, for some microseconds.
        """

    @abstractmethod
    def cancel(self, slot: int, generation: int, reason: str | None) -> None:
        """Set the cancel word: the function's next checkpoint raises."""

    def recall(self, slot: int, generation: int) -> bool:
        """Take a call back that may not have begun; one that has is not disturbed.

        Returns:
          Whether it certainly never will begin. It is answered all the same, as skipped; which it
          may be even if this is False.
        """
        return False

    def knows(self, call: Call) -> bool:
        """Say whether nothing must be loaded for a call: only then it is sent ahead."""
        return False

    @abstractmethod
    def interrupt(self) -> bool:
        """Interrupt the function that is cancelled; return False if there is no such rung."""

    @abstractmethod
    def kill(self) -> bool:
        """Kill the worker; return False if there is no such rung."""

    @abstractmethod
    def look(self, slot: int, generation: int) -> Snapshot:
        """Read what the worker has written about a request."""

    @abstractmethod
    def close(self) -> None:
        """Ask an idle worker to end, so that `live` returns."""

    def dump_stack(self) -> Callable[[], str | None]:
        """Have the worker write down where its threads are, without waiting for that.

        Returns:
          What reads it, also soon after the worker's end; None if there is nothing to read, or yet.
        """
        return lambda: None

    def vitals(self) -> Vitals | None:
        """Say how its process is; None if nobody can say."""
        return None

    def memory(self) -> int | None:
        """Say how many bytes its process holds that are not shared; None if nobody can say."""
        return None

    async def stacks(self, seconds: float) -> str | None:
        """Return the stacks of all threads of its process; None if it does not say them.

        Args:
          seconds: How long to wait for them, at most.
        """
        await trio.lowlevel.checkpoint()
        return None

    def may_ask(self, slot: int) -> bool:
        """Say whether the function that runs there may ask for others to be called."""
        return True

    def histograms(self) -> memoryview | None:
        """Return the worker's time counts, as a board has them; None if nobody counts."""
        return None
