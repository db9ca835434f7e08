"""What may be sent ahead to a worker that still runs something else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trioipc.pool.scheduling._expectation import UNKNOWN

if TYPE_CHECKING:
    from typing import TypeAlias

    from trioipc.pool._request import PoolRequest
    from trioipc.pool.team._worker import Worker

    Request: TypeAlias = PoolRequest[object]


def expect(request: Request) -> int:
    """Say how many nanoseconds a request will run; `UNKNOWN` if it must not be sent ahead.

    It must be short, and small, with nothing beside its frame. Where it is longer than expected,
    none of those behind it has to wait for that; see `Dispatcher._balance`.
    """
    expected = request._call.expected
    return UNKNOWN if expected is None else expected.nanoseconds


def expect_nothing(request: Request) -> int:
    """Say that it must not be sent ahead, for workers that are sent only what they run."""
    return UNKNOWN


def admits(worker: Worker[Request], request: Request) -> bool:
    """Say whether a worker that is busy can be sent a request.

    Not if it would have to load the function first, which may take long, and cannot be skipped.
    """
    left = worker.service.quota - worker.answered
    return bool(worker.slots) and len(worker.held) < left and worker.endpoint.knows(request._call)
