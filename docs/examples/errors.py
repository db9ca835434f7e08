"""See what a call raises, and tell whose fault it was."""

import gzip
import os
import sys
from collections.abc import Awaitable, Callable

import trio

import trioipc


def divide(number: int) -> float:
    """Raise what a function raises."""
    return 1 / number


async def try_it(what: str, call: Callable[..., Awaitable[object]], *arguments: object) -> None:
    """Say what comes of a call."""
    try:
        await call(*arguments)
    except trioipc.WorkerCrashedError as error:
        print(f"{what}: {type(error).__name__}, exit code {error.exitcode}")
    except trioipc.DataError as error:  # which is a ValueError, too
        print(f"{what}: {type(error).__name__}, so the data is to blame")
    except trioipc.IPCError as error:  # all others of trioipc's
        print(f"{what}: {type(error).__name__}")
    except Exception as error:  # the function's own, as itself
        print(f"{what}: {type(error).__name__}, {error}")


async def main() -> None:
    """Do it wrong in each of the ways."""
    packed = gzip.compress(bytes(1000))
    async with trioipc.open_worker_bridge(1) as bridge:
        pool, unpack = bridge.pool, bridge.compression.decompress_data
        await try_it("a function that raises", pool.run, divide, 0)
        await try_it("a function that exits", pool.run, sys.exit, 3)
        await try_it("a function without a name", pool.run, lambda: None)
        await try_it("an unknown operation", pool.execute, {"type": "sing", "channel": "custom"})
        await try_it("a worker that dies", pool.run, os._exit, 3)
        await try_it("half of a file", unpack, packed[:-10])
        await try_it("a file and a half", unpack, packed + b"tail")


if __name__ == "__main__":
    trio.run(main)
