"""Which engine executes what a pool is asked for: the one room that knows all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from trioipc.pool._process_engine import ProcessEngine, refuse_nested
from trioipc.pool._thread import ThreadEngine

if TYPE_CHECKING:
    from contextvars import ContextVar
    from typing import Any

    from trioipc.pool._endpoint import Engine
    from trioipc.pool._options import Options

Kind: TypeAlias = Literal["cpu", "io", "thread"]
KINDS: tuple[Kind, ...] = ("cpu", "io", "thread")


def engine_of(
    kind: Kind,
    options: Options,
    modules: tuple[str, ...],
    start_timeout: float,
    context: tuple[tuple[str, ContextVar[Any]], ...],
) -> Engine:
    """Make the engine of a pool.

    Raises:
      WorkerStartError: if this process cannot have worker processes.
    """
    if kind == "thread":
        return ThreadEngine(options.name, modules, context)
    refuse_nested()
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
    )
