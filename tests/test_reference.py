"""Everything public is in the reference, and has an example or a link to one."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

import trioipc
import trioipc.dask
import trioipc.opentelemetry
import trioipc.testing

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
# Each of them is run by `test_docs` or `test_examples`.
EXAMPLES = [*(ROOT / "docs" / "examples").glob("*.py"), *(ROOT / "examples").rglob("*.py")]
MODULES = (
    trioipc,
    trioipc.chunks,
    trioipc.dask,
    trioipc.opentelemetry,
    trioipc.progress,
    trioipc.sizing,
    trioipc.testing,
    trioipc.timeouts,
)
# A version needs no example.
PUBLIC = {f"{module.__name__}.{name}" for module in MODULES for name in module.__all__} - {
    "trioipc.__version__"
}

DIRECTIVE = re.compile(r"^ *\.\. (?:py:)?(\w+):: ([\w.]+)(?:\n +:members: (.+))?", re.MULTILINE)
REFERENCE = re.compile(r"\{obj\}`([\w.]+)`")
INCLUDE = re.compile(r"^```\{literalinclude\} (\S+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([\w./-]+\.md)(?:#[\w-]+)?\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@attrs.frozen
class Section:
    """A part of a page, from one heading to the next."""

    heading: str
    documents: set[str]
    """The full names that it has signatures of."""
    told: set[str]
    """The full names that stand in its story."""
    lines: int
    """How long that is."""
    has_example: bool
    """Whether it shows one, or leads to a page that does."""


def sections(page: Path) -> Iterator[Section]:
    """Read a page, as Sphinx does: names belong to the module that was set last."""
    module = "trioipc"
    for text in re.split(r"^(?=#+ )", page.read_text(), flags=re.MULTILINE):
        story, told = FENCED.sub("", text), set()
        for name in REFERENCE.findall(story):
            told.add(full(name, module))
        documents = set()
        for kind, name, members in DIRECTIVE.findall(text):
            if kind in ("module", "currentmodule", "automodule"):
                module = name
            documents.add(full(name, module))
            documents |= {full(member, module) for member in members.split(", ") if member}
        yield Section(
            text.partition("\n")[0],
            documents,
            told,
            sum(bool(line.strip()) for line in story.splitlines()[1:]),
            leads_to_example(page, text),
        )


def full(name: str, module: str) -> str:
    """Return a name with its module."""
    return name if name.partition(".")[0] == "trioipc" else f"{module}.{name}"


def leads_to_example(page: Path, text: str) -> bool:
    """Say whether there is a program in a text, or on a page that it links."""
    return bool(INCLUDE.search(text)) or any(
        INCLUDE.search((page.parent / link).read_text()) for link in LINK.findall(text)
    )


def used(source: str) -> set[str]:
    """Return the full names of what a program uses of what it has imported."""
    tree = ast.parse(source)
    homes = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            first, dot, rest = ast.unparse(node).partition(".")
            found.add(homes.get(first, first) + dot + rest)
    # Who uses something of a module uses the module.
    return found | {name.rpartition(".")[0] for name in found}


SECTIONS = [section for page in PAGES for section in sections(page)]


def test_everything_public_is_documented() -> None:
    """Each name has its signature in the reference."""
    assert PUBLIC - set().union(*(section.documents for section in SECTIONS)) == set()


def test_everything_public_has_an_example() -> None:
    """A program uses it, or its section tells what it is for and shows or links a program."""
    by_programs = set().union(*(used(path.read_text()) for path in EXAMPLES))
    by_stories = set().union(
        *(section.documents & section.told for section in SECTIONS if section.has_example)
    )
    assert PUBLIC - by_programs - by_stories == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_layer_begins_with_its_story(page: Path) -> None:
    """Of 5 to 40 lines, with an example or a link to one; so does each part of it, if shorter."""
    layer, *parts = (section for section in sections(page) if section.heading.startswith("#"))
    assert 5 <= layer.lines <= 40
    assert layer.has_example
    for part in parts:
        assert 3 <= part.lines <= 40, part.heading
        assert part.has_example, part.heading


def test_the_numbers_are_right() -> None:
    """Those that the reference writes out, in their units."""
    text = (ROOT / "docs" / "reference" / "numbers.md").read_text()
    units = {"MiB": 1 << 20, "s": 1}
    for module in (trioipc.chunks, trioipc.timeouts):
        for name in module.__all__:
            found = re.search(rf":: {name}\n\s+:value: (\d+) (\w+)\n", text)
            assert found is not None, name
            assert int(found[1]) * units[found[2]] == getattr(module, name)


def test_what_counts_as_used() -> None:
    """The full name counts, however it was imported; what only looks like it does not."""
    names = used("import trioipc\nfrom trioipc import sizing as s\ns.pool_size(trioipc.Worker)\n")
    assert names >= {"trioipc.Worker", "trioipc.sizing.pool_size", "trioipc.sizing"}
    assert "trioipc.Worker" not in used("import other\nother.Worker\n'trioipc.Worker'\n")
