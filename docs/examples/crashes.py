"""Have workers crash, and go on."""

import os
import signal

import trio

import trioipc
from trioipc import PoisonedRequestError, WorkerCrashedError


def crash() -> None:
    """Do what a bug in some C library does."""
    trioipc.current_request().set_phase("parsing")
    os.kill(os.getpid(), signal.SIGSEGV)


def crash_once(path: str) -> str:
    """Do it only the first time."""
    if not os.path.exists(path):
        with open(path, "w"):
            pass
        crash()
    return "done at the second try"


async def main(folder: str) -> None:
    """See what a crash is to the caller, to other callers and to the pool."""
    async with trioipc.open_worker_pool(2) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other, pool)
            try:
                await pool.run(crash)
            except WorkerCrashedError as error:
                print(f"crashed with exit code {error.exitcode} while {error.phase}")

        print(await pool.run(crash_once, os.path.join(folder, "tried"), idempotent=True))
        try:
            await pool.run(crash, idempotent=True, max_retries=1)
        except PoisonedRequestError as error:
            print(f"given up after {error.attempts} tries")
        print("still there:", await pool.run(len, "four"))
        print(pool.statistics().restarts)


async def other(pool: trioipc.WorkerPool) -> None:
    """Run beside one that crashes, on another worker."""
    await pool.run(sum, range(1000))
    print("another request went on")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        trio.run(main, folder)
