"""Which engine executes what a pool is asked for: the one room that knows all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from trioipc.pool.engines._host import EXIT_SECONDS
from trioipc.pool.engines._payload import pickled_function
from trioipc.pool.engines._process_engine import ProcessEngine, refuse_nested
from trioipc.pool.engines._thread import ThreadEngine

if TYPE_CHECKING:
    from trioipc.pool._endpoint import Engine
    from trioipc.pool._options import Options
    from trioipc.worker._context import Variable

Kind: TypeAlias = Literal["cpu", "io", "thread"]
KINDS: tuple[Kind, ...] = ("cpu", "io", "thread")


def engine_of(
    kind: Kind,
    options: Options,
    modules: tuple[str, ...],
    start_timeout: float,
    context: tuple[tuple[str, Variable], ...],
) -> Engine:
    """Make the engine of a pool.

    Raises:
      WorkerStartError: if this process cannot have worker processes.
      PayloadError: if the lifespan cannot be sent to one.
    """
    if kind == "thread":
        return ThreadEngine(options.name, modules, context, options.lifespan)
    refuse_nested()
    pickled = None if options.lifespan is None else pickled_function(options.lifespan)
    return ProcessEngine(
        options.name,
        modules,
        start_timeout,
        kind,
        options.max_arena_bytes,
        options.memory_limit,
        options.scrub_environment,
        options.forward_logs,
        context,
        pickled,
        # It is given as long as a function that is asked to stop.
        EXIT_SECONDS if pickled is None else EXIT_SECONDS + options.grace,
    )
