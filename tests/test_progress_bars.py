"""Bars of rich and tqdm, moved by requests."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
import tqdm
from rich.console import Console
from rich.progress import Progress as RichProgress

import jobs
import trioipc
from trioipc.progress import rich_task, tqdm_bar

if TYPE_CHECKING:
    from pathlib import Path


def at(value: int, total: int, attempt: int = 1) -> trioipc.Progress:
    """Be so far."""
    return trioipc.Progress(value, total, None, 1.0, attempt)


@pytest.fixture
def rich_bars() -> RichProgress:
    """Give bars that nobody sees."""
    return RichProgress(console=Console(file=io.StringIO()), auto_refresh=False)


@pytest.fixture(autouse=True)
def no_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tqdm from starting a thread that stays."""
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)


def test_a_task_of_rich(rich_bars: RichProgress) -> None:
    """It pulses before the start, follows, and goes back when a request is tried again."""
    other = rich_task(rich_bars, "other")
    move = rich_task(rich_bars, "mine [bold]")
    _, task = rich_bars.tasks
    assert (task.description, task.total, task.completed) == ("mine [bold]", None, 0)
    for value in (0, 30, 70, 20):
        assert move(at(value, 100)) is None
        assert (task.total, task.completed, task.finished) == (100, value, False)
    move(at(100, 100))
    assert task.finished
    other(at(1, 2))
    assert [task.completed for task in rich_bars.tasks] == [1, 100]


def test_a_bar_of_tqdm() -> None:
    """It follows, also back, and shows the end."""
    shown = io.StringIO()
    with tqdm.tqdm(file=shown, mininterval=0) as bar:
        move = tqdm_bar(bar)
        for value in (0, 30, 70, 20, 100):
            assert move(at(value, 100)) is None
            assert (bar.total, bar.n) == (100, value)
    assert "100/100" in shown.getvalue().splitlines()[-1]


async def test_bars_of_requests(rich_bars: RichProgress, tmp_path: Path) -> None:
    """Whatever is asked of a pool or a bridge, both end where it ends."""
    size = 3 << 20
    (tmp_path / "file").write_bytes(bytes(size))
    with tqdm.tqdm(file=io.StringIO()) as bar:
        async with trioipc.open_worker_bridge(1) as bridge:
            await bridge.crypto.hash_file(
                tmp_path / "file", on_progress=rich_task(rich_bars, "hashing")
            )
            await bridge.pool.run(jobs.count_to, 7, on_progress=tqdm_bar(bar))
    (task,) = rich_bars.tasks
    assert (task.completed, task.total) == (size, size)
    assert (bar.n, bar.total) == (7, 7)


def test_they_need_nothing() -> None:
    """Not even the libraries: what they call may be anything with those methods."""
    calls: list[tuple[object, ...]] = []

    class Own:
        n, total = 0, None

        def update(self, by: int) -> None:
            calls.append(("update", by))

    move = tqdm_bar(Own())
    move(at(2, 5))
    assert calls == [("update", 2)]
