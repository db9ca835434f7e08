"""What is said to whoever looks: results, complaints, and bars where there is a terminal for them.

Rules:

- Results go to the standard output and everything else to the other, so that a pipe gets results.
- Bars are drawn only where the standard error is a terminal and rich is installed; they are gone at
  the end.
- What is written to a terminal has nothing in it that would command it: a file may have any name.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

from trioipc.cli import _stdio

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trioipc.cli._bars import Bars
    from trioipc.pool.pool import Callback


def printable(text: str) -> str:
    """Return text in which what is no letter or sign is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def complain(text: str) -> None:
    """Say what is wrong, on the standard error."""
    if sys.stderr is not None:
        print(f"trioipc: {printable(text)}", file=sys.stderr, flush=True)


@final
class Screen:
    """Says things; get one from `open_screen`.

    Args:
      bars: What draws them; None for nothing.
    """

    def __init__(self, bars: Bars | None) -> None:
        self._bars = bars

    def line(self, text: str) -> None:
        """Say a result.

        Raises:
          OutputError: if it cannot be written.
        """
        if not _stdio.is_terminal(sys.stdout):
            _stdio.write_line(text)
        elif self._bars is not None:
            self._bars.print(printable(text))
        else:
            _stdio.write_line(printable(text))

    def complain(self, text: str) -> None:
        """Say what is wrong."""
        if self._bars is not None:
            self._bars.print(f"trioipc: {printable(text)}")
        else:
            complain(text)

    @contextmanager
    def task(self, index: int, name: str) -> Iterator[Callback | None]:
        """Show how far a file is, while the block lasts.

        Args:
          index: Which of the sizes that the screen was opened with is its.
          name: What it is called.

        Yields:
          What takes the progress; None if nobody looks.
        """
        if self._bars is None:
            yield None
        else:
            with self._bars.task(index, printable(name)) as callback:
                yield callback


@contextmanager
def open_screen(sizes: Sequence[int]) -> Iterator[Screen]:
    """Open a screen for work on so many things.

    Args:
      sizes: In bytes, as far as one knows.
    """
    bars = _bars_for(sizes)
    if bars is None:
        yield Screen(None)
    else:
        with bars:
            yield Screen(bars)


def _bars_for(sizes: Sequence[int]) -> Bars | None:
    if not _stdio.is_terminal(sys.stderr):
        return None
    try:
        from trioipc.cli._bars import Bars
    except ImportError:  # the extra ``cli`` is not installed
        return None
    return Bars(sizes)
