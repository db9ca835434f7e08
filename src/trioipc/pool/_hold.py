"""A request that goes on while a block does, and has ended when that is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

from trioipc.pool._block import block
from trioipc.pool._waiting import wait_out, wait_out_children

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trioipc.pool._dispatch import Dispatcher
    from trioipc.pool._request import PoolRequest


@block
async def hold(dispatcher: Dispatcher, request: PoolRequest[Any]) -> AsyncIterator[None]:
    """Have a request run in a nursery of its own; leaving cancels it, and waits for its end.

    What the body raises leaves the block; so does the error of a request that nobody has asked for.
    """
    request._over = trio.Event()
    dispatcher.submit(request)
    body_error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        request._nursery = nursery
        dispatcher.attend(request)
        try:
            yield
        except BaseException as error:
            body_error = error
        if request._state != "ended":
            request._dropped = request._stopped = True
            dispatcher.cancel(request, None)
            if isinstance(body_error, trio.Cancelled):
                request._cause = None  # the caller's scope wins
            body_error = await wait_out(request._over) or body_error
        body_error = await wait_out_children(nursery) or body_error
    _leave(request, body_error)


def _leave(request: PoolRequest[Any], body_error: BaseException | None) -> None:
    """Raise what comes out of the block, if anything."""
    unheard = request._unheard()
    if body_error is not None and not (
        unheard is not None and isinstance(body_error, trio.Cancelled)
    ):
        request._mention_in(body_error)
        raise body_error
    if unheard is not None:
        raise unheard
