"""What a request is made of: its terms, its call, and what it is counted as.

Here defaults of the pool, marks of operations and arguments of callers come together. Nothing is
sent or waited for.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, final

from trioipc.memory.state import SharedCancellation
from trioipc.pool._ledger import operation_name
from trioipc.pool._options import count, one_of, seconds
from trioipc.pool._request import PoolRequest, Terms
from trioipc.pool.scheduling._gate import gate_of
from trioipc.protocol._messages import PRIORITIES
from trioipc.worker import registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioipc.pool._dispatch import Dispatcher
    from trioipc.pool._endpoint import Call
    from trioipc.pool._options import Options
    from trioipc.pool.engines._inlet import Inlet
    from trioipc.pool.scheduling._strategy import Strategy
    from trioipc.protocol._messages import Priority


@final
class RequestFactory:
    """Makes the requests of a pool.

    Args:
      dispatcher: For whom they are.
      options: What holds where a caller says nothing.
      strategy: Is asked for a label of each; None if the pool has none of the user's.
    """

    def __init__(self, dispatcher: Dispatcher, options: Options, strategy: Strategy | None) -> None:
        self._dispatcher = dispatcher
        self._options = options
        self._strategy = strategy
        self._usual = Terms(
            timeout=options.task_timeout,
            queue_timeout=options.queue_timeout,
            stall_timeout=options.stall_timeout,
            grace=options.grace,
        )

    def terms(
        self,
        function: object,
        timeout: float | None,
        queue_timeout: float | None,
        priority: Priority,
        cancellation: SharedCancellation | None,
        max_retries: int | None,
        idempotent: bool | None,
        grace: float | None,
        total_timeout: float = math.inf,
    ) -> Terms:
        """Fill in the pool's values, and check the caller's.

        Raises:
          ValueError, TypeError: if one of those is not as `WorkerPool.run` says.
        """
        mark = getattr(function, registry.MARK, None)
        if (
            mark is None
            and timeout is None
            and queue_timeout is None
            and priority == "normal"
            and cancellation is None
            and max_retries is None
            and idempotent is None
            and grace is None
            and total_timeout == math.inf
        ):
            return self._usual
        if cancellation is not None and not isinstance(cancellation, SharedCancellation):
            kind = type(cancellation).__name__
            raise TypeError(f"cancellation must be a SharedCancellation, not {kind}")
        options = self._options
        if idempotent is None:
            idempotent = mark is not None and mark.idempotent
        if max_retries is None:
            max_retries = options.max_retries
        elif count("max_retries", max_retries, 0, finite=True) and not idempotent:
            raise ValueError(
                f"max_retries={max_retries} needs a function that may run twice: "
                "idempotent=True, or @operation(idempotent=True)"
            )
        return Terms(
            timeout=options.task_timeout if timeout is None else seconds("timeout", timeout),
            queue_timeout=(
                options.queue_timeout
                if queue_timeout is None
                else seconds("queue_timeout", queue_timeout)
            ),
            total_timeout=total_timeout,
            stall_timeout=options.stall_timeout,
            priority=one_of("priority", priority, PRIORITIES),
            cancellation=cancellation,
            retries=max_retries if idempotent else 0,
            grace=options.grace if grace is None else seconds("grace", grace),
        )

    def make(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        terms: Terms,
        name: str | None = None,
        inlet: Inlet | None = None,
    ) -> PoolRequest[Any]:
        """Make a request, which instruments are told of before its call is prepared.

        Args:
          fn: What is to be called.
          args: With what.
          terms: From `terms`.
          name: Of the request, if it has one already.
          inlet: Where the items of ``fn`` arrive, if it is a generator function.

        Raises:
          PayloadError: if the call cannot be sent.
        """
        request: PoolRequest[Any]
        if self._dispatcher.team.instruments is None:
            request = PoolRequest(self._dispatcher, fn, self._prepare(fn, args, inlet), terms, name)
        else:
            prepare = partial(self._prepare, fn, args, inlet)
            request = self._make_watched(fn, args, terms, name, prepare)
        if self._dispatcher.gates or self._strategy is not None:
            self._classify(request, fn, args)
        return request

    def _make_watched(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        terms: Terms,
        name: str | None,
        prepare: Callable[[], Call],
    ) -> PoolRequest[Any]:
        instruments = self._dispatcher.team.instruments
        assert instruments is not None
        not_yet: Any = None
        request: PoolRequest[Any] = PoolRequest(self._dispatcher, fn, not_yet, terms, name)
        request._call = instruments.watch(request, operation_name(fn, args), prepare)
        return request

    def _classify(self, request: PoolRequest[Any], fn: object, args: tuple[Any, ...]) -> None:
        """Find out what limits a request, and what a strategy wants to know of it."""
        what: Any = fn
        if fn is registry.perform:
            _, what, payload, _ = args
            args = (payload,)
        request._gate = gate_of(self._dispatcher.gates, what)
        if self._strategy is not None:
            try:
                request._label = self._strategy.label(what, args)
            except BaseException as error:
                self._dispatcher.offer_room()  # which it may have been given
                if request._watch is not None:
                    request._watch.refused(request, error)
                raise

    def _prepare(self, fn: Callable[..., Any], args: tuple[Any, ...], inlet: Inlet | None) -> Call:
        try:
            if inlet is not None:
                return self._dispatcher.engine.prepare_stream(inlet, fn, args)
            return self._dispatcher.engine.prepare(fn, args)
        except BaseException:
            self._dispatcher.offer_room()  # which it may have been given
            raise
