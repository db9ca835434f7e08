"""Progress bars of others, in one line: what they return is an ``on_progress``.

Nothing is imported for it: they call the methods of what they are given. Both keep to what they are
told, so a bar goes back to 0 when a request is tried again after a crash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from trioipc.pool._progress import Progress

    class RichProgress(Protocol):
        """What `rich_task` needs of ``rich.progress.Progress``."""

        def add_task(self, description: str, *, total: float | None) -> Any:
            """Add a task and return its id."""

        def update(self, task_id: Any, *, total: float | None, completed: float | None) -> None:
            """Say how far it is."""

    class TqdmBar(Protocol):
        """What `tqdm_bar` needs of ``tqdm.tqdm``."""

        total: Any
        n: Any

        def update(self, n: Any = ..., /) -> Any:
            """Say by how much it has moved."""


__all__ = ["rich_task", "tqdm_bar"]


def rich_task(progress: RichProgress, description: str) -> Callable[[Progress], None]:
    """Add a task to the bars of rich, and return the ``on_progress`` that moves it.

    The bar pulses until the request has begun, since its total is known only then::

        with rich.progress.Progress() as bars:
            await pool.run(fn, on_progress=trioipc.progress.rich_task(bars, "what it does"))

    Args:
      progress: A ``rich.progress.Progress``, or what has its methods.
      description: What the bar is called.

    Returns:
      What takes a `trioipc.Progress` and returns nothing.
    """
    task = progress.add_task(description, total=None)

    def move(at: Progress) -> None:
        progress.update(task, total=at.total, completed=at.value)

    return move


def tqdm_bar(bar: TqdmBar) -> Callable[[Progress], None]:
    """Return the ``on_progress`` that moves a bar of tqdm, and gives it its total.

    tqdm draws at most ten times a second; leaving its block draws the end::

        with tqdm.tqdm(unit="B", unit_scale=True) as bar:
            await bridge.crypto.hash_file(path, on_progress=trioipc.progress.tqdm_bar(bar))

    Args:
      bar: A ``tqdm.tqdm``, or what has its ``n``, ``total`` and ``update``.

    Returns:
      What takes a `trioipc.Progress` and returns nothing.
    """

    def move(at: Progress) -> None:
        bar.total = at.total
        bar.update(at.value - bar.n)

    return move
