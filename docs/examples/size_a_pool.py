"""Give a pool more or fewer workers while it runs."""

import time

import trio

import trioipc
from trioipc import sizing


def work() -> None:
    """Keep a core busy for 20 ms."""
    end = time.perf_counter() + 0.02
    while time.perf_counter() < end:
        pass


async def main() -> None:
    """Start small, grow, and shrink."""
    most = max(2, sizing.pool_size("cpu"))
    async with trioipc.open_worker_pool(most, min_size=1, spare=1, max_requests=1000) as pool:
        print("at first:", "one" if len(pool.workers) <= 2 else len(pool.workers))

        async with trio.open_nursery() as nursery:
            for _ in range(10 * most):
                nursery.start_soon(pool.run, work)
        statistics = pool.statistics()
        print("all that it may have:", statistics.pool_size == most)
        print("waited longer than they ran:", statistics.queue_time.p50 > statistics.run_time.p50)

        await pool.resize(1)
        print("after resize(1), with the spare one:", len(pool.workers))


if __name__ == "__main__":
    trio.run(main)
