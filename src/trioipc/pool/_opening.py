"""Opening a pool: what its options are, and for how long it lives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from trioipc.pool._block import block
from trioipc.pool._options import Options, homes, module_names, one_of, seconds, variables
from trioipc.pool.engines._engines import KINDS, Elsewhere, Kind, engine_elsewhere, engine_of
from trioipc.pool.pool import WorkerPool
from trioipc.sizing import usable_cores

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from trioipc.pool._endpoint import Engine
    from trioipc.pool._instruments import Instrument
    from trioipc.pool._options import Lifespan
    from trioipc.pool.scheduling._gate import Concurrency
    from trioipc.pool.scheduling._scheduler import StrategyName
    from trioipc.pool.scheduling._strategy import Strategy


@block
async def open_worker_pool(
    size: int | None = None,
    *,
    modules: Iterable[str] = (),
    kind: Kind = "cpu",
    strategy: StrategyName | Strategy = "least-busy",
    task_timeout: float = math.inf,
    queue_timeout: float = math.inf,
    start_timeout: float = 30.0,
    stall_timeout: float = math.inf,
    max_retries: int = 2,
    max_queue: float = math.inf,
    max_arena_bytes: float = 256 << 20,
    grace: float = 1.0,
    drain_timeout: float = math.inf,
    progress_interval: float = 0.05,
    name: str = "trioipc",
    min_size: int | None = None,
    spare: int = 0,
    max_requests: float = math.inf,
    max_memory: float = math.inf,
    max_age: float = math.inf,
    memory_limit: float = math.inf,
    scrub_environment: bool = False,
    forward_logs: bool = False,
    context_variables: Iterable[str] = (),
    lifespan: Lifespan | None = None,
    instruments: Iterable[Instrument] = (),
    concurrency: Concurrency | None = None,
    engine: Elsewhere | None = None,
) -> AsyncIterator[WorkerPool]:
    """Open a pool of workers for as long as the block lasts.

    Entering returns when the first worker is ready; others start when they are wanted. Leaving
    serves what waits and runs for ``drain_timeout``, then aborts it; if the body raised or was
    cancelled, it aborts at once. What the body raises leaves the block as itself.

    Args:
      size: The most workers there are; None for one a core that this process may use.
      modules: Modules that each worker loads, for their `operation` functions.
      kind: ``"cpu"`` for worker processes that run one function at a time, ``"io"`` for those
        that run many asynchronous ones at once, each process under one ``trio.run``; ``"thread"``
        for threads of this process.
      strategy: ``"least-busy"``, ``"round-robin"``, or a `Strategy`.
      task_timeout: Seconds that a request may run.
      queue_timeout: Seconds that it may wait before that.
      start_timeout: Seconds that a worker has to get ready; with an ``engine``, that connecting may
        take, and that requests wait where there is no worker for them.
      stall_timeout: Seconds that a function may neither write progress or a phase nor look whether
        it is cancelled; what stands still longer is ended, at the latest a fifth, or two seconds,
        after that.
      max_retries: How often an idempotent request is tried again after a crash.
      max_queue: How many requests may wait; callers beyond that wait for room first.
      max_arena_bytes: How many bytes of shared memory are kept warm for payloads. Calls that find
        no room in it get some all the same, one at a time; and as many bytes of pickled calls may
        wait. What you hold, as results or from `WorkerPool.allocate`, is yours.
      grace: Seconds for each rung of the cancel ladder.
      drain_timeout: Seconds that leaving waits for requests.
      progress_interval: Seconds between two progress values of a request.
      name: The first half of each request's id, and of what ``ps`` and ``top`` call the workers.
      min_size: How many workers are started at once and stay; more than that end when nobody has
        needed them for a minute. None to start one, and keep all that were ever needed.
      spare: How many workers are kept ready beyond those in use, so that neither one that has died
        nor one more that is wanted costs anybody a start.
      max_requests: How many requests a worker answers before another takes its place.
      max_memory: How many bytes it may hold more than when it was ready, shared memory apart,
        before another takes its place; known on Linux only.
      max_age: For how many seconds it serves, less up to a tenth by chance, before another does.
      memory_limit: How many bytes of private memory each worker process may have; what asks for
        more gets a MemoryError. At least 32 MiB; shared memory does not count. Linux only.
      scrub_environment: Whether worker processes forget their environment variables, but for
        ``HOME``, ``LANG``, ``LANGUAGE``, ``LD_LIBRARY_PATH``, ``LOGNAME``, ``PATH``,
        ``SSL_CERT_DIR``, ``SSL_CERT_FILE``, ``TMPDIR``, ``TZ``, ``USER`` and those that begin with
        ``COVERAGE_``, ``DYLD_``, ``LC_``, ``PYTHON`` or ``TRIOIPC_``. Before ``modules`` are
        loaded, but after the main module was.
      forward_logs: Whether what worker processes log is handed to the loggers of the same names
        here, with ``worker_pid`` and ``request_id`` as attributes of the record. Levels are those
        that the loggers here have when a worker starts. Logging never waits: where a worker logs
        faster than this process reads, records are dropped, and the logger ``trioipc.worker`` says
        how many.
      context_variables: Names of `contextvars.ContextVar` objects, such as ``"shop.web:tenant"``.
        Those that are set in the caller's context are set to that in the function's; their values
        are pickled with each request.
      lifespan: A function that makes a context manager, such as one decorated with
        `contextlib.contextmanager`; in workers of kind ``"io"`` it may be asynchronous. Each
        worker enters it before it is ready; its value is `CurrentRequest.state`. It is left when
        the pool is closed, or another worker takes the place, for which a process has ``grace``
        and two seconds; not by a worker that is killed or crashes, nor after this process's end.
        What it raises then is logged to ``trioipc.worker`` in the worker.
      instruments: Are told what happens to requests and workers.
      concurrency: The most requests that run at once of each function, or operation by its name;
        at least 1. Others wait, and leave their places to other functions.
      engine: What executes, if not processes or threads of this machine: a
        `trioipc.dask.DaskEngine`. Then ``size`` is how many requests are with it at a time; None is
        two for each thread that it has when the pool opens, and at least four. ``kind`` and
        ``strategy`` stay as they are, and what is of worker processes only, from ``min_size`` to
        ``lifespan``, is refused.

    Raises:
      WorkerStartError: if no worker can be started, a module not be loaded, or the lifespan not
        be entered: that raised, and is the cause, or did not end within ``start_timeout``.
      PayloadError: if ``lifespan`` cannot be pickled by name.
      ValueError, TypeError: if an argument is not as said above.

    Cancellation: entering and leaving are checkpoints; no worker outlives the block.
    """
    options = Options(
        size=(usable_cores() if engine is None else 1) if size is None else size,
        strategy=strategy,
        task_timeout=task_timeout,
        queue_timeout=queue_timeout,
        stall_timeout=stall_timeout,
        max_retries=max_retries,
        max_queue=max_queue,
        max_arena_bytes=max_arena_bytes,
        grace=grace,
        drain_timeout=drain_timeout,
        progress_interval=progress_interval,
        name=name,
        min_size=min_size,
        spare=spare,
        max_requests=max_requests,
        max_memory=max_memory,
        max_age=max_age,
        memory_limit=memory_limit,
        scrub_environment=scrub_environment,
        forward_logs=forward_logs,
        lifespan=lifespan,
        instruments=instruments,
        concurrency=concurrency,
    )
    one_of("kind", kind, KINDS)
    names = module_names(modules) + homes(options.carried)
    timeout = seconds("start_timeout", start_timeout)
    context = variables(context_variables) + variables(options.carried)
    made = (
        engine_of(kind, options, names, timeout, context)
        if engine is None
        else engine_elsewhere(engine, kind, options, names, timeout, context)
    )
    async with open_on(made, options) as pool:
        if size is None and made.natural_size is not None:
            pool._dispatcher.team.size = made.natural_size
        yield pool


@block
async def open_on(
    engine: Engine, options: Options, *, lazy: bool = False
) -> AsyncIterator[WorkerPool]:
    """Open a pool on whatever executes; see `open_worker_pool`.

    Args:
      engine: What executes.
      options: Those of the pool.
      lazy: Whether to start the first worker not before it is wanted.
    """
    pool = WorkerPool(engine, options)
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool._serve)
            try:
                if not lazy:
                    await pool._supervisor.wait_ready(1)
                yield pool
                await pool._drain()
            except BaseException as error:
                failure = error
            failure = await pool._stop() or failure
        if failure is not None:
            raise failure
    finally:
        del failure  # its traceback holds this frame
