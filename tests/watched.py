"""Built-in operations called as the plain functions they are, and watched meanwhile."""

from __future__ import annotations

import contextvars
import inspect
from typing import TYPE_CHECKING, Any

import pytest
import trio

from trioipc.memory._board import CANCEL, DONE, SLOT, TICK, TOTAL
from trioipc.worker.request import CurrentRequest, set_context_request

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path


class WatchedCells:
    """A slot that notes the progress at each checkpoint, and does something there."""

    def __init__(self, at_checkpoint: Callable[[int], object] = lambda number: None) -> None:
        self.cells = memoryview(bytearray(SLOT * 8)).cast("Q")
        self.seen: list[tuple[int, int]] = []
        self.at_checkpoint = at_checkpoint

    def __getitem__(self, index: Any) -> Any:
        return self.cells[index]

    def __setitem__(self, index: int, value: int) -> None:
        self.cells[index] = value
        if index == TICK:
            self.seen.append(self.progress())
            self.at_checkpoint(value)

    def progress(self) -> tuple[int, int]:
        return self.cells[DONE], self.cells[TOTAL]

    def cancel_at(self, checkpoint: int) -> WatchedCells:
        """Cancel at that checkpoint."""

        def cancel(number: int) -> None:
            if number == checkpoint:
                self.cells[CANCEL] = 1

        self.at_checkpoint = cancel
        return self


def call_as_request(cells: WatchedCells, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function as the request of a slot."""
    return _call_with(None, cells, function, *arguments)


def _call_with(
    allocate: Callable[[int, bool], memoryview] | None,
    cells: WatchedCells,
    function: Callable[..., Any],
    *arguments: Any,
) -> Any:
    request = CurrentRequest(cells, 1, "test", allocate)  # type: ignore[arg-type]

    def call() -> Any:
        set_context_request(request)
        return function(*arguments)

    return contextvars.copy_context().run(call)


def call_watched(
    cells: WatchedCells, function: Callable[..., Any], *arguments: Any
) -> tuple[Any, list[bytes]]:
    """Call a function as the request of a slot.

    Returns:
      What it returned or the exception it raised, and the memory that it allocated, afterwards.
    """
    allocated: list[bytearray] = []

    def allocate(nbytes: int, blank: bool) -> memoryview:
        allocated.append(bytearray(nbytes))
        return memoryview(allocated[-1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trioipc.worker.request.OUT_OF_ARENA", 0)  # it sees the small ones as well
        try:
            result = _call_with(allocate, cells, function, *arguments)
        except BaseException as error:
            result = error
    return result, [bytes(memory) for memory in allocated]


def damaged(chance: random.Random, data: bytes) -> bytes:
    """Change data at one to four places: bytes more, fewer, or others."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(4):
            case 0:
                changed[at:at] = chance.randbytes(chance.randint(1, 9))
            case 1:
                del changed[at : at + chance.randint(1, 9)]
            case 2:
                changed[at : at + 4] = chance.randbytes(4)
            case _:
                changed[at : at + 1] = bytes([chance.randrange(256)])
    return bytes(changed)


def files_in(folder: Path) -> dict[str, bytes]:
    """Return {name: content} of all files, hidden ones as well."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Direct:
    """Runs operations here and now, asynchronous ones too, and notes what was asked."""

    def __init__(self, before: Callable[..., object] = lambda *arguments: None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.options: list[dict[str, Any]] = []
        self.before = before

    async def __call__(self, function: Any, /, *arguments: Any, **options: Any) -> Any:
        await trio.lowlevel.checkpoint()
        self.calls.append(arguments)
        self.options.append(options)
        self.before(*arguments)
        result = function(*arguments)
        return await result if inspect.isawaitable(result) else result
