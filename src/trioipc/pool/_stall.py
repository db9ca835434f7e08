"""The stall clock: how long a function has neither made progress nor passed a checkpoint.

Pure: the time is an argument.
"""

from __future__ import annotations

from typing import final

import attrs


@final
@attrs.define(eq=False)
class StallClock:
    """One try's clock; it begins when the function does.

    What it measures is exact to a fifth, or to two seconds, if that is less; it is never early.
    Time in which nobody looked, since this process was stopped, counts as two looks at most: the
    function may have been stopped as well.

    Args:
      limit: Seconds of standstill, >= 0.
    """

    _limit: float
    _mark: object = attrs.field(default=None, init=False)
    _looked_at: float = attrs.field(default=0.0, init=False)
    _still: float = attrs.field(default=0.0, init=False)

    @property
    def period(self) -> float:
        """How often to look, in seconds."""
        return min(max(self._limit / 10, 0.01), 1.0)

    def is_up(self, now: float, mark: object) -> bool:
        """Say whether the function has stood still for too long.

        Args:
          now: The time.
          mark: What changes whenever it moves.
        """
        if mark == self._mark:
            self._still += min(now - self._looked_at, 2 * self.period)
        else:
            self._mark, self._still = mark, 0.0
        self._looked_at = now
        return self._still >= self._limit
