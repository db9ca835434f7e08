"""Calls and answers that travel by Dask's own serialisation."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, final

import attrs

from trioipc._errors import PayloadError, SharedStateError
from trioipc.memory._ring import Streamed
from trioipc.pool._endpoint import LightCall
from trioipc.pool.engines._payload import (
    KINDS,
    cannot_pickle,
    function_name,
    refuse_asynchronous,
    refuse_values,
    unpickle_answer,
)
from trioipc.protocol._codec import encode, lift_arguments
from trioipc.worker._chunk import run_chunk
from trioipc.worker._cluster import NO_STATE

if TYPE_CHECKING:
    from collections.abc import Callable

    from outcome import Outcome

    from trioipc.protocol._codec import Encoded
    from trioipc.protocol._parcel import Parcel

# The parameters of built-in operations that may be paths.
_PATHS = frozenset(("source", "pieces", "destination"))


@final
@attrs.define(eq=False)
class ClusterCall(LightCall):
    """A pickled call."""

    encoded: Encoded
    operation: int
    # Of a chunk of a map: where its results go when they are here.
    log: memoryview | None = None
    rank: int = 0

    def __attrs_post_init__(self) -> None:
        encoded = self.encoded
        self.held = encoded.held()
        # What travels, and may come back in a log.
        self.nbytes = len(encoded.body) + sum(map(len, encoded.buffers)) + len(self.log or b"")


def prepare(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    values: dict[str, Any],
    number: int,
    *,
    shared_paths: bool,
) -> ClusterCall:
    """Pickle a call; see `Engine.prepare`.

    Args:
      function: What is to be called.
      arguments: With what.
      values: Of context variables.
      number: Under which it is counted.
      shared_paths: Whether a built-in operation may be given a path.

    Raises:
      ValueError: if it is given one, and may not.
      SharedStateError: if shared state would have to travel.
      PayloadError, TypeError: as of `Engine.prepare`.
    """
    if not callable(function):
        raise TypeError(f"the function must be callable, not {type(function).__name__}")
    refuse_asynchronous(function)
    log = None
    if function is run_chunk:
        log, *others = arguments
        arguments = tuple(others)
        refuse_main(arguments[0])
    refuse_main(function)
    if not shared_paths:
        _refuse_paths(function, arguments)
    whole = tuple([a.source if isinstance(a, Streamed) else a for a in arguments])
    try:
        encoded = encode((function, lift_arguments(whole), values))
    except (Exception, SystemExit) as error:
        refuse_values(function, values)
        raise cannot_pickle(function, arguments, error) from error
    if encoded.parcels:
        raise SharedStateError(NO_STATE)
    return ClusterCall(encoded, number, log)


def refuse_main(function: Callable[..., Any]) -> None:
    """Refuse functions of the main module, which is another one on a worker of Dask's.

    Raises:
      PayloadError: if it is one.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if getattr(function, "__module__", None) == "__main__":
        raise PayloadError(
            f"the function {function_name(function)} is in the main script, which workers of a "
            "cluster do not load; put it into a module that they can import"
        )


def _refuse_paths(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if not (getattr(function, "__module__", None) or "").startswith("trioipc.builtin."):
        return
    for name, value in zip(_parameters(function), arguments, strict=False):
        pieces = value if isinstance(value, tuple) else (value,)
        if name in _PATHS and any(isinstance(piece, str) for piece in pieces):
            what = "source" if name == "pieces" else name
            raise ValueError(
                f"{what} is a path, which would mean a file of the worker that runs this; if all "
                "workers see the same files, say DaskEngine(..., shared_paths=True)"
            )


@functools.cache
def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


@final
class ClusterAnswer:
    """How a function on a cluster ended.

    Args:
      kind: One of the codec's.
      parcel: What it gave.
    """

    __slots__ = ("_code", "_parcel", "interrupted", "kind", "lands")

    def __init__(self, kind: int, parcel: Parcel | None) -> None:
        self.kind = KINDS[kind]
        self.interrupted = False
        self.lands = False
        self._code = kind
        self._parcel = parcel

    async def land(self) -> None:
        """Do nothing."""

    def unpack(self) -> Outcome[Any]:
        """Unpickle it; see `Answer.unpack`."""
        parcel, self._parcel = self._parcel, None
        assert parcel is not None
        return unpickle_answer(self._code, parcel.open)

    def drop(self) -> None:
        """Let go of it."""
        self._parcel = None
