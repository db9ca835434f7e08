"""Adds up what the workers of a pool have counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trioipc.pool._statistics import OperationStatistics, add_up, parts, times_of

if TYPE_CHECKING:
    from trioipc.pool._dispatch import Dispatcher
    from trioipc.pool._statistics import RequestTimes, WorkerInfo


def survey(
    dispatcher: Dispatcher,
) -> tuple[dict[str, OperationStatistics], RequestTimes, tuple[WorkerInfo, ...]]:
    """Return what there is about each operation, about all requests and about each worker."""
    names = dispatcher.engine.ledger.names
    cells = [worker.endpoint.histograms() for worker in dispatcher.team.workers]
    counts = dispatcher.team.times.by_operation(
        (some for some in cells if some is not None), len(names)
    )
    operations = {
        name: _operation(dispatcher, number, counts[number]) for number, name in enumerate(names)
    }
    workers = tuple(
        worker.info(None if some is None else times_of(add_up(parts(some)[: len(names)])))
        for worker, some in zip(dispatcher.team.workers, cells, strict=True)
    )
    # Nothing was "other", most of the time.
    used = {name: found for name, found in operations.items() if _is_used(found)}
    return used, times_of(add_up(counts)), workers


def _operation(dispatcher: Dispatcher, number: int, counts: memoryview) -> OperationStatistics:
    tallies = dispatcher.tallies
    return OperationStatistics(
        times_of(counts), tallies[number, "error"], tallies[number, "cancelled"]
    )


def _is_used(operation: OperationStatistics) -> bool:
    return bool(operation.times.total_time.count or operation.errors or operation.cancelled)
