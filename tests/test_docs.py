"""Every example of the docs runs, and prints what it should."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cluster import cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def run(name: str, *arguments: str, stderr: str = "") -> str:
    """Run an example as its readers do; return what it prints."""
    done = subprocess.run(
        [sys.executable, name, *arguments],
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stderr, done.returncode) == (stderr, 0)
    return done.stdout


def test_the_readmes_program(tmp_path: Path) -> None:
    """It runs as it stands there, beside a file of the name that it wants."""
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "disk.iso").write_bytes(bytes(1000))
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.stderr, done.returncode) == ("", 0)
    primes, *_, digest = done.stdout.splitlines()
    assert (primes, digest) == ("9592", hashlib.sha256(bytes(1000)).hexdigest())
    assert gzip.decompress((tmp_path / "disk.iso.gz").read_bytes()) == bytes(1000)


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


def shown(name: str) -> list[str]:
    """Return what the page of an example says that it prints."""
    (text,) = [
        found
        for page in PAGES
        for found in re.findall(
            rf"```console\n\$ python {name}[^\n]*\n(.*?)```", page.read_text(), re.DOTALL
        )
    ]
    return text.splitlines()


def without_numbers(lines: list[str]) -> list[str]:
    """Leave out what is another number each time."""
    return [re.sub(r"\d+(\.\d+)?", "N", line.strip()) for line in lines]


def test_big_payloads() -> None:
    """To the letter what its page shows: memory is used as it says."""
    assert run("big_payloads.py").splitlines() == shown("big_payloads.py")


def test_io_workers() -> None:
    """A hundred at once, in the time of one; the time may be longer here."""
    many, *rest = run("io_workers.py").splitlines()
    shown_many, *shown_rest = shown("io_workers.py")
    assert rest == shown_rest
    assert without_numbers([many]) == without_numbers([shown_many])
    found = re.fullmatch(r"100 answers from 1 process in (.*) s", many)
    assert found is not None
    assert float(found[1]) < 10  # one after the other: 20


def test_stream_items() -> None:
    """To the letter what its page shows."""
    assert run("stream_items.py").splitlines() == shown("stream_items.py")


def test_where_work_runs() -> None:
    """It has learnt where; on another machine that may be elsewhere."""
    lines = run("where_work_runs.py").splitlines()
    for text in (lines, shown("where_work_runs.py")):
        before, little, much = text
        assert before == "before: to find out what it costs there"
        assert re.fullmatch(r"100 bytes: (inline|thread|process) \(.+\)", little)
        assert re.fullmatch(r"4 MiB: (thread|process) \(.+\)", much)


def test_on_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask runs it."""
    monkeypatch.setenv("DASK_TEMPORARY_DIRECTORY", str(tmp_path))
    assert run("on_a_cluster.py").splitlines() == shown("on_a_cluster.py")


def test_secure_cluster(tmp_path: Path) -> None:
    """It is let in with a certificate of the cluster's authority, and not with another's."""
    ours, theirs = trustme.CA(), trustme.CA()
    for name, authority in (("ours", ours), ("theirs", theirs)):
        authority.cert_pem.write_to_path(str(tmp_path / f"{name}-ca.pem"))
        issued = authority.issue_cert("127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
        issued.private_key_pem.write_to_path(str(tmp_path / f"{name}-key.pem"))
    files = [str(tmp_path / name) for name in ("ours-ca.pem", "ours.pem", "ours-key.pem")]
    with cluster(1, 1, *files) as address:
        assert address.startswith("tls://")
        assert run("secure_cluster.py", address, *files) == "mean: 2.0\n"
        files[1:] = [str(tmp_path / name) for name in ("theirs.pem", "theirs-key.pem")]
        refused = subprocess.run(
            [sys.executable, "secure_cluster.py", address, *files],
            cwd=EXAMPLES,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "WorkerStartError: no connection to a Dask cluster" in refused.stderr


def test_compress_files(tmp_path: Path) -> None:
    """What it wrote is read by another implementation, and was made by several requests."""
    data = b"".join(b"%d bottles of beer on the wall\n" % number for number in range(100_000))
    (tmp_path / "book.txt").write_bytes(data)
    *progress, sizes, same = run("compress_files.py", str(tmp_path / "book.txt")).splitlines()
    packed = (tmp_path / "book.txt.gz").read_bytes()
    assert gzip.decompress(packed) == data
    assert sizes == f"book.txt.gz: {len(data)} bytes, now {len(packed)}"
    assert progress[-1] == "100 %"
    *shown_progress, shown_sizes, shown_same = shown("compress_files.py")
    assert same == shown_same
    assert without_numbers([sizes]) == without_numbers([shown_sizes])
    assert {*without_numbers([*progress, *shown_progress])} == {"N %"}


@pytest.mark.parametrize(
    "name",
    [
        "answers.py",
        "bytes_and_files.py",
        "cancel.py",
        "crashes.py",
        "errors.py",
        "lifespan.py",
        "map_items.py",
        "nesting.py",
        "scheduling.py",
        "shared_state.py",
        "shortest.py",
        "size_a_pool.py",
        "watch_a_request.py",
    ],
)
def test_as_its_page_shows(name: str) -> None:
    """To the letter."""
    assert run(name).splitlines() == shown(name)


def test_move() -> None:
    """All three ways give the same."""
    assert run("move.py") == "27 27 27\n"


def test_no_guard() -> None:
    """The error says what is missing, once in the worker and once in the parent."""
    done = subprocess.run(
        [sys.executable, "no_guard.py"], cwd=EXAMPLES, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stdout == ""
    errors = re.findall(r"^trioipc\S*WorkerStartError: .*$", done.stderr, re.MULTILINE)
    assert len(errors) == 2
    assert all("without `if __name__ == '__main__':` around it" in error for error in errors)


def test_service() -> None:
    """What it has begun is answered after the signal; then it ends, and nothing is on stderr."""
    with subprocess.Popen(
        [sys.executable, "service.py", "0"],
        cwd=EXAMPLES,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as service:
        assert service.stdout is not None
        assert service.stderr is not None
        port = int(service.stdout.readline().removeprefix("listening on "))
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(b"abc")
            os.killpg(service.pid, signal.SIGTERM)  # as systemd does: workers get it too
            assert service.stdout.readline() == "ending\n"
            connection.sendall(b"\n")
            answer = connection.makefile().readline()
        assert answer == hashlib.sha256(b"abc").hexdigest() + "\n"
        assert service.stdout.read() == "ended\n"
        assert (service.stderr.read(), service.wait(30)) == ("", 0)


def test_observe() -> None:
    """What is slow, and what has crashed, is told; the rest is counted."""
    lines = run("observe.py").splitlines()
    assert without_numbers(lines) == without_numbers(shown("observe.py"))
    assert lines[1] == "a worker has crashed with exit code 3"
    assert lines[3].startswith("builtins.abs: 100 ended")


def test_traces() -> None:
    """Spans of the function, the request and the caller are of one trace, and end in that order."""
    lines = run("traces.py").splitlines()
    assert without_numbers(lines) == without_numbers(shown("traces.py"))
    traces = {re.findall(r"trace (\d+)", line)[0] for line in lines}
    assert len(traces) == 1


def test_testing() -> None:
    """The tests in it pass, all of them, in hours of virtual time."""
    assert run("testing.py").splitlines() == shown("testing.py")


@pytest.fixture
def website(tmp_path: Path) -> Iterator[str]:
    """Serve a file of two megabytes by the standard library; give its URL."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def copyfile(self, *arguments: object) -> None:
            try:
                super().copyfile(*arguments)  # type: ignore[arg-type]
            except ConnectionError:  # who measures has had enough
                self.close_connection = True

    (tmp_path / "file").write_bytes(bytes(2_000_000))
    handler = partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/file"
        server.shutdown()
        thread.join()


def test_probe_network(website: str) -> None:
    """One host answers, the other is not there."""
    with socket.socket() as unused:  # bound, but nobody listens
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        lines = run("probe_network.py", website, dead).splitlines()
    assert lines[0].startswith(f"{website}: status 200, answers in ")
    assert ", 1000000 bytes at " in lines[0]
    assert lines[1] == f"{dead}: connect"
    expected = [line.partition(": ")[2] for line in without_numbers(shown("probe_network.py"))]
    assert [line.partition(": ")[2] for line in without_numbers(lines)] == expected


def test_bars() -> None:
    """To the letter what its page shows; there is no terminal, so no bar."""
    files = ("../tutorial.md", "../design.md")
    sizes = [f"{(EXAMPLES / file).stat().st_size / 1000:.1f} kB" for file in files]
    is_old = tuple(map(int, version("rich").split(".")[:2])) < (14, 3)
    # Where there is no terminal, older ones end with an empty line.
    lines = run("bars.py", *files, stderr="\n" if is_old else "").splitlines()
    assert [line.partition(": ")[2] for line in lines[:2]] == sizes
    assert without_numbers(lines) == without_numbers(shown("bars.py"))


def transcript(page: str) -> list[tuple[str, str]]:
    """Return each command that a page shows, with what it says that comes of it."""
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    return [tuple(block.removeprefix("$ ").split("\n", 1)) for block in blocks]


def test_the_command_line(tmp_path: Path) -> None:
    """What its page shows is what comes."""
    (tmp_path / "poem.txt").write_text("Roses are red.\n")
    (tmp_path / "password").write_text("correct horse\n")
    commands = transcript("howto/command-line.md")
    assert len(commands) >= 4
    for command, expected in commands:
        done = subprocess.run(
            ["sh", "-c", f'trioipc() {{ "$PYTHON" -m trioipc "$@"; }}; {command}'],
            cwd=tmp_path,
            env={**os.environ, "PYTHON": sys.executable},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert done.stdout == expected, command


def test_every_example_is_run() -> None:
    """None is without its test, but for modules that others load."""
    text = Path(__file__).read_text()
    names = {path.name for path in EXAMPLES.glob("*.py")} - {"greeter.py", "telemetry.py"}
    assert [name for name in names if f'"{name}"' not in text] == []


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_all_code_is_in_files(page: Path) -> None:
    """Pages include programs, which are run; what they hold is commands and what comes of them."""
    languages = re.findall(r"^ *(?:`{3,}|~{3,}|:{3,})([a-z]+)", page.read_text(), re.MULTILINE)
    assert {*languages} <= {"console", "sh"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_promise_has_its_test(page: Path) -> None:
    """A page that names a test names one that exists."""
    named = re.findall(r"`(test_\w+)\.py::(test_\w+)`", page.read_text())
    for module, function in named:
        assert f"def {function}(" in (ROOT / "tests" / f"{module}.py").read_text(), function
    if page.name in ("design.md", "checks.md"):
        assert len(named) >= 13
