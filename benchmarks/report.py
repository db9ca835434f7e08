"""What was measured, for people and for programs."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import trio

from benchmarks import (
    ahead,
    cancelling,
    cluster,
    compression,
    dispatch,
    large,
    mapping,
    memory,
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
    from benchmarks.cancelling import Cancels
    from benchmarks.measure import Figure

PISCINA = "piscina (threads of Node)"


@attrs.frozen
class Results:
    """All that was measured; times in seconds, sizes in bytes."""

    machine: dict[str, str]
    peers: dict[str, Row]
    callers: dict[str, dict[int, float]]
    """Requests in a second, by peer and number of callers."""
    sizes: dict[str, dict[int, float]]
    """Seconds to encrypt, by place and bytes."""
    rates: dict[str, float]
    """Bytes in a second, by what is done with 64 MiB."""
    starts: dict[str, float]
    """To the first answer in a new program: ``"ours"`` and ``"theirs"``."""
    first_answers: dict[str, float]
    """To the first answer in this program, by peer."""
    cancels: Cancels
    memory: dict[str, dict[str, float]]
    figures: list[Figure]


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (7)")
    parser.add_argument("--json", type=Path, help="write everything there")
    parser.add_argument("--table", type=Path, help="write a page of the docs there")
    parser.add_argument("--plots", type=Path, help="draw its pictures into this folder")
    options = parser.parse_args()
    results = measure(options.rounds)
    from benchmarks.page import page  # takes a second to load, in each worker too

    text = page(results, options.plots)
    print(text)
    if options.table:
        options.table.write_text(text)
    if options.json:
        options.json.write_text(json.dumps(_named(results), indent=2) + "\n")


def measure(rounds: int) -> Results:
    """Measure everything, one after the other."""
    rows = trio.run(dispatch.measure, rounds)
    figures = dispatch.figures(rows)
    for one in (
        requests.progress_figures,
        requests.cancel_figures,
        requests.scaling_figures,
        ahead.figures,
        mapping.figures,
        streaming.figures,
    ):
        figures += trio.run(one, rounds)
    with tempfile.TemporaryDirectory() as folder:
        starts, more = start.figures(10, folder)
        figures += more
        rates = trio.run(payloads.measure, rounds)
        figures += payloads.figures(rates)
        figures += trio.run(large.figures, rounds, folder)
        figures += trio.run(compression.figures, 3, folder)
    figures += placing.figures(trio.run(placing.sweep, rounds))
    callers = trio.run(sweeps.callers, 3)
    sizes = trio.run(sweeps.sizes, 3)
    if node.is_installed():
        piscina = node.measure(3)
        rows[PISCINA] = Row(piscina.back_to_back, piscina.with_gap, piscina.rates[64])
        callers[PISCINA] = piscina.rates
    first_answers = start.first_answers(rounds)
    cancels = trio.run(cancelling.measure, 3)
    held = trio.run(memory.measure, 3)
    figures += trio.run(cluster.figures, 3)  # last: it loads what the others go without
    return Results(
        machine=machine(),
        peers=rows,
        callers=callers,
        sizes=sizes,
        rates=rates,
        starts=starts,
        first_answers=first_answers,
        cancels=cancels,
        memory=held,
        figures=figures,
    )


def _named(results: Results) -> dict[str, Any]:
    """Return everything under names that say what it is."""
    found = attrs.asdict(results)
    return {
        "machine": found["machine"],
        "peers": found["peers"],
        "first answer": found["starts"],
        "seconds to the first answer by peer": found["first_answers"],
        "bytes per second": found["rates"],
        "requests per second by callers": found["callers"],
        "seconds to encrypt by bytes": found["sizes"],
        "seconds from cancel to control": found["cancels"]["back"],
        "seconds from cancel to next answer": found["cancels"]["again"],
        "bytes of memory": found["memory"],
        "figures": found["figures"],
    }
