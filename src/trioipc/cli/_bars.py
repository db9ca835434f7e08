"""Bars on a terminal, drawn by rich: one for all files, and one for each that is worked on now."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, final

from rich.console import Console, ConsoleDimensions
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column
from rich.text import Text

from trioipc.progress import rich_task

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trioipc.pool._progress import Progress as At
    from trioipc.pool.pool import Callback

# So much of a name, so that at 80 columns there is a bar as well.
_NAME_WIDTH = 22
# Below this, there are no numbers but the percentage and the time left.
_WIDE = 72


def _columns(width: int) -> list[ProgressColumn]:
    """Return what stands in a line, on a terminal of that width; all of it stays in one line."""
    narrow = width < _WIDE
    name_width = _NAME_WIDTH // 2 if narrow else _NAME_WIDTH
    numbers = [DownloadColumn(table_column=_column()), TransferSpeedColumn(table_column=_column())]
    return [
        TextColumn("{task.description}", markup=False, table_column=_column(width=name_width)),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        TaskProgressColumn(table_column=_column()),
        *([] if narrow else numbers),
        TimeRemainingColumn(compact=True, table_column=_column()),
    ]


def _column(width: int | None = None) -> Column:
    return Column(width=width, no_wrap=True, overflow="ellipsis")


class _Console(Console):
    """Leaves room for the ``^C`` that a terminal echoes, which would make a full line two lines.

    What stands in two lines where one was written is not erased.
    """

    @property  # type: ignore[misc] # nobody sets it
    def size(self) -> ConsoleDimensions:
        full = super().size
        return full._replace(width=max(1, full.width - len("^C")))


@final
class Bars:
    """Draws while its block lasts.

    Args:
      sizes: How large each thing is that is worked on; one that turns out to be larger is taken so.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        console = _Console(stderr=True)
        self._progress = Progress(
            *_columns(console.width),
            console=console,
            expand=True,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._totals = list(sizes)
        self._values = [0 for _ in sizes]
        self._whole = None
        if len(sizes) > 1:
            self._whole = self._progress.add_task(f"{len(sizes)} files", total=sum(sizes))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def print(self, text: str) -> None:
        """Write a line above the bars."""
        self._progress.console.print(Text(text), soft_wrap=True)

    @contextmanager
    def task(self, index: int, name: str) -> Iterator[Callback]:
        """Have a bar of that name while the block lasts."""
        move = rich_task(self._progress, name)
        task = self._progress.task_ids[-1]

        def advance(at: At) -> None:
            move(at)
            self._values[index], self._totals[index] = at.value, at.total
            self._move_whole()

        try:
            yield advance
        except Exception:
            self._end(index)  # if it was cancelled, it is not at its end
            raise
        else:
            self._end(index)
        finally:
            self._progress.remove_task(task)

    def _end(self, index: int) -> None:
        """Take one that is done or has failed for something that is not to be waited for."""
        self._values[index] = self._totals[index]
        self._move_whole()

    def _move_whole(self) -> None:
        if self._whole is not None:
            self._progress.update(self._whole, completed=sum(self._values), total=sum(self._totals))
