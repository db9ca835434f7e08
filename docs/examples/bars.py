"""Bars of rich and tqdm for requests.

    python bars.py FILE ...

Needs both: pip install rich tqdm
"""

import sys
from pathlib import Path

import rich.console
import rich.progress
import tqdm
import trio

import trioipc
from trioipc.progress import rich_task, tqdm_bar


def count_to(limit: int) -> int:
    """Say how far it is, every now and then."""
    request = trioipc.current_request()
    request.progress.set_total(limit)
    for number in range(0, limit + 1, 1000):
        request.checkpoint()
        request.progress.set(number)
    return limit


async def main(files: list[Path]) -> None:
    """Hash all files at once, then count."""
    async with trioipc.open_worker_bridge() as bridge:
        console = rich.console.Console(stderr=True)
        with rich.progress.Progress(console=console, disable=not console.is_terminal) as bars:
            async with trio.open_nursery() as nursery:
                for file in files:

                    async def ask(file: Path = file) -> None:
                        move = rich_task(bars, file.name)
                        await bridge.crypto.hash_file(file, on_progress=move)

                    nursery.start_soon(ask)
        for file in files:
            size = (await bridge.file.read_metadata(file)).size
            print(f"{file.name}: {size / 1000:.1f} kB")

        with tqdm.tqdm(disable=None) as bar:  # None: only on a terminal
            number = await bridge.pool.run(count_to, 100_000, on_progress=tqdm_bar(bar))
        print("counted to", number)


if __name__ == "__main__":
    trio.run(main, [Path(argument) for argument in sys.argv[1:]])
