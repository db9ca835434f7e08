"""Whether a worker that lives is still of any use.

Pure: a tick tells what it has seen and how long ago the last one was, and hears what is wrong.

Rules:

- Time counts only while this process was there to see it. A tick that came late, since the machine
  was suspended or we were stopped or busy, begins anew: what it finds stopped may soon go on.
- A worker that runs a request is never silent, however long that takes and whether or not its C
  code holds the GIL: a request may have clocks for that.
- A worker that a debugger holds is left to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs

if TYPE_CHECKING:
    from typing import Final, Literal

    from trioipc.pool._endpoint import Vitals

TICK_SECONDS: Final = 1.0
"""How often workers are looked at: one wake-up per second and pool, 20 us for each worker."""

# A tick that comes later than this has missed something.
_LATE: Final = 1.5 * TICK_SECONDS

# Two ticks that see it are enough, in a row and both in time.
_STOPPED_SECONDS: Final = 0.9 * TICK_SECONDS

# Loading a function may take as long as starting a worker may, whose limit this is; and while it
# does, it hardly ever uses no processor at all.
_SILENT_SECONDS: Final = 30.0


def counted(elapsed: float) -> float:
    """Return what counts of the seconds since the last tick: 0.0 if this one is late."""
    return elapsed if elapsed < _LATE else 0.0


@final
@attrs.define(eq=False)
class Pulse:
    """What the ticks have seen of one worker."""

    _stopped: float | None = attrs.field(default=None, init=False)
    _silent: float | None = attrs.field(default=None, init=False)
    _processor_time: int = attrs.field(default=-1, init=False)

    def feel(
        self, vitals: Vitals, elapsed: float, *, owes: bool
    ) -> Literal["stopped", "silent"] | None:
        """Say what is wrong with the worker, if anything.

        Args:
          vitals: How its process is now.
          elapsed: What counts of the seconds since the last tick.
          owes: Whether it holds requests, and has begun none of them.
        """
        self._stopped = _longer(self._stopped, vitals.state == "stopped", elapsed)
        stands_still = vitals.processor_time == self._processor_time
        self._processor_time = vitals.processor_time
        is_silent = owes and stands_still and vitals.state == "sleeping"
        self._silent = _longer(self._silent, is_silent, elapsed)
        if self._stopped is not None and self._stopped >= _STOPPED_SECONDS:
            return "stopped"
        if self._silent is not None and self._silent >= _SILENT_SECONDS:
            return "silent"
        return None


def _longer(seconds: float | None, is_so: bool, elapsed: float) -> float | None:
    """Say for how long something has been so; None if it is not."""
    if not is_so:
        return None
    return 0.0 if seconds is None or not elapsed else seconds + elapsed
