"""What was measured, for people and for programs."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio

from benchmarks import (
    ahead,
    compression,
    dispatch,
    large,
    mapping,
    node,
    payloads,
    placing,
    requests,
    start,
    streaming,
    sweeps,
)
from benchmarks.dispatch import Row
from benchmarks.measure import machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.measure import Figure

PISCINA = "piscina (threads of Node)"


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (7)")
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--table", type=Path, help="write a page of the docs there")
    parser.add_argument("--plots", type=Path, help="draw the sweeps into this folder")
    options = parser.parse_args()
    rows = trio.run(dispatch.measure, options.rounds)
    figures = dispatch.figures(rows)
    for measure in (
        requests.progress_figures,
        requests.cancel_figures,
        requests.scaling_figures,
        ahead.figures,
        mapping.figures,
        streaming.figures,
    ):
        figures += trio.run(measure, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        starts, more = start.figures(10, folder)
        figures += more
        rates = trio.run(payloads.measure, options.rounds)
        figures += payloads.figures(rates)
        figures += trio.run(large.figures, options.rounds, folder)
        figures += trio.run(compression.figures, 3, folder)
    figures += placing.figures(trio.run(placing.sweep, options.rounds))
    callers = trio.run(sweeps.callers, 3)
    sizes = trio.run(sweeps.sizes, 3)
    if node.is_installed():
        piscina = node.measure(3)
        rows[PISCINA] = Row(piscina.back_to_back, piscina.with_gap, piscina.rates[64])
        callers[PISCINA] = piscina.rates
    facts = machine()
    page = _page(facts, rows, figures, starts, rates)
    page += _sweeps(callers, sizes, options.plots)
    print(page)
    if options.table:
        options.table.write_text(page)
    if options.json:
        everything = {
            "machine": facts,
            "peers": {name: attrs.asdict(row) for name, row in rows.items()},
            "first answer": starts,
            "bytes per second": rates,
            "requests per second by callers": callers,
            "seconds to encrypt by bytes": sizes,
            "figures": [attrs.asdict(figure) for figure in figures],
        }
        options.json.write_text(json.dumps(everything, indent=2) + "\n")


def _page(
    facts: dict[str, str],
    rows: dict[str, Row],
    figures: list[Figure],
    starts: dict[str, float],
    rates: dict[str, float],
) -> str:
    """Write it all as Markdown."""
    lines = [
        "# Measured",
        "",
        "Made by `nox -s bench`, which runs `python -m benchmarks`: all peers side by side in one",
        "run, interleaved, medians. Repeat it on your machine; compare ratios, not times.",
        "",
        ", ".join(f"{name} {value}" for name, value in facts.items()) + ".",
        "",
        "One worker, an empty function:",
        "",
        "| | back to back, us | 2 ms between calls, us | 64 callers, requests/s |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {row.back_to_back * 1e6:.0f} | {row.with_gap * 1e6:.0f} | {row.rate:,.0f} |"
        for name, row in rows.items()
    ]
    lines += ["", "64 MiB, one worker:", "", "| | GB/s |", "| --- | ---: |"]
    lines += [f"| {name} | {rate / 1e9:.2f} |" for name, rate in rates.items()]
    lines += [
        "",
        f"First answer of a new pool of one: {starts['ours'] * 1000:.0f} ms, of a new "
        f"trio_parallel context: {starts['theirs'] * 1000:.0f} ms.",
        "",
        "| figure | measured | limit | |",
        "| --- | ---: | ---: | --- |",
    ]
    lines += [
        f"| {f.what} | {f.got:.3g} | {'<=' if f.at_most else '>='} {f.limit:g} "
        f"| {'reached' if f.reached else '**missed**'} |"
        for f in figures
    ]
    return "\n".join(lines) + "\n"


def _sweeps(
    callers: dict[str, dict[int, float]], sizes: dict[str, dict[int, float]], plots: Path | None
) -> str:
    """Write the sweeps as tables, and draw them."""
    from benchmarks.plots import bytes_text, draw  # takes a second to load, in each worker too

    lines = ["", "## From one caller to many", "", "One worker, empty functions in a second:", ""]
    if plots is not None:
        draw(plots, callers, sizes)
        lines += [f"![Requests in a second over callers]({plots.name}/callers.svg)", ""]
    lines += _table("callers", callers, str, lambda rate: f"{rate:,.0f}")
    lines += [
        "",
        "## From small to big",
        "",
        "AES-256-GCM of `bytes`, one call at a time, GB/s:",
        "",
    ]
    if plots is not None:
        lines += [f"![Rate over sizes]({plots.name}/sizes.svg)", ""]
    rates = {
        name: {size: size / seconds / 1e9 for size, seconds in found.items()}
        for name, found in sizes.items()
    }
    lines += [*_table("", rates, bytes_text, lambda rate: f"{rate:.3g}"), ""]
    for other, most in (("trio.to_thread", 1.0), ("in the event loop", 1.25)):
        even = sweeps.break_even(sizes, other, most)
        where = "never" if even is None else f"from {bytes_text(even)} on"
        lines.append(f"- at most {most:g} x the time of `{other}`: {where}")
    return "\n".join(lines) + "\n"


def _table(
    corner: str,
    found: dict[str, dict[int, float]],
    head: Callable[[int], str],
    cell: Callable[[float], str],
) -> list[str]:
    """Write a row for each name and a column for each number."""
    columns = sorted(next(iter(found.values())))
    lines = [
        "| " + " | ".join([corner, *map(head, columns)]) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for name, values in found.items():
        cells = [cell(values[column]) if column in values else "" for column in columns]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return lines
