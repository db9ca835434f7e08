"""Search with all cores until one has found it, or time is up.

    python cancellable.py TEXT BITS SECONDS

Looks for a number which, put behind TEXT, makes a SHA-256 hash that begins with BITS zero bits.
Each worker looks at other numbers. The first that finds one sets a flag, which stops the others.
"""

from __future__ import annotations

import hashlib
import sys

import trio

import trioipc


def search(text: str, bits: int, start: int, step: int) -> int:
    """Try numbers until one fits. Alone, this would never end if there is none."""
    request = trioipc.current_request()
    limit = 1 << (256 - bits)
    number = start
    while True:
        for _ in range(1000):  # a millisecond or so
            digest = hashlib.sha256(f"{text}{number}".encode()).digest()
            if int.from_bytes(digest, "big") < limit:
                return number
            number += step
        request.progress.increment(1000)
        request.checkpoint()


async def main(text: str, bits: int, seconds: float) -> None:
    """Have them search, and say what came of it."""
    workers = trioipc.sizing.pool_size()
    tried = [0] * workers
    answers: list[int] = []

    with trioipc.SharedCancellation() as found:

        async def ask(pool: trioipc.WorkerPool, index: int) -> None:
            def count(progress: trioipc.Progress) -> None:
                tried[index] = progress.value

            try:
                number = await pool.run(
                    search, text, bits, index, workers, cancellation=found, on_progress=count
                )
            except trioipc.RequestCancelledError as error:
                print(f"worker {index} stopped: {error.reason}")
            else:
                answers.append(number)
                found.cancel("another one has found it")

        with trio.move_on_after(seconds) as scope:
            async with trioipc.open_worker_pool(workers) as pool, trio.open_nursery() as nursery:
                for index in range(workers):
                    nursery.start_soon(ask, pool, index)

    if answers:
        digest = hashlib.sha256(f"{text}{answers[0]}".encode()).hexdigest()
        print(f"{text}{answers[0]} has the hash {digest}")
    if scope.cancelled_caught:
        print(f"time was up, after {sum(tried)} numbers")


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
