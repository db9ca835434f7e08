"""When to start the next worker after some came to nothing.

Pure: the time is an argument. Two kinds of worker come to nothing: one that fails to start, and one
that was ready and died by itself before it began anything. A worker that dies of a request is
neither: its caller hears of that, and others are none the worse.

Rules:

- What fails to start is tried again, for it may be the machine that is short of something, but less
  and less often: each try costs a process.
- After `_FAILURES` failed starts in a row, or a budget of useless deaths, the circuit is open:
  nothing is started until the pause is over, and who has no worker hears so at once. Then it is
  half open: one worker is tried. One that is ready closes it again, or one that began something, if
  they died of themselves.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias, final

import attrs

if TYPE_CHECKING:
    from typing import Final

CircuitState: TypeAlias = Literal["closed", "open", "half-open"]

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 10.0

# Pulled out of the air: by then the pauses have lasted 3 seconds together.
_FAILURES: Final = 5

# Likewise: somebody who ends idle workers on purpose does not end this many before one is used.
_BUDGET: Final = 10


@final
@attrs.define(eq=False)
class Breaker:
    """Counts what came to nothing."""

    # In a row.
    failures: int = attrs.field(default=0, init=False)
    useless: int = attrs.field(default=0, init=False)
    _pause: float = attrs.field(default=0.0, init=False)
    _until: float = attrs.field(default=-math.inf, init=False)
    wasted_at: float = attrs.field(default=-math.inf, init=False)
    """When a worker last died to no purpose: one that is younger may prove that others need not."""

    def failed(self, now: float) -> None:
        """Note that a start has failed."""
        self.failures += 1
        self._wait_longer(now)

    def wasted(self, now: float) -> None:
        """Note that a worker has died by itself before it began anything."""
        self.useless += 1
        self.wasted_at = now
        if self.useless > _BUDGET:
            self._wait_longer(now)

    def _wait_longer(self, now: float) -> None:
        self._pause = min(max(_FIRST_PAUSE, 2 * self._pause), _LONGEST_PAUSE)
        self._until = now + self._pause

    def ready(self) -> None:
        """Note that a worker is ready."""
        self.failures = 0
        if self.useless <= _BUDGET:
            self._close()

    def proved(self) -> None:
        """Note that a worker has begun something."""
        self.useless = 0
        if not self.failures:
            self._close()

    def _close(self) -> None:
        self._pause, self._until = 0.0, -math.inf

    def pause(self, now: float) -> float:
        """Say for how many seconds nothing is to be started."""
        return max(0.0, self._until - now)

    def state(self, now: float) -> CircuitState:
        """Say whether workers can be started."""
        if self.failures < _FAILURES and self.useless <= _BUDGET:
            return "closed"
        return "open" if now < self._until else "half-open"
