"""What 1 GiB costs: gaps of the parent's event loop, memory, and time from path to path."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import trio
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import trioipc
from benchmarks.measure import Figure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SIZE = 1 << 30
STEP = 1 << 20
MIB = 1 << 20
_KEY, _NONCE = bytes(32), bytes(12)


async def _longest_gap(work: Callable[[], Awaitable[object]]) -> float:
    """Return the longest time between two ticks of 1 ms while something goes on, in seconds."""
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        before = time.perf_counter()
        while True:
            await trio.sleep(0.001)
            now = time.perf_counter()
            longest, before = max(longest, now - before), now

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        await trio.sleep(0.01)
        longest = 0.0
        await work()
        nursery.cancel_scope.cancel()
    return longest


def resident(pid: int, fields: tuple[str, ...] = ("RssAnon", "RssShmem")) -> int:
    """Return how many bytes of memory a process has, without those of mapped files."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.split(":")[0] in fields)


async def highest(work: Callable[[], Awaitable[object]], pids: list[int]) -> list[int]:
    """Return by how many bytes processes grow at most while something goes on."""
    before = [resident(pid) for pid in pids]
    highest = [*before]

    async def look() -> None:
        while True:
            for index, pid in enumerate(pids):
                highest[index] = max(highest[index], resident(pid))
            await trio.sleep(0.005)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await work()
        nursery.cancel_scope.cancel()
    return [most - least for most, least in zip(highest, before, strict=True)]


def _plain(source: str, destination: str) -> None:
    """Encrypt a file as one would without us."""
    encryptor = Cipher(algorithms.AES(_KEY), modes.GCM(_NONCE)).encryptor()
    inside, outside = memoryview(bytearray(STEP)), memoryview(bytearray(STEP))
    with open(source, "rb", buffering=0) as reader, open(destination, "wb", buffering=0) as writer:
        while count := reader.readinto(inside):
            encryptor.update_into(inside[:count], outside)
            writer.write(outside[:count])
        encryptor.finalize()
        writer.write(encryptor.tag)


def _write(path: str) -> None:
    with open(path, "wb") as file:
        file.writelines(bytes(MIB) for _ in range(SIZE // MIB))


async def figures(rounds: int, folder: str) -> list[Figure]:
    """Measure all of it; ``folder`` must have room for 3 GiB."""
    payload = bytes(MIB) * (SIZE // MIB)
    async with trioipc.open_worker_bridge(1) as bridge:
        await bridge.crypto.hash_file(b"the first call")
        pid = bridge.pool.workers[0].pid
        assert pid is not None
        here = os.getpid()
        with_payload = partial(bridge.crypto.hash_file, payload)
        without = partial(bridge.pool.run, time.sleep, 0.7)
        hashing = min([await _longest_gap(with_payload) for _ in range(3)])
        resting = min([await _longest_gap(without) for _ in range(3)])
        grown = await highest(with_payload, [here])

        async def encrypt() -> None:
            await bridge.crypto.encrypt_file(payload, _KEY, _NONCE)

        encrypting = min([await _longest_gap(encrypt) for _ in range(3)])
        paths = await _path_figures(bridge, rounds, folder, [here, pid])
    return [
        Figure(
            "1 ms ticker while 1 GiB is hashed, ms above one without payload",
            (hashing - resting) * 1000,
            5,
        ),
        Figure(
            "1 ms ticker while 1 GiB is encrypted, ms above one without payload",
            (encrypting - resting) * 1000,
            5,
        ),
        Figure("the parent grows while it hands over 1 GiB, MiB", grown[0] / MIB, 16),
        *paths,
    ]


async def _path_figures(
    bridge: trioipc.WorkerBridge, rounds: int, folder: str, pids: list[int]
) -> list[Figure]:
    source, destination = f"{folder}/source", f"{folder}/destination"
    await trio.to_thread.run_sync(_write, source)
    ours = partial(bridge.crypto.encrypt_file, source, _KEY, _NONCE, destination=destination)
    plain = partial(trio.to_thread.run_sync, _plain, source, destination)
    await ours()
    here, there = await highest(ours, pids)
    ratios = []
    for _ in range(rounds):
        times = []
        for way in (plain, ours):
            # Else ours, which keeps the old file until the new one is complete, would need fresh
            # memory for it, while the plain loop gets back what it has just freed.
            os.unlink(destination)
            start = time.perf_counter()
            await way()
            times.append(time.perf_counter() - start)
        ratios.append(times[0] / times[1])
    return [
        Figure("path to path, 1 GiB: the parent grows, MiB", here / MIB, 16),
        Figure("path to path, 1 GiB: the worker grows, MiB", there / MIB, 16),
        Figure("path to path, 1 GiB, x a plain loop", median(ratios), 0.9, at_most=False),
    ]
