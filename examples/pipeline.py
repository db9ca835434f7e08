"""Summarise measurements of any length: read, parsed and put together in stages.

    python pipeline.py FILE

Each line of FILE is a station, a comma and a number. A worker reads it in blocks, which others
parse and then merge by tens; this process puts together what is left. A stage takes from the one
before no more than it can use, so memory does not grow with the file. A block with a line that
cannot be parsed is counted, and left out.
"""

from __future__ import annotations

import functools
import sys
from itertools import islice
from typing import TYPE_CHECKING

import attrs
import trio

import trioipc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

BLOCK_LINES = 10_000
MERGED_AT_A_TIME = 10


@attrs.frozen
class Summary:
    """What is known of the measurements of one station."""

    count: int
    total: float
    least: float
    most: float

    def merge(self, other: Summary) -> Summary:
        """Return what is known of both."""
        return Summary(
            self.count + other.count,
            self.total + other.total,
            min(self.least, other.least),
            max(self.most, other.most),
        )


Summaries = dict[str, Summary]


def merge(first: Summaries, second: Summaries) -> Summaries:
    """Put the summaries of two blocks together."""
    both = first.keys() & second.keys()
    return first | second | {name: first[name].merge(second[name]) for name in both}


# ---- what runs in workers


def blocks(path: str) -> Iterator[list[str]]:
    """Read lines, many at a time. This goes on only as fast as they are taken."""
    with open(path, encoding="utf-8") as file:
        while block := list(islice(file, BLOCK_LINES)):
            yield block


def parse(block: list[str]) -> Summaries:
    """Summarise the lines of a block."""
    found: Summaries = {}
    for line in block:
        station, _, number = line.rstrip("\n").partition(",")
        value = float(number)
        one = Summary(1, value, value, value)
        found[station] = found[station].merge(one) if station in found else one
    return found


def merge_all(several: list[Summaries]) -> Summaries:
    """Put the summaries of several blocks together."""
    return functools.reduce(merge, several)


# ---- the stages


@attrs.define
class Good:
    """Passes on the results that are none of the errors, and counts those."""

    bad: int = 0

    async def of(self, results: AsyncIterator[Summaries]) -> AsyncIterator[list[Summaries]]:
        """Give them by tens."""
        several: list[Summaries] = []
        async for result in results:
            if isinstance(result, Exception):
                self.bad += 1
                continue
            several.append(result)
            if len(several) == MERGED_AT_A_TIME:
                yield several
                several = []
        if several:
            yield several


async def main(path: str) -> None:
    """Open the stages, one on the other, and take from the last."""
    whole: Summaries = {}
    good = Good()
    async with (
        # One more than there are cores: one of them reads all the time, and mostly waits.
        trioipc.open_worker_pool(trioipc.sizing.pool_size() + 1) as pool,
        pool.stream(blocks, path) as read,
        pool.map(parse, read, ordered=False, on_error="collect") as parsed,
        pool.map(merge_all, good.of(parsed), ordered=False) as merged,
    ):
        async for summaries in merged:
            whole = merge(whole, summaries)
    for name, found in sorted(whole.items()):
        mean = found.total / found.count
        print(f"{name}: {found.least:.1f} to {found.most:.1f}, {mean:.2f} on average")
    print(f"{sum(found.count for found in whole.values())} lines, {good.bad} blocks left out")


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
