"""Where the operations of a bridge run: the pools below it, and who chooses between them.

Rules:

- Only *opening* falls back to threads, and only if no worker process can be started; what happens
  later is an error of the call it happens to.
- Asynchronous operations have a worker process of their own, which starts when it is first wanted;
  where there are no processes, they are awaited in the caller's task.
"""

from __future__ import annotations

import os
import time
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, final

import attrs
import trio

from trioipc._errors import WorkerStartError
from trioipc.bridge._here import run_here
from trioipc.bridge._placing import Chooser
from trioipc.memory._ring import Streamed
from trioipc.pool._opening import open_on, open_worker_pool
from trioipc.pool._options import Options as PoolOptions
from trioipc.pool.engines._engines import engine_of
from trioipc.pool.engines._process_engine import START_TIMEOUT
from trioipc.worker.registry import MARK

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager, AsyncExitStack
    from typing import TypeVar, TypeVarTuple, Unpack

    from trioipc.bridge._arguments import Options
    from trioipc.bridge._placing import Place
    from trioipc.pool.pool import WorkerPool

    T = TypeVar("T")
    Ts = TypeVarTuple("Ts")

PlacementKind: TypeAlias = Literal["process", "thread", "auto"]


@attrs.frozen
class Placement:
    """Where the operations of a bridge run, and why there."""

    kind: Literal["process", "thread", "auto", "inline"]
    """In worker processes, on threads of this process, or chosen for each call; and of one call,
    also in the caller's own task."""

    reason: str
    """In words, for people."""


@final
@attrs.define(eq=False)
class OpenHome:
    """Pools that are open."""

    placed: Placement
    _pools: dict[Place, WorkerPool]
    # For asynchronous operations; None to await them in the caller's task.
    _network: WorkerPool | None
    # Of a bridge that finds out itself.
    _chooser: Chooser | None = None
    failure: WorkerStartError | None = None
    """Why there are no processes, if it fell back."""

    @property
    def pool(self) -> WorkerPool:
        """The pool for functions of the user's own."""
        if self.failure is not None:
            raise WorkerStartError(
                "this bridge works on threads, which run built-in operations only"
            ) from self.failure
        return self._any_pool()

    def _any_pool(self) -> WorkerPool:
        return self._pools.get("process") or self._pools["thread"]

    async def run(
        self, function: Callable[[*Ts], T], /, *args: *Ts, **options: Unpack[Options]
    ) -> T:
        """Run an operation."""
        if self._chooser is None:
            return await self._any_pool().run(function, *args, **options)
        source, *others = cast("tuple[object, ...]", args)
        operation, nbytes = _name_of(function), _size_of(source)
        places = self._places(source, others, options)
        place, calls = self._chooser.place(operation, nbytes, places)
        start = time.perf_counter()
        if place == "inline":
            await trio.lowlevel.checkpoint()
            self._any_pool()._check_home()
            result = function(*args)
        else:
            result = await self._pools[place].run(function, *args, **options)
        if calls:
            self._chooser.learn(operation, place, nbytes, time.perf_counter() - start, calls)
        return result

    def _places(self, source: object, others: list[object], options: Options) -> tuple[Place, ...]:
        """Say where a call can run.

        What may wait for a disk, be cancelled or be heard of on its way never runs inline.
        """
        places = tuple(self._pools)
        if (
            isinstance(source, memoryview)
            and not any(isinstance(value, str) and os.path.isabs(value) for value in others)
            and options["on_progress"] is None
            and options["cancellation"] is None
            and options["timeout"] is None
        ):
            return ("inline", *places)
        return places

    def explain(self, operation: str, nbytes: int) -> Placement:
        """Say where a call would run, and why there."""
        if self._chooser is None:
            return self.placed
        choice = self._chooser.choose(operation, nbytes, ("inline", *self._pools))
        return Placement(choice.place, choice.reason)

    async def run_async(
        self, function: Callable[[*Ts], Any], /, *args: *Ts, **options: Unpack[Options]
    ) -> Any:
        """Run an asynchronous operation."""
        if self._network is None:
            self._any_pool()._check_home()
            return await run_here(function, *args, **options)
        return await self._network.run(function, *args, **options)


@cache
def _name_of(function: Callable[..., object]) -> str:
    mark = getattr(function, MARK)
    return f"{mark.channel}.{mark.name}"


def _size_of(source: object) -> int:
    """Say how many bytes an operation works on, as far as its first argument says."""
    if isinstance(source, memoryview):
        return source.nbytes
    if isinstance(source, Streamed):
        return source.source.nbytes
    if isinstance(source, str):
        try:
            return os.stat(source).st_size
        except OSError:  # the worker will say so
            return 0
    if isinstance(source, tuple):  # chunks
        return sum(_size_of(piece) for piece in source)
    return 0


def _network_pool(options: dict[str, Any]) -> AbstractAsyncContextManager[WorkerPool]:
    """Open a pool for asynchronous operations, whose worker starts with the first of them."""
    # One worker, and no others in reserve; and none of the user's functions.
    known = {field.name for field in attrs.fields(PoolOptions)} - {"min_size", "spare", "lifespan"}
    checked = PoolOptions(size=1, **{n: value for n, value in options.items() if n in known})
    engine = engine_of("io", checked, (), options.get("start_timeout", START_TIMEOUT), ())
    return open_on(engine, checked, lazy=True)


async def open_home(
    stack: AsyncExitStack,
    size: int | None,
    kind: PlacementKind,
    reason: str,
    fallback: str,
    options: dict[str, Any],
) -> OpenHome:
    """Open the pools, or others if that fails, until ``stack`` is left.

    Raises:
      WorkerStartError: if no process can be started, and ``fallback`` is ``"never"``.
    """
    chooser = Chooser() if kind == "auto" else None
    pools: dict[Place, WorkerPool] = {}
    failure: WorkerStartError | None = None
    if kind != "thread":
        try:
            pools["process"] = await stack.enter_async_context(
                open_worker_pool(size, kind="cpu", **options)
            )
        except WorkerStartError as error:
            if fallback == "never":
                raise
            failure = error
            if kind == "process":
                kind, reason = "thread", f"no worker process could be started: {error}"
    if kind != "process":
        if kind == "auto" or failure is not None:  # no functions of the user's run there
            options = {**options, "lifespan": None}
        pools["thread"] = await stack.enter_async_context(
            open_worker_pool(size, kind="thread", **options)
        )
    network = None
    if "process" in pools:
        network = await stack.enter_async_context(_network_pool(options))
    return OpenHome(Placement(kind, reason), pools, network, chooser, failure)
