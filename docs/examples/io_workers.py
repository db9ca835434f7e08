"""Run many asynchronous functions at once in one worker process."""

import os

import trio

import trioipc


async def ask(number: int) -> tuple[int, int]:
    """Stand for a question to a host that takes its time."""
    await trio.sleep(0.2)
    return number, os.getpid()


async def wait_for_ever() -> None:
    """Never end; when cancelled, end as any Trio function does."""
    try:
        await trio.sleep_forever()
    finally:
        print("closed what was open", flush=True)


async def main() -> None:
    """Have a hundred answers, and cancel what gives none."""
    answers = []
    async with trioipc.open_worker_pool(1, kind="io") as pool:

        async def run(number: int) -> None:
            answers.append(await pool.run(ask, number))

        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(run, number)
        took = trio.current_time() - start
        processes = {pid for _, pid in answers}
        print(f"{len(answers)} answers from {len(processes)} process in {took:.1f} s")

        with trio.move_on_after(0.1) as scope:
            await pool.run(wait_for_ever)
        print("cancelled:", scope.cancelled_caught)


if __name__ == "__main__":
    trio.run(main)
