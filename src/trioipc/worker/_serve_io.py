"""The worker's loop where functions are asynchronous: many calls at once, under one ``trio.run``.

A call that is cancelled has its cancel scope cancelled, with the reason, by a frame; its slot says
so as well, for those who look. No signal interrupts anything here.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING, Any, final

import trio

from trioipc._errors import RequestInterrupt
from trioipc.memory._board import CANCEL, REASON, TICK, read_text
from trioipc.protocol._codec import (
    ERROR,
    EXIT,
    NONE,
    STOPPED,
    TO_WORKER,
    VALUE,
    split_frames,
)
from trioipc.worker._serve import READ_SIZE, Server
from trioipc.worker.request import set_context_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioipc.worker._wires import Ticket, Wires
    from trioipc.worker.request import CurrentRequest


@final
class IoServer(Server):
    """One worker process that runs many calls at once."""

    def __init__(self, ticket: Ticket, wires: Wires) -> None:
        super().__init__(ticket, wires)
        self._nursery: trio.Nursery
        self._scopes: dict[int, trio.CancelScope] = {}  # {generation: of the call}

    def listen_to_signals(self) -> None:
        """Do nothing: a signal would interrupt whichever call is running."""

    def run(self) -> None:
        """Enter the lifespan, say that we are ready, and answer calls; see `Server.run`."""
        try:
            trio.run(self._live)
        except BaseExceptionGroup as group:
            if group.subgroup(OSError) is None:
                raise
            os._exit(1)  # as a cpu worker whose descriptors are gone

    async def _live(self) -> None:
        if self._ticket.lifespan is None:
            self._say_ready()
            await self._serve()
            return
        from trioipc.worker._lifespan import living_async, loaded

        async with living_async(loaded(self._ticket.lifespan)) as self._state:
            self._say_ready()
            await self._serve()

    def hear(self) -> None:
        """Do nothing: frames are handled as they come, also while functions run."""

    async def _serve(self) -> None:
        """Answer calls until the parent closes its end."""
        os.set_blocking(self._wires.calls, False)
        async with trio.open_nursery() as self._nursery:
            rest = b""
            while data := await self._receive():
                rest = split_frames(rest + data if rest else data, TO_WORKER, self._handle)
            self._nursery.cancel_scope.cancel()

    async def _receive(self) -> bytes:
        """Wait for bytes; wipe meanwhile what is to be wiped."""
        while True:
            with contextlib.suppress(BlockingIOError):
                return os.read(self._wires.calls, READ_SIZE)
            if self._beside is not None and self._beside.wipe_step():
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._wires.calls)

    def _start(
        self,
        request: CurrentRequest,
        slot: int,
        loaded: list[tuple[Callable[..., Any], tuple[Any, ...]]],
    ) -> None:
        # Its scope is cancelled by a frame, so it need not look to be known as one that does.
        self._slots[slot][TICK] = 1
        scope = self._scopes[request._generation] = trio.CancelScope()
        self._nursery.start_soon(self._run, request, slot, scope, [*loaded])
        loaded.clear()

    async def _run(
        self,
        request: CurrentRequest,
        slot: int,
        scope: trio.CancelScope,
        loaded: list[tuple[Callable[..., Any], tuple[Any, ...]]],
    ) -> None:
        """Run a call to its end, and answer it."""
        kind, value = await _outcome(request, scope, loaded)
        generation = request._generation
        del self._scopes[generation]
        self._count(slot)
        frame = self._frame(slot, generation, kind, value)
        del value
        self._answer(slot, generation, frame)
        request._end()

    def _in_context(self, values: dict[str, Any], target: Callable[..., Any]) -> Callable[..., Any]:
        """Do so in its own task, whose context is its own."""
        from trioipc.worker._context import within

        return partial(within, values, target)

    def _stop(self, slot: int, generation: int) -> None:
        """Cancel a call; one that has ended is fine, too."""
        scope = self._scopes.get(generation)
        if scope is not None and self._slots[slot][CANCEL] == generation:
            scope.cancel(reason=read_text(self._slots[slot], REASON))


async def _outcome(
    request: CurrentRequest,
    scope: trio.CancelScope,
    loaded: list[tuple[Callable[..., Any], tuple[Any, ...]]],
) -> tuple[int, Any]:
    """Call the function that was loaded; return how it ended and with what.

    Raises nothing but what cancels the worker as a whole.
    """
    result: Any = None
    try:
        with scope:
            set_context_request(request)
            result = await _call(*loaded.pop())
            return (NONE if result is None else VALUE), result
    except RequestInterrupt:
        return STOPPED, None
    except trio.Cancelled:
        raise
    except Exception as error:
        return ERROR, error
    except BaseException as error:
        return EXIT, error
    return STOPPED, None  # the scope was cancelled, and said so


async def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    result = function(*arguments)
    # An operation that a message asks for may be a plain function.
    return await result if hasattr(result, "__await__") else result
