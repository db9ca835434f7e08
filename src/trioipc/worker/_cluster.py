"""What runs in the worker processes of a Dask cluster.

A task is one call. It runs in a thread of Dask's, as many at once as the worker has; each has cells
of its own, such as a slot of a board. What they hold is said to who waits in events, so often as
that is wanted, and with the answer.

Rules:

- A function is called once the scheduler's register has given leave, and not otherwise.
- What the function does is answered, and never raised: what Dask finds raised is Dask's own.
"""

from __future__ import annotations

import os
import pickle
import time
from typing import TYPE_CHECKING, Any

from distributed import get_worker
from distributed.protocol.serialize import dask_deserialize, dask_serialize
from distributed.utils import sync

from trioipc._errors import RequestInterrupt, SharedStateError
from trioipc.memory._board import (
    CANCEL,
    DEADLINE,
    DEFAULT_TOTAL,
    DONE,
    LIMIT,
    PHASE,
    REASON,
    SLOT,
    STARTED_AT,
    TICK,
    TOTAL,
    read_text,
    write_text,
)
from trioipc.protocol._codec import (
    ERROR,
    EXIT,
    PAYLOAD,
    SKIPPED,
    STOPPED,
    VALUE,
    Encoded,
    payload_error,
)
from trioipc.protocol._parcel import Parcel
from trioipc.worker._answer import encode_answer
from trioipc.worker._chunk import SharedLog, run_chunk
from trioipc.worker._context import within
from trioipc.worker.registry import load, registered
from trioipc.worker.request import CurrentRequest, set_context_request

if TYPE_CHECKING:
    from distributed import Nanny, Worker

# The only request that its cells ever have.
_GENERATION = 1

# Those whose functions run in this process, by the keys of their tasks.
_running: dict[str, memoryview] = {}


def run(parcel: Parcel) -> Parcel:
    """Be the task: call a function, and answer.

    Args:
      parcel: The function, its arguments, and values of context variables. Its label: the task's
        key; the topic of who waits; the request's name; the nanoseconds that it may run, 0 for no
        limit; the seconds that somebody waits; the modules to be loaded; the seconds between two
        events; how many bytes the log of a chunk has, 0 for a call that is none.

    Returns:
      A parcel that holds what `encode_answer` made. Its label: the kind of that; what `seen` says;
      the process; the log.
    """
    key, topic, name, limit, left, modules, interval, log_size = parcel.label
    worker = get_worker()
    cells = _cells(limit, left)
    if not sync(worker.loop, _begin, worker, key, topic, cells, interval):
        return Parcel.of(_NOTHING, SKIPPED, seen(cells), os.getpid(), b"")
    request = CurrentRequest(cells, _GENERATION, name)
    kind, value, log = _call(request, parcel, modules, memoryview(bytearray(log_size)))
    del _running[key]
    request._end()
    kind, encoded = encode_answer(kind, value)
    if encoded.parcels:
        kind, encoded = encode_answer(ERROR, SharedStateError(NO_STATE))
    return Parcel.of(encoded, kind, seen(cells), os.getpid(), log)


_NOTHING = Encoded(b"")
NO_STATE = "shared state is in the memory of one machine: it does not travel to or from a cluster"


def _cells(limit: int, left: float | None) -> memoryview:
    cells = memoryview(bytearray(SLOT * 8)).cast("Q")
    cells[TOTAL] = DEFAULT_TOTAL
    cells[LIMIT] = limit
    if left is not None:
        cells[DEADLINE] = time.perf_counter_ns() + int(max(0.0, left) * 1e9)
    return cells


async def _begin(worker: Worker, key: str, topic: str, cells: memoryview, interval: float) -> bool:
    """Ask for leave; on the loop of Dask's worker."""
    leave: bool = await worker.scheduler.trioipc_begin(key=key, worker=worker.address, topic=topic)
    if leave:
        cells[STARTED_AT] = time.perf_counter_ns()
        _running[key] = cells
        if interval:
            worker.loop.call_later(interval, _report, worker, key, topic, None, interval)
    return leave


def _report(
    worker: Worker, key: str, topic: str, last: tuple[object, ...] | None, interval: float
) -> None:
    """Say what a request has written since the last time, and do so again until it ends."""
    cells = _running.get(key)
    if cells is None:
        return
    news = seen(cells)
    if news[1:] != last:
        worker.log_event(topic, {"seen": key, "values": list(news), "pid": os.getpid()})
    worker.loop.call_later(interval, _report, worker, key, topic, news[1:], interval)


def seen(cells: memoryview) -> tuple[float, int, int, int, str | None]:
    """Return how long a request has run, its progress and total, its ticks and its phase."""
    started = cells[STARTED_AT]
    seconds = (time.perf_counter_ns() - started) / 1e9 if started else 0.0
    return seconds, cells[DONE], cells[TOTAL], cells[TICK], read_text(cells, PHASE)


def _call(
    request: CurrentRequest, parcel: Parcel, modules: tuple[str, ...], log: memoryview
) -> tuple[int, Any, bytes]:
    """Call the function; return how it ended, with what, and the log. Never raises."""
    set_context_request(request)
    try:
        load(modules)
        function, arguments, values = parcel.open()
    except BaseException as error:
        return PAYLOAD, payload_error("the call", error), b""
    if not log:
        return *_run(function, arguments, values), b""
    kind, value = _run(run_chunk, (log, *arguments), values)
    return kind, value, bytes(log[: SharedLog(log, len(arguments[1])).written()])


def _run(function: Any, arguments: tuple[Any, ...], values: dict[str, Any]) -> tuple[int, Any]:
    try:
        return VALUE, within(values, function, *arguments)
    except RequestInterrupt:
        return STOPPED, None
    except Exception as error:
        return ERROR, error
    except BaseException as error:
        return EXIT, error


# -- how answers travel ---------------------------------------------------------------------------

# On its connections to the scheduler, through which results go, Dask pickles by protocol 4, and so
# buffers in band; what it is told here is its own way to leave them alone.


@dask_serialize.register(Parcel)  # type: ignore[untyped-decorator, no-untyped-call]
def _to_frames(parcel: Parcel) -> tuple[dict[str, Any], list[Any]]:
    label = pickle.dumps(parcel.label)
    return {"flags": parcel.flags}, [label, parcel.body, *parcel.buffers]


@dask_deserialize.register(Parcel)  # type: ignore[untyped-decorator, no-untyped-call]
def _from_frames(header: dict[str, Any], frames: list[Any]) -> Parcel:
    label, body, *buffers = frames
    return Parcel(pickle.loads(label), header["flags"], bytes(body), buffers)


# -- what clients have workers and nannies do ---------------------------------------------------


def prepare(modules: tuple[str, ...]) -> tuple[tuple[str, str, bool], ...]:
    """Load modules; return the operations that the worker has.

    Raises:
      WorkerStartError: if one of them cannot be imported.
    """
    load(modules)
    return registered()


def cancel(key: str, reason: str | None) -> None:
    """Set the cancel word of a request that runs here, if it still does."""
    cells = _running.get(key)
    if cells is not None:
        if reason is not None:
            write_text(cells, REASON, reason)
        cells[CANCEL] = _GENERATION


async def kill(dask_worker: Nanny) -> None:
    """Kill the worker process of a nanny, which starts another."""
    process = dask_worker.process
    if process is not None and process.process is not None:
        await process.process.kill()
