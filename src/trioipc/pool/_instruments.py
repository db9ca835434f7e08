"""Those who look on: instruments are told what happens to requests and workers.

Rules:

- Without instruments a request pays for three looks at an attribute, and nothing else.
- What an instrument is told holds nothing of a payload, and cannot be changed.
- One that raises is told nothing more, and harms nobody; so Trio treats its own.
"""

from __future__ import annotations

import logging
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final

import attrs
import trio
from outcome import Value

from trioipc._errors import (
    PayloadError,
    PoisonedRequestError,
    RequestTimeoutError,
    WorkerCrashedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextvars import Context

    from trioipc.pool._endpoint import Call, Death
    from trioipc.pool._request import PoolRequest
    from trioipc.pool._statistics import WorkerInfo
    from trioipc.pool.team._worker import Worker
    from trioipc.protocol._lifecycle import WorkerState
    from trioipc.protocol._messages import Priority

_log = logging.getLogger("trioipc.instruments")

Outcome: TypeAlias = Literal[
    "value", "error", "exit", "payload", "timeout", "cancelled", "crashed", "failed"
]
CancelReason: TypeAlias = Literal["scope", "block", "cancel", "timeout", "resolved"]


@final
@attrs.frozen(eq=False)
class RequestRecord:
    """A request, as instruments see it: the same object each time, so that it may be a key."""

    id: str
    """Its name, in errors, notes and logs."""

    operation: str
    """What it does, as ``"channel/name"`` of an `operation`, or the full name of a function; for
    several items of `WorkerPool.map` at a time, ``"map(...)"`` of that."""

    priority: Priority
    """As it was asked for."""

    submitted: float
    """When, on Trio's clock."""


@final
@attrs.frozen
class RequestEnd:
    """How a request ended."""

    outcome: Outcome
    """``"value"``; ``"error"``, an exception of the function; ``"exit"``, one that is no Exception;
    ``"payload"``, if something could not be pickled; ``"timeout"``; ``"cancelled"``; ``"crashed"``
    with its worker; or ``"failed"``, since no worker could be had, or the pool was closed, or has
    none for such functions."""

    error: str | None
    """The name of the type of an error that is not the function's; what that raised is still
    pickled."""

    clock: str | None
    """Which one ran out, if one did."""

    rung: str | None
    """Which rung of the cancel ladder ended it, if it was sent and one did."""

    attempts: int
    """How often it was sent to a worker."""

    worker_pid: int | None
    """The process of the last of those."""

    queue_time: float
    """Seconds before that one took it up, earlier tries included."""

    run_time: float
    """Seconds from there until it ended; 0.0 if it never was taken up."""

    total_time: float
    """Seconds from when it was submitted."""


class Instrument:
    """Is told what happens in a pool; see ``instruments`` of `open_worker_pool`.

    As in `trio.abc.Instrument`, each method is optional, and is called in the event loop: be quick.
    One that raises is logged to ``trioipc.instruments``, and that instrument is switched off.
    """

    context_variables: tuple[str, ...] = ()
    """Names of context variables that are to travel with requests; they are added to those of the
    pool."""

    def request_submitted(self, request: RequestRecord) -> None:
        """Hear that there is a request.

        Called in a copy of the caller's context. What is set there travels with the request, if it
        is one of the pool's ``context_variables``, and is seen nowhere else.
        """

    def request_sent(self, request: RequestRecord, attempt: int, worker_pid: int | None) -> None:
        """Hear that a request was sent to a worker, which takes it up when it has nothing else.

        Args:
          request: Which one.
          attempt: 1 for the first time; more after a crash.
          worker_pid: The worker's process.
        """

    def request_cancelled(self, request: RequestRecord, reason: CancelReason) -> None:
        """Hear that a request is to end early; it has not yet.

        Args:
          request: Which one.
          reason: The first there was: the caller's ``"scope"``; its ``"block"`` was left, or
            ``on_progress`` raised; ``"cancel"``, by `PoolRequest.cancel` or a `SharedCancellation`;
            a ``"timeout"``; ``"resolved"``, if its outcome came from elsewhere.
        """

    def request_ended(self, request: RequestRecord, end: RequestEnd) -> None:
        """Hear how a request ended, just before its caller does; once for each."""

    def worker_started(self, worker: WorkerInfo) -> None:
        """Hear that a worker is ready."""

    def worker_ended(self, worker: WorkerInfo, reason: str, exitcode: int | None) -> None:
        """Hear that a worker is gone.

        Args:
          worker: As it was; its ``started`` is None if it never was ready.
          reason: As in `PoolStatistics.restarts`; or ``"surplus"``, ``"closed"`` with its pool, or
            ``"failed"`` to start.
          exitcode: Of its process, negative for signals; None if there is none, or nobody knows.
        """


def instruments_of(instruments: Iterable[Instrument]) -> tuple[Instrument, ...]:
    """Return them, if that is what they are.

    Raises:
      TypeError: if not.
    """
    found = tuple(instruments)
    for instrument in found:
        if not isinstance(instrument, Instrument):
            kind = type(instrument).__name__
            raise TypeError(f"instruments must hold instances of Instrument, not of {kind}")
    return found


_HOOKS = tuple(name for name, found in vars(Instrument).items() if callable(found))


def _wants(instrument: Instrument, hook: str) -> bool:
    """Say whether it has a method of its own for that."""
    method = getattr(instrument, hook)
    return getattr(method, "__func__", None) is not getattr(Instrument, hook)


@final
class Instruments:
    """Those of a pool.

    Args:
      instruments: Called in this order.
    """

    def __init__(self, instruments: tuple[Instrument, ...]) -> None:
        # {hook: those who want to be told}
        self._hearers = {hook: [one for one in instruments if _wants(one, hook)] for hook in _HOOKS}

    def has(self, hook: str) -> bool:
        """Say whether anybody wants to be told."""
        return bool(self._hearers[hook])

    def call(self, hook: str, *arguments: object) -> None:
        """Tell each that wants to be told; switch off those that raise."""
        for instrument in [*self._hearers[hook]]:
            try:
                getattr(instrument, hook)(*arguments)
            except BaseException:
                self._switch_off(instrument)
                _log.exception("%r raised in %s and is switched off", instrument, hook)

    def _switch_off(self, instrument: Instrument) -> None:
        for hook, hearers in self._hearers.items():
            self._hearers[hook] = [one for one in hearers if one is not instrument]

    def watch(self, request: PoolRequest[Any], operation: str, prepare: Callable[[], Call]) -> Call:
        """Watch a request from before it is prepared; what is told may change what travels with it.

        Args:
          request: Which one; it has no call yet.
          operation: What it does.
          prepare: Makes the call.

        Raises:
          Exception: what ``prepare`` raises, with which the request ends.
        """
        record = RequestRecord(request.id, operation, request._terms.priority, trio.current_time())
        request._watch = watch = Watch(self, record, copy_context())
        if self.has("request_ended"):
            request._wants_progress = True  # its times are to be known then

        def begin() -> Call:
            self.call("request_submitted", record)
            return prepare()

        try:
            return watch.context.run(begin)
        except BaseException as error:
            watch.refused(request, error)
            raise

    def worker_ended(self, worker: Worker[Any], was: WorkerState, death: Death) -> None:
        """Tell that a worker is gone."""
        reason = worker.reason or ("failed" if was == "starting" else "crashed")
        self.call("worker_ended", worker.info(), reason, death.exitcode)


@final
@attrs.define(eq=False)
class Watch:
    """What is told of one request."""

    _instruments: Instruments
    _record: RequestRecord
    # Where that was told; what its function asks for is of this context, too.
    context: Context
    _is_cancelled: bool = attrs.field(default=False, init=False)

    def sent(self, request: PoolRequest[Any]) -> None:
        """Tell that it was sent."""
        self._instruments.call("request_sent", self._record, request._attempts, request._pid)

    def cancelled(self, request: PoolRequest[Any]) -> None:
        """Tell that it is to end early, the first time."""
        if not self._is_cancelled:
            self._is_cancelled = True
            self._instruments.call("request_cancelled", self._record, _reason(request))

    def refused(self, request: PoolRequest[Any], error: BaseException) -> None:
        """Tell that it ended before it began."""
        request._failure = error
        self.ended(request)

    def ended(self, request: PoolRequest[Any]) -> None:
        """Tell how it ended."""
        if not self._instruments.has("request_ended"):
            return
        total = trio.current_time() - self._record.submitted
        self._instruments.call("request_ended", self._record, _end(request, total))


def _reason(request: PoolRequest[Any]) -> CancelReason:
    if request._raise_cancel is not None:
        return "scope"
    if request._dropped:
        return "block"
    if request._verdict is not None:
        return "resolved"
    return "timeout" if isinstance(request._cause, RequestTimeoutError) else "cancel"


def _end(request: PoolRequest[Any], total: float) -> RequestEnd:
    outcome = _outcome(request)
    error = request._cause if request._stopped else request._failure
    run = min(request._seconds or 0.0, total)
    return RequestEnd(
        outcome=outcome,
        error=None if error is None else type(error).__name__,
        clock=error.clock if isinstance(error, RequestTimeoutError) else None,
        rung=None if request._ladder is None else request._rung(request._answer),
        attempts=request._attempts,
        worker_pid=request._pid,
        queue_time=total - run,
        run_time=run,
        total_time=total,
    )


def _outcome(request: PoolRequest[Any]) -> Outcome:
    if request._stopped:
        reason = _reason(request)
        if reason == "resolved":
            return "value" if isinstance(request._verdict, Value) else "error"
        return "timeout" if reason == "timeout" else "cancelled"
    if request._answer is not None and request._failure is None:
        return _ANSWERS[request._answer.kind]
    if isinstance(request._failure, WorkerCrashedError | PoisonedRequestError):
        return "crashed"
    return "payload" if isinstance(request._failure, PayloadError) else "failed"


_ANSWERS: dict[str, Outcome] = {
    "value": "value",
    "error": "error",
    "exit": "exit",
    "payload": "payload",
    # Though nobody had cancelled it: the function has raised what is ours.
    "stopped": "exit",
    "skipped": "exit",
}
