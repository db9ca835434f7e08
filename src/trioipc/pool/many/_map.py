"""`WorkerPool.map`: what it takes, and the block that its results live in.

One nursery for all of it, in the task that opens the block. Which items go together is decided in
`_chunking`, what has become of them in `_settling`; `_results` sends them and gives the results.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeVar

import trio
from trio.lowlevel import checkpoint_if_cancelled

from trioipc.pool._block import block
from trioipc.pool._options import count, one_of, switch
from trioipc.pool.many._results import MapOptions, MapResults
from trioipc.pool.many._source import source_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable

    from trioipc.memory.state import SharedCancellation
    from trioipc.pool._progress import Progress
    from trioipc.pool.pool import WorkerPool
    from trioipc.protocol._messages import Priority

A = TypeVar("A")
T = TypeVar("T")


@block
async def map_items(  # noqa: D417 - it is a method of `WorkerPool`
    self: WorkerPool,
    fn: Callable[[A], T],
    items: Iterable[A] | AsyncIterable[A],
    *,
    ordered: bool = True,
    max_pending: int | None = None,
    chunk_size: int | Literal["auto"] = "auto",
    on_error: Literal["raise", "collect"] = "raise",
    timeout: float | None = None,
    queue_timeout: float | None = None,
    priority: Priority = "normal",
    on_progress: Callable[[Progress], object | Awaitable[object]] | None = None,
    cancellation: SharedCancellation | None = None,
    max_retries: int | None = None,
    idempotent: bool | None = None,
    grace: float | None = None,
) -> AsyncIterator[AsyncIterator[T]]:
    """Run ``fn(item)`` in workers for each item, and iterate over the results.

    Small items travel many at a time, by the time that they take. All the same each is for itself:
    its exception, its ``timeout``, a crash and its retries are its own, and each step of the
    iteration can be cancelled. Leaving the block cancels what is not done; what was done and not
    taken is dropped, exceptions too.

    The iterator is for one task. An item that raises ends it, unless they are collected.

    Args:
      fn: A function that can be pickled by name.
      items: As many as you like, also without end. An asynchronous generator is closed when the
        block is left.
      ordered: Whether results come in the order of the items, or as soon as they are there.
      max_pending: How many items may be pulled from ``items`` and not handed over as results;
        None for as many as keep the workers busy.
      chunk_size: How many items travel at a time; ``"auto"`` to have about 2 ms of work travel.
        On a pool of kind ``"io"`` each goes alone.
      on_error: ``"raise"`` raises an item's exception in its place, ``"collect"`` gives it as the
        item's result and goes on.
      timeout: As in `run`, for each item.
      queue_timeout: As in `run`; items that travel together wait together.
      priority: As in `run`.
      on_progress: Called with each `Progress` in this task, with the number of items that are
        done, and how many there are, if ``items`` has a length. If it raises, the rest is
        cancelled and that exception comes out.
      cancellation: Ends all of it when it is set.
      max_retries: As in `run`, for each item: only the one that ran in a crash is tried again.
      idempotent: As in `run`.
      grace: As in `run`.

    Raises:
      PayloadError: if ``fn`` cannot be sent to a worker.
      ValueError, TypeError: if an argument is not as said above.
      Exception: in the iteration, whatever an item gives as an error, as `run`; and what ``items``
        raises, after the results of what had come before.

    Cancellation: entering and leaving are checkpoints, each step of the iteration is a cancel point
    and often a checkpoint: whenever it waits, and once a millisecond. A step that is cancelled
    loses nothing.
    """
    await checkpoint_if_cancelled()
    self._check_home()
    terms = self._factory.terms(
        fn, timeout, queue_timeout, priority, cancellation, max_retries, idempotent, grace
    )
    dispatcher = self._dispatcher
    options = MapOptions(
        ordered=switch("ordered", ordered),
        max_pending=None if max_pending is None else _whole("max_pending", max_pending),
        chunk_size=None if chunk_size == "auto" else _whole("chunk_size", chunk_size),
        collect=one_of("on_error", on_error, ("raise", "collect")) == "collect",
        on_progress=on_progress,
        total=_length_of(items),
        label=None if self._strategy is None else self._strategy.label,
        alone=chunk_size == 1 or dispatcher.engine.places > 1 or _is_builtin(fn),
    )
    if options.chunk_size is not None and (max_pending or math.inf) < options.chunk_size:
        raise ValueError(f"max_pending must be >= chunk_size, {chunk_size}, not {max_pending}")
    dispatcher.engine.prepare(fn, ())  # which finds out whether it can be sent
    source = source_of(items)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        results: MapResults[T] = MapResults(dispatcher, fn, source, terms, options, nursery)
        try:
            results.begin()
            yield results
        except BaseException as error:
            failure = error
        failure = _choose(failure, await results.close())
    if failure is not None:
        try:
            raise failure
        finally:
            del failure  # its traceback holds this frame


def _whole(name: str, value: object) -> int:
    return int(count(name, value, 1, finite=True))


def _length_of(items: object) -> int:
    """Say how many items there are; 0 if they do not say."""
    try:
        return len(items)  # type: ignore[arg-type]
    except TypeError:
        return 0


def _is_builtin(function: object) -> bool:
    """Say whether it is an operation of ours, whose answers are not to be pickles."""
    return (getattr(function, "__module__", None) or "").startswith("trioipc.builtin.")


def _choose(
    body_error: BaseException | None, failure: BaseException | None
) -> BaseException | None:
    """Say what comes out of the block: what its body raised, and in its notes the other."""
    if failure is None or body_error is None or isinstance(body_error, trio.Cancelled):
        return failure or body_error
    if failure is not body_error:
        body_error.add_note(f"trioipc: leaving the map failed too, with {type(failure).__name__}")
    return body_error
