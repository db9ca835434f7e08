"""Waiting for what a function asks its pool for, where it runs as a Trio task."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import trio

from trioipc._errors import RequestInterrupt

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioipc.worker._nesting import Reply
    from trioipc.worker.request import Asks, CurrentRequest


async def call_async(
    asker: Asks,
    request: CurrentRequest,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> Any:
    """Have ``function(*arguments)`` called, and wait.

    Cancellation: a checkpoint. If cancelled, the call has ended, too; what it returned is lost, but
    not an exception that it raised since.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    token = trio.lowlevel.current_trio_token()
    here = trio.Event()
    replies: list[Reply] = []

    def deliver(reply: Reply) -> None:
        replies.append(reply)
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(here.set)

    withdraw = asker.ask(request, function, arguments, deliver)
    try:
        await here.wait()
    except trio.Cancelled:
        withdraw()
        with trio.CancelScope(shield=True):
            await here.wait()
        with contextlib.suppress(RequestInterrupt):
            replies.pop()()
        raise
    return replies.pop()()
