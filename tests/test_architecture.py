"""The floors of the house: a module imports only modules of its own floor or below."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import trioipc

SOURCE = Path(trioipc.__file__).parent

# From the ground up. What is not in a folder is on the ground: errors, and the original's numbers.
# "roof": what only its own users load.
FLOORS = ["", "memory", "protocol", "worker", "builtin", "pool", "bridge", "cli", "roof"]
_ROOF = ("testing", "opentelemetry", "dask")
# What runs in worker processes, and so never imports Trio.
IN_WORKERS = {"", "memory", "protocol", "worker", "builtin"}
# Loaded when something is awaited, and so only where Trio runs.
AWAITED = {
    "trioipc.memory._watch",
    "trioipc.worker._nesting_io",
    "trioipc.worker._serve_io",
    "trioipc.worker._stream_io",
    "trioipc.builtin._addresses",
    "trioipc.builtin._http",
    "trioipc.builtin._ice",
    "trioipc.builtin._rooms",
}


def floor_of(module: str) -> str:
    """Return the folder of a module of ours."""
    if module == "trioipc.__main__":  # the door of the command line
        return "cli"
    folder = module.partition(".")[2].partition(".")[0]
    if folder in _ROOF:
        return "roof"
    return folder if folder in FLOORS else ""


def is_for_checkers(node: ast.AST) -> bool:
    """Say whether a block is only for type checkers; those imports never happen."""
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def imports_of(tree: ast.AST) -> set[str]:
    """Return every module that is imported when it runs, also inside of functions."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if is_for_checkers(node):
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            found.add(node.module)
            if node.module.split(".")[0] == "trioipc":  # from trioipc.builtin import file
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
        found |= imports_of(node)
    return found


def broken_rules(module: str, text: str) -> list[str]:
    """Return what is wrong with the imports of a module."""
    floor = floor_of(module)
    wrong = []
    for name in sorted(imports_of(ast.parse(text))):
        top = name.split(".")[0]
        if module in AWAITED:
            continue
        if top in ("trio", "trio_parallel", "tricycle") and floor in IN_WORKERS:
            wrong.append(f"{module} imports {name}, but runs in workers")
        if top == "trioipc" and FLOORS.index(floor_of(name)) > FLOORS.index(floor):
            wrong.append(f"{module} imports {name}, which is above it")
    return wrong


def modules() -> dict[str, str]:
    """Return the text of every module but the front door, which leads everywhere."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        name = ".".join(["trioipc", *path.relative_to(SOURCE).with_suffix("").parts])
        if name != "trioipc.__init__":
            found[name.removesuffix(".__init__")] = path.read_text()
    return found


def test_imports_run_downwards() -> None:
    """No module imports one of a higher floor, and none that runs in workers imports Trio."""
    assert [rule for name, text in modules().items() for rule in broken_rules(name, text)] == []


# What each folder of the pool may import from beside it. The shell may import all of them.
POOL = {
    "scheduling": set(),
    "team": {"_statistics"},
    "engines": {"scheduling", "_endpoint", "_ledger", "_options", "_statistics"},
    "many": {
        "engines",
        "_admission",
        "_block",
        "_hold",
        "_ledger",
        "_options",
        "_progress",
        "_request",
        "_waiting",
    },
}


def test_folders_of_the_pool_know_little_of_each_other() -> None:
    """The seams are few, and listed here."""
    for name, text in modules().items():
        folder, _, _ = name.removeprefix("trioipc.pool.").partition(".")
        if folder in POOL and name.startswith("trioipc.pool."):
            found = {
                other.split(".")[2]
                for other in imports_of(ast.parse(text))
                if other.startswith("trioipc.pool.")
            }
            assert found - {folder} <= POOL[folder], name


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("trioipc.memory.state", "import trio"),
        ("trioipc.worker._serve", "def f():\n    from trio import sleep"),
        ("trioipc.worker._serve", "from trioipc.pool.pool import WorkerPool"),
        ("trioipc.builtin.file", "from trioipc import bridge"),
        ("trioipc.sizing", "import trioipc.memory.state"),
    ],
)
def test_the_check_finds_what_is_wrong(module: str, text: str) -> None:
    """It would have said so."""
    assert broken_rules(module, text) != []


def test_what_is_awaited_is_loaded_late() -> None:
    """No other module that runs in workers loads one of them at its top."""
    for name, text in modules().items():
        if name in AWAITED:
            continue
        for node in ast.parse(text).body:
            if not is_for_checkers(node) and isinstance(node, ast.Import | ast.ImportFrom):
                assert not AWAITED & imports_of(ast.Module([node], [])), name


def test_imports_have_no_circles() -> None:
    """No module imports itself by way of others."""
    texts = modules()
    arrows = {
        name: {other for other in imports_of(ast.parse(text)) if other in texts}
        for name, text in texts.items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " imports ".join([*path, name])
        if name not in done:
            for other in arrows[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in texts:
        visit(name, ())


def test_no_room_is_twice_the_size() -> None:
    """A module that outgrows the others is two modules."""
    longest = max(len(text.splitlines()) for text in modules().values())
    assert longest < 800
