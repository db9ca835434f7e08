"""What may be said when a pool is opened or used, checked before anything happens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, final

import attrs

from trioipc.pool._instruments import Instrument, instruments_of
from trioipc.pool.scheduling._scheduler import STRATEGIES, StrategyName
from trioipc.pool.scheduling._strategy import Strategy
from trioipc.sizing import usable_cores
from trioipc.worker._context import variable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from typing import TypeAlias

    from trioipc.pool.scheduling._gate import Concurrency
    from trioipc.worker._context import Variable

    Lifespan: TypeAlias = Callable[
        [], AbstractContextManager[object] | AbstractAsyncContextManager[object]
    ]


# A worker takes 20 MiB before it does anything.
LEAST_MEMORY = 32 << 20


def seconds(name: str, value: object) -> float:
    """Return ``value``, a number of seconds >= 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not value >= 0:
        raise ValueError(f"{name} must be >= 0 seconds, not {value!r}")
    return float(value)


def count(name: str, value: object, least: int, *, finite: bool = False) -> float:
    """Return ``value``, an int of at least ``least`` or, if need not be finite, `math.inf`."""
    if value == math.inf and not finite:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int):
        what = "an int" if finite else "an int or math.inf"
        raise TypeError(f"{name} must be {what}, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be >= {least}, not {value}")
    return value


def switch(name: str, value: object) -> bool:
    """Return ``value``, a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, not {type(value).__name__}")
    return value


def one_of(name: str, value: object, choices: tuple[str, ...]) -> Any:
    """Return ``value``, one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    return value


@final
@attrs.frozen(kw_only=True)
class Options:
    """What `open_worker_pool` was given, checked; here are the defaults."""

    size: int = attrs.field(factory=usable_cores)
    strategy: StrategyName | Strategy = "least-busy"
    task_timeout: float = math.inf
    queue_timeout: float = math.inf
    stall_timeout: float = math.inf
    max_retries: int = 2
    max_queue: float = math.inf
    max_arena_bytes: float = 256 << 20
    grace: float = 1.0
    drain_timeout: float = math.inf
    progress_interval: float = 0.05
    name: str = "trioipc"
    min_size: int | None = None
    spare: int = 0
    max_requests: float = math.inf
    max_memory: float = math.inf
    max_age: float = math.inf
    memory_limit: float = math.inf
    scrub_environment: bool = False
    forward_logs: bool = False
    lifespan: Lifespan | None = None
    concurrency: Concurrency | None = None
    instruments: tuple[Instrument, ...] = attrs.field(default=(), converter=instruments_of)

    def __attrs_post_init__(self) -> None:
        count("size", self.size, 1, finite=True)
        _check_strategy(self.strategy)
        seconds("task_timeout", self.task_timeout)
        seconds("queue_timeout", self.queue_timeout)
        seconds("stall_timeout", self.stall_timeout)
        count("max_retries", self.max_retries, 0, finite=True)
        count("max_queue", self.max_queue, 0)
        count("max_arena_bytes", self.max_arena_bytes, 0)
        seconds("grace", self.grace)
        seconds("drain_timeout", self.drain_timeout)
        seconds("progress_interval", self.progress_interval)
        if self.min_size is not None and count("min_size", self.min_size, 0) > self.size:
            raise ValueError(f"min_size must be <= size, {self.size}, not {self.min_size}")
        count("spare", self.spare, 0, finite=True)
        count("max_requests", self.max_requests, 1)
        count("max_memory", self.max_memory, 0)
        seconds("max_age", self.max_age)
        count("memory_limit", self.memory_limit, LEAST_MEMORY)
        switch("scrub_environment", self.scrub_environment)
        switch("forward_logs", self.forward_logs)
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a str, not {type(self.name).__name__}")
        _check_lifespan(self.lifespan)

    @property
    def carried(self) -> tuple[str, ...]:
        """Names of the context variables that instruments want to travel."""
        return tuple(name for one in self.instruments for name in one.context_variables)


def _check_strategy(strategy: object) -> None:
    """Refuse what is neither the name of a strategy nor one."""
    if isinstance(strategy, str):
        one_of("strategy", strategy, STRATEGIES)
    elif isinstance(strategy, type):
        raise TypeError(f"strategy must be a Strategy, not the class {strategy.__name__}")
    elif not isinstance(strategy, Strategy):
        names = ", ".join(STRATEGIES)
        kind = type(strategy).__name__
        raise TypeError(f"strategy must be one of {names}, or a Strategy, not a {kind}")


def _check_lifespan(lifespan: object) -> None:
    """Refuse what makes no context manager; those of `contextlib` can be called, too."""
    is_one = not isinstance(lifespan, type) and (
        hasattr(lifespan, "__enter__") or hasattr(lifespan, "__aenter__")
    )
    if is_one or not (lifespan is None or callable(lifespan)):
        kind = type(lifespan).__name__
        raise TypeError(f"lifespan must be what makes a context manager when called, not a {kind}")


def variables(names: Iterable[str]) -> tuple[tuple[str, Variable], ...]:
    """Return context variables with their names.

    Raises:
      ValueError, TypeError: if one of them is none.
    """
    if isinstance(names, str):
        raise TypeError(f"context_variables must be an iterable of names, not the str {names!r}")
    found = []
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"context_variables must hold names, not {type(name).__name__}")
        found.append((name, variable(name)))
    return tuple(found)


def homes(names: Iterable[str]) -> tuple[str, ...]:
    """Return the modules of context variables, for workers to load when they start."""
    return tuple(name.partition(":")[0] for name in names)


_UNSET = object()


def values_of(variables: tuple[tuple[str, Variable], ...]) -> dict[str, Any]:
    """Return the values that are set here, by name."""
    values = {name: found.get(_UNSET) for name, found in variables}
    return {name: value for name, value in values.items() if value is not _UNSET}


def module_names(modules: Iterable[str]) -> tuple[str, ...]:
    """Return the names of modules; a single str would be taken for its letters."""
    if isinstance(modules, str):
        raise TypeError(f"modules must be an iterable of names, not the str {modules!r}")
    names = tuple(modules)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"modules must hold names, not {type(name).__name__}")
    return names
