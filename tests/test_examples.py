"""The programs of ``examples/`` run as their readers run them."""

from __future__ import annotations

import gzip
import hashlib
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parent.parent / "examples"
SECONDS = 60


def run(name: str, *arguments: str, text: str = "") -> str:
    """Run an example to its end; return what it prints."""
    path = EXAMPLES / name
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", path.name, *arguments],
        cwd=path.parent,
        input=text,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


def test_encrypt_with_progress(tmp_path: Path) -> None:
    """What was sealed is opened with the same password, and with no other."""
    noise = bytes(range(256)) * 20_000
    (tmp_path / "noise").write_bytes(noise)
    (tmp_path / "empty").write_bytes(b"")
    vault, to = tmp_path / "vault", tmp_path / "to"
    files = [str(tmp_path / name) for name in ("noise", "empty")]
    name = "encrypt_with_progress.py"
    output = run(name, "seal", str(vault), *files, text="password\n")
    assert "sealed noise" in output
    assert noise[:100] not in (vault / "noise.sealed").read_bytes()
    output = run(name, "open", str(vault), str(to), text="another\n")
    assert output.count("wrong password") == 2
    assert list(to.iterdir()) == []
    output = run(name, "open", str(vault), str(to), text="password\n")
    assert f"opened noise: {len(noise)} bytes" in output
    assert (to / "noise").read_bytes() == noise
    assert (to / "empty").read_bytes() == b""
    # Each under its own name: one cannot stand for the other.
    (vault / "noise.sealed").rename(vault / "other.sealed")
    output = run(name, "open", str(vault), str(to), text="password\n")
    assert "other: wrong password, or not what was sealed" in output


def test_process_files(tmp_path: Path) -> None:
    """The words of all of them, and a line for each that could not be read."""
    (tmp_path / "one").write_text("green apple\nred apple\n")
    (tmp_path / "two").write_text("green pear")
    (tmp_path / "bad").write_bytes(b"\xff\xfe")
    names = ("one", "missing", "bad", "two")
    assert run("process_files.py", *(str(tmp_path / name) for name in names)).splitlines() == [
        "one: 2 lines, 3 words",
        "missing: FileNotFoundError",
        "bad: UnicodeDecodeError",
        "two: 1 lines, 2 words",
        "most often: green 2, apple 2, pear 1",
    ]


def test_cancellable() -> None:
    """The first that finds it stops the others; the hash is one, by another implementation."""
    *stopped, answer = run("cancellable.py", "trio", "16", "50").splitlines()
    found = re.fullmatch(r"(trio\d+) has the hash ([0-9a-f]{64})", answer)
    assert found is not None
    assert hashlib.sha256(found[1].encode()).hexdigest() == found[2]
    assert found[2].startswith("0000")
    assert {re.sub(r"\d+", "N", line) for line in stopped} <= {
        "worker N stopped: another one has found it"
    }


def test_cancellable_runs_out_of_time() -> None:
    """Nobody finds what nobody can find; how far they came is known."""
    (line,) = run("cancellable.py", "trio", "200", "2").splitlines()
    assert re.fullmatch(r"time was up, after \d+ numbers", line)


def test_custom_worker() -> None:
    """It keeps what it was told, answers in types, and does not know every message."""
    assert run("custom_worker/client.py", "lazy", "dog").splitlines() == [
        "documents: 1",
        "documents: 2",
        "documents: 3",
        "dogs: 4",
        "fox: 2",
        "2 of 3",
        "no operation 'forget' on channel 'custom'; there are: add, search",
    ]


def test_pipeline(tmp_path: Path) -> None:
    """Of many blocks, one of which is bad, what the standard library says."""
    numbers = {"north": range(-300, 300), "south": range(100, 700)}
    lines = [f"{name},{n / 10}" for n in range(-300, 700) for name in numbers if n in numbers[name]]
    (tmp_path / "measured").write_text("\n".join([*lines * 300, *["nonsense"] * 100]) + "\n")
    whole, rest = divmod(len(lines) * 300, 10_000)
    assert rest == 0  # so that nonsense has a block of its own
    assert whole > 30
    means = [statistics.fmean(n / 10 for n in numbers[name]) for name in ("north", "south")]
    assert run("pipeline.py", str(tmp_path / "measured")).splitlines() == [
        f"north: -30.0 to 29.9, {means[0]:.2f} on average",
        f"south: 10.0 to 69.9, {means[1]:.2f} on average",
        f"{len(lines) * 300} lines, 1 blocks left out",
    ]


# ---- the web service


@contextmanager
def service() -> Iterator[tuple[httpx2.Client, subprocess.Popen[str]]]:
    """Run it; give a client of it, and the process."""
    process = subprocess.Popen(
        [sys.executable, "web_service.py", "0"],
        cwd=EXAMPLES,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert url, process.communicate()[1]
        with httpx2.Client(base_url=url, trust_env=False, timeout=SECONDS) as client:
            yield client, process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def health(client: httpx2.Client) -> dict[str, Any]:
    """Ask how it goes."""
    found: dict[str, Any] = client.get("/health").json()
    return found


def test_web_service() -> None:
    """It hashes and compresses, refuses what is too much, and ends in good order."""
    data = b"some of it again and again " * 100_000
    with service() as (client, process):
        assert client.post("/hash", content=data).text == hashlib.sha256(data).hexdigest() + "\n"
        packed = client.post("/compress", content=data)
        assert packed.headers["content-type"] == "application/gzip"
        assert gzip.decompress(packed.content) == data
        assert client.post("/hash", content=b"").text == hashlib.sha256().hexdigest() + "\n"
        statuses = [
            client.get("/other").status_code,
            client.get("/hash").status_code,
            client.post("/hash", content=bytes((64 << 20) + 1)).status_code,
        ]
        assert statuses == [404, 405, 413]
        now = health(client)
        assert (now["done"], now["cancelled"], now["crashed workers"]) == (3, 0, 0)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=SECONDS)[0] == "ended\n"
        assert process.returncode == 0


def test_a_client_that_goes_away() -> None:
    """Its work is cancelled, and the worker is free for others."""
    # Long enough to compress that one can go away meanwhile.
    data = bytes(range(256)) * (48 << 12)
    deadline = time.monotonic() + SECONDS
    with service() as (client, _):
        host = client.base_url.host, client.base_url.port or 0
        with socket.create_connection(host) as connection:
            head = f"POST /compress HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
            connection.sendall(head.encode() + data)
            while not health(client)["busy"]:
                assert time.monotonic() < deadline
        while not health(client)["cancelled"]:
            assert time.monotonic() < deadline
        assert health(client)["busy"] == 0
        assert client.post("/hash", content=b"x").status_code == 200


def test_every_example_is_run() -> None:
    """None is without its test, and each is in the list."""
    text = Path(__file__).read_text()
    programs = [path for path in EXAMPLES.rglob("*.py") if "__main__" in path.read_text()]
    assert programs
    for path in programs:
        assert f'"{path.relative_to(EXAMPLES)}"' in text
    readme = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        if path.name not in ("README.md", "__pycache__"):
            assert f"({path.name})" in readme
