"""How fast 64 MiB get to a worker, through its work and back, beside doing it without one."""

from __future__ import annotations

import hashlib
import os
import time
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import trio
import trio_parallel
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import trioipc
from benchmarks import work
from benchmarks.measure import Figure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SIZE = 64 << 20
STEP = 1 << 20
_KEY, _NONCE = bytes(32), bytes(12)


async def _rates(ways: dict[str, Callable[[], Awaitable[object]]], rounds: int) -> dict[str, float]:
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            await way()
            found[name].append(SIZE / (time.perf_counter() - start))
    return {name: median(values) for name, values in found.items()}


async def measure(rounds: int) -> dict[str, float]:
    """Measure all ways side by side; return bytes per second."""
    source = os.urandom(SIZE)
    warm_source, warm_target = bytearray(source), memoryview(bytearray(SIZE + 32))

    async def in_place() -> None:
        encryptor = Cipher(algorithms.AES(_KEY), modes.GCM(_NONCE)).encryptor()
        view = memoryview(warm_source)
        for start in range(0, SIZE, STEP):
            encryptor.update_into(view[start : start + STEP], warm_target[start:])
        encryptor.finalize()

    async def hash_here() -> None:
        hashlib.sha256(source).hexdigest()

    async with (
        trioipc.open_worker_bridge(1) as bridge,
        trio_parallel.open_worker_context() as context,
    ):
        arena = bridge.pool.allocate(SIZE)
        arena[:] = source
        encrypt = partial(bridge.crypto.encrypt_file, key=_KEY, nonce=_NONCE)
        ways: dict[str, Callable[[], Awaitable[object]]] = {
            "encrypt in place, in this process": in_place,
            "encrypt_file, bytes": partial(encrypt, source),
            "encrypt_file, arena memory": partial(encrypt, arena),
            "to_thread(AESGCM.encrypt)": partial(
                trio.to_thread.run_sync, AESGCM(_KEY).encrypt, _NONCE, source, None
            ),
            "trio_parallel(AESGCM.encrypt)": partial(
                context.run_sync, work.encrypt, _KEY, _NONCE, source
            ),
            "SHA-256 in this process": hash_here,
            "hash_file, bytes": partial(bridge.crypto.hash_file, source),
        }
        await _rates(ways, 2)
        return await _rates(ways, rounds)


def figures(rates: dict[str, float]) -> list[Figure]:
    """Compare with what must be reached."""
    limit = rates["encrypt in place, in this process"]
    ours = rates["encrypt_file, bytes"]
    return [
        Figure("encrypt 64 MiB of bytes, x in place", ours / limit, 0.8, at_most=False),
        Figure(
            "encrypt 64 MiB of arena memory, x in place",
            rates["encrypt_file, arena memory"] / limit,
            0.85,
            at_most=False,
        ),
        Figure(
            "encrypt 64 MiB of bytes, x to_thread",
            ours / rates["to_thread(AESGCM.encrypt)"],
            5,
            at_most=False,
        ),
        Figure(
            "encrypt 64 MiB of bytes, x trio_parallel",
            ours / rates["trio_parallel(AESGCM.encrypt)"],
            80,
            at_most=False,
        ),
        Figure(
            "SHA-256 of 64 MiB of bytes, x in this process",
            rates["hash_file, bytes"] / rates["SHA-256 in this process"],
            0.95,
            at_most=False,
        ),
    ]
