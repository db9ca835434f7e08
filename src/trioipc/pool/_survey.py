"""What a pool says of itself: what its workers have counted, added up, and what it knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trioipc.pool._statistics import (
    OperationStatistics,
    PoolStatistics,
    add_up,
    parts,
    times_of,
)

if TYPE_CHECKING:
    from trioipc.pool._dispatch import Dispatcher
    from trioipc.pool.team._breaker import CircuitState


def survey(dispatcher: Dispatcher, circuit: CircuitState) -> PoolStatistics:
    """Return a snapshot of a pool."""
    team = dispatcher.team
    names = dispatcher.engine.ledger.names
    cells = [worker.endpoint.histograms() for worker in team.workers]
    counts = team.times.by_operation((some for some in cells if some is not None), len(names))
    times = times_of(add_up(counts))
    return PoolStatistics(
        pool_size=team.size,
        busy_workers=sum(bool(worker.held) for worker in team.workers),
        queued_tasks=dispatcher.waiting,
        total_tasks_processed=dispatcher.tally.ended,
        total_errors=dispatcher.tally.errors,
        total_cancelled=dispatcher.tally.cancelled,
        restarts=dict(team.restarts),
        queue_time=times.queue_time,
        run_time=times.run_time,
        total_time=times.total_time,
        workers=tuple(
            worker.info(None if some is None else times_of(add_up(parts(some)[: len(names)])))
            for worker, some in zip(team.workers, cells, strict=True)
        ),
        arena=dispatcher.engine.memory(),
        cancel_time=dispatcher.ladders.histograms(),
        circuit=circuit,
        operations=_operations(dispatcher, names, counts),
    )


def _operations(
    dispatcher: Dispatcher, names: list[str], counts: list[memoryview]
) -> dict[str, OperationStatistics]:
    """Return what there is about each operation of which any request has ended."""
    tallies = dispatcher.tally.by_operation
    found = {
        name: OperationStatistics(
            times_of(counts[number]), tallies[number, "error"], tallies[number, "cancelled"]
        )
        for number, name in enumerate(names)
    }
    return {
        name: operation
        for name, operation in found.items()
        if operation.times.total_time.count or operation.errors or operation.cancelled
    }
