"""How long a function will run, as far as that is known from earlier calls.

Source: the moving mean is the one by which TCP smooths its round trips (RFC 6298, section 2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from typing import Final

UNKNOWN: Final = 1 << 50
"""Nanoseconds, two weeks: longer than anything that one would wait for."""


@final
class Expectation:
    """What is known of one function."""

    __slots__ = ("nanoseconds",)

    def __init__(self) -> None:
        self.nanoseconds = UNKNOWN
        """Of the next call."""

    def learn(self, nanoseconds: int) -> None:
        """Take in how long a call took."""
        known = self.nanoseconds
        if known == UNKNOWN:
            self.nanoseconds = nanoseconds
        else:
            self.nanoseconds = known + (nanoseconds - known >> 3)
