"""What a second worker is worth to gzip, and what memory 1 GiB takes on its way through."""

from __future__ import annotations

import os
import sysconfig
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import trio

import trioipc
from benchmarks.large import MIB, highest
from benchmarks.measure import Figure

if TYPE_CHECKING:
    from trioipc import WorkerBridge

_SIZE = 64 * MIB


def text(size: int = _SIZE) -> bytes:
    """Return the sources of the standard library, as often as it takes."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    sources = b"".join(path.read_bytes() for path in sorted(folder.rglob("*.py"))[:4000])
    return (sources * (size // len(sources) + 1))[:size]


def _write(path: str, data: bytes, times: int) -> None:
    with open(path, "wb") as file:
        file.writelines(data for _ in range(times))


async def figures(rounds: int, folder: str) -> list[Figure]:
    """Compare, and watch; ``folder`` must have room for 2 GiB."""
    data = text()
    async with trioipc.open_worker_bridge(2) as bridge:
        await bridge.pool.warm()
        gzip = bridge.compression.compress_data
        for parallel in (True, False):
            await gzip(data[: 8 * MIB], parallel=parallel)
        times: dict[bool, list[float]] = {True: [], False: []}
        sizes = {}
        for _ in range(rounds):
            for parallel, found in times.items():
                start = time.perf_counter()
                sizes[parallel] = len(await gzip(data, parallel=parallel))
                found.append(time.perf_counter() - start)
        grown = await _grown(bridge, data, folder)
    return [
        Figure(
            "gzip of 64 MiB of text, two workers, x one",
            median(times[False]) / median(times[True]),
            1.7,
            at_most=False,
        ),
        Figure(
            "its size, per cent more than with one", (sizes[True] / sizes[False] - 1) * 100, 0.5
        ),
        *grown,
    ]


async def _grown(bridge: WorkerBridge, data: bytes, folder: str) -> list[Figure]:
    """Watch the memory of this process and of the workers."""
    source, destination = f"{folder}/text", f"{folder}/text.gz"
    await trio.to_thread.run_sync(_write, source, data, (1 << 30) // len(data))
    pids = [os.getpid(), *(w.pid for w in bridge.pool.workers if w.pid is not None)]

    async def hash_it() -> None:
        await bridge.crypto.hash_file(source)

    async def compress_it() -> None:
        await bridge.compression.compress_data(source, level=1, destination=destination)

    found = []
    for what, work in (("hashed", hash_it), ("compressed", compress_it)):
        for _ in pids[1:]:
            await work()
        grown = await highest(work, pids)
        found += [
            Figure(f"1 GiB from a path {what}: the parent grows, MiB", grown[0] / MIB, 16),
            Figure(f"1 GiB from a path {what}: a worker grows, MiB", max(grown[1:]) / MIB, 16),
        ]
    return found
