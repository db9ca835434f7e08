"""What several test files need."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

import jobs
from trioipc import open_worker_pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from trioipc import WorkerPool


@asynccontextmanager
async def serving_pool(size: int, **options: Any) -> AsyncIterator[WorkerPool]:
    """Open a pool, and see that it serves the next request whatever the body has done to it."""
    async with open_worker_pool(size, **options) as pool:
        yield pool
        with trio.fail_after(20):
            assert await pool.run(jobs.add, 1, 2) == 3


async def wait_for_file(path: Path | str) -> None:
    """Wait until a function in a worker has left its trace."""
    with trio.fail_after(20):
        while not os.path.exists(path):
            await trio.sleep(0.001)


async def wait_until(true: Callable[[], object]) -> None:
    """Wait until something holds."""
    with trio.fail_after(20):
        while not true():
            await trio.sleep(0.001)


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that waits to be reaped does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
