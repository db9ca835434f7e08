"""Where an operation runs, call by call, for bridges that are told to find out.

Pure: it is told what calls have cost, and asked where the next one costs least.

- Inline, in the caller's task: nothing is cheaper for a few bytes, but the event loop stands still
  meanwhile. So only where that is known, or can be expected, to be short.
- On a thread: nothing is copied. But a thread cannot be killed, results are in fresh memory, and
  work that does not let go of the GIL holds up the event loop in turns of 5 ms.
- In a process: results are in warm memory, and everything can be killed.
"""

from __future__ import annotations

from collections import Counter, deque
from functools import partial
from typing import Literal, TypeAlias, final

import attrs

Place: TypeAlias = Literal["inline", "thread", "process"]
PLACES: tuple[Place, ...] = ("inline", "thread", "process")

# The event loop may be held this long by work of ours, in seconds: about as long as it takes to
# hand it over to a thread and have it back.
INLINE_SECONDS = 400e-6

# What is expected to be done inline in half that time before anything is known: 80 MB/s, which is
# what the slowest operations do (brotli, and the start of OpenSSL's ciphers).
_INLINE_BYTES = 16 << 10

# So often each place is tried for a size: the first calls find memory cold. The best of the last
# ones counts, since what else the machine does only ever makes calls slower.
_TRIES = 4
_KEPT = 5
# The very first one loads libraries as well: from so many on, they say something.
_SURE = 2
# A place is not even tried where its neighbours in size say that it takes so many times longer.
_HOPELESS = 3.0
# The next best is tried again now and then, for machines change: as often as that costs no more
# than this share of what the calls cost.
_SHARE_FOR_TRIES = 0.01
# A choice is not looked at again for so many calls.
_CALLS_PER_CHOICE = 32


@final
@attrs.frozen
class Choice:
    """Where a call is to run, and why there."""

    place: Place
    reason: str
    settled: bool = False
    """Whether it will stay so for a while."""
    next_best: Place | None = None
    """Where it would run otherwise, if that is known."""


@final
@attrs.define(eq=False)
class _Standing:
    """A choice that has been made, and stands for some calls."""

    place: Place
    calls_left: int


@final
@attrs.define(eq=False)
class Chooser:
    """Learns what operations cost in each place, by size in powers of two."""

    # {(operation, place, size): seconds of the last calls, from the call to its result}
    _seconds: dict[tuple[str, Place, int], deque[float]] = attrs.field(factory=dict, init=False)
    # {(operation, size): seconds since the next best was tried}
    _spent: Counter[tuple[str, int]] = attrs.field(factory=Counter, init=False)
    _standing: dict[tuple[str, int, tuple[Place, ...]], _Standing] = attrs.field(
        factory=dict, init=False
    )

    def learn(
        self, operation: str, place: Place, nbytes: int, seconds: float, calls: int = 1
    ) -> None:
        """Take note of what a call has cost.

        Args:
          operation: Its name.
          place: Where it ran.
          nbytes: How large its source was.
          seconds: From the call to its result.
          calls: For how many calls it stands, since the others were not timed.
        """
        size = nbytes.bit_length()
        known = self._seconds.get((operation, place, size))
        if known is None:
            known = self._seconds[operation, place, size] = deque(maxlen=_KEPT)
        known.append(seconds)
        self._spent[operation, size] += seconds * calls  # type: ignore[assignment] # a Counter of floats

    def place(self, operation: str, nbytes: int, places: tuple[Place, ...]) -> tuple[Place, int]:
        """Say where the next call is to run; as `choose`, but most of the time at once.

        Returns:
          The place, and for how many calls this one stands that is to be timed and learnt from;
          0 if it need not be.
        """
        key = operation, nbytes.bit_length(), places
        standing = self._standing.get(key)
        if standing is not None and standing.calls_left:
            standing.calls_left -= 1
            return standing.place, 0
        choice = self.choose(operation, nbytes, places)
        if choice.next_best is not None and self._is_due(operation, choice.next_best, key[1]):
            return choice.next_best, 1
        if choice.settled:
            self._standing[key] = _Standing(choice.place, _CALLS_PER_CHOICE)
            return choice.place, _CALLS_PER_CHOICE + 1
        return choice.place, 1

    def choose(self, operation: str, nbytes: int, places: tuple[Place, ...] = PLACES) -> Choice:
        """Say where a call is to run by what is known, and why there.

        Args:
          operation: Its name.
          nbytes: How large its source is.
          places: Where it can run at all; at least one besides ``"inline"``.
        """
        size = nbytes.bit_length()
        least = {
            place: self._least(operation, place, size)
            for place in places
            if place != "inline" or self._is_short(operation, nbytes)
        }
        known = {p: s for p in least if (s := self._best(operation, p, size)) is not None}
        best = min(known, key=lambda place: known[place], default=None)
        for place, seconds in least.items():
            hopeless = best is not None and seconds > _HOPELESS * known[best]
            if not hopeless and self._tries(operation, place, size) < _TRIES:
                return Choice(place, "to find out what it costs there")
        assert best is not None  # else there was one to try
        others = sorted((p for p in known if p != best), key=lambda place: known[place])
        reason = _compare(known, [best, *others])
        return Choice(best, reason, settled=True, next_best=others[0] if others else None)

    def _is_due(self, operation: str, place: Place, size: int) -> bool:
        """Say whether to see, now, what a call costs by now where it has cost more."""
        seconds = self._best(operation, place, size)
        if seconds is None or seconds >= _SHARE_FOR_TRIES * self._spent[operation, size]:
            return False
        self._spent[operation, size] = 0
        return True

    def _best(self, operation: str, place: Place, size: int) -> float | None:
        seconds = self._seconds.get((operation, place, size))
        return None if seconds is None else min(seconds)

    def _nearest(self, operation: str, place: Place, size: int) -> tuple[int, float] | None:
        """Return the largest size, up to this one, whose cost is sure, and that cost."""
        for smaller in range(size, -1, -1):
            if self._tries(operation, place, smaller) >= _SURE:
                return smaller, min(self._seconds[operation, place, smaller])
        return None

    def _least(self, operation: str, place: Place, size: int) -> float:
        """Say what a call costs at least: what one costs that is no larger."""
        nearest = self._nearest(operation, place, size)
        return 0.0 if nearest is None else nearest[1]

    def _is_short(self, operation: str, nbytes: int) -> bool:
        """Say whether the event loop can be held by it."""
        size = nbytes.bit_length()
        nearest = self._nearest(operation, "inline", size)
        if nearest is None:
            return nbytes <= _INLINE_BYTES
        known, seconds = nearest
        if nbytes <= _INLINE_BYTES and self._tries(operation, "inline", known) < _TRIES:
            # The first calls are the slowest, and where it is not tried nothing more is learnt.
            return seconds <= _HOPELESS * INLINE_SECONDS
        if nbytes <= _INLINE_BYTES and known < size:  # most of it may be what any call costs
            return seconds <= INLINE_SECONDS
        # What any call costs does not grow with its size.
        fixed = min(s for s in map(partial(self._best, operation, "inline"), range(known + 1)) if s)
        fixed = fixed if fixed < seconds else 0.0
        return fixed + (seconds - fixed) * (1 << size - known) <= INLINE_SECONDS

    def _tries(self, operation: str, place: Place, size: int) -> int:
        return len(self._seconds.get((operation, place, size), ()))


def _compare(known: dict[Place, float], order: list[Place]) -> str:
    return ", ".join(f"{place} {known[place] * 1e6:.0f} us" for place in order)
