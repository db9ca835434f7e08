"""What was measured as pictures, for the docs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    # {peer: {what or how many: a number}}
    Lines = dict[str, dict[int, float]]
    Bars = dict[str, dict[str, float]]

mpl.use("svg")
mpl.rcParams |= {
    "svg.hashsalt": "trioipc",  # the same picture of the same numbers
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}

OURS = "trioipc"
_COLOR = "#c2410c"
# Of the bars of one peer, in their order.
_COLORS = (_COLOR, "#fdba74", "#64748b")


def bytes_text(number: float, _: object = None) -> str:
    """Write a number of bytes as people do."""
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:g} {unit}"
        number /= 1024
    return f"{number:g} GiB"


def callers(path: Path, found: Lines) -> None:
    """Draw requests in a second over callers."""
    axes = _lines(found, "callers at a time", "empty functions in a second")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axes.set_xticks(sorted(found[OURS]))
    _save(path)


def sizes(path: Path, rates: Lines, evens: dict[str, int]) -> None:
    """Draw bytes in a second over bytes, and ``{what breaks even: from which size on}``."""
    axes = _lines(rates, "bytes to encrypt", "GB/s")
    axes.set_xticks([size for size in sorted(rates[OURS]) if size.bit_length() % 4])
    axes.xaxis.set_major_formatter(FuncFormatter(bytes_text))
    for number, (what, even) in enumerate(evens.items()):
        axes.axvline(even, color=_COLOR, linestyle=":", linewidth=1.2)
        axes.annotate(
            what,
            (even, 0.03 + 0.06 * number),  # one above the other, since they may be near
            xycoords=("data", "axes fraction"),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            fontsize=9,
        )
    _save(path)


def bars(path: Path, found: Bars, across: str, *, log: bool = False) -> None:
    """Draw a group of bars for each peer, the shorter the better, each with its number."""
    kinds = list(dict.fromkeys(kind for values in found.values() for kind in values))
    height = 0.8 / len(kinds)
    _, axes = plt.subplots(figsize=(7.5, 1.4 + 0.3 * len(kinds) * len(found)), layout="constrained")
    for number, kind in enumerate(kinds):
        there = [(at, values[kind]) for at, values in enumerate(found.values()) if kind in values]
        drawn = axes.barh(
            [at + height * (number - (len(kinds) - 1) / 2) for at, _ in there],
            [value for _, value in there],
            height * 0.9,
            color=_COLORS[number],
            label=kind,
            log=log,
        )
        axes.bar_label(drawn, fmt="%.3g", padding=3, fontsize=9)
    axes.set_yticks(range(len(found)), list(found))
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == OURS else "normal")
    axes.invert_yaxis()  # the first on top
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.12)
    axes.set_xlabel(across)
    if len(kinds) > 1:
        axes.figure.legend(loc="outside upper center", ncols=len(kinds), fontsize=9)
    _save(path)


def _lines(found: Lines, across: str, up: str) -> Axes:
    _, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    for name, points in found.items():
        ours = name == OURS
        axes.plot(
            list(points),
            list(points.values()),
            marker="o",
            markersize=4,
            linewidth=2.6 if ours else 1.4,
            color=_COLOR if ours else None,
            label=name,
            zorder=3 if ours else 2,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.minorticks_off()
    axes.figure.legend(loc="outside upper center", ncols=3, fontsize=9)
    return axes


def _save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(path, metadata={"Date": None})
    plt.close()
