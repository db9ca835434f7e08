"""From one caller to many, and from small payloads to big ones: where the lines cross."""

from __future__ import annotations

import os
import time
from contextlib import AsyncExitStack
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import trio
import trio_parallel
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import trioipc
from benchmarks import work
from benchmarks.measure import interleaved, requests_per_second
from benchmarks.peers import installed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CALLERS = (1, 4, 16, 64, 256)
SIZES = tuple(1 << power for power in range(10, 31, 2))  # 1 KiB to 1 GiB
# trio-parallel sends the whole payload through a pipe: beyond this a single call takes seconds.
_PIPE_LIMIT = 64 << 20
# Of each size, so much is measured in a round, but one call at least.
_BUDGET = 0.05
_KEY, _NONCE = bytes(32), bytes(12)


async def callers(rounds: int) -> dict[str, dict[int, float]]:
    """Return empty functions in a second, by peer and number of callers; one worker each."""
    found: dict[str, dict[int, float]] = {}
    async with AsyncExitStack() as stack:
        for name, peer in installed().items():
            call = await stack.enter_async_context(peer(1))
            for _ in range(50):
                await call(work.nothing)
            found[name] = {}
            empty = partial(call, work.nothing)
            for number in CALLERS:
                found[name][number] = median(
                    [await requests_per_second(empty, number, 0.2) for _ in range(rounds)]
                )
    return found


async def sizes(rounds: int) -> dict[str, dict[int, float]]:
    """Return seconds to encrypt ``bytes`` with AES-256-GCM, by place and size."""
    found: dict[str, dict[int, float]] = {}
    async with (
        trioipc.open_worker_bridge(1) as bridge,
        trio_parallel.open_worker_context() as context,
    ):
        cipher = AESGCM(_KEY)

        async def inline(data: bytes) -> None:
            cipher.encrypt(_NONCE, data, None)

        async def thread(data: bytes) -> None:
            await trio.to_thread.run_sync(cipher.encrypt, _NONCE, data, None)

        async def process(data: bytes) -> None:
            await bridge.crypto.encrypt_file(data, _KEY, _NONCE)

        async def pipe(data: bytes) -> None:
            await context.run_sync(work.encrypt, _KEY, _NONCE, data)

        places: dict[str, Callable[[bytes], Awaitable[None]]] = {
            "in the event loop": inline,
            "trio.to_thread": thread,
            "trioipc": process,
            "trio_parallel": pipe,
        }
        for size in SIZES:
            data = os.urandom(size)
            calls = {
                name: partial(_seconds, partial(place, data))
                for name, place in places.items()
                if name != "trio_parallel" or size <= _PIPE_LIMIT
            }
            for call in calls.values():
                await call()
            for name, seconds in (await interleaved(calls, rounds)).items():
                found.setdefault(name, {})[size] = seconds
    return found


async def _seconds(call: Callable[[], Awaitable[None]]) -> float:
    times = []
    end = time.perf_counter() + _BUDGET
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        await call()
        times.append(time.perf_counter() - start)
    return median(times)


def break_even(found: dict[str, dict[int, float]], other: str, most: float = 1.0) -> int | None:
    """Return from which size on a process takes at most ``most`` times as long as ``other``."""
    ours, theirs = found["trioipc"], found[other]
    even = None
    for size in sorted(ours, reverse=True):
        if ours[size] > most * theirs[size]:
            break
        even = size
    return even
