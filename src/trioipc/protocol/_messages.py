"""The messages that are said: frozen, plain, versioned."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs
from attrs import validators

from trioipc.protocol._codec import VERSION

if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    Channel: TypeAlias = Literal["crypto", "file", "network", "compression", "custom"]
    Priority: TypeAlias = Literal["low", "normal", "high"]

CHANNELS = ("crypto", "file", "network", "compression", "custom")
# In the order in which they are served.
PRIORITIES = ("high", "normal", "low")


def _one_of(choices: tuple[str, ...]) -> object:
    return validators.in_(choices)


@attrs.frozen(kw_only=True)
class IPCMessage:
    """What every message carries."""

    id: str = attrs.field(validator=validators.instance_of(str))
    """Its own id, unique within the sender."""

    type: str = attrs.field(validator=validators.instance_of(str))
    """The name of the operation that is asked for."""

    channel: Channel = attrs.field(default="custom", validator=validators.in_(CHANNELS))
    """The room that the operation is in."""

    payload: object = attrs.field(default=None, repr=False)
    """What it is about; not shown by ``repr``."""

    priority: Priority = attrs.field(default="normal", validator=validators.in_(PRIORITIES))
    """How urgent it is, while it waits."""

    timeout: float | None = None
    """Seconds from the send until it is given up; None for no limit of its own."""

    correlation_id: str | None = None
    """The id of the message that this one answers."""

    timestamp: float = attrs.field(factory=time.time)
    """When it was made, in seconds since the epoch; for people, never for deadlines."""

    version: int = VERSION
    """The version of the protocol."""


@attrs.frozen(kw_only=True)
class IPCRequest(IPCMessage):
    """Asks for an operation."""


@attrs.frozen(kw_only=True)
class IPCResponse(IPCMessage):
    """Ends a request."""

    ok: bool = True
    """Whether it brought a result."""

    result: object = attrs.field(default=None, repr=False)
    """What the operation returned; not shown by ``repr``."""

    error: BaseException | None = None
    """What it raised, if ``ok`` is false."""


@attrs.frozen(kw_only=True)
class IPCProgress(IPCMessage):
    """Says how far a request has come."""

    value: int = 0
    """How much is done."""

    total: int = 0
    """What ``value`` will be at the end."""

    phase: str | None = None
    """What is going on."""


@attrs.frozen(kw_only=True)
class IPCReady(IPCMessage):
    """Says that a worker can be used."""

    pid: int = 0
    """Its process id."""
