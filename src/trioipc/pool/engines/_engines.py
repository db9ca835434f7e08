"""Which engine executes what a pool is asked for: the one room that knows all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import attrs

from trioipc.pool._options import Options
from trioipc.pool.engines._host import EXIT_SECONDS
from trioipc.pool.engines._payload import pickled_function
from trioipc.pool.engines._process_engine import ProcessEngine, refuse_nested
from trioipc.pool.engines._thread import ThreadEngine

if TYPE_CHECKING:
    from trioipc.pool._endpoint import Engine
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


@attrs.frozen
class Plan:
    """What a pool is like whose requests are executed elsewhere."""

    name: str
    modules: tuple[str, ...]
    start_timeout: float
    progress_interval: float
    context: tuple[tuple[str, Variable], ...]


class Elsewhere(Protocol):
    """What the ``engine`` of a pool may be."""

    def make_engine(self, plan: Plan) -> Engine:
        """Make the engine of one pool."""


# What is of worker processes of this machine only.
_OF_PROCESSES = (
    "min_size",
    "spare",
    "max_requests",
    "max_memory",
    "max_age",
    "memory_limit",
    "scrub_environment",
    "forward_logs",
    "lifespan",
)


def engine_elsewhere(
    engine: Elsewhere,
    kind: Kind,
    options: Options,
    modules: tuple[str, ...],
    start_timeout: float,
    context: tuple[tuple[str, Variable], ...],
) -> Engine:
    """Make the engine of a pool whose workers are not of this machine.

    Raises:
      TypeError: if ``engine`` is none.
      ValueError: if an option means nothing there.
    """
    if isinstance(engine, type) or not hasattr(engine, "make_engine"):
        raise TypeError(f"engine must be None or a DaskEngine(...), not {engine!r}")
    if kind != "cpu":
        raise ValueError(f"kind must be 'cpu' with an engine, not {kind!r}")
    if options.strategy != "least-busy":
        raise ValueError("strategy must be 'least-busy' with an engine, which decides that itself")
    for field in attrs.fields(Options):
        if field.name in _OF_PROCESSES and getattr(options, field.name) != field.default:
            raise ValueError(
                f"{field.name} is of worker processes here, and means nothing with an engine"
            )
    name, interval = options.name, options.progress_interval
    return engine.make_engine(Plan(name, modules, start_timeout, interval, context))
