"""What was measured, for people and for programs."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio

from benchmarks import compression, dispatch, large, payloads, placing, requests, start
from benchmarks.measure import machine

if TYPE_CHECKING:
    from benchmarks.dispatch import Row
    from benchmarks.measure import Figure


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (7)")
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--table", type=Path, help="write a page of the docs there")
    options = parser.parse_args()
    rows = trio.run(dispatch.measure, options.rounds)
    figures = dispatch.figures(rows)
    for measure in (
        requests.progress_figures,
        requests.cancel_figures,
        requests.scaling_figures,
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
    facts = machine()
    page = _page(facts, rows, figures, starts, rates)
    print(page)
    if options.table:
        options.table.write_text(page)
    if options.json:
        everything = {
            "machine": facts,
            "peers": {name: attrs.asdict(row) for name, row in rows.items()},
            "first answer": starts,
            "bytes per second": rates,
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
