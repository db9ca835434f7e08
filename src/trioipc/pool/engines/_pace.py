"""How much is copied before the event loop has its turn again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterator

# What is copied without a look at the clock: 0.02 ms into warm memory, 0.08 ms into fresh, and up
# to 0.8 ms where a virtual machine gets that memory from its host for the first time.
PIECE = 128 << 10

# What is not larger is copied at once.
AT_ONCE = 2 * PIECE

_TURN_NANOSECONDS = 300_000


@final
class Pace:
    """Says when those who copy owe the event loop a turn."""

    def __init__(self) -> None:
        self._since = time.perf_counter_ns()

    def is_due(self) -> bool:
        """Say whether it is time; if so, the time begins anew with the next piece."""
        if time.perf_counter_ns() - self._since < _TURN_NANOSECONDS:
            return False
        self._since = 0
        return True

    def pieces(self, length: int) -> Iterator[slice]:
        """Cut ``length`` bytes into pieces."""
        for start in range(0, length, PIECE):
            if not self._since:
                self._since = time.perf_counter_ns()
            yield slice(start, min(start + PIECE, length))
