"""What a worker has for its whole life: a context manager around all that it runs.

Only loaded where a pool was given one.

Guarantees:

- It is entered before the worker is ready. What goes wrong there is a `WorkerStartError`, with the
  error itself as the cause.
- It is left when the worker ends in an orderly way: when its pool is closed, or when another takes
  its place. Nobody waits for an answer then, so what goes wrong there is logged. It is not left by
  a worker that is killed or crashes, nor by a process that was forked from it.
"""

from __future__ import annotations

import logging
import pickle
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from outcome import Error, acapture, capture

from trioipc._errors import WorkerStartError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from outcome import Outcome

_log = logging.getLogger("trioipc.worker")
_ON_LEAVING = "a worker's lifespan failed when it was left"


def loaded(pickled: bytes) -> Callable[[], Any]:
    """Bring back the lifespan that a pool was given.

    Raises:
      WorkerStartError: if it cannot be.
    """
    make: Callable[[], Any] = _unwrap("loaded", capture(pickle.loads, pickled))
    return make


@contextmanager
def living(make: Callable[[], Any]) -> Iterator[Any]:
    """Be in the lifespan for as long as the block lasts; yields its value.

    Raises:
      WorkerStartError: if it cannot be entered.
    """
    manager = _unwrap("entered", capture(_make, make))
    kind = type(manager)
    # Not left in a ``finally``: what escapes the block ends a process that must touch nothing.
    yield _unwrap("entered", capture(kind.__enter__, manager))
    try:
        kind.__exit__(manager, None, None, None)
    except BaseException:  # nobody waits for a SystemExit either
        _log.exception(_ON_LEAVING)


@asynccontextmanager
async def living_async(make: Callable[[], Any]) -> AsyncIterator[Any]:
    """Do the same where functions are asynchronous, and it may be so, too.

    It may open a nursery. If a task in that fails, the worker ends, as by a crash.
    """
    manager = _unwrap("entered", capture(make))
    kind = type(manager)
    if not hasattr(kind, "__aenter__"):
        with living(lambda: manager) as value:
            yield value
        return
    value = _unwrap("entered", await acapture(kind.__aenter__, manager))
    try:
        yield value
    except BaseException as error:
        if not await _leave(manager, error):
            raise
    else:
        await _leave(manager, None)


async def _leave(manager: Any, error: BaseException | None) -> bool:
    """Leave it, and return whether it has dealt with what escaped the block."""
    told = (None, None, None) if error is None else (type(error), error, error.__traceback__)
    try:
        return bool(await type(manager).__aexit__(manager, *told))
    except BaseException as failure:
        if failure is error:
            return False
        _log.exception(_ON_LEAVING)
        return True


def _make(make: Callable[[], Any]) -> Any:
    """Return what it makes, if that is a context manager."""
    manager = make()
    kind = type(manager)
    if hasattr(kind, "__enter__"):
        return manager
    if hasattr(kind, "__aenter__"):
        raise TypeError(
            f"it made a {kind.__name__}, which is asynchronous: only workers of kind='io' enter it"
        )
    raise TypeError(f"it must make a context manager, not a {kind.__name__}")


def _unwrap(done: str, outcome: Outcome[Any]) -> Any:
    """Return its value.

    Raises:
      WorkerStartError: if it is an error.
    """
    if not isinstance(outcome, Error):
        return outcome.unwrap()
    error = outcome.error
    raise WorkerStartError(
        f"the lifespan could not be {done}: {type(error).__name__}: {error}"
    ) from (error if isinstance(error, Exception) else None)
