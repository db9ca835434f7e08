"""Every example of the docs runs, and prints what it should."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"


def run(name: str, *arguments: str) -> str:
    """Run an example as its readers do; return what it prints."""
    done = subprocess.run(
        [sys.executable, name, *arguments],
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


def test_first_call() -> None:
    """Both answers come, in either order."""
    assert sorted(run("first_call.py").splitlines()) == ["10000 1229", "20000 2262"]


def test_cancel_and_progress() -> None:
    """Progress rises to the end; the cancelled one costs no worker."""
    *progress, done, late, replaced = run("cancel_and_progress.py").splitlines()
    percents = [int(re.fullmatch(r"simulating: (\d+) %", line)[1]) for line in progress]  # type: ignore[index]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert (done, late, replaced) == ("done", "ran out of time: True", "workers replaced: 0")


def test_typed_messages() -> None:
    """The operation answers."""
    assert run("typed_messages.py").splitlines() == ["Hello, Ada!", "0 pending"]


def test_encrypt_files(tmp_path: Path) -> None:
    """What it wrote decrypts, by another implementation, to what it was given."""
    output = run("encrypt_files.py", "--to", str(tmp_path / "to"), str(EXAMPLES))
    assert "late" in output.splitlines()[-1]
    key = (tmp_path / "to" / "key").read_bytes()
    listed = json.loads((tmp_path / "to" / "list.json").read_text())
    assert {Path(entry["file"]) for entry in listed.values()} >= {*EXAMPLES.glob("*.py")}
    for name, entry in listed.items():
        ciphertext = (tmp_path / "to" / name).read_bytes()
        plaintext = AESGCM(key).decrypt(bytes.fromhex(entry["nonce"]), ciphertext, None)
        assert plaintext == Path(entry["file"]).read_bytes()
        assert f"{entry['sha256']}  {entry['file']}" in output


def test_every_example_is_run() -> None:
    """None is without its test, but for modules that others load."""
    text = Path(__file__).read_text()
    names = {path.name for path in EXAMPLES.glob("*.py")} - {"greeter.py"}
    assert [name for name in names if f'run("{name}"' not in text] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_every_promise_has_its_test(page: Path) -> None:
    """A page that names a test names one that exists."""
    named = re.findall(r"`(test_\w+)\.py::(test_\w+)`", page.read_text())
    for module, function in named:
        assert f"def {function}(" in (ROOT / "tests" / f"{module}.py").read_text(), function
    if page.name == "design.md":
        assert len(named) >= 13
