"""When a worker has served long enough, and when there are more than are needed.

Pure: numbers in, decisions out.

Rules:

- A worker that has grown too much, or is too old, goes on until its successor is ready.
- ``max_requests`` is a maximum. So its successor is started some requests earlier; where that was
  not early enough, the worker ends as soon as it holds nothing.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Literal, TypeAlias, final

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

Reason: TypeAlias = Literal["max_requests", "max_memory", "max_age"]

# A successor is asked for when an eighth of the requests is left, but not more than this many.
_EARLY: Final = 100

# Workers that started together do not all end together: up to this share of the age earlier.
_JITTER: Final = 0.1

# For so long nobody must have needed a worker before it is ended. Pulled out of the air.
IDLE_SECONDS: Final = 60.0


@final
@attrs.frozen
class Limits:
    """How long a worker may serve."""

    max_requests: float = math.inf
    max_memory: float = math.inf
    """Bytes that it may hold more than when it was ready."""
    max_age: float = math.inf
    """Seconds since it was ready."""

    def begin(
        self, now: float, memory: int | None, chance: Callable[[], float] = random.random
    ) -> Service:
        """Return the service of a worker that is ready, and holds so much memory."""
        quota = self.max_requests
        early = quota if quota == math.inf else min(max(1, quota // 8), _EARLY)
        return Service(
            quota=quota,
            notice=quota if quota == math.inf else quota - early,
            most_memory=math.inf if memory is None else memory + self.max_memory,
            until=now + self.max_age * (1 - _JITTER * chance()),
        )


@final
@attrs.define(eq=False)
class Service:
    """How long one worker may serve."""

    quota: float = math.inf
    """How many requests it may answer."""
    notice: float = math.inf
    """After how many something is to be done."""
    most_memory: float = math.inf
    until: float = math.inf
    due: Reason | None = attrs.field(default=None, init=False)
    """Why it is to be replaced."""
    # How much it had answered when it was first seen to hold too much, while it was busy.
    _heavy_since: int | None = attrs.field(default=None, init=False)

    def count(self) -> None:
        """Take in that it has answered as many requests as `notice` says."""
        self.due = self.due or "max_requests"

    def judge(self, now: float, memory: int | None, answered: int, *, busy: bool) -> None:
        """Take in the time, and how much memory it holds if anybody knows.

        What a request needs while it runs is no growth: it counts only if it is still there when
        that has been answered.
        """
        if self.due not in (None, "max_requests"):
            return
        if memory is None or memory <= self.most_memory:
            self._heavy_since = None
        elif not busy or self._heavy_since not in (None, answered):
            self.due = "max_memory"
        elif self._heavy_since is None:
            self._heavy_since = answered
        if self.due != "max_memory" and now >= self.until:
            self.due = "max_age"

    def is_over(self, answered: int) -> bool:
        """Say whether it is to be given nothing more, if somebody takes its place."""
        if self.due == "max_requests":
            return answered >= self.quota
        return self.due is not None


@final
@attrs.define(eq=False)
class Shrinking:
    """Finds out how many workers nobody has needed for a while.

    Args:
      since: The time now.
    """

    _since: float
    _peak: int = attrs.field(default=0, init=False)

    def surplus(self, now: float, held: int, workers: int, places: int, least: int) -> int:
        """Say how many workers may end.

        Args:
          now: The time.
          held: The most requests that were held at a time since this was last asked.
          workers: How many workers there are.
          places: How many requests each of them holds.
          least: How many are to be kept.
        """
        self._peak = max(self._peak, held)
        if now - self._since < IDLE_SECONDS:
            return 0
        needed = max(least, math.ceil(self._peak / places))
        self._since, self._peak = now, 0
        return max(0, workers - needed)
