"""What `import trioipc` gives, and what it does not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import trioipc


def run(code: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stderr == ""
    return result.stdout.strip()


def names_for_checkers() -> set[str]:
    """Return the names that type checkers see."""
    tree = ast.parse(Path(trioipc.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.asname or alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_all_names_can_be_loaded() -> None:
    """Every name of ``__all__`` is there, and ``dir`` lists it."""
    assert len(set(trioipc.__all__)) == len(trioipc.__all__)
    for name in trioipc.__all__:
        assert getattr(trioipc, name) is not None
        assert name in dir(trioipc)


def test_checkers_see_the_same_names() -> None:
    """The list for type checkers is the one that is loaded from."""
    assert names_for_checkers() == {*trioipc.__all__} - {"__version__"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As for any module."""
    with pytest.raises(AttributeError, match="module 'trioipc' has no attribute 'Nonsense'"):
        trioipc.Nonsense  # noqa: B018 - that is the test


def test_the_import_loads_little() -> None:
    """Neither Trio nor cryptography, before a name is used that needs it."""
    code = "import sys, trioipc; print([n for n in ('trio', 'cryptography') if n in sys.modules])"
    assert run(code) == "[]"


def test_a_workers_code_loads_no_trio() -> None:
    """What a worker process imports of ours needs no event loop."""
    code = (
        "import sys, trioipc.worker._main, trioipc.worker._serve, trioipc.builtin.crypto, trioipc;"
        "trioipc.current_request, trioipc.operation, trioipc.SharedProgress;"
        "print([n for n in ('trio', 'asyncio', 'trio_parallel') if n in sys.modules])"
    )
    assert run(code) == "[]"


def test_the_originals_numbers() -> None:
    """Sizes and times, as the library has them that ours descends from."""
    assert (trioipc.chunks.FINE, trioipc.chunks.DEFAULT) == (1 << 20, 4 << 20)
    assert trioipc.chunks.HIGH_THROUGHPUT == 16 << 20
    timeouts = trioipc.timeouts
    assert (timeouts.QUICK, timeouts.NORMAL, timeouts.LONG, timeouts.VERY_LONG) == (5, 30, 120, 300)


def test_pool_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as cores, twice as many, half as many more, rounded up."""
    monkeypatch.setattr("trioipc.sizing.usable_cores", lambda: 3)
    sizes = [trioipc.sizing.pool_size(kind) for kind in ("cpu", "io", "mixed")]
    assert sizes == [3, 6, 5]
    with pytest.raises(ValueError, match="gpu"):
        trioipc.sizing.pool_size("gpu")  # type: ignore[arg-type]
