"""A worker as the pool knows it, whatever it is made of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, final

import attrs

from trioipc.pool._statistics import WorkerInfo
from trioipc.pool.team._health import Pulse
from trioipc.pool.team._recycling import Service
from trioipc.protocol._lifecycle import WORKER

if TYPE_CHECKING:
    from trioipc.pool._endpoint import Endpoint
    from trioipc.pool._statistics import RequestTimes
    from trioipc.protocol._lifecycle import WorkerEvent, WorkerState


class Named(Protocol):
    """What a worker must know of a request."""

    @property
    def id(self) -> str:
        """Its name."""


R = TypeVar("R", bound=Named)


@final
@attrs.define(eq=False, repr=False)
class Worker(Generic[R]):
    """A worker as the pool knows it."""

    endpoint: Endpoint
    state: WorkerState = attrs.field(default="starting", init=False)
    # In the order in which it gets them; the first one runs. {generation: request}
    held: dict[int, R] = attrs.field(factory=dict, init=False)
    # Of those that were taken back before they began, and are yet to be skipped. {generation: slot}
    recalled: dict[int, int] = attrs.field(factory=dict, init=False)
    # The generation of what was first when last it was looked whether others can help.
    seen: int | None = attrs.field(default=None, init=False)
    slots: list[int] = attrs.field(factory=list, init=False)
    answered: int = attrs.field(default=0, init=False)
    started: float | None = attrs.field(default=None, init=False)
    # After how many answers its service is to be looked at.
    notice: float = attrs.field(default=math.inf, init=False)
    service: Service = attrs.field(factory=Service, init=False)
    pulse: Pulse = attrs.field(factory=Pulse, init=False)
    # Why it is leaving, for the statistics.
    reason: str | None = attrs.field(default=None, init=False)

    def __repr__(self) -> str:
        return f"<Worker: pid {self.endpoint.pid}, {self.state}, {len(self.held)} requests>"

    def step(self, event: WorkerEvent) -> None:
        """Move along the life cycle."""
        self.state = WORKER[self.state][event]

    def first(self) -> R | None:
        """Return the request that it runs, or will next."""
        return next(iter(self.held.values()), None)

    def info(self, times: RequestTimes | None = None) -> WorkerInfo:
        """Describe it."""
        oldest = self.first()
        return WorkerInfo(
            pid=self.endpoint.pid,
            state=self.state,
            request_id=None if oldest is None else oldest.id,
            requests=self.answered,
            started=self.started,
            times=times,
        )
