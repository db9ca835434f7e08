"""`trioipc.run`: a function in a worker, without a pool to be opened first."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from trio.lowlevel import checkpoint_if_cancelled, enable_ki_protection

from trioipc.bridge.bridge import open_default_pool

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioipc.memory.state import SharedCancellation
    from trioipc.pool.pool import Callback
    from trioipc.protocol._messages import Priority

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@enable_ki_protection
async def run(
    fn: Callable[[*Ts], T],
    *args: *Ts,
    timeout: float | None = None,
    queue_timeout: float | None = None,
    priority: Priority = "normal",
    on_progress: Callback | None = None,
    cancellation: SharedCancellation | None = None,
    max_retries: int | None = None,
    idempotent: bool | None = None,
    grace: float | None = None,
) -> T:
    """Run ``fn(*args)`` in a worker process and return what it returns.

    The shortest way in: the first call opens a pool with the defaults of `open_worker_pool`, which
    all later calls of this `trio.run` and its `default_bridge` share. It closes after the main
    task's end, or by `close_default_bridge`. For a pool of your own making, `open_worker_pool`.

    The arguments, errors and what a cancellation means are those of `WorkerPool.run`. Moreover:

    Raises:
      WorkerStartError: if no worker process can be started. Functions of your own never fall back
        to threads.
      WorkerError: if the pool has broken; the next call opens another.
      trio.ClosedResourceError: after the main task's end, or if it comes before the answer.
      RuntimeError: outside of `trio.run`.

    Cancellation: a checkpoint.
    """
    await checkpoint_if_cancelled()
    pool = await open_default_pool()
    return await pool.run(
        fn,
        *args,
        timeout=timeout,
        queue_timeout=queue_timeout,
        priority=priority,
        on_progress=on_progress,
        cancellation=cancellation,
        max_retries=max_retries,
        idempotent=idempotent,
        grace=grace,
    )
