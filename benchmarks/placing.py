"""What ``placement="auto"`` costs beside the best place, over a sweep of sizes."""

from __future__ import annotations

import os
import time
from contextlib import AsyncExitStack
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import trioipc
from benchmarks.measure import Figure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SIZES = [16 << 2 * step for step in range(12)]  # 16 bytes to 64 MiB
WARM_UP = 20


async def _best_of(call: Callable[[], Awaitable[object]], budget: float) -> float:
    times = []
    end = time.perf_counter() + budget
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 200):
        start = time.perf_counter()
        await call()
        times.append(time.perf_counter() - start)
    return median(times)


class _Inline:
    """Chooses the caller's task for every call that can run there."""

    def place(self, operation: str, nbytes: int, places: tuple[str, ...]) -> tuple[str, int]:
        return places[0], 0


async def sweep(rounds: int) -> dict[int, dict[str, float]]:
    """Measure SHA-256 in each place and where it is put; return seconds by size and place."""
    found: dict[int, dict[str, list[float]]] = {}
    async with AsyncExitStack() as stack:
        bridges = {
            placement: await stack.enter_async_context(
                trioipc.open_worker_bridge(1, placement=placement)  # type: ignore[arg-type]
            )
            for placement in ("process", "thread", "auto")
        }

        # No option puts all calls inline, so that they are told to be, size for size.
        inline = await stack.enter_async_context(trioipc.open_worker_bridge(1, placement="auto"))
        inline._home._chooser = _Inline()  # type: ignore[attr-defined]

        for size in SIZES:
            data = os.urandom(size)
            calls: dict[str, Callable[[], Awaitable[object]]] = {
                name: partial(bridge.crypto.hash_file, data) for name, bridge in bridges.items()
            }
            calls["inline"] = partial(inline.crypto.hash_file, data)
            for _ in range(WARM_UP):
                await calls["auto"]()
            for call in calls.values():
                await call()
            rows = found[size] = {name: [] for name in calls}
            for _ in range(rounds):
                for name, call in calls.items():
                    rows[name].append(await _best_of(call, 0.02))
    return {
        size: {name: median(times) for name, times in rows.items()} for size, rows in found.items()
    }


def figures(rows: dict[int, dict[str, float]]) -> list[Figure]:
    """Compare with the best place of each size; inline is one only where it is short."""
    ratios = []
    best_sum = auto_sum = 0.0
    for places in rows.values():
        fair = [places["process"], places["thread"]]
        if places["inline"] <= 200e-6:  # the event loop is never held longer
            fair.append(places["inline"])
        best_sum += min(fair)
        auto_sum += places["auto"]
        ratios.append(places["auto"] / min(fair))
    return [
        Figure("placement auto over 16 bytes to 64 MiB, x the best", auto_sum / best_sum, 1.1),
        Figure("placement auto at its worst size, x the best", max(ratios), 1.3),
    ]
