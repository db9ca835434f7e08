"""The same work on an executor, by trio-parallel, and here."""

from concurrent.futures import ProcessPoolExecutor

import trio
import trio_parallel

import trioipc


def cube(number: int) -> int:
    """Stand for what takes long."""
    return number**3


def with_an_executor() -> int:
    """Block a thread until the answer is there."""
    with ProcessPoolExecutor(1) as executor:
        return executor.submit(cube, 3).result(timeout=60)


async def with_trio_parallel() -> int:
    """Await it; a cancel kills the worker, if it is asked to."""
    with trio.fail_after(60):
        return await trio_parallel.run_sync(cube, 3, kill_on_cancel=True)


async def with_trioipc() -> int:
    """Await it; a cancel asks first."""
    async with trioipc.open_worker_pool(1) as pool:
        with trio.fail_after(60):
            return await pool.run(cube, 3)


if __name__ == "__main__":
    print(with_an_executor(), trio.run(with_trio_parallel), trio.run(with_trioipc))
