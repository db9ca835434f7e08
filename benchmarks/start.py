"""How long it takes from opening a pool to its first answer."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median
from typing import TYPE_CHECKING

import trio

from benchmarks import work
from benchmarks.measure import Figure
from benchmarks.peers import installed

if TYPE_CHECKING:
    from benchmarks.peers import Peer

# Light: nothing is imported at its top, so a worker, which imports it again, imports nothing.
_MAIN = """
def answer():
    return 42

if __name__ == "__main__":
    import time, trio, trio_parallel, trioipc
    trioipc.open_worker_pool  # loaded on first use

    async def ours():
        async with trioipc.open_worker_pool(1) as pool:
            await pool.run(answer)
            print(time.perf_counter() - start)

    async def theirs():
        async with trio_parallel.open_worker_context() as context:
            await context.run_sync(answer, kill_on_cancel=True)
            print(time.perf_counter() - start)

    start = time.perf_counter()
    trio.run({})
"""


def _first_answer(who: str, folder: str) -> float:
    path = f"{folder}/{who}.py"
    with open(path, "w") as file:
        file.write(_MAIN.replace("{}", who))
    done = subprocess.run([sys.executable, path], check=True, capture_output=True, text=True)
    return float(done.stdout)


def figures(times: int, folder: str) -> tuple[dict[str, float], list[Figure]]:
    """Measure both in turn, each in a program of its own that imports little."""
    found: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(times):
        for who, values in found.items():
            values.append(_first_answer(who, folder))
    seconds = {who: median(values) for who, values in found.items()}
    ratio = seconds["ours"] / seconds["theirs"]
    return seconds, [Figure("first answer of a new pool, x trio_parallel", ratio, 1.1)]


def first_answers(rounds: int) -> dict[str, float]:
    """Return seconds to the first answer of each peer, in this program, which has loaded them all.

    Each time in a `trio.run` of its own, since some keep their workers from one block to the next.
    """
    found: dict[str, list[float]] = {name: [] for name in installed()}
    for _ in range(1 + rounds):
        for name, peer in installed().items():
            found[name].append(trio.run(_opened_and_asked, peer))
    return {name: median(values[1:]) for name, values in found.items()}  # the first one loads it


async def _opened_and_asked(peer: Peer) -> float:
    start = time.perf_counter()
    async with peer(1) as call:
        await call(work.nothing)
        return time.perf_counter() - start
