"""Count, signal and stop between a program and the functions in its workers."""

import trio

import trioipc
from trioipc import SharedCancellation, SharedCounter, SharedFlag, SharedProgress


def count_up(counter: SharedCounter, progress: SharedProgress, times: int) -> None:
    """Count from several processes at once; none is lost."""
    for _ in range(times):
        counter.increment()
        progress.increment()


def wait_for_it(flag: SharedFlag, stop: SharedCancellation) -> str | None:
    """Say that it is here, then block until somebody says stop."""
    flag.set()
    stop.wait()
    return stop.reason()


async def main() -> None:
    """Share all four kinds with two workers."""
    print("shared memory:", trioipc.is_shared_memory_available())
    async with trioipc.open_worker_pool(2) as pool:
        with SharedCounter() as counter, SharedProgress(2000) as progress:
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(pool.run, count_up, counter, progress, 1000)
            print(f"counted: {counter.get()}, {progress.get_percent():.0f} %")

        with SharedFlag() as flag, SharedCancellation() as stop:
            async with pool.open_request(wait_for_it, flag, stop) as request:
                await flag.wait_set()
                stop.cancel("that was all")
                print("stopped, since", await request.result())
    try:
        counter.get()
    except trioipc.SharedStateError as error:
        print(error)


if __name__ == "__main__":
    trio.run(main)
