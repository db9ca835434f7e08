"""Have functions in workers ask the pool for others."""

from concurrent.futures import ThreadPoolExecutor

import trio

import trioipc


def count_primes(start: int, stop: int) -> int:
    """Count them in a range that is small enough."""
    return sum(n > 1 and all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(start, stop))


def count_in_halves(start: int, stop: int) -> int:
    """Split what is not small enough, and have another worker do the first half."""
    if stop - start <= 5_000:
        return count_primes(start, stop)
    middle = (start + stop) // 2
    here = trioipc.current_request()
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(lambda: here.run_sync(count_in_halves, start, middle))
        second = count_in_halves(middle, stop)
        return first.result() + second


async def main() -> None:
    """Ask for one number; four pieces of work make it."""
    async with trioipc.open_worker_pool() as pool:
        with trio.fail_after(60):
            print(await pool.run(count_in_halves, 0, 20_000))
        print("requests:", pool.statistics().total_tasks_processed)


if __name__ == "__main__":
    trio.run(main)
