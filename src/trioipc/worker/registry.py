"""``@operation``: a name and a channel for a function, so that a message can ask for it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from trioipc._errors import LocalProtocolError, OperationNotFoundError, WorkerStartError
from trioipc.worker.request import current_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeVar, overload

    from trioipc.protocol._messages import Channel

    F = TypeVar("F", bound=Callable[..., Any])

CHANNELS = ("crypto", "file", "network", "compression", "custom")

# The attribute by which a pool knows that a function is idempotent.
MARK = "__trioipc_operation__"

_registered: dict[tuple[str, str], Callable[..., Any]] = {}  # {(channel, name): function}


class Operation:
    """What `operation` knows about a function.

    Kept on the function itself. A plain class, since every worker loads it.
    """

    __slots__ = ("channel", "idempotent", "name")

    def __init__(self, name: str, channel: Channel, idempotent: bool) -> None:
        self.name = name
        self.channel = channel
        self.idempotent = idempotent

    def __repr__(self) -> str:
        return f"<Operation: {self.name!r} on {self.channel!r}, idempotent {self.idempotent}>"


if TYPE_CHECKING:

    @overload
    def operation(name: F) -> F: ...
    @overload
    def operation(
        name: str | None = None, *, channel: Channel = "custom", idempotent: bool = False
    ) -> Callable[[F], F]: ...


def operation(
    name: F | str | None = None, *, channel: Channel = "custom", idempotent: bool = False
) -> F | Callable[[F], F]:
    """Give a function a name under which messages can ask for it.

    Also without parentheses. A message's payload is the function's only argument.

    Args:
      name: What messages call it; the function's own name if None.
      channel: ``"crypto"``, ``"file"``, ``"network"``, ``"compression"`` or ``"custom"``.
      idempotent: Whether it may run twice, so that a request may be tried again after a crash.

    Returns:
      The function itself, or a decorator that returns it.

    Raises:
      LocalProtocolError: if another function has that name on that channel already.
    """
    if callable(name):
        return _register(name, name.__name__, channel, idempotent)
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name must be a str, not {type(name).__name__}")
    if channel not in CHANNELS:
        raise ValueError(f"channel must be one of {', '.join(CHANNELS)}, not {channel!r}")

    def decorate(function: F) -> F:
        return _register(function, name or function.__name__, channel, idempotent)

    return decorate


def _register(function: F, name: str, channel: Channel, idempotent: bool) -> F:
    known = _registered.get((channel, name))
    if known is not None and not _is_same(known, function):
        raise LocalProtocolError(
            f"operation {name!r} on channel {channel!r} is already "
            f"{known.__module__}.{known.__qualname__}"
        )
    _registered[channel, name] = function
    setattr(function, MARK, Operation(name, channel, idempotent))
    return function


def _is_same(known: Callable[..., Any], function: Callable[..., Any]) -> bool:
    # A module that is loaded again (as __main__ is in workers) registers its functions again.
    places = [
        (f.__qualname__, f.__code__.co_filename, f.__code__.co_firstlineno)
        for f in (known, function)
        if hasattr(f, "__code__")
    ]
    return len(places) == 2 and places[0] == places[1]


def load(modules: Iterable[str]) -> None:
    """Import modules, for the operations that they register.

    Raises:
      WorkerStartError: if one of them cannot be imported.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except BaseException as error:
            raise WorkerStartError(
                f"the worker could not import {name!r}: {type(error).__name__}: {error}"
            ) from (error if isinstance(error, Exception) else None)


def registered() -> tuple[tuple[str, str, bool], ...]:
    """Return ``(channel, name, idempotent)`` of every operation of this process."""
    return tuple(
        (channel, name, getattr(function, MARK).idempotent)
        for (channel, name), function in _registered.items()
    )


def perform(channel: str, name: str, payload: object, id: str | None = None) -> object:
    """Call the operation of that name with ``payload``; this is what a message runs.

    Args:
      channel: Where the operation is.
      name: What messages call it.
      payload: Its argument.
      id: The message's, which becomes that of the request.

    Raises:
      OperationNotFoundError: if there is none.
    """
    function = _registered.get((channel, name))
    if function is None:
        raise OperationNotFoundError(not_found(channel, name, registered()))
    if id:
        current_request().id = id
    return function(payload)


def not_found(channel: str, name: str, known: tuple[tuple[str, str, bool], ...]) -> str:
    """Say what is missing, and what there is instead."""
    elsewhere = [c for c, n, _ in known if n == name]
    if elsewhere:
        return f"operation {name!r} is on channel {elsewhere[0]!r}, not on {channel!r}"
    names = ", ".join(sorted(n for c, n, _ in known if c == channel)) or "none"
    return f"no operation {name!r} on channel {channel!r}; there are: {names}"
