"""The same as `trioipc.worker._stream` for asynchronous generators, of which many run at once."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any

import trio

from trioipc.worker._stream import LONGEST_NAP, NAP, YIELDS, outlet_of
from trioipc.worker.request import current_request

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import TypeAlias

    from trioipc.memory._belt import BeltMaker
    from trioipc.worker._stream import Belt
    from trioipc.worker.request import CurrentRequest

    _AnyGenerator: TypeAlias = AsyncGenerator[Any, None] | Generator[Any, Any, Any]

# A generator that never waits lets others have their turn this often, in seconds.
_TURN = 1e-3


async def produce_async(
    belt: BeltMaker | Belt, function: Callable[..., _AnyGenerator], *arguments: Any
) -> None:
    """Run an asynchronous generator function to its end, and lay what it yields on a belt.

    Raises:
      PayloadError: if an item cannot be pickled.
      RequestInterrupt: if the request is cancelled; the generator has been closed.
      BaseException: whatever the generator raises.

    Cancellation: a checkpoint at least once a millisecond; the generator is closed.
    """
    request = current_request()
    outlet = outlet_of(belt, request)
    due = 0.0
    async with aclosing(_asynchronous(function(*arguments))) as items:
        del arguments
        while True:
            request.checkpoint()
            if not outlet.has_room():
                await _wait_for_room(outlet, request)
            if time.perf_counter() > due:
                await trio.lowlevel.checkpoint()
                due = time.perf_counter() + _TURN
            try:
                item = await anext(items)
            except StopAsyncIteration:
                return
            outlet.lay(item)
            del item


def _asynchronous(items: _AnyGenerator) -> AsyncGenerator[Any, None]:
    """Return an asynchronous generator, for workers that run plain ones as tasks as well."""
    return items if isinstance(items, AsyncGenerator) else _awaited(items)


async def _awaited(items: Generator[Any, Any, Any]) -> AsyncGenerator[Any, None]:
    with closing(items):
        for item in items:
            yield item


async def _wait_for_room(outlet: Belt, request: CurrentRequest) -> None:
    for _ in range(YIELDS):
        await trio.lowlevel.checkpoint()
        if outlet.has_room():
            return
    nap = NAP
    while not outlet.has_room():
        request.checkpoint()
        await trio.sleep(nap)
        nap = min(2 * nap, LONGEST_NAP)
