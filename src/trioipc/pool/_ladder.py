"""The cancel ladder: which rung comes when.

The word, the interrupt, the kill. The first two are given ``grace`` seconds each. Pure: the time is
an argument, and the answer says what to do.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeAlias, final

import attrs

if TYPE_CHECKING:
    from typing import Final

Step: TypeAlias = Literal["wait", "interrupt", "kill"]

# A function that has not looked at its cancel word by now will hardly do so soon. With this,
# move_on_after(0.1) around time.sleep(10) gives control back well within 0.3 s.
NEVER_LOOKED_SECONDS: Final = 0.05

# A raise is lost in a __del__, in a gc callback, in code that swallows it: so signal again.
INTERRUPT_INTERVAL: Final = 0.02

# A killed process is gone within milliseconds; one that is being dumped or stuck in the kernel
# may take longer, and killing it again does no harm.
KILL_INTERVAL: Final = 1.0


@final
@attrs.define(eq=False)
class Ladder:
    """One request's way down.

    Args:
      grace: Seconds for each rung, >= 0; 0 kills at once.
      now: When the cancel word was set.
    """

    _grace: float
    _until: float = attrs.field(init=False)
    _rung: Literal["word", "interrupt", "kill"] = attrs.field(default="word", init=False)
    due: float = attrs.field(init=False)
    """When to climb next."""
    began: float = attrs.field(init=False)
    """When the cancel word was set."""

    @classmethod
    def begin(cls, grace: float, now: float) -> Ladder:
        """Start at the first rung."""
        ladder = cls(grace)
        ladder.began = now
        ladder._until = now + grace
        ladder.due = now + min(grace, NEVER_LOOKED_SECONDS)
        return ladder

    def climb(self, now: float, *, looked: bool) -> Step:
        """Say what to do now, and set when to ask again.

        Args:
          now: The time; asking before it is due is fine.
          looked: Whether the function has ever passed a checkpoint.
        """
        if now < self.due:
            return "wait"
        if self._rung == "word" and self._grace > 0:
            return self._leave_word(now, looked=looked)
        if self._rung == "interrupt" and now < self._until:
            self.due = min(now + INTERRUPT_INTERVAL, self._until)
            return "interrupt"
        self._rung = "kill"
        self.due = now + KILL_INTERVAL
        return "kill"

    def _leave_word(self, now: float, *, looked: bool) -> Step:
        if looked and now < self._until:
            self.due = self._until
            return "wait"
        self._rung = "interrupt"
        self._until = now + self._grace
        self.due = min(now + INTERRUPT_INTERVAL, self._until)
        return "interrupt"

    def stay(self) -> None:
        """Climb no further: this kind of worker has no more rungs."""
        self.due = math.inf

    @property
    def rung(self) -> Literal["checkpoint", "interrupt", "kill"]:
        """The rung it is on, as errors call it."""
        return "checkpoint" if self._rung == "word" else self._rung
