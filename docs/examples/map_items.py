"""Many items: in their order, some of which fail, and without end."""

import itertools

import trio

import trioipc
from trioipc import Progress


def collatz(number: int) -> int:
    """Return after how many steps a number comes to 1."""
    steps = 0
    while number != 1:
        number = number // 2 if number % 2 == 0 else 3 * number + 1
        steps += 1
    return steps


def parse(text: str) -> int:
    """Return the number that is written there."""
    return int(text)


def factor(number: int) -> tuple[int, int]:
    """Return a number with its smallest factor."""
    return number, next(n for n in itertools.count(2) if number % n == 0 or n * n > number)


def tell(progress: Progress) -> None:
    """Say when all of it is done."""
    if progress.value == progress.total:
        print(f"all {progress.total} are done")


async def main() -> None:
    """Do all of that."""
    async with trioipc.open_worker_pool(2) as pool:
        numbers = range(1, 30_000)
        longest = 0
        async with pool.map(collatz, numbers, on_progress=tell) as results:
            async for steps in results:
                longest = max(longest, steps)
        print("at most", longest, "steps")

        texts = ["17", "four", "21"]
        async with pool.map(parse, texts, on_error="collect") as results:
            async for found in results:
                print("parsed" if isinstance(found, int) else "failed:", found)

        async with pool.map(factor, itertools.count(10**9), max_pending=200) as results:
            async for number, smallest in results:
                if smallest * smallest > number:
                    print(number, "is prime")
                    break


if __name__ == "__main__":
    trio.run(main)
