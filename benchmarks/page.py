"""What was measured, as a page of the docs: tables, and pictures beside them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmarks import plots, sweeps
from benchmarks.plots import bytes_text

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from pathlib import Path
    from typing import TypeVar

    from benchmarks.report import Results

    K = TypeVar("K", bound=Hashable)
    Rows = dict[str, dict[K, float]]

_HEAD = """\
# Measured

Made by `nox -s bench`, which runs `python -m benchmarks`: all peers side by side in one
run, interleaved, medians. Repeat it on your machine; compare ratios, not times."""

# (what a process is compared with, how many times its time it may take, what that is called)
_BREAK_EVEN = (
    ("trio.to_thread", 1.0, "as long as a thread"),
    ("in the event loop", 1.25, "1.25 x as long as inline"),
)


def page(results: Results, pictures: Path | None) -> str:
    """Write it all as Markdown.

    Args:
      results: What was measured.
      pictures: A folder beside the page, to draw into; None for tables alone.
    """
    facts = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    lines = [_HEAD, "", facts + "."]
    for part in (_dispatch, _callers, _sizes, _rates, _starts, _cancels, _memory, _figures):
        lines += ["", *part(results, pictures)]
    return "\n".join(lines) + "\n"


def _dispatch(results: Results, pictures: Path | None) -> list[str]:
    micro = {
        name: {"back to back": row.back_to_back * 1e6, "2 ms between calls": row.with_gap * 1e6}
        for name, row in results.peers.items()
    }
    lines = ["## What a call costs", "", "One worker, an empty function:", ""]
    lines += _picture(
        pictures, "dispatch", "What a call costs", partial(plots.bars, found=micro, across="us")
    )
    lines += ["| | back to back, us | 2 ms between calls, us | 64 callers, requests/s |"]
    lines += ["| --- | ---: | ---: | ---: |"]
    return lines + [
        f"| {name} | {row.back_to_back * 1e6:.0f} | {row.with_gap * 1e6:.0f} | {row.rate:,.0f} |"
        for name, row in results.peers.items()
    ]


def _callers(results: Results, pictures: Path | None) -> list[str]:
    draw = partial(plots.callers, found=results.callers)
    lines = ["## From one caller to many", "", "One worker, empty functions in a second:", ""]
    lines += _picture(pictures, "callers", "Requests in a second over callers", draw)
    return lines + _table("callers", results.callers, str, lambda rate: f"{rate:,.0f}")


def _sizes(results: Results, pictures: Path | None) -> list[str]:
    rates = {
        name: {size: size / seconds / 1e9 for size, seconds in found.items()}
        for name, found in results.sizes.items()
    }
    evens = {
        says: sweeps.break_even(results.sizes, other, most) for other, most, says in _BREAK_EVEN
    }
    reached = {what: even for what, even in evens.items() if even is not None}
    lines = ["## From small to big", "", "AES-256-GCM of `bytes`, one call at a time, GB/s:", ""]
    lines += _picture(
        pictures, "sizes", "Rate over sizes", partial(plots.sizes, rates=rates, evens=reached)
    )
    lines += [*_table("", rates, bytes_text, lambda rate: f"{rate:.3g}"), ""]
    return lines + [
        f"- {'never' if even is None else f'from {bytes_text(even)} on'}: at most {what}"
        for what, even in evens.items()
    ]


def _rates(results: Results, pictures: Path | None) -> list[str]:
    lines = ["64 MiB, one worker:", "", "| | GB/s |", "| --- | ---: |"]
    return lines + [f"| {name} | {rate / 1e9:.2f} |" for name, rate in results.rates.items()]


def _starts(results: Results, pictures: Path | None) -> list[str]:
    found = {name: {"ms": seconds * 1e3} for name, seconds in results.first_answers.items()}
    draw = partial(plots.bars, found=found, across="ms")
    lines = ["## To the first answer", "", "From opening one worker to its first answer, ms:", ""]
    lines += _picture(pictures, "starts", "Time to the first answer", draw)
    lines += [*_table("", found, str, lambda ms: f"{ms:.1f}"), ""]
    ours, theirs = results.starts["ours"] * 1e3, results.starts["theirs"] * 1e3
    return [
        *lines,
        f"In a new program that imports little: {ours:.0f} ms, of a new trio_parallel context: "
        f"{theirs:.0f} ms.",
    ]


def _cancels(results: Results, pictures: Path | None) -> list[str]:
    lines = [
        "## After a cancel",
        "",
        "A function of 0.5 s, cancelled after 0.1 s. Where nothing can",
    ]
    lines += ["be cancelled, it ends by itself.", ""]
    for name, title, seconds in (
        ("cancels", "Until control is back", results.cancels.back),
        ("cancels-again", "Until the next call is answered", results.cancels.again),
    ):
        found = _scaled(seconds, 1e3)
        draw = partial(plots.bars, found=found, across="ms", log=True)
        lines += [f"{title}, ms, by what the function does:", ""]
        lines += _picture(pictures, name, f"{title} after a cancel", draw)
        lines += [*_table("", found, str, lambda ms: f"{ms:.1f}"), ""]
    return lines[:-1]


def _memory(results: Results, pictures: Path | None) -> list[str]:
    found = _scaled(results.memory, 1 / (1 << 20))
    draw = partial(plots.bars, found=found, across="MiB")
    lines = [
        "## Memory",
        "",
        "MiB of a worker at rest, and by how much both processes grow at most",
    ]
    lines += [
        "while 64 MiB of `bytes` are handed over for the first time. What both share is counted"
    ]
    lines += ["in both.", ""]
    lines += _picture(pictures, "memory", "Memory of worker and parent", draw)
    return lines + _table("", found, str, lambda mebibytes: f"{mebibytes:.1f}")


def _figures(results: Results, pictures: Path | None) -> list[str]:
    lines = ["## What must be reached", ""]
    lines += ["| figure | measured | limit | |", "| --- | ---: | ---: | --- |"]
    return lines + [
        f"| {f.what} | {f.got:.3g} | {'<=' if f.at_most else '>='} {f.limit:g} "
        f"| {'reached' if f.reached else '**missed**'} |"
        for f in results.figures
    ]


def _scaled(found: Rows[K], factor: float) -> Rows[K]:
    return {
        name: {key: value * factor for key, value in values.items()}
        for name, values in found.items()
    }


def _picture(
    pictures: Path | None, name: str, says: str, draw: Callable[[Path], None]
) -> list[str]:
    """Draw into a file and return the lines that show it."""
    if pictures is None:
        return []
    draw(pictures / f"{name}.svg")
    return [f"![{says}]({pictures.name}/{name}.svg)", ""]


def _table(
    corner: str, found: Rows[K], head: Callable[[K], str], cell: Callable[[float], str]
) -> list[str]:
    """Write a row for each name and a column for each key that the first one has."""
    columns = list(next(iter(found.values())))
    lines = [
        "| " + " | ".join([corner, *map(head, columns)]) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for name, values in found.items():
        cells = [cell(values[column]) if column in values else "" for column in columns]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return lines
