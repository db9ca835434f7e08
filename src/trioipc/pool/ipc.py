"""`IPCProtocol` and `open_worker`: typed messages to a worker of one's own.

The same shell as the pool's, around one worker.
"""

from __future__ import annotations

import logging
import math
import pickle
from itertools import count
from typing import TYPE_CHECKING, Any, final

import attrs
import trio
from outcome import Error, Value
from trio.lowlevel import checkpoint_if_cancelled, enable_ki_protection

from trioipc._errors import (
    LocalProtocolError,
    RemoteProtocolError,
    RequestCancelledError,
    RequestTimeoutError,
)
from trioipc.pool._block import block
from trioipc.pool._endpoint import Snapshot
from trioipc.pool._opening import open_worker_pool
from trioipc.pool._options import seconds
from trioipc.protocol._codec import VERSION
from trioipc.protocol._correlator import Correlator, ProtocolStatistics
from trioipc.protocol._messages import IPCMessage, IPCProgress, IPCRequest, IPCResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trioipc.memory.state import SharedCancellation
    from trioipc.pool._request import PoolRequest
    from trioipc.pool.pool import Callback, WorkerPool
    from trioipc.protocol._messages import Channel, Priority

_log = logging.getLogger("trioipc.protocol")


@final
class Worker:
    """One worker process that has loaded a module; get it from `open_worker`."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    def __repr__(self) -> str:
        return f"<Worker: pid {self.pid}, {self.restarts} restarts>"

    @property
    def pid(self) -> int | None:
        """Its process id; None while it is being replaced."""
        return next((w.pid for w in self._pool.workers if w.state != "leaving"), None)

    @property
    def restarts(self) -> int:
        """How often it has been replaced."""
        return sum(self._pool.statistics().restarts.values())


@block
async def open_worker(
    module: str, *, start_timeout: float = 30.0, grace: float = 1.0
) -> AsyncIterator[Worker]:
    """Open a worker process that serves the `operation` functions of a module.

    A worker that crashed is replaced at the next request.

    Args:
      module: The module's full name.
      start_timeout: Seconds that it has to get ready.
      grace: Seconds for each rung of the cancel ladder.

    Raises:
      WorkerStartError: if it cannot be started, or cannot load ``module``.

    Cancellation: as `open_worker_pool`.
    """
    if not isinstance(module, str):
        raise TypeError(f"module must be the name of a module, not a {type(module).__name__}")
    async with open_worker_pool(
        1, modules=[module], start_timeout=start_timeout, grace=grace, name=module
    ) as pool:
        yield Worker(pool)


@final
class IPCProtocol:
    """Makes messages, sends requests and matches answers.

    Args:
      default_timeout: Seconds from the send to the answer, for requests that do not say.
      debug: Whether to log each message's id, type, size and times to ``trioipc.protocol``.
      enable_retries: Whether idempotent operations are tried again after a crash.
    """

    def __init__(
        self, *, default_timeout: float = 30.0, debug: bool = False, enable_retries: bool = True
    ) -> None:
        self._default_timeout = seconds("default_timeout", default_timeout)
        self._debug = debug
        self._enable_retries = enable_retries
        self._numbers = count(1)
        self._correlator: Correlator[PoolRequest[Any]] = Correlator()
        self._destroyed = False

    def __repr__(self) -> str:
        state = "destroyed" if self._destroyed else f"{len(self._correlator.waiting())} pending"
        return f"<IPCProtocol: {state}>"

    def generate_message_id(self) -> str:
        """Return an id that this protocol has not used yet."""
        self._check()
        return f"message-{next(self._numbers)}"

    def create_message(
        self,
        type: str,
        channel: Channel,
        payload: object,
        *,
        priority: Priority = "normal",
        timeout: float | None = None,
        correlation_id: str | None = None,
    ) -> IPCRequest:
        """Make a request.

        Raises:
          ValueError: if there is no such channel or priority.
          trio.ClosedResourceError: after `destroy`.
        """
        self._check()
        if timeout is not None:
            seconds("timeout", timeout)
        return IPCRequest(
            id=self.generate_message_id(),
            type=type,
            channel=channel,
            payload=payload,
            priority=priority,
            timeout=timeout,
            correlation_id=correlation_id,
        )

    def create_success_response(self, message_id: str, result: object) -> IPCResponse:
        """Make the answer to a request that went well."""
        self._check()
        return IPCResponse(
            id=self.generate_message_id(),
            type="response",
            correlation_id=message_id,
            ok=True,
            result=result,
        )

    def create_error_response(self, message_id: str, error: BaseException | str) -> IPCResponse:
        """Make the answer to a request that failed; a str becomes a `RemoteProtocolError`."""
        self._check()
        return IPCResponse(
            id=self.generate_message_id(),
            type="response",
            correlation_id=message_id,
            ok=False,
            error=RemoteProtocolError(error) if isinstance(error, str) else error,
        )

    def create_progress_message(self, message_id: str, value: int, total: int) -> IPCProgress:
        """Make a message that says how far a request has come."""
        self._check()
        return IPCProgress(
            id=self.generate_message_id(),
            type="progress",
            correlation_id=message_id,
            value=value,
            total=total,
        )

    @enable_ki_protection
    async def request(
        self,
        worker: Worker,
        type: str,
        channel: Channel,
        payload: object,
        *,
        timeout: float | None = None,
        priority: Priority = "normal",
        on_progress: Callback | None = None,
        cancellation: SharedCancellation | None = None,
        message_id: str | None = None,
    ) -> object:
        """Send a request to a worker and return what its operation returns.

        Args:
          worker: From `open_worker`.
          type: The operation's name.
          channel: The operation's channel.
          payload: The operation's argument.
          timeout: Seconds from now until the answer; None for the protocol's.
          priority: As in `WorkerPool.run`.
          on_progress: As in `WorkerPool.run`.
          cancellation: As in `WorkerPool.run`.
          message_id: The request's id; None for a new one.

        Raises:
          RequestTimeoutError: if the answer did not come in time; its ``clock`` is ``"total"``.
          RequestCancelledError: after `cancel_request` or `cancel_all`.
          OperationNotFoundError: if the worker has no such operation.
          LocalProtocolError: if a request of that id is already under way.
          trio.ClosedResourceError: after `destroy`, also to those who wait.
          Exception: as `WorkerPool.run`.

        Cancellation: as `WorkerPool.run`.
        """
        await checkpoint_if_cancelled()
        limit = self._default_timeout if timeout is None else seconds("timeout", timeout)
        message = self.create_message(
            type, channel, payload, priority=priority, timeout=limit if limit < math.inf else None
        )
        if message_id is not None:
            message = attrs.evolve(message, id=message_id)
        if self._correlator.find(message.id) is not None:
            raise LocalProtocolError(f"a request with the id {message.id!r} is already under way")
        sent = trio.current_time()
        self._say("sent", message, 0.0)
        try:
            result = await worker._pool._execute(
                message,
                on_progress,
                cancellation,
                retry=self._enable_retries,
                started=lambda request: self._correlator.expect(message.id, request, sent),
            )
        except (RequestCancelledError, RequestTimeoutError):
            self._correlator.forget(message.id)
            raise
        except Exception:  # that is an answer too
            self._correlator.answer(message.id, trio.current_time())
            raise
        except BaseException:
            self._correlator.forget(message.id)
            raise
        self._correlator.answer(message.id, trio.current_time())
        self._say("answered", message, trio.current_time() - sent)
        return result

    def _say(self, what: str, message: IPCMessage, seconds: float) -> None:
        if self._debug:
            _log.debug(
                "%s %s: %s on %s, %s, after %.6f s",
                what,
                message.id,
                message.type,
                message.channel,
                _size_of(message.payload),
                seconds,
            )

    def handle_message(self, message: IPCMessage) -> bool:
        """Take in a message from a transport of your own; return whether somebody waited for it.

        Over `open_worker` nobody needs to call it.

        Raises:
          RemoteProtocolError: if it is no message, or of another version.
        """
        self._check()
        if not isinstance(message, IPCResponse | IPCProgress):
            raise RemoteProtocolError(f"expected an answer, not a {type(message).__name__}")
        if message.version != VERSION:
            raise RemoteProtocolError(f"a message of version {message.version}, not {VERSION}")
        request = self._correlator.find(message.correlation_id)
        if request is None:
            return False
        if isinstance(message, IPCResponse):
            request._resolve(Value(message.result) if message.ok else Error(_error_of(message)))
        else:
            request._inform(
                Snapshot(
                    started=True,
                    value=message.value,
                    total=message.total,
                    phase=message.phase,
                    written=True,
                )
            )
        return True

    def cancel_request(self, message_id: str) -> bool:
        """Cancel a request; return whether there was one of that id."""
        self._check()
        request = self._correlator.find(message_id)
        if request is None:
            return False
        request.cancel()
        return True

    def cancel_all(self) -> int:
        """Cancel all requests; return how many there were."""
        self._check()
        waiting = self._correlator.waiting()
        for request in waiting:
            request.cancel()
        return len(waiting)

    def statistics(self) -> ProtocolStatistics:
        """Return how many requests wait, and how long answers take."""
        self._check()
        return self._correlator.statistics(trio.current_time())

    def destroy(self) -> None:
        """End it: callers that wait get `trio.ClosedResourceError`, as does every later call."""
        if self._destroyed:
            return
        self._destroyed = True
        for request in self._correlator.waiting():
            request._resolve(Error(trio.ClosedResourceError("the protocol was destroyed")))

    def _check(self) -> None:
        if self._destroyed:
            raise trio.ClosedResourceError("this protocol was destroyed")


def _error_of(message: IPCResponse) -> BaseException:
    if isinstance(message.error, BaseException):
        return message.error
    return RemoteProtocolError("the other side reported an error without saying which")


def _size_of(payload: object) -> str:
    """Say how long a payload is, pickled; never what is in it."""
    try:
        return f"{len(pickle.dumps(payload, 5))} bytes"
    except Exception:  # the request will say so
        return "which cannot be pickled"
