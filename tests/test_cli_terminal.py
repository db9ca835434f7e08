"""The command line on a terminal: bars, passwords, Ctrl-C; and how it ends by other signals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import brotli
import pytest

from command import COMMAND, SECONDS, environment, terminal
from helpers import is_alive

if TYPE_CHECKING:
    from pathlib import Path

# What takes so long to compress at that level that one can interrupt it.
SLOWLY = ("compress", "-a", "brotli", "-l", "10")
SIZE = 64 << 20
# A bar of which some is done: both numbers with their unit.
MOVING = rb"[1-9][0-9.]*/[0-9.]+ MB"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with large files, one of which would replace another one."""
    noise = os.urandom(1 << 20)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(noise * (SIZE >> 20))
    (tmp_path / "a.br").write_bytes(b"mine")
    return tmp_path


def nothing_changed(folder: Path) -> bool:
    """Say whether all is as it was, and nothing else there."""
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    return sizes == {"a": SIZE, "b": SIZE, "a.br": 4}


def workers_of(pid: int) -> list[int]:
    """Return the processes below one."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        own = [int(child) for child in file.read().split()]
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            own += [int(child) for child in file.read().split()]
    return own


def test_bars(folder: Path) -> None:
    """One for each file and one for all, with rate and time left, in one line each; then none."""
    (folder / "[red]\x1b[2J").write_bytes(b"odd")
    for name in ("a", "b"):  # so that each is seen on its way
        os.truncate(folder / name, 512 << 20)
    with terminal("hash", "a", "[red]\x1b[2J", "missing", "b", cwd=folder) as screen:
        assert screen.end() == 1
    lines = screen.lines()
    bars = [line for line in lines if "━" in line]
    assert bars
    assert max(map(len, bars)) <= 80 - len("^C")  # which a terminal writes behind them
    assert any(re.match(r"4 files +━.* *\d+% .*/1\.1 GB .*(\d:\d\d|-:--)", bar) for bar in bars)
    assert any(re.match(r"[ab] +━.* *\d+% ", bar) for bar in bars)
    # What commands a terminal came from us: the name of the file did not clear it.
    assert b"\x1b[2J" not in screen.text
    results = [line for line in lines if re.match(r"[0-9a-f]{64}  ", line)]
    assert [line[66:] for line in results] == ["a", r"[red]\x1b[2J", "b"]
    assert "trioipc: missing: No such file or directory" in lines
    # The cursor is shown again.
    assert screen.text.rfind(b"\x1b[?25h") > screen.text.rfind(b"\x1b[?25l") > -1


def test_results_go_to_a_pipe_while_bars_go_to_the_terminal(folder: Path) -> None:
    """Each has its own."""
    command = ["/bin/sh", "-c", '"$@" > sums', "sh", *COMMAND]
    with terminal("hash", "a", "b", cwd=folder, command=command) as screen:
        assert screen.end() == 0
    assert "━".encode() in screen.text
    assert re.search(rb"[0-9a-f]{64}", screen.text) is None
    subprocess.run(["sha256sum", "--check", "--quiet", "sums"], cwd=folder, check=True)


WITHOUT_RICH = """
import sys
sys.modules["rich"] = sys.modules["rich.console"] = None
from trioipc.__main__ import main
sys.exit(main())
"""


def test_without_rich(folder: Path) -> None:
    """There are no bars, and all else is the same."""
    command = [sys.executable, "-c", WITHOUT_RICH]
    with terminal("hash", "a", "b", cwd=folder, command=command) as screen:
        assert screen.end() == 0
    assert [line[64:] for line in screen.lines()] == ["  a", "  b"]
    assert b"\x1b" not in screen.text


def test_ctrl_c(folder: Path) -> None:
    """It ends soon, with 130; there is no half-written file, no traceback, and no process."""
    with terminal(*SLOWLY, "--force", "a", "b", cwd=folder) as screen:
        screen.wait_for(MOVING)
        workers = workers_of(screen.pid)
        screen.type("\x03")
        assert screen.end() == 130
    assert screen.lines()[-1] == "trioipc: interrupted"
    assert b"Traceback" not in screen.text
    assert screen.text.rfind(b"\x1b[?25h") > screen.text.rfind(b"\x1b[?25l") > -1
    assert workers
    deadline = time.monotonic() + 10  # the kernel may still be at it
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(is_alive, workers))
    assert nothing_changed(folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_other_signals(folder: Path, number: signal.Signals) -> None:
    """As Ctrl-C, with another code."""
    with terminal(*SLOWLY, "--force", "a", "b", cwd=folder) as screen:
        screen.wait_for(MOVING)
        os.kill(screen.pid, number)
        assert screen.end() == 128 + number
    assert b"Traceback" not in screen.text
    assert nothing_changed(folder)


def test_killed(folder: Path) -> None:
    """What nobody can catch leaves no half-written file either, and no process."""
    with terminal(*SLOWLY, "--force", "a", "b", cwd=folder) as screen:
        screen.wait_for(MOVING)
        workers = workers_of(screen.pid)
        os.kill(screen.pid, signal.SIGKILL)
        assert screen.end() == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while any(map(is_alive, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert nothing_changed(folder)


@pytest.mark.parametrize("ignored", ["INT", "INT TERM HUP"])
def test_ctrl_c_that_is_ignored(folder: Path, ignored: str) -> None:
    """As `nohup` and the background of a script have it: it stays so."""
    script = f"trap '' {ignored}; echo ready; exec \"$@\""
    program = subprocess.Popen(
        ["/bin/sh", "-c", script, "sh", *COMMAND, "compress", "-o", "-", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert program.stdin is not None
    assert program.stdout is not None
    assert program.stdout.readline() == b"ready\n"
    program.send_signal(signal.SIGINT)
    out, said = program.communicate(b"text", timeout=SECONDS)
    assert (program.returncode, said) == (0, b"")
    assert out.startswith(b"\x1f\x8b")


def test_ctrl_c_while_it_reads_a_pipe(tmp_path: Path) -> None:
    """Nobody writes; it ends all the same."""
    with terminal("compress", "-o", "to", "-", cwd=tmp_path) as screen:
        screen.wait_for("━".encode())
        screen.type("\x03")
        assert screen.end() == 130
    assert list(tmp_path.iterdir()) == []


def test_what_is_compressed_is_not_for_a_terminal(tmp_path: Path) -> None:
    """It would only be disturbed by it."""
    with terminal("compress", "-", cwd=tmp_path) as screen:
        assert screen.end() == 2
    assert screen.lines() == ["trioipc: a terminal cannot show what is compressed: say -o FILE"]


def test_a_worker_that_is_killed(folder: Path) -> None:
    """Another one does its work again; the bar goes back, and the file is complete."""
    (folder / "a").write_bytes(os.urandom(24 << 20))
    with terminal(*SLOWLY, "--workers", "1", "-o", "to", "a", cwd=folder) as screen:
        screen.wait_for(MOVING)
        for worker in workers_of(screen.pid):
            with open(f"/proc/{worker}/cmdline") as file:
                if "spawn_main" in file.read():
                    os.kill(worker, signal.SIGKILL)
        assert screen.end() == 0
    assert brotli.decompress((folder / "to").read_bytes()) == (folder / "a").read_bytes()


# ---- passwords


def test_passwords_are_asked_for(tmp_path: Path) -> None:
    """Twice to encrypt, once to decrypt; what is typed is not shown."""
    (tmp_path / "plain").write_bytes(b"plain")
    with terminal("encrypt", "plain", cwd=tmp_path) as screen:
        screen.wait_for(b"Password: ")
        screen.type("söcret\n")
        screen.wait_for(b"Once more: ")
        screen.type("söcret\n")
        assert screen.end() == 0
    assert b"cret" not in screen.text
    with terminal("decrypt", "-o", "back", "plain.trioipc", cwd=tmp_path) as screen:
        screen.wait_for(b"Password: ")
        screen.type("söcret\n")
        assert screen.end() == 0
    assert (tmp_path / "back").read_bytes() == b"plain"


def test_a_slip(tmp_path: Path) -> None:
    """Two that are not the same: nothing is begun."""
    (tmp_path / "plain").write_bytes(b"plain")
    with terminal("encrypt", "plain", cwd=tmp_path) as screen:
        screen.wait_for(b"Password: ")
        screen.type("one\n")
        screen.wait_for(b"Once more: ")
        screen.type("two\n")
        assert screen.end() == 2
    assert screen.lines()[-1] == "trioipc: the two passwords are not the same"
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


@pytest.mark.parametrize(("key", "code"), [("\x03", 130), ("\x04", 2)], ids=["Ctrl-C", "Ctrl-D"])
def test_no_password(tmp_path: Path, key: str, code: int) -> None:
    """Ctrl-C and Ctrl-D instead of one."""
    with terminal("decrypt", "x.trioipc", cwd=tmp_path) as screen:
        screen.wait_for(b"Password: ")
        screen.type(key)
        assert screen.end() == code
    assert b"Traceback" not in screen.text
