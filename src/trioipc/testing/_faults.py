"""What may go wrong with a request on purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, final

import attrs

from trioipc.pool._options import seconds

if TYPE_CHECKING:
    from collections.abc import Callable


def _seconds(_: object, attribute: attrs.Attribute[float], value: object) -> None:
    seconds(attribute.name, value)


@final
@attrs.frozen
class Crash:
    """Its worker dies while it runs, as from a signal or ``os._exit``."""

    exitcode: int = -11
    """Negative for signals; by default that of a segmentation fault."""

    after: float = attrs.field(default=0.0, validator=_seconds)
    """How many seconds it has run by then."""


@final
@attrs.frozen
class Hang:
    """It never ends, nor looks, nor can be interrupted, as deep in C code: a kill ends it."""


@final
@attrs.frozen
class Stop:
    """Its worker's process is stopped, as by SIGSTOP, until somebody notices and kills it."""


@final
@attrs.frozen
class Delay:
    """It takes so long before its function is called."""

    seconds: float = attrs.field(validator=_seconds)
    """How many seconds, all of them part of the run."""


# What plays the part of a function.
Part: TypeAlias = "Crash | Hang | Stop | Delay | Callable[..., object]"
