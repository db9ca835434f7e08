"""Waiting for shared state on Trio; the one room of this floor that loads it, when it is asked.

Nobody sends a message when a cell changes, so a task looks again and again: often enough to see a
change within 10 ms, which costs a microsecond each time.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Generic, TypeVar, final

import trio

from trioipc._errors import SharedStateError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from typing import Protocol

    class Cancellation(Protocol):
        """What is asked of a `SharedCancellation`."""

        def cancel(self, reason: str | None = None) -> None:
            """Set it."""

        def is_cancelled(self) -> bool:
            """Say whether it is set."""

        def reason(self) -> str | None:
            """Say why."""


T = TypeVar("T")

LOOK_SECONDS = 0.005

# Subscribers are people and logs: they need not see more than 50 values a second.
SUBSCRIPTION_SECONDS = 0.02


async def wait_true(look: Callable[[], bool]) -> None:
    """Wait until ``look`` returns true; raises what it raises."""
    await trio.lowlevel.checkpoint()
    while not look():  # noqa: ASYNC110 - nobody could set an event
        await trio.sleep(LOOK_SECONDS)


@final
class Changes(Generic[T]):
    """The values of a state: first the current one, then each newest one."""

    def __init__(self, look: Callable[[], T]) -> None:
        self._look = look
        self._seen: list[T] = []

    def __aiter__(self) -> Changes[T]:
        return self

    async def __anext__(self) -> T:
        await trio.lowlevel.checkpoint()
        try:
            value = self._look()
            while self._seen and self._seen[0] == value:
                await trio.sleep(SUBSCRIPTION_SECONDS)
                value = self._look()
        except SharedStateError:  # it was closed
            raise StopAsyncIteration from None
        self._seen = [value]
        return value


@final
class Reasons:
    """The reason of a cancellation, once."""

    def __init__(self, flag: Cancellation) -> None:
        self._flag = flag
        self._told = False

    def __aiter__(self) -> Reasons:
        return self

    async def __anext__(self) -> str | None:
        try:
            await wait_true(lambda: self._told or self._flag.is_cancelled())
            if self._told:
                raise StopAsyncIteration
            self._told = True
            return self._flag.reason()
        except SharedStateError:  # it was closed
            raise StopAsyncIteration from None


@asynccontextmanager
async def opened(values: T) -> AsyncIterator[T]:
    """Be a block round an iterator that needs none today."""
    await trio.lowlevel.checkpoint()
    yield values


@asynccontextmanager
async def cancel_scope(flag: Cancellation, *, propagate: bool) -> AsyncIterator[trio.CancelScope]:
    """Cancel the block when the flag is set; see `SharedCancellation.open_cancel_scope`."""

    async def watch(scope: trio.CancelScope) -> None:
        try:
            await wait_true(flag.is_cancelled)
        except trio.Cancelled as error:
            # The task ends here, so that nothing but what the body raises leaves the nursery.
            if propagate and scope.cancel_called and not flag.is_cancelled():
                flag.cancel(error.reason)
        except SharedStateError:  # it was closed, and can no longer be set
            pass
        else:
            scope.cancel(flag.reason())

    failure: BaseException | None = None
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, scope)
            try:
                yield scope
            except BaseException as error:  # else it would leave the nursery in a group
                failure = error
            if not scope.cancel_called:
                nursery.cancel_scope.cancel()
        if failure is not None and _holds_cancelled(failure):
            raise failure
        # Anything else is raised outside: a scope that is cancelled makes new groups of groups.
    try:
        if failure is not None and not _holds_cancelled(failure):
            raise failure
    finally:
        del failure  # its traceback holds this frame


def _holds_cancelled(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(trio.Cancelled) is not None
    return isinstance(error, trio.Cancelled)
