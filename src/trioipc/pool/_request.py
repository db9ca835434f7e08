"""One request: from the call until its outcome.

The decisions about how a request ends are here and pure; what moves it is in `_dispatch`.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, final

import attrs
import trio
from outcome import Error, Outcome, Value, capture
from trio.lowlevel import enable_ki_protection

from trioipc._errors import (
    PoisonedRequestError,
    RequestCancelledError,
    RequestExitError,
    RequestTimeoutError,
    WorkerCrashedError,
    WorkerError,
)
from trioipc.pool._progress import Progress, ProgressChannel, progress_of
from trioipc.pool.engines._payload import function_name
from trioipc.protocol._lifecycle import REQUEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioipc.memory.state import SharedCancellation
    from trioipc.pool._endpoint import Answer, Call, Death, Snapshot
    from trioipc.pool._instruments import Watch
    from trioipc.pool._ladder import Ladder
    from trioipc.pool._nesting import Child
    from trioipc.pool._stall import StallClock
    from trioipc.pool._statistics import Ending
    from trioipc.pool.scheduling._gate import Gate
    from trioipc.pool.team._worker import Worker
    from trioipc.protocol._lifecycle import RequestEvent, RequestState
    from trioipc.protocol._messages import Priority

    class Keeper(Protocol):
        """What a request asks of the dispatcher that keeps it."""

        name: str
        returning: int

        @property
        def serial(self) -> Callable[[], int]:
            """Call it for the next number."""

        def check_run(self) -> None:
            """Refuse other threads, runs and processes."""

        def listen(self, request: PoolRequest[Any]) -> None:
            """Sample its progress from now on."""

        def cancel(
            self,
            request: PoolRequest[Any],
            cause: RequestCancelledError | RequestTimeoutError | None,
        ) -> None:
            """Send it down the ladder."""


# Why a worker that did nothing wrong by itself may be killed while it runs a request.
_CONDEMNED = ("stopped", "silent")

T_co = TypeVar("T_co", covariant=True)


@final
@attrs.frozen
class Terms:
    """What the caller asked for, with the pool's values where they said nothing."""

    timeout: float = math.inf
    queue_timeout: float = math.inf
    total_timeout: float = math.inf
    stall_timeout: float = math.inf
    priority: Priority = "normal"
    cancellation: SharedCancellation | None = None
    retries: int = 0
    grace: float = 1.0
    guarded: bool = attrs.field(init=False)
    """Whether it has a clock or a flag at all."""

    def __attrs_post_init__(self) -> None:
        limit = min(self.timeout, self.queue_timeout, self.total_timeout, self.stall_timeout)
        object.__setattr__(self, "guarded", limit < math.inf or self.cancellation is not None)


@final
class PoolRequest(Generic[T_co]):
    """A request in a pool, from `WorkerPool.open_request`."""

    # What few requests ever change is on the class: there, thirty fields cost nothing to make.

    # Of its own, in the caller's task, from before it is submitted.
    _nursery: trio.Nursery | None = None
    _state: RequestState = "waiting"
    # What a strategy of the user's wants to know of it, and what limits how many of its kind run.
    _label: object = None
    _gate: Gate[PoolRequest[object]] | None = None
    # Where it is: on which worker, in which place, under which number.
    _worker: Worker[PoolRequest[object]] | None = None
    _slot: int = 0
    _generation: int = 0
    # Whether it was sent behind others, and it was not seen since that none is left before it.
    _was_ahead: bool = False
    # The generation under which it was to be taken back, but may have begun.
    _recalled_in_vain: int = 0
    _attempts: int = 0
    _moves: int = 0
    _crashes: tuple[WorkerCrashedError, ...] = ()
    _loader: trio.CancelScope | None = None

    # When something must be decided again, on Trio's clock, whatever the reason.
    _alarm: float = math.inf
    _expires: float = math.inf  # the clock "total"
    _queue_expires: float = math.inf
    _posted_at: float = math.inf
    _rests_until: float = math.inf  # before it is tried again
    _deadline: float = math.inf  # of the scopes around the call, when it was made
    _stall: StallClock | None = None
    # Reads where its worker was when that clock ran out.
    _read_stack: Callable[[], str | None] | None = None

    # Whether it is to end early, for any of the reasons below.
    _stopped: bool = False
    # Why it is to end early: the first cause; a cancelled scope of the caller beats it.
    _cause: RequestCancelledError | RequestTimeoutError | None = None
    _raise_cancel: Callable[[], object] | None = None
    _dropped: bool = False  # its block was left
    # Its outcome, if that does not come from a worker.
    _verdict: Outcome[Any] | None = None
    _ladder: Ladder | None = None

    # How it ended: an answer, or an error without one.
    _answer: Answer | None = None
    _failure: BaseException | None = None
    _seconds: float | None = None
    _pid: int | None = None
    _outcome: Outcome[Any] | None = None
    _asked: bool = False

    # What its function asks for, while that runs; and how often it was asked for itself.
    _children: dict[Child, None] | None = None
    _depth: int = 0
    # Whether its caller waits for it and does nothing else until its end.
    _is_called: bool = False
    # Called when it ends, before anybody else is given its place.
    _return_place: Callable[[], object] | None = None
    # What one of its children has raised though it was cancelled.
    _stray: BaseException | None = None

    _landing: trio.Lock | None = None
    _waiter: trio.lowlevel.Task | None = None
    _over: trio.Event | None = None
    _on_end: Callable[[], object] | None = None
    # Called just before its end, while its worker still has what it has sent.
    _rescue: Callable[[], object] | None = None
    _channel: ProgressChannel | None = None
    _wants_progress: bool = False  # somebody will ask for it
    _final: Snapshot | None = None
    _watch: Watch | None = None  # what instruments are told

    def __init__(
        self,
        dispatcher: Keeper,
        function: Callable[..., object],
        call: Call,
        terms: Terms,
        name: str | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._function = function
        self._call = call
        self._terms = terms
        self._name = name
        self._serial = dispatcher.serial()
        self._submitted_at = time.perf_counter_ns()

    def __repr__(self) -> str:
        return f"<PoolRequest {self.id}: {function_name(self._function)}, {self._state}>"

    @property
    def id(self) -> str:
        """Its name, in errors, notes and logs."""
        return self._name or f"{self._dispatcher.name}-{self._serial}"

    @property
    def progress(self) -> trio.MemoryReceiveChannel[Progress]:
        """The newest `Progress` at each time, and at last the last one; for one reader.

        Iteration ends when the request ends, however it ends, without raising.
        """
        if self._channel is None:
            self._channel = ProgressChannel()
            self._dispatcher.listen(self)
        return self._channel.receive

    @enable_ki_protection
    def cancel(self, reason: str | None = None) -> None:
        """Cancel it: the function's next checkpoint raises, then it is interrupted, then killed.

        `result` then raises `RequestCancelledError`; a value that still arrives is dropped.
        Cancelling again, or after the end, changes nothing.

        Args:
          reason: Why, for the function and the error.

        Raises:
          RuntimeError: from another thread, process or `trio.run`.
        """
        self._dispatcher.check_run()
        if reason is not None and not isinstance(reason, str):
            raise TypeError(f"reason must be a str or None, not {type(reason).__name__}")
        error = RequestCancelledError(
            f"{self.id} was cancelled" + (f": {reason}" if reason else ""), reason=reason
        )
        self._dispatcher.cancel(self, error)

    async def wait_started(self) -> None:
        """Wait until a worker has taken it up, or it has ended.

        Cancellation: a checkpoint; the request goes on.
        """
        await trio.lowlevel.checkpoint()
        pause = 0.001
        while self._state != "ended" and not self._has_started():
            # No message says so; the worker writes it into the slot.
            await trio.sleep(pause)
            pause = min(2 * pause, 0.02)

    def _has_started(self) -> bool:
        snapshot = self._look()
        return snapshot is not None and snapshot.started

    def _look(self) -> Snapshot | None:
        if self._worker is None or self._state in ("waiting", "loading"):
            return None
        return self._worker.endpoint.look(self._slot, self._generation)

    def _is_behind(self) -> bool:
        """Say whether its worker has others to run before it, as far as is known here."""
        return self._was_ahead and self._worker is not None and self._worker.first() is not self

    async def result(self) -> T_co:
        """Wait for the end; return what the function returned, or raise what it raised.

        May be awaited often, and by several tasks.

        Raises:
          RequestCancelledError: if somebody called `cancel`, or set the `SharedCancellation`.
          RequestTimeoutError: if a clock of the request ran out.
          RequestExitError: if the function raised a BaseException that is no Exception.
          PayloadError: if its result or exception could not be pickled.
          WorkerCrashedError: if the worker died. You don't get this if it was killed to end a
            cancelled request.
          trio.ClosedResourceError: if the pool was closed before the end.

        Cancellation: a checkpoint; the request goes on until its block is left.
        """
        await trio.lowlevel.checkpoint()
        if not self._is_over():
            if self._over is None:
                self._over = trio.Event()
            await self._over.wait()
        await self._land()
        self._asked = True  # not before: who was cancelled has heard nothing
        value: T_co = unwrap_again(self._conclude())
        return value

    async def _land(self) -> None:
        """Bring home what is big; whoever asks first does it for all."""
        answer = self._answer
        if answer is not None and answer.lands and not self._stopped:
            if self._landing is None:
                self._landing = trio.Lock()
            async with self._landing:
                if answer.lands:
                    await answer.land()

    def _abort(self, raise_cancel: Callable[[], object]) -> trio.lowlevel.Abort:
        """Start the ladder; the end, which comes at once where no worker has it, wakes us."""
        self._raise_cancel = raise_cancel
        self._stopped = True
        self._dispatcher.cancel(self, None)
        return trio.lowlevel.Abort.FAILED

    # -- for the dispatcher -----------------------------------------------------------------

    def _step(self, event: RequestEvent) -> None:
        self._state = REQUEST[self._state][event]

    def _end(self) -> None:
        """Wake whoever waits. The state is "ended"."""
        self._alarm = math.inf
        if self._is_called:
            self._dispatcher.returning += 1
        if self._channel is not None:
            self._channel.close()
        if self._over is not None:
            self._over.set()
        if self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            on_end()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            trio.lowlevel.reschedule(waiter)

    def _resolve(self, verdict: Outcome[Any]) -> None:
        """End it with an outcome that does not come from its worker, who is told to stop."""
        if self._state != "ended" and self._verdict is None:
            self._verdict = verdict
            self._stopped = True
            self._dispatcher.cancel(self, None)

    def _stop_children(self) -> None:
        """Cancel what its function asks for; it may be asking no more."""
        for child in [*(self._children or ())]:
            child.stop()

    def _lose(self, child: Child) -> None:
        """Forget one that has ended; with the last, end as well if it is time."""
        assert self._children is not None
        del self._children[child]
        if self._is_over():
            self._end()

    def _is_over(self) -> bool:
        """Say whether it has ended, and all that its function has asked for."""
        return self._state == "ended" and not self._children

    def _ends_at(self) -> float:
        """Say when it ends at the latest, on Trio's clock, as far as is known."""
        at = min(self._deadline, self._expires)
        snapshot = self._look()
        if snapshot is not None and self._terms.timeout != math.inf:
            at = min(at, trio.current_time() + self._terms.timeout - snapshot.seconds)
        return at

    def _inform(self, snapshot: Snapshot) -> None:
        """Give the reader of `progress` what does not come from its worker."""
        if self._channel is not None:
            self._channel.publish(snapshot, max(self._attempts, 1))

    def _last_progress(self) -> Progress | None:
        """Return its progress when it ended, if it had said anything about that."""
        if self._final is None or not self._final.written:
            return None
        return progress_of(self._final, max(self._attempts, 1))

    def _publish(self) -> None:
        """Give the reader of `progress` what the slot holds."""
        snapshot = self._look()
        if self._channel is not None and snapshot is not None and snapshot.started:
            self._channel.publish(snapshot, max(self._attempts, 1))

    def _take_stack(self) -> None:
        """Keep what its worker has written about where it stood still."""
        if self._read_stack is not None and isinstance(self._cause, RequestTimeoutError):
            self._cause.stack = self._cause.stack or self._read_stack()

    # -- the end, in the caller's task --------------------------------------------------------

    def _give(self) -> Any:
        """Return or raise the outcome, to the one caller who waits for it."""
        answer = self._answer
        if (
            answer is not None
            and answer.kind == "value"
            and not self._stopped
            and self._stray is None
        ):
            return answer.unpack().unwrap()
        return self._decide().unwrap()

    def _let_go(self) -> None:
        """Forget what was given: only who was given it is to hold it, and what it holds."""
        self._raise_cancel = self._cause = self._failure = self._verdict = self._answer = None
        self._stray = None
        self._crashes = ()

    def _conclude(self) -> Outcome[Any]:
        """Decide the outcome, once."""
        if self._outcome is None:
            self._outcome = self._decide()
            self._answer = None
        return self._outcome

    def _decide(self) -> Outcome[Any]:
        answer, failure = self._answer, self._failure
        if not self._stopped:
            if failure is not None:
                return self._with_stray(Error(failure))
            assert answer is not None
            return self._with_stray(self._homecoming(answer))
        error = self._error_in_cleanup(answer)
        if self._raise_cancel is not None:
            return Error(error) if error is not None else capture(self._raise_cancel)
        if self._verdict is not None:
            return self._verdict
        if self._cause is None:  # its block was left
            if error is not None:
                return Error(error)
            self._cause = RequestCancelledError(f"{self.id} was cancelled: its block was left")
        self._cause.rung = self._rung(answer)
        self._cause.__cause__ = error
        self._annotate(self._cause)
        return Error(self._cause)

    def _ending(self) -> Ending:
        """Say as what the pool's statistics count it."""
        if not self._stopped:
            answer = self._answer
            return "value" if answer is not None and answer.kind == "value" else "error"
        if self._raise_cancel is not None or self._dropped:
            return "cancelled"
        if self._verdict is not None:
            return "value" if isinstance(self._verdict, Value) else "error"
        return "error" if isinstance(self._cause, RequestTimeoutError) else "cancelled"

    def _unheard(self) -> BaseException | None:
        """Return the error of a request whose result nobody asked for."""
        if self._asked:
            return None
        outcome = self._conclude()
        error = outcome.error if isinstance(outcome, Error) else None
        # Somebody called cancel() and left: they know.
        return None if isinstance(error, RequestCancelledError) else error

    def _mention_in(self, other: BaseException) -> None:
        """Note in an error that comes out in its place how this failed, if it did and none asked.

        Without the text of its error, which may hold what belongs in no log.
        """
        error = self._unheard()
        if error is not None and error is not other:
            other.add_note(f"trioipc: {self.id} failed too, with {type(error).__name__}")

    def _homecoming(self, answer: Answer) -> Outcome[Any]:
        """Bring home what the function gave."""
        if answer.kind in ("stopped", "skipped"):  # though nobody had cancelled it
            outcome: Outcome[Any] = Error(
                RequestExitError(
                    "the function raised RequestInterrupt", type_name="RequestInterrupt"
                )
            )
        else:
            outcome = answer.unpack()
        try:
            if isinstance(outcome, Error):
                outcome = Error(_no_stop(outcome.error))
                self._annotate(outcome.error)
            return outcome
        finally:
            del outcome  # a traceback that was unpickled here holds this frame

    def _error_in_cleanup(self, answer: Answer | None) -> BaseException | None:
        """Return the exception that the function raised though, or since, it was cancelled."""
        if answer is None or answer.kind != "error":
            if answer is not None:
                answer.drop()
            return self._stray
        outcome = self._with_stray(self._homecoming(answer))
        return outcome.error if isinstance(outcome, Error) else None

    def _with_stray(self, outcome: Outcome[Any]) -> Outcome[Any]:
        """Have nothing lost that a request has raised which this one had asked for."""
        stray = self._stray
        if stray is None:
            return outcome
        if not isinstance(outcome, Error):
            return Error(stray)
        outcome.error.add_note(
            f"trioipc: what it had asked for failed too, with {type(stray).__name__}"
        )
        return outcome

    def _rung(self, answer: Answer | None) -> str:
        if self._ladder is None or (answer is not None and answer.kind == "skipped"):
            return "queue"
        if answer is None:
            return "kill"
        return "interrupt" if answer.interrupted else "checkpoint"

    def _annotate(self, error: BaseException) -> None:
        """Add the one note of ours: where this came from."""
        parts = [f"request {self.id} ({function_name(self._function)})"]
        if self._attempts:
            parts.append(f"worker {self._pid}, try {self._attempts}")
        if self._seconds is not None:
            parts.append(f"{self._seconds:.3f} s after it was taken up")
        error.add_note("trioipc: " + ", ".join(parts))

    def _crash(self, death: Death, snapshot: Snapshot, reason: str | None = None) -> None:
        """Note that a worker died while it ran this."""
        exitcode = death.exitcode
        how = "for an unknown reason" if exitcode is None else f"with exit code {exitcode}"
        error = WorkerCrashedError(
            f"the worker that ran {self.id} died {how}",
            pid=self._pid,
            exitcode=exitcode,
            last_progress=(snapshot.value, snapshot.total),
            phase=snapshot.phase,
            attempts=self._attempts,
            seconds_running=snapshot.seconds,
        )
        if exitcode is None and isinstance(death.error, WorkerError):
            error.args = (f"the worker that ran {self.id} is gone: {death.error}",)
        if reason in _CONDEMNED:
            error.args = (f"the worker that ran {self.id} was {reason}, and was killed",)
        elif error.signal is not None:
            error.args = (f"the worker that ran {self.id} was killed by {error.signal.name}",)
        error.__cause__ = death.error
        if death.stack is not None:
            error.add_note(death.stack)
        self._seconds = snapshot.seconds
        self._annotate(error)
        self._crashes = (*self._crashes, error)

    def _give_up(self) -> BaseException:
        """Return the error of a request that is not tried again after a crash."""
        if len(self._crashes) == 1:
            return self._crashes[0]
        poisoned = PoisonedRequestError(
            f"{self.id} crashed every worker that tried it", attempts=len(self._crashes)
        )
        poisoned.__cause__ = ExceptionGroup("one crash for each try", self._crashes)
        return poisoned


def _no_stop(error: BaseException) -> BaseException:
    """Return what a coroutine raises that raises ``error``: no StopIteration (PEP 479)."""
    if not isinstance(error, StopIteration | StopAsyncIteration):
        return error
    instead = RuntimeError(f"the function raised {type(error).__name__}")
    instead.__cause__ = error
    return instead


def unwrap_again(outcome: Outcome[Any]) -> Any:
    """Unwrap an outcome that others may unwrap as well."""
    if isinstance(outcome, Value):
        return outcome.value
    assert isinstance(outcome, Error)
    error = outcome.error
    try:
        raise error
    finally:
        del error, outcome  # else its traceback would hold a frame that holds it
