"""Every error of trioipc.

Rule 1: each survives the trip between processes, with its attributes, by plain pickle. So
    attributes are keyword arguments with a default, and `IPCError.__reduce__` carries them.
Rule 2: data is in attributes, never in ``args[-1]``; the message is for people.
Rule 3: none holds a key, a password or a payload.
"""

from __future__ import annotations

import signal as _signal


class IPCError(Exception):
    """The base of every error that trioipc itself raises.

    Trio's own errors are used where they mean the same: `trio.ClosedResourceError` after a block
    was left, `trio.WouldBlock` for a ``_nowait`` form.
    """

    def __init__(self, message: str = "", **attributes: object) -> None:
        super().__init__(message)
        self.__dict__.update(attributes)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args), self.__dict__.copy()


def _rebuild(kind: type[IPCError], args: tuple[object, ...]) -> IPCError:
    """Make an error again without asking for its keyword arguments; pickle sets them after."""
    error = kind.__new__(kind)
    error.args = args
    return error


class ProtocolError(IPCError):
    """Somebody broke the rules of the message protocol."""


class LocalProtocolError(ProtocolError):
    """You broke them: an operation registered twice, a message that is no message."""


class RemoteProtocolError(ProtocolError):
    """The other side did: a frame or message that no trioipc would send."""


class OperationNotFoundError(IPCError):
    """No worker of this pool knows an operation of that name on that channel."""


class PayloadError(IPCError):
    """Arguments, a result or an exception could not be pickled or unpickled.

    The message says which of them and why. The worker lives on.
    """


class RequestTimeoutError(IPCError, TimeoutError):
    """A clock of the request ran out.

    You don't get this when a scope of yours ended the call; that is `trio.Cancelled` as always.
    """

    clock: str = "run"
    """The clock, ``"queue"``, ``"run"``, ``"stall"`` or ``"total"``."""

    rung: str = "queue"
    """The rung that ended it, ``"queue"``, ``"checkpoint"``, ``"interrupt"`` or ``"kill"``."""

    stack: str | None = None
    """Where the worker's threads were when the stall clock ran out; None if nobody could say."""


class RequestCancelledError(IPCError):
    """The request was cancelled by `PoolRequest.cancel` or a `SharedCancellation`.

    You don't get this when your own cancel scope was cancelled.
    """

    reason: str | None = None
    """What the one who cancelled gave as a reason."""

    rung: str = "queue"
    """The rung that ended it, ``"queue"``, ``"checkpoint"``, ``"interrupt"`` or ``"kill"``."""


class RequestExitError(IPCError):
    """The function raised a BaseException that is no Exception, such as SystemExit.

    It arrives wrapped, so that a function in a worker cannot end your program.
    """

    type_name: str = "BaseException"
    """The qualified name of what it raised."""

    code: object = None
    """The exit code, if it was a SystemExit."""


class WorkerError(IPCError):
    """Something about a worker, rather than about the request."""


class WorkerStartError(WorkerError):
    """A worker could not be started."""


class WorkerCrashedError(WorkerError):
    """The worker died by itself while it ran the request.

    You don't get this when the worker was killed because the request was cancelled or timed out.
    """

    pid: int | None = None
    """Its process id."""

    exitcode: int | None = None
    """Its exit code, negative for signals, None where it could not be learnt."""

    last_progress: tuple[int, int] | None = None
    """``(value, total)`` as the function wrote them last."""

    phase: str | None = None
    """The phase it was in, by `CurrentRequest.set_phase`."""

    attempts: int = 1
    """How many workers have tried the request."""

    seconds_running: float = 0.0
    """How long the last of them had run it."""

    @property
    def signal(self) -> _signal.Signals | None:
        """The signal that killed it, if one did."""
        if self.exitcode is None or self.exitcode >= 0:
            return None
        try:
            return _signal.Signals(-self.exitcode)
        except ValueError:  # a real-time signal between SIGRTMIN and SIGRTMAX has no name
            return None


class PoisonedRequestError(IPCError):
    """The request crashed every worker that tried it.

    ``__cause__`` is a group of the `WorkerCrashedError` of each try.
    """

    attempts: int = 1
    """How many workers it crashed."""


class SharedStateError(IPCError):
    """Shared state was used after ``close``, or over memory that cannot hold or carry it."""


class DataError(IPCError, ValueError):
    """Input data is not what the operation can work on."""


class TruncatedDataError(DataError):
    """Compressed data ends before it is complete."""


class TrailingDataError(DataError):
    """Something follows the end of compressed data that does not belong to it."""


class OutputTooLargeError(DataError):
    """Decompressed, the data would be larger than ``max_output_size``.

    It is found out by counting, when one byte too many has come out, whatever the data says.
    """


class ChunkError(DataError):
    """A chunk is missing, is not where it belongs, or is not what it was."""

    index: int = 0
    """Where it should be among the chunks, from 0."""


class MissingExtraError(IPCError, ImportError):
    """An optional dependency is missing; the message says what to install."""


class FallbackWarning(RuntimeWarning):
    """A bridge could not start worker processes and works on threads instead."""


class RequestInterrupt(BaseException):  # like trio.Cancelled, it is no error
    """Ends the function of a cancelled request; raised in workers only.

    Let it pass, as you would `trio.Cancelled`: clean up, then re-raise. If it is swallowed, the
    next `CurrentRequest.checkpoint` raises it again.
    """
