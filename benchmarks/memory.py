"""What a worker takes, and what it takes to hand over a payload: all peers, one after the other.

Bytes of both processes, as `benchmarks.large.resident` counts them: without mapped files. What both
share is counted in both.
"""

from __future__ import annotations

import os
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, cast

from benchmarks import work
from benchmarks.large import highest, resident
from benchmarks.peers import installed

if TYPE_CHECKING:
    from benchmarks.peers import Peer

PAYLOAD = 64 << 20

REST = "a worker at rest"
PARENT = "the parent grows by"
WORKER = "the worker grows by"


async def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Return bytes by peer: at rest, and at most while 64 MiB of ``bytes`` are handed over."""
    payload = b"x" * PAYLOAD  # not zeros, which need no memory
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for name, peer in installed().items():
            found.setdefault(name, []).append(await _measured(peer, payload))
    return {
        name: {what: median(one[what] for one in many) for what in many[0]}
        for name, many in found.items()
    }


async def _measured(peer: Peer, payload: bytes) -> dict[str, float]:
    """Measure one that nothing has been handed to yet; a thread has no memory of its own."""
    async with peer(1) as call:
        await call(work.nothing)
        here, there = os.getpid(), cast("int", await call(work.pid))
        hand_over = partial(call, len, payload)
        if there == here:
            (parent,) = await highest(hand_over, [here])
            return {PARENT: parent}
        rest = resident(there)
        parent, worker = await highest(hand_over, [here, there])
    return {REST: rest, PARENT: parent, WORKER: worker}
