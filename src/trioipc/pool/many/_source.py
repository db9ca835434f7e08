"""Where the items of a `WorkerPool.map` come from: an iterable, or an asynchronous one.

Rule 1: nothing is pulled that there is no room for.
Rule 2: what was pulled before the source raised goes out before its exception does.
Rule 3: the source's own code runs as its user's: a Ctrl-C may end it anywhere.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias, final

import trio
from trio.lowlevel import disable_ki_protection, enable_ki_protection

from trioipc.pool._waiting import wait_out

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

Source: TypeAlias = "IterableSource | AsyncSource"


def source_of(items: object) -> Source:
    """Make a source of what `WorkerPool.map` was given.

    Raises:
      TypeError: if it cannot be iterated over.
    """
    if isinstance(items, AsyncIterable):
        return AsyncSource(aiter(items))
    if isinstance(items, Iterable):
        return IterableSource(items)
    raise TypeError(f"items must be iterable, or asynchronously so, not {type(items).__name__}")


@final
class IterableSource:
    """Pulled from when there is room; in the task that consumes the results."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._iterator = iter(items)
        self.is_exhausted = False
        self.error: BaseException | None = None
        # Pulled, and in no chunk yet.
        self.held = 0

    @property
    def has_more(self) -> bool:
        """Whether there may be something to take."""
        return not self.is_exhausted

    def take(self, size: int, room: int, *, hungry: bool) -> list[Any]:
        """Return ``size`` items, or fewer at the end, or none if there is no room for them."""
        items: list[Any] = []
        if not self.is_exhausted and size <= room:
            try:
                _pull(self._iterator, size, items)
            except Exception as error:
                self.error = error
            if len(items) < size:
                self.is_exhausted = True
        return items

    def start(
        self, nursery: trio.Nursery, has_room: Callable[[], bool], heard: Callable[[], None]
    ) -> None:
        """Do nothing: nobody need wait for it."""

    def make_room(self) -> None:
        """Do nothing."""

    def interrupt(self) -> None:
        """Return None: a Ctrl-C comes out of `take`."""

    async def close(self) -> BaseException | None:
        """Pull no more."""
        self.is_exhausted = True
        return None


@disable_ki_protection
def _pull(iterator: Any, size: int, items: list[Any]) -> None:
    items.extend(islice(iterator, size))  # keeps those that came before an exception


@final
class AsyncSource:
    """Pulled from by a task of its own, as long as there is room."""

    def __init__(self, iterator: AsyncIterator[Any]) -> None:
        self._iterator = iterator
        self._buffer: list[Any] = []
        # Whoever leaves the block ends it, also when that is because of a cancel from outside.
        self._scope = trio.CancelScope(shield=True)
        self._room = trio.Event()
        self._closed = trio.Event()
        self.is_exhausted = False
        self.error: BaseException | None = None

    @property
    def held(self) -> int:
        """How many items are pulled, and in no chunk yet."""
        return len(self._buffer)

    @property
    def has_more(self) -> bool:
        """Whether there is something to take."""
        return bool(self._buffer)

    def take(self, size: int, room: int, *, hungry: bool) -> list[Any]:
        """Return ``size`` items; or fewer, if no more come, or a worker has nothing to do."""
        if len(self._buffer) < size and not (hungry or self.is_exhausted):
            return []
        items = self._buffer[:size]
        del self._buffer[:size]
        return items

    def start(
        self, nursery: trio.Nursery, has_room: Callable[[], bool], heard: Callable[[], None]
    ) -> None:
        """Begin to pull.

        Args:
          nursery: Where the task lives.
          has_room: Says whether one more may be pulled.
          heard: Called after each, and at the end.
        """
        nursery.start_soon(self._run, has_room, heard)

    def make_room(self) -> None:
        """Say that there may be room again."""
        self._room.set()

    def interrupt(self) -> BaseException | None:
        """Return what it has raised that does not wait for results, such as a Ctrl-C."""
        return None if isinstance(self.error, Exception) else self.error

    @enable_ki_protection
    async def _run(self, has_room: Callable[[], bool], heard: Callable[[], None]) -> None:
        try:
            with self._scope:
                await self._feed(has_room, heard)
        except BaseException as error:
            self.error = error
        finally:
            self.is_exhausted = True
            self._closed.set()
            heard()

    async def _feed(self, has_room: Callable[[], bool], heard: Callable[[], None]) -> None:
        try:
            while True:
                while not has_room():
                    self._room = trio.Event()
                    await self._room.wait()
                try:
                    item = await _pull_one(self._iterator)
                except StopAsyncIteration:
                    return
                self._buffer.append(item)
                heard()
        finally:
            if isinstance(self._iterator, AsyncGenerator):
                await _close(self._iterator)

    async def close(self) -> BaseException | None:
        """Pull no more, and wait until the source is closed.

        Returns:
          What it raised since, or a Ctrl-C that came meanwhile.
        """
        known, self.error = self.error, None
        self._buffer.clear()
        self._scope.cancel()
        interrupt = await wait_out(self._closed)
        found, self.error = self.error, known
        return found or interrupt


@disable_ki_protection
async def _pull_one(iterator: AsyncIterator[Any]) -> Any:
    return await anext(iterator)


@disable_ki_protection
async def _close(generator: AsyncGenerator[Any, Any]) -> None:
    await generator.aclose()
