"""Run a function of one's own in a worker process."""

import trio

import trioipc


def count_primes(limit: int) -> int:
    """Keep a core busy for a while."""
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, limit))


async def main() -> None:
    """Ask for two answers at once."""
    async with trioipc.open_worker_pool() as pool, trio.open_nursery() as nursery:
        for limit in (10_000, 20_000):

            async def ask(limit: int = limit) -> None:
                print(limit, await pool.run(count_primes, limit))

            nursery.start_soon(ask)


if __name__ == "__main__":  # a worker imports this file too, and must not start again from here
    trio.run(main)
