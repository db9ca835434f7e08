"""What requests are called and counted under: by what they do, whichever way it was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from trioipc.memory._board import OPERATIONS
from trioipc.pool.engines._payload import function_name
from trioipc.worker._chunk import run_chunk
from trioipc.worker.registry import MARK, perform

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# What all are counted under that come when the numbers are used up.
OTHER = "other"

# What these do depends on what they are told to.
PERFORMERS = (perform, run_chunk)


def operation_name(function: Callable[..., object], arguments: tuple[Any, ...] = ()) -> str:
    """Return what a request does: ``"channel/name"`` of an operation, or a function's full name.

    Several items of a map at a time are ``"map(...)"`` of that.
    """
    if function is perform:
        channel, name = arguments[:2]
        return f"{channel}/{name}"
    if function is run_chunk:
        return f"map({operation_name(arguments[1])})"
    mark = getattr(function, MARK, None)
    return function_name(function) if mark is None else f"{mark.channel}/{mark.name}"


@final
class Ledger:
    """Gives operations numbers, first come, first served, as many as a board has room for."""

    def __init__(self) -> None:
        self._numbers = {OTHER: 0}  # {name: number}

    @property
    def names(self) -> list[str]:
        """The names that have a number, in its order."""
        return [*self._numbers]

    def number(self, function: Callable[..., object], arguments: tuple[Any, ...] = ()) -> int:
        """Return the number of an operation, giving it one if there are any left."""
        name = operation_name(function, arguments)
        number = self._numbers.get(name)
        if number is None:
            if len(self._numbers) == OPERATIONS:
                return 0
            number = self._numbers[name] = len(self._numbers)
        return number
