"""A pool whose workers are simulated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from trioipc._errors import WorkerStartError
from trioipc.pool._block import block
from trioipc.pool._opening import open_on
from trioipc.pool._options import Options, module_names, one_of, seconds, variables
from trioipc.testing._engine import SimulatedEngine
from trioipc.testing._faults import Crash, Delay, Hang, Stop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from trioipc.pool.pool import WorkerPool
    from trioipc.testing._faults import Part


@block
async def open_test_pool(
    size: int = 1,
    *,
    kind: Literal["cpu", "io"] = "cpu",
    stand_ins: Mapping[Callable[..., object], Part] | None = None,
    faults: Mapping[int, Part] | None = None,
    starts: Mapping[int, float | WorkerStartError] | None = None,
    modules: Iterable[str] = (),
    start_timeout: float = 30.0,
    context_variables: Iterable[str] = (),
    **options: Any,
) -> AsyncIterator[WorkerPool]:
    """Open a pool without processes: the same `trioipc.WorkerPool`, whose workers are tasks.

    For tests, most of all under `trio.testing.MockClock`: clocks, the cancel ladder, retries,
    queues and progress are the real ones and, as all time is Trio's, take no time. Functions run in
    the event loop: a plain one at once, so that nothing cancels it; one that would block needs a
    stand-in. Calls and results are pickled and unpickled, as on their way to a process: a lambda is
    a `trioipc.PayloadError` here as well; exceptions are not.

    What differs: `trioipc.CurrentRequest.time_left` counts real time; what a function asks the pool
    for is called in its place; there is no memory to measure, and there are no stacks; and the pid
    of a worker is that of no process.

    Args:
      size: The most workers there are.
      kind: As in `trioipc.open_worker_pool`, but no threads.
      stand_ins: ``{function: what plays its part}``: another function, which need not be one that
        can be pickled and may be asynchronous, or a `Crash`, `Hang`, `Stop` or `Delay`.
      faults: ``{number: what plays the part of the function}``, for the requests of these numbers,
        counted from 1 as they are sent to workers; a retry is one more.
      starts: ``{number: how that start goes}``, counted from 1: seconds, or an error.
      modules: As in `trioipc.open_worker_pool`, as are the others.
      start_timeout: How long a start may take.
      context_variables: Those that travel with requests.
      **options: All else that `trioipc.open_worker_pool` takes.

    Raises:
      WorkerStartError: if no worker can be started.
      ValueError, TypeError: if an argument is not as said above.

    Cancellation: as `trioipc.open_worker_pool`.
    """
    checked = Options(size=size, **options)
    engine = SimulatedEngine(
        name=checked.name,
        kind=one_of("kind", kind, ("cpu", "io")),
        stand_ins=_parts("stand_ins", stand_ins or {}),
        faults=_parts("faults", faults or {}),
        starts=_starts(starts or {}),
        modules=module_names(modules),
        start_timeout=seconds("start_timeout", start_timeout),
        context=variables(context_variables) + variables(checked.carried),
        lifespan=checked.lifespan,
    )
    async with open_on(engine, checked) as pool:
        yield pool


def _parts(name: str, parts: Mapping[Any, Part]) -> dict[Any, Part]:
    for part in parts.values():
        if isinstance(part, type) or not (isinstance(part, _FAULTS) or callable(part)):
            raise TypeError(f"{name} must hold functions, or faults such as Crash(), not {part!r}")
    return dict(parts)


_FAULTS = (Crash, Delay, Hang, Stop)


def _starts(
    starts: Mapping[int, float | WorkerStartError],
) -> dict[int, float | WorkerStartError]:
    for start in starts.values():
        if not isinstance(start, WorkerStartError):
            seconds("starts", start)
    return dict(starts)
