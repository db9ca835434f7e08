"""Callers that wait for room in a queue that is full, before their request is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from trioipc._errors import RequestCancelledError, RequestTimeoutError
from trioipc.pool._dispatch import again
from trioipc.pool.engines._payload import function_name

if TYPE_CHECKING:
    from trioipc.pool._dispatch import Dispatcher
    from trioipc.pool._request import Terms


async def wait_for_room(dispatcher: Dispatcher, fn: object, terms: Terms) -> Terms:
    """Wait until the queue takes one more, or the pool is closed; return what is left of the terms.

    The queue clock runs meanwhile. One who returns and then needs no room must `offer_room`.

    Raises:
      RequestTimeoutError: if that clock runs out.
      RequestCancelledError: if the request's flag is set.
      WorkerStartError: if there is no worker and none could be started.
    """
    until = trio.current_time() + min(terms.queue_timeout, terms.total_timeout)
    failure = dispatcher.last_failure
    dispatcher.team.on_demand()
    with trio.CancelScope(deadline=until) as scope:
        if terms.cancellation is not None:
            dispatcher.sampler.watch(scope, terms.cancellation, scope.cancel)
        try:
            while dispatcher.scheduler.is_full() and not dispatcher.closed:
                if dispatcher.last_failure not in (None, failure):
                    raise again(dispatcher.last_failure)
                await dispatcher.room.park()
        finally:
            dispatcher.sampler.forget(scope)
    if scope.cancelled_caught:
        dispatcher.offer_room()  # which it may have been given
        error = _ended_outside(dispatcher, terms, timed_out=trio.current_time() >= until)
        error.add_note(f"trioipc: request of {function_name(fn)}, before it was in the queue")
        raise error
    left = max(0.0, until - trio.current_time())
    if terms.queue_timeout <= terms.total_timeout:
        return attrs.evolve(terms, queue_timeout=left)
    return attrs.evolve(terms, total_timeout=left)


def _ended_outside(
    dispatcher: Dispatcher, terms: Terms, *, timed_out: bool
) -> RequestTimeoutError | RequestCancelledError:
    """Count a request that ended before it had a place in the queue, and make its error."""
    dispatcher.tally.add("error" if timed_out else "cancelled")
    if timed_out:
        limit = min(terms.queue_timeout, terms.total_timeout)
        clock = "queue" if terms.queue_timeout <= terms.total_timeout else "total"
        return RequestTimeoutError(f"the queue was full for {limit} s", clock=clock)
    reason = None if terms.cancellation is None else terms.cancellation.reason()
    text = "the request was cancelled by its SharedCancellation while the queue was full"
    return RequestCancelledError(text + (f": {reason}" if reason else ""), reason=reason)
