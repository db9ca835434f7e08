"""How many requests of one operation may run at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, final

from trioipc.pool.scheduling._queue import PriorityQueue
from trioipc.worker.registry import MARK

if TYPE_CHECKING:
    from trioipc.pool.scheduling._queue import Line
    from trioipc.protocol._messages import Priority

R = TypeVar("R")  # a request

# The most that run at once of each function, or operation by its name.
Concurrency: TypeAlias = Mapping[str | Callable[..., Any], int]


@final
class Gate(Generic[R]):
    """Lets so many requests in at a time; the others wait in front of it.

    Who was let in stays so until it leaves, wherever it waits or runs meanwhile.

    Args:
      limit: How many, at least 1.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside: set[R] = set()
        self.outside: PriorityQueue[R] = PriorityQueue()

    def enter(self, request: R, priority: Priority) -> bool:
        """Let a request in, or have it wait; return whether it is in."""
        if request in self._inside:
            return True
        if len(self._inside) < self._limit:
            self._inside.add(request)
            return True
        self.outside.add(request, priority)
        return False

    def leave(self, request: R) -> tuple[R, Line] | None:
        """Let a request out, if it is in; return who comes in instead, if anybody waits."""
        if request not in self._inside:
            return None
        self._inside.remove(request)
        if not self.outside.size:
            return None
        pair = self.outside.pop()
        self._inside.add(pair[0])
        return pair


def gates_of(concurrency: Concurrency | None) -> dict[object, Gate[Any]]:
    """Return a gate for each operation that has a limit, by its function and by its name.

    Raises:
      ValueError, TypeError: if a limit or what it is for is none.
    """
    if concurrency is None:
        return {}
    if not isinstance(concurrency, Mapping):
        raise TypeError(f"concurrency must be a mapping, not {type(concurrency).__name__}")
    gates: dict[object, Gate[Any]] = {}
    for what, limit in concurrency.items():
        if not (isinstance(what, str) or callable(what)):
            kind = type(what).__name__
            raise TypeError(f"concurrency must be of functions and operations' names, not {kind}")
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"concurrency of {what!r} must be an int, not {limit!r}")
        if limit < 1:
            raise ValueError(f"concurrency of {what!r} must be >= 1, not {limit}")
        gate: Gate[Any] = Gate(limit)
        for name in _names(what):
            if name in gates:
                raise ValueError(f"concurrency has two limits for {name!r}")
            gates[name] = gate
    return gates


def gate_of(gates: dict[object, Gate[Any]], what: object) -> Gate[Any] | None:
    """Return the gate of a function, or of an operation by its name; None if it has no limit."""
    for name in _names(what):
        if (gate := gates.get(name)) is not None:
            return gate
    return None


def _names(what: object) -> list[object]:
    """Return what a function or an operation may be called in a mapping."""
    while isinstance(what, functools.partial):
        what = what.func
    mark = getattr(what, MARK, None)
    try:
        hash(what)
    except TypeError:  # a callable object that changes
        return []
    return [what] if mark is None else [what, mark.name]
