"""What has become of the items of a chunk whose request has ended. Synchronous and pure.

Rule 1: what the log counts is finished, however the request ended.
Rule 2: how it ended is the outcome of the item that was running then, and of no other.
Rule 3: what had not begun is still to be done.
Rule 4: of a log that was lost with its worker nobody knows what it said: all may have begun.
"""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any, final

import attrs
import trio
from outcome import Error, Outcome, Value

from trioipc._errors import (
    RequestCancelledError,
    RequestTimeoutError,
    WorkerCrashedError,
    WorkerStartError,
)
from trioipc.pool.many._chunking import Chunk
from trioipc.protocol._codec import payload_error
from trioipc.worker._chunk import ALL_BEGUN, ANSWERED, BEGUN, FINISHED, SharedLog

if TYPE_CHECKING:
    from trioipc.pool._request import PoolRequest
    from trioipc.worker._chunk import Log


@final
@attrs.frozen
class Settled:
    """What has become of a chunk."""

    outcomes: list[Outcome[Any]] = attrs.Factory(list)
    """Of the items after those in ``values``."""

    values: list[Any] = attrs.Factory(list)
    """Of the first items."""

    rest: list[Chunk] = attrs.Factory(list)
    """What is still to be done."""

    failure: BaseException | None = None
    """Why nothing more can be done at all."""


def settle(chunk: Chunk, retries: int) -> Settled:
    """Decide what has become of a chunk that is over.

    Args:
      chunk: Which is over.
      retries: How often an item is tried again after a crash.
    """
    request, log = chunk.request, chunk.log
    if request is None:
        assert chunk.failure is not None
        return Settled([Error(chunk.failure)])
    if log is None:
        return _end_of(request, _outcome_of(request), Settled(), chunk.items)
    begun, finished = log.head[BEGUN], log.head[FINISHED]
    outcomes, values = _results_of(log) if finished else ([], [])
    others = chunk.items[finished:]
    outcome = None
    if _is_value(request) and not log.head[ANSWERED]:
        assert request._answer is not None
        request._answer.drop()
    elif others:
        outcome = _outcome_of(request)
    if outcome is None:
        return Settled(outcomes, values, _chunks(others))
    if len(others) > 1 and not _is_of_all(request, outcome):
        if begun == ALL_BEGUN and not retries and isinstance(outcome, Error):
            return Settled([outcome, *(Error(_same(outcome.error)) for _ in others[1:])])
        if not begun or begun == ALL_BEGUN:
            # One of them did this: let us see which.
            return Settled(rest=[Chunk(others, alone=True)])
    crash = request._failure
    if retries and isinstance(crash, WorkerCrashedError) and not request._stopped:
        again = Chunk(others[:1], alone=True, crashes=(crash,))
        return Settled(outcomes, values, [again, *_chunks(others[1:])])
    return _end_of(request, outcome, Settled(outcomes, values), others)


def _chunks(items: list[Any]) -> list[Chunk]:
    return [Chunk(items)] if items else []


def _end_of(
    request: PoolRequest[Any], outcome: Outcome[Any], before: Settled, others: list[Any]
) -> Settled:
    """Give the first of the others an outcome, or all of them, or the whole map."""
    if isinstance(outcome, Error):
        if _is_of_map(request, outcome.error):
            return attrs.evolve(before, failure=outcome.error)
        if _is_of_all(request, outcome):
            same = [Error(_same(outcome.error)) for _ in others[1:]]
            return attrs.evolve(before, outcomes=[*before.outcomes, outcome, *same])
    return attrs.evolve(before, outcomes=[*before.outcomes, outcome], rest=_chunks(others[1:]))


def _is_value(request: PoolRequest[Any]) -> bool:
    answer = request._answer
    return answer is not None and answer.kind == "value" and not request._stopped


def _outcome_of(request: PoolRequest[Any]) -> Outcome[Any]:
    if _is_value(request):
        assert request._answer is not None
        return request._answer.unpack()
    return request._conclude()


def _is_of_map(request: PoolRequest[Any], error: BaseException) -> bool:
    """Say whether an error is nothing of any item: it was cancelled, or the pool is gone."""
    if error is request._cause:
        return isinstance(error, RequestCancelledError)
    return error is request._failure and isinstance(
        error, trio.ClosedResourceError | WorkerStartError
    )


def _is_of_all(request: PoolRequest[Any], outcome: Outcome[Any]) -> bool:
    """Say whether all items of a chunk end so: they have waited too long, or the map is over."""
    if not isinstance(outcome, Error):
        return False
    error = outcome.error
    if error is request._cause and isinstance(error, RequestTimeoutError):
        return error.clock == "queue"
    return _is_of_map(request, error)


def _same(error: BaseException) -> BaseException:
    """Make an error of one's own of one that ends several items."""
    same = copy.copy(error)
    same.__cause__ = error.__cause__
    return same


def _results_of(log: Log) -> tuple[list[Outcome[Any]], list[Any]]:
    """Read a log: all of it at once or, if something in it cannot be read, one by one."""
    try:
        return [], log.results()
    except (Exception, SystemExit):
        assert isinstance(log, SharedLog)
        numbers = [Value(value) for value in log.leading_numbers()]
        return [*numbers, *map(_load, log.pickles())], []


def _load(pickled: bytes) -> Outcome[Any]:
    try:
        return Value(pickle.loads(pickled))
    except (Exception, SystemExit) as error:
        lost = payload_error("the value that came back", error)
        lost.__cause__ = error
        return Error(lost)
