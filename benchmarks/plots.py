"""The sweeps as pictures, for the docs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

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


def bytes_text(number: float, _: object = None) -> str:
    """Write a number of bytes as people do."""
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:g} {unit}"
        number /= 1024
    return f"{number:g} GiB"


def draw(
    folder: Path, callers: dict[str, dict[int, float]], sizes: dict[str, dict[int, float]]
) -> None:
    """Write ``callers.svg`` and ``sizes.svg``."""
    folder.mkdir(parents=True, exist_ok=True)
    axes = _lines(callers, "callers at a time", "empty functions in a second")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axes.set_xticks(sorted(next(iter(callers.values()))))
    _save(folder / "callers.svg")
    rates = {
        name: {size: size / seconds / 1e9 for size, seconds in found.items()}
        for name, found in sizes.items()
    }
    axes = _lines(rates, "bytes to encrypt", "GB/s")
    axes.set_xticks([size for size in sorted(next(iter(sizes.values()))) if size.bit_length() % 4])
    axes.xaxis.set_major_formatter(FuncFormatter(bytes_text))
    _save(folder / "sizes.svg")


def _lines(found: dict[str, dict[int, float]], across: str, up: str) -> Axes:
    _, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    for name, points in found.items():
        ours = name == "trioipc"
        axes.plot(
            list(points),
            list(points.values()),
            marker="o",
            markersize=4,
            linewidth=2.6 if ours else 1.4,
            color="#c2410c" if ours else None,
            label=name,
            zorder=3 if ours else 2,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.minorticks_off()
    axes.legend(fontsize=9)
    return axes


def _save(path: Path) -> None:
    plt.savefig(path, metadata={"Date": None})
    plt.close()
