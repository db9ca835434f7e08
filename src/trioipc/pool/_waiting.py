"""Waiting for what must end, whatever is cancelled or interrupted meanwhile."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import disable_ki_protection

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioipc.pool._progress import Progress


async def wait_out(event: trio.Event) -> KeyboardInterrupt | None:
    """Wait, and let nothing cut it short; return a Ctrl-C that tried.

    In a nursery it would come out in a group.
    """
    interrupt = None
    with trio.CancelScope(shield=True):
        while not event.is_set():
            try:
                await event.wait()
            except KeyboardInterrupt as error:
                interrupt = error
    return interrupt


async def wait_out_children(nursery: trio.Nursery) -> KeyboardInterrupt | None:
    """Wait for tasks that are about to end, as `wait_out`."""
    interrupt = None
    with trio.CancelScope(shield=True):
        while nursery.child_tasks:
            try:
                await trio.lowlevel.checkpoint()
            except KeyboardInterrupt as error:
                interrupt = error
    return interrupt


@disable_ki_protection
async def call_back(callback: Callable[[Progress], object], progress: Progress) -> None:
    result = callback(progress)
    if result is not None and inspect.isawaitable(result):
        await result
