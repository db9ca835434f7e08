"""Draws the diagrams of the docs from the code, each time they are built.

``{lifecycle} REQUEST`` draws a table of `trioipc.protocol._lifecycle`; ``{floors}`` the packages,
and who imports whom. Both are SVG in the colour of the text, so that they suit a dark page too.
"""

from __future__ import annotations

import ast
from collections import Counter
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from collections.abc import Iterable

FLOORS = ["memory", "protocol", "worker", "builtin", "pool", "bridge", "cli"]
_BOX_WIDTH, _BOX_HEIGHT, _GAP = 104, 30, 34
_STEP = 26  # how much higher an arc is that spans one state more


def _svg(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    marker = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 L8 4 L0 8 z" '
        'fill="currentColor"/></marker></defs>'
    )
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" '
        f'aria-label="{escape(title)}" style="max-width:100%;height:auto" '
        'font-family="inherit" font-size="13" fill="currentColor" stroke="none">'
        f"{marker}{''.join(parts)}</svg>"
    )


def _box(x: float, y: float, width: float, text: str, note: str = "") -> str:
    drawn = (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{_BOX_HEIGHT}" rx="6" fill="none" '
        f'stroke="currentColor"/><text x="{x + 12:g}" y="{y + 20:g}">{escape(text)}</text>'
    )
    if note:
        drawn += f'<text x="{x + width - 12:g}" y="{y + 20:g}" text-anchor="end">{note}</text>'
    return drawn


def _arc(x1: float, x2: float, y: float, rise: float, label: str) -> str:
    """Draw an arrow from ``x1`` to ``x2`` that goes up by ``rise``, or down if that is negative."""
    middle, top = (x1 + x2) / 2, y - rise
    label_y = top + (-4 if rise > 0 else 13)
    return (
        f'<path d="M{x1:g} {y:g} C{x1:g} {top:g} {x2:g} {top:g} {x2:g} {y:g}" fill="none" '
        'stroke="currentColor" stroke-opacity=".55" marker-end="url(#tip)"/>'
        f'<text x="{middle:g}" y="{(y + 3 * label_y) / 4:g}" text-anchor="middle" '
        f'font-size="11">{escape(label)}</text>'
    )


def life_cycle(table: dict[str, dict[str, str]], title: str) -> str:
    """Draw the states in a row; what leads on goes above them, what leads back below."""
    states = list(table)
    spans: dict[tuple[int, int], list[str]] = {}
    for state, after in table.items():
        for event, to in after.items():
            if to != state:
                spans.setdefault((states.index(state), states.index(to)), []).append(event)
    above = _STEP * max((b - a for a, b in spans if b > a), default=0) + 24
    below = _STEP * max((a - b for a, b in spans if b < a), default=0) + 24
    pitch = _BOX_WIDTH + _GAP
    parts = [_box(i * pitch + 1, above, _BOX_WIDTH, state) for i, state in enumerate(states)]
    for (start, end), events in spans.items():
        forward = end > start
        steps = abs(end - start)
        # What spans more leaves further out, so that no two arrows share a path.
        shift = min(steps, 6) * 6
        x1 = start * pitch + _BOX_WIDTH / 2 + (shift if forward else -shift)
        x2 = end * pitch + _BOX_WIDTH / 2 + (-shift if forward else shift)
        y = above if forward else above + _BOX_HEIGHT
        rise = (_STEP * steps + 8) * (4 / 3) * (0.9 if forward else -0.9)
        parts.append(_arc(x1, x2, y, rise, ", ".join(events)))
    return _svg(len(states) * pitch - _GAP + 2, above + _BOX_HEIGHT + below, title, parts)


def imports(source: Path) -> tuple[dict[str, int], Counter[tuple[str, str]]]:
    """Count the rooms of each floor, and the imports from one floor to another."""
    rooms: Counter[str] = Counter()
    links: Counter[tuple[str, str]] = Counter()
    for path in source.rglob("*.py"):
        floor = path.relative_to(source).parts[0]
        if floor not in FLOORS:
            continue
        rooms[floor] += path.name != "__init__.py"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trioipc."):
                assert node.module is not None
                other = node.module.split(".")[1]
                if other in FLOORS and other != floor:
                    links[floor, other] += 1
    return rooms, links


def floors(source: Path) -> str:
    """Draw the floors from the top down, and an arrow for each that imports another."""
    rooms, links = imports(source)
    names = FLOORS[::-1]
    width, pitch = 260, _BOX_HEIGHT + 14
    parts = [
        _box(1, i * pitch + 1, width, f"{name}/", f"{rooms[name]} modules")
        for i, name in enumerate(names)
    ]
    order = sorted(links.items(), key=lambda link: _reach(names, *link[0]))
    for lane, ((upper, lower), number) in enumerate(order):
        x = width + 14 + lane * 15
        y1, y2 = (names.index(name) * pitch + 1 + _BOX_HEIGHT / 2 for name in (upper, lower))
        thick = 1 + min(number, 30) / 12
        parts.append(
            f'<path d="M{width + 1} {y1 - 4:g} H{x} V{y2 + 4:g} H{width + 4}" fill="none" '
            f'stroke="currentColor" stroke-opacity=".5" stroke-width="{thick:.1f}" '
            f'marker-end="url(#tip)"><title>{upper} imports from {lower}: {number}</title></path>'
        )
    full = width + 30 + 15 * len(links)
    return _svg(full, len(names) * pitch, "the floors, and who imports whom", parts)


def _reach(names: list[str], upper: str, lower: str) -> int:
    return names.index(lower) - names.index(upper)


class LifeCycle(SphinxDirective):
    """Shows one of the code's own tables of transitions."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Draw it."""
        from trioipc.protocol import _lifecycle

        name = self.arguments[0]
        drawn = life_cycle(getattr(_lifecycle, name), f"the life of a {name.lower()}")
        return [nodes.raw("", drawn, format="html")]


class Floors(SphinxDirective):
    """Shows the packages, and who imports whom."""

    def run(self) -> list[nodes.Node]:
        """Draw them."""
        import trioipc

        return [nodes.raw("", floors(Path(trioipc.__file__).parent), format="html")]
