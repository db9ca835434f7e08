"""How long it takes from opening a pool to its first answer, in a program that imports little."""

from __future__ import annotations

import subprocess
import sys
from statistics import median

from benchmarks.measure import Figure

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
    """Measure both in turn, each in a process of its own."""
    found: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(times):
        for who, values in found.items():
            values.append(_first_answer(who, folder))
    seconds = {who: median(values) for who, values in found.items()}
    ratio = seconds["ours"] / seconds["theirs"]
    return seconds, [Figure("first answer of a new pool, x trio_parallel", ratio, 1.1)]
