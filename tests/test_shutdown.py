"""The end of the parent, in every way that there is: no worker stays, and nothing is printed.

Each test runs a program as a user would, and looks at what it has left.
"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

import jobs
from helpers import is_alive
from trioipc import open_worker_pool

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(jobs.__file__).parent


pytestmark = pytest.mark.stderr("")


@attrs.define(eq=False)
class Program:
    """A program that runs, and what came of it."""

    folder: Path
    mark: str
    process: subprocess.Popen[str]

    def wait_for(self, name: str) -> None:
        """Wait until the program has left a file."""
        deadline = time.monotonic() + 30
        while not (self.folder / name).exists():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def end(self, seconds: float = 20) -> tuple[int, str, str]:
        """Wait for its end; return exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err

    def processes(self) -> set[int]:
        """Return which processes it consists of, by what is in their environment."""
        found = set()
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                environment = Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            if self.mark.encode() in environment and is_alive(int(name)):
                found.add(int(name))
        return found

    def is_gone_within(self, seconds: float) -> bool:
        """Say whether none of its processes is left by then."""
        deadline = time.monotonic() + seconds
        while self.processes():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True


@contextmanager
def running(folder: Path, body: str, **options: object) -> Iterator[Program]:
    """Run a program whose ``main`` has this body; all of it is gone in the end."""
    head = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import jobs

if __name__ == "__main__":
    import os, signal, time, trio, trioipc
    from pathlib import Path
    folder = {str(folder)!r}

"""
    path = folder / "program.py"
    path.write_text(head + textwrap.indent(textwrap.dedent(body), "    "))
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TRIOIPC_MARK": mark},
        **options,  # type: ignore[call-overload]
    )
    program = Program(folder, mark, process)
    try:
        yield program
    finally:
        for pid in program.processes():
            os.kill(pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


BUSY = """
async def main():
    async with trioipc.open_worker_pool(2) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.run, jobs.spin, folder + "/first")
        nursery.start_soon(pool.run, jobs.stubborn, folder + "/second")
        while not (os.path.exists(folder + "/first") and os.path.exists(folder + "/second")):
            await trio.sleep(0.001)
        {end}

trio.run(main)
"""


@pytest.mark.parametrize(
    ("end", "code", "last_line"),
    [
        ("os._exit(7)", 7, ""),
        ("sys.exit(5)", 5, ""),
        ("raise LookupError('unhandled')", 1, "LookupError: unhandled"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("os.abort()", -signal.SIGABRT, ""),
    ],
    ids=["os._exit", "sys.exit", "an exception", "SIGKILL", "SIGABRT"],
)
def test_the_end_of_a_busy_program(tmp_path: Path, end: str, code: int, last_line: str) -> None:
    """However it ends, a second later no process of it is left, and no worker has complained."""
    with running(tmp_path, BUSY.format(end=end)) as program:
        returncode, out, err = program.end()
        assert program.is_gone_within(1)
    assert out == ""
    if last_line:
        assert last_line in err
    elif end.startswith(("os._exit", "os.kill")):
        assert err == ""
    assert "jobs.py" not in err
    # Trio puts what a nursery's body raises in a group, and Python exits with 1 for that.
    assert returncode in (code, 1)


GRACEFUL = """
async def main():
    async with trio.open_nursery() as outer:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async def work(pool, name):
                print(await pool.run(jobs.wait_for, folder + "/go"), flush=True)

            async with trioipc.open_worker_pool(2) as pool, trio.open_nursery() as nursery:
                await pool.warm()
                for name in ("first", "second"):
                    nursery.start_soon(work, pool, name)
                while pool.statistics().busy_workers < 2:
                    await trio.sleep(0.001)
                Path(folder, "begun").touch()
                async for number in signals:
                    await trio.sleep(0.2)
                    Path(folder, "go").touch()
                    break
            print("closed", flush=True)

trio.run(main)
"""


def test_sigterm_to_all_of_a_program_that_ends_by_itself(tmp_path: Path) -> None:
    """As service managers send it: what is under way is finished, and nothing has crashed."""
    with running(tmp_path, GRACEFUL) as program:
        program.wait_for("begun")
        os.killpg(program.process.pid, signal.SIGTERM)
        assert program.end() == (0, "found\nfound\nclosed\n", "")
        assert program.is_gone_within(1)


def test_sigterm_to_all_of_a_program_that_does_not_know_it(tmp_path: Path) -> None:
    """It ends by that signal, silently, and all of it."""
    with running(tmp_path, BUSY.format(end="await trio.sleep(60)")) as program:
        program.wait_for("first")
        program.wait_for("second")
        os.killpg(program.process.pid, signal.SIGTERM)
        assert program.end() == (-signal.SIGTERM, "", "")
        assert program.is_gone_within(1)


def test_one_ctrl_c_in_a_terminal(tmp_path: Path) -> None:
    """A real terminal sends it to all: one KeyboardInterrupt, no word of a worker."""
    path = tmp_path / "program.py"
    path.write_text(
        f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import jobs

if __name__ == "__main__":
    import trio, trioipc

    async def main():
        async with trioipc.open_worker_pool(2) as pool:
            await pool.warm()
            await pool.run(jobs.cooperate, {str(tmp_path / "begun")!r})

    trio.run(main)
"""
    )
    child, terminal = pty.fork()
    if child == 0:
        plain = {**os.environ, "PYTHON_COLORS": "0"}
        os.execve(sys.executable, [sys.executable, str(path)], plain)
    try:
        while not (tmp_path / "begun").exists():
            time.sleep(0.005)
        os.write(terminal, b"\x03")
        text = b""
        while True:
            try:
                data = os.read(terminal, 1 << 16)
            except OSError:  # all who had it open are gone
                break
            if not data:
                break
            text += data
    finally:
        os.close(terminal)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (-signal.SIGINT, 130, 1)
    lines = text.splitlines()
    assert lines.count(b"KeyboardInterrupt") == 1
    assert text.count(b"Traceback (most recent call last)") == 1
    assert b"jobs.py" not in text


def test_ctrl_c_while_a_worker_starts(tmp_path: Path) -> None:
    """Its interpreter, which has not learnt yet to ignore it, does not mind."""
    path = tmp_path / "program.py"
    path.write_text(
        f"""
import os, pathlib, time

here = pathlib.Path({str(tmp_path)!r})

if __name__ == "__main__":
    import trio, trioipc

    async def main():
        async with trioipc.open_worker_pool(1) as pool:
            print(await pool.run(abs, -3))

    trio.run(main)
else:  # the worker loads this, too
    (here / "written").write_text(str(os.getpid()))
    (here / "written").rename(here / "pid")
    while not (here / "pressed").exists():
        time.sleep(0.005)
"""
    )
    program = subprocess.Popen(
        [sys.executable, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "pid").exists():
        assert program.poll() is None
        time.sleep(0.005)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGINT)
    (tmp_path / "pressed").touch()
    assert program.communicate(timeout=60) == ("3\n", "")


async def test_a_worker_has_ctrl_c_ignored_and_not_blocked() -> None:
    """So that programs which a function starts can have it."""
    async with open_worker_pool(1) as pool:
        blocked = await pool.run(signal.pthread_sigmask, signal.SIG_BLOCK, ())
        assert await pool.run(signal.getsignal, signal.SIGINT) is signal.SIG_IGN
    assert blocked == set()


@pytest.mark.parametrize("end", ["pass", "trio.run(later)", "del manager, pool; gc.collect()"])
def test_a_pool_that_is_never_left(tmp_path: Path, end: str) -> None:
    """Entered by hand and forgotten: nothing hangs, and no process stays."""
    body = f"""
    import gc

    async def main():
        global manager, pool
        manager = trioipc.open_worker_pool(1)
        pool = await manager.__aenter__()
        print(await pool.run(jobs.add, 1, 2), flush=True)

    async def later():
        await trio.sleep(0.1)

    try:
        trio.run(main)
    except BaseException as error:
        print(type(error).__name__, flush=True)
    {end}
    """
    with running(tmp_path, body) as program:
        _, out, _ = program.end(10)
        assert out.startswith("3\n")
        assert program.is_gone_within(1)


def test_a_guest_run_that_is_abandoned(tmp_path: Path) -> None:
    """The interpreter exits with a pool open and busy: it does not hang, no process stays."""
    body = """
    import queue
    todo = queue.SimpleQueue()

    async def main():
        async with trioipc.open_worker_pool(1) as pool:
            await pool.run(jobs.spin, folder + "/begun")

    trio.lowlevel.start_guest_run(
        main, run_sync_soon_threadsafe=todo.put, done_callback=print,
        host_uses_signal_set_wakeup_fd=False,
    )
    while not os.path.exists(folder + "/begun"):
        try:
            todo.get(timeout=0.01)()
        except queue.Empty:
            pass
    """
    with running(tmp_path, body) as program:
        program.end(10)
        assert program.is_gone_within(1)


def test_a_forked_child_that_exits(tmp_path: Path) -> None:
    """What is done to workers at exit is done by their parent only."""
    body = """
    from trioipc.pool.engines import _host

    async def main():
        async with trioipc.open_worker_pool(1) as pool:
            before = await pool.run(jobs.pid)
            child = os.fork()
            if child == 0:
                _host._kill_all()
                os._exit(0)
            os.waitpid(child, 0)
            print(await pool.run(jobs.pid) == before, pool.statistics().restarts)

    trio.run(main)
    """
    with running(tmp_path, body) as program:
        assert program.end()[:2] == (0, "True {}\n")


def test_a_program_that_was_stopped_for_a_while(tmp_path: Path) -> None:
    """As when a laptop sleeps: no worker is taken for dead, and what ran goes on."""
    body = """
    async def main():
        async with trioipc.open_worker_pool(1) as pool:
            first = await pool.run(jobs.pid)
            print(await pool.run(jobs.wait_for, folder + "/go"), flush=True)
            print(await pool.run(jobs.pid) == first, pool.statistics().restarts, flush=True)

    trio.run(main)
    """
    with running(tmp_path, body) as program:
        while len(program.processes()) < 2:
            time.sleep(0.005)
        time.sleep(0.5)
        os.killpg(program.process.pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.killpg(program.process.pid, signal.SIGCONT)
        (tmp_path / "go").touch()
        assert program.end() == (0, "found\nTrue {}\n", "")


def test_a_grandchild_outlives_everybody(tmp_path: Path) -> None:
    """It holds up neither a pool that is left nor a parent that is killed."""
    body = """
    async def main():
        start = time.monotonic()
        async with trioipc.open_worker_pool(1) as pool:
            await pool.run(jobs.start_grandchild, 20)
        print(time.monotonic() - start < 10, flush=True)
        async with trioipc.open_worker_pool(1) as pool:
            print(await pool.run(jobs.pid), await pool.run(jobs.start_grandchild, 20), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    trio.run(main)
    """
    with running(tmp_path, body) as program:
        _, out, err = program.end()
        line, pids = out.splitlines()
        worker, grandchild = map(int, pids.split())
        deadline = time.monotonic() + 1
        while is_alive(worker) and time.monotonic() < deadline:
            time.sleep(0.005)
        assert (line, err) == ("True", "")
        assert not is_alive(worker)
        assert is_alive(grandchild)


def test_memory_of_a_killed_program(tmp_path: Path) -> None:
    """A second later nobody maps what it had shared, however busy its workers were."""
    body = """
    async def main():
        async with trioipc.open_worker_pool(2) as pool, trio.open_nursery() as nursery:
            await pool.warm()
            held = [await pool.run(jobs.echo, bytearray(4 << 20)) for _ in range(4)]
            nursery.start_soon(pool.run, sum, range(10**11))
            nursery.start_soon(pool.run, jobs.stubborn, folder + "/begun")
            await trio.sleep_forever()

    trio.run(main)
    """
    before = set(os.listdir("/dev/shm"))
    with running(tmp_path, body) as program:
        program.wait_for("begun")
        program.process.kill()
        assert program.is_gone_within(1)
        assert program.end()[1:] == ("", "")
    # No process that could have mapped it is left; and it never had a name.
    assert not {name for name in os.listdir("/dev/shm") if "tipc" in name} - before


def test_the_resource_tracker_is_killed(tmp_path: Path) -> None:
    """Nothing of ours is known to it, so nothing is missed."""
    body = """
    from multiprocessing import resource_tracker

    async def main():
        async with trioipc.open_worker_pool(1) as pool:
            await pool.run(jobs.echo, bytes(1 << 20))
            os.kill(resource_tracker._resource_tracker._pid, signal.SIGKILL)
            print(len(await pool.run(jobs.echo, bytes(1 << 20))), flush=True)
            with trio.move_on_after(0.01):
                await pool.run(jobs.sleep, 60)

    trio.run(main)
    """
    with running(tmp_path, body) as program:
        returncode, out, err = program.end()
        assert program.is_gone_within(1)
    assert (returncode, out) == (0, f"{1 << 20}\n")
    assert "Traceback" not in err


@pytest.mark.parametrize("closed", ["stdin", "stdout", "all"])
def test_closed_standard_streams(tmp_path: Path, closed: str) -> None:
    """A program that was started without them works, and so do its workers."""
    numbers = {"stdin": (0,), "stdout": (1,), "all": (0, 1, 2)}[closed]
    body = f"""
    for number in {numbers}:
        os.close(number)

    async def main():
        async with trioipc.open_worker_pool(1) as pool:
            assert await pool.run(jobs.echo, bytes(1 << 20)) == bytes(1 << 20)
            try:
                await pool.run(jobs.die, 3)
            except trioipc.WorkerCrashedError:
                assert await pool.run(jobs.add, 1, 2) == 3
                Path(folder, "served").touch()

    trio.run(main)
    """
    with running(tmp_path, body) as program:
        program.end()
        assert program.is_gone_within(1)
    assert (tmp_path / "served").exists()
