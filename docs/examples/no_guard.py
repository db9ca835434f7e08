"""What happens without a guard around the last line: an error that says so."""

import trio

import trioipc


async def main() -> None:
    """Open a pool."""
    async with trioipc.open_worker_pool(1) as pool:
        print(await pool.run(len, "four"))


trio.run(main)
