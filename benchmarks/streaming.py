"""Streams: small items, and big ones that are handed over as views."""

from __future__ import annotations

import time
from functools import cache, partial
from typing import TYPE_CHECKING

import trioipc
from benchmarks.measure import Figure, interleaved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ITEMS = 200_000
BIG = 4 << 20
BIG_ITEMS = 300
_SOURCE = 64 << 20
GIB = 1 << 30


@cache
def _source() -> memoryview:
    """Return memory that has been written to, or all of it would be one page of zeros."""
    return memoryview(bytes(range(256)) * (_SOURCE // 256))


def small(number: int) -> Iterator[int]:
    """Yield small items."""
    yield from range(number)


def pairs(number: int) -> Iterator[tuple[int, str]]:
    """Yield items that hold others."""
    for index in range(number):
        yield index, "item"


def big(number: int, size: int) -> Iterator[memoryview]:
    """Yield big items, none of which is in the cache still."""
    source = _source()
    for index in range(number):
        start = index * size % _SOURCE
        yield source[start : start + size]


async def _items_per_second(
    pool: trioipc.WorkerPool, generator: Callable[[int], Iterator[object]], buffer: int
) -> float:
    start = time.perf_counter()
    count = 0
    async with pool.stream(generator, ITEMS, buffer=buffer) as items:
        async for _ in items:
            count += 1
    return count / (time.perf_counter() - start)


async def _bytes_per_second(pool: trioipc.WorkerPool) -> float:
    start = time.perf_counter()
    size = 0
    async with pool.stream(big, BIG_ITEMS, BIG) as items:
        async for item in items:
            size += len(item)
    return size / (time.perf_counter() - start)


async def _plain_copies() -> float:
    """Say how fast this machine copies such pieces, in one process."""
    source, target = _source(), memoryview(bytearray(_SOURCE))
    start = time.perf_counter()
    for index in range(BIG_ITEMS):
        at = index * BIG % _SOURCE
        target[at : at + BIG] = source[at : at + BIG]
    return BIG_ITEMS * BIG / (time.perf_counter() - start)


async def figures(rounds: int) -> list[Figure]:
    """Measure all of it."""
    async with trioipc.open_worker_pool(1) as pool:
        found = await interleaved(
            {
                "small": partial(_items_per_second, pool, small, 8),
                "small, buffer 64": partial(_items_per_second, pool, small, 64),
                "pairs": partial(_items_per_second, pool, pairs, 8),
                "big": partial(_bytes_per_second, pool),
                "copies": _plain_copies,
            },
            rounds,
        )
    return [
        Figure("stream, small items a second", found["small"], 500_000, at_most=False),
        Figure(
            "the same, buffer 64, items a second", found["small, buffer 64"], 500_000, at_most=False
        ),
        Figure("stream, pairs a second", found["pairs"], 300_000, at_most=False),
        Figure("stream, views of 4 MiB, GiB/s", found["big"] / GIB, 5, at_most=False),
        Figure("the same, x a plain copy", found["big"] / found["copies"], 0.5, at_most=False),
    ]
