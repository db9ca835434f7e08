"""Count the words of many files, as many files at a time as there are cores.

    python process_files.py FILE ...

A file that cannot be read is a line of the result, and no reason to lose the others.
"""

from __future__ import annotations

import collections
import re
import sys
from pathlib import Path

import attrs
import trio

import trioipc

WORD = re.compile(r"[^\W\d_]{4,}")


@attrs.frozen
class Counted:
    """What a worker found in a file."""

    lines: int
    words: collections.Counter[str]


def count(path: Path) -> Counted:
    """Read one file; this is what the workers run.

    It says how far it is and looks whether somebody wants it to stop, both once in a while.
    """
    request = trioipc.current_request()
    request.progress.set_total(path.stat().st_size)
    words: collections.Counter[str] = collections.Counter()
    number = done = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            words.update(WORD.findall(line.decode().lower()))
            done += len(line)
            if number % 1000 == 0:
                request.progress.set(done)
                request.checkpoint()
    request.progress.set(done)
    return Counted(number, words)


async def main(paths: list[Path]) -> None:
    """Ask for all of them at once, and put together what comes."""
    found: dict[Path, Counted | Exception] = {}
    async with trioipc.open_worker_pool() as pool:

        async def ask(path: Path) -> None:
            try:
                found[path] = await pool.run(count, path)
            except (OSError, UnicodeDecodeError) as error:  # raised by `count`, in a worker
                found[path] = error

        async with trio.open_nursery() as nursery:
            for path in paths:
                nursery.start_soon(ask, path)

    total: collections.Counter[str] = collections.Counter()
    for path in paths:
        result = found[path]
        if isinstance(result, Exception):
            print(f"{path.name}: {type(result).__name__}")
        else:
            total.update(result.words)
            print(f"{path.name}: {result.lines} lines, {result.words.total()} words")
    print("most often:", ", ".join(f"{word} {times}" for word, times in total.most_common(3)))


if __name__ == "__main__":
    trio.run(main, [Path(argument) for argument in sys.argv[1:]])
