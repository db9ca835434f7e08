"""Places to start from, values to send, and functions to run that a pool was not made for."""

from __future__ import annotations

import contextvars
import multiprocessing
import multiprocessing.connection
import multiprocessing.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

import fault_jobs
import jobs
from helpers import serving_pool, wait_for_file, wait_until
from trioipc import (
    PayloadError,
    RequestTimeoutError,
    WorkerCrashedError,
    WorkerStartError,
    open_worker_pool,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trioipc import WorkerPool

TESTS = Path(jobs.__file__).parent


pytestmark = pytest.mark.stderr("")


@pytest.fixture
async def pool() -> AsyncIterator[WorkerPool]:
    """Provide a pool of one process, and see that it serves the next request in the end."""
    async with serving_pool(1) as pool:
        yield pool


# ---- where a program comes from

PROGRAM = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})

if __name__ == "__main__":
    import os, sys, jobs, trio, trioipc

    async def main():
        if "--delete" in sys.argv:
            os.unlink(__file__)
        async with trioipc.open_worker_pool(1) as pool:
            print(await pool.run(jobs.add, 1, 2), await pool.run(jobs.loaded, "trio"))

    trio.run(main)
"""


@pytest.mark.parametrize("way", ["file", "-c", "stdin", "-m", "zip", "deleted file"])
def test_wherever_the_program_comes_from(way: str, tmp_path: Path) -> None:
    """A pool works, and its worker loads no Trio; a file that is gone is a clear error."""
    (tmp_path / "program.py").write_text(PROGRAM)
    with zipfile.ZipFile(tmp_path / "program.zip", "w") as archive:
        archive.writestr("__main__.py", PROGRAM)
    arguments = {
        "file": ["program.py"],
        "-c": ["-c", PROGRAM],
        "stdin": ["-"],
        "-m": ["-m", "program"],
        "zip": ["program.zip"],
        "deleted file": ["program.py", "--delete"],
    }[way]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        input=PROGRAM if way == "stdin" else "",
        capture_output=True,
        text=True,
        timeout=30,
    )
    if way in ("stdin", "deleted file"):  # workers import the main module again, and cannot
        assert "WorkerStartError: a worker process could not be started" in done.stderr
        assert done.stdout == ""
    else:
        assert (done.stdout, done.stderr) == ("3 False\n", "")


def test_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    """It is no trouble, or an error that says so; nothing hangs."""
    (tmp_path / "gone").mkdir()
    text = PROGRAM.replace(
        "async with", f"os.rmdir({str(tmp_path / 'gone')!r}); x = 1\n        async with"
    )
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=tmp_path / "gone",
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout == "3 False\n" or "WorkerStartError" in done.stderr


@pytest.mark.parametrize("error", [BlockingIOError(11, "no more processes"), MemoryError()])
async def test_no_process_to_be_had(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says is in the error, and the next pool opens when it can."""

    def refuse(*arguments: object) -> int:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(multiprocessing.util, "spawnv_passfds", refuse)
        with pytest.raises(WorkerStartError, match=type(error).__name__):
            async with open_worker_pool(1):
                raise AssertionError
    async with open_worker_pool(1) as pool:
        assert await pool.run(jobs.add, 1, 2) == 3


async def test_a_worker_that_is_stopped_while_it_starts() -> None:
    """The start timeout finds it."""

    async def stop(before: set[int]) -> None:
        await wait_until(lambda: _workers() - before)
        for pid in _workers() - before:
            os.kill(pid, signal.SIGSTOP)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop, _workers())
        with pytest.raises(WorkerStartError, match="start_timeout"):
            async with open_worker_pool(1, start_timeout=1, modules=["slow_module"]):
                raise AssertionError


def _workers() -> set[int]:
    return {child.pid for child in multiprocessing.active_children() if child.pid}


async def test_a_module_that_only_we_have(
    pool: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that the worker cannot find is a PayloadError that names its module."""
    (tmp_path / "only_here.py").write_text("def function(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here  # type: ignore[import-not-found]

    await pool.run(jobs.nothing)
    os.unlink(tmp_path / "only_here.py")
    with pytest.raises(PayloadError, match="only_here"):
        await pool.run(only_here.function)


# ---- what is sent


def _cannot_travel() -> dict[str, Callable[[], Any]]:
    class Local:
        pass

    async def coroutine() -> None:
        pass

    def close_at_once() -> Any:
        made = coroutine()
        made.close()
        return made

    return {
        "lambda": lambda: lambda: None,
        "local object": Local,
        "lock": threading.Lock,
        "thread": threading.Thread,
        "generator": lambda: (number for number in range(3)),
        "coroutine": close_at_once,
        "module": lambda: os,
        "frame": sys._getframe,
        "code": lambda: jobs.add.__code__,
        "context variable": lambda: contextvars.ContextVar("name"),
        "context": contextvars.copy_context,
        "iterator of a dict": lambda: {}.keys(),
        "standard stream": lambda: sys.__stderr__,
        "socket": socket.socket,
        "in a list": lambda: [threading.Condition()],
        "in a dict": lambda: {"a": {"b": [threading.Lock()]}},
        "recursive": fault_jobs.Recursive,
        "deep": lambda: fault_jobs.nested(100_000),
        "connection": lambda: multiprocessing.connection.Connection(os.open(os.devnull, os.O_RDWR)),
    }


@pytest.mark.parametrize("kind", [*_cannot_travel()])
async def test_what_cannot_travel(pool: WorkerPool, kind: str) -> None:
    """It is refused before a worker is asked."""
    value = _cannot_travel()[kind]()
    before = pool.statistics().workers[0].requests
    with pytest.raises(PayloadError, match=r"argument 0 of jobs\.echo"):
        await pool.run(jobs.echo, value)
    assert pool.statistics().workers[0].requests == before
    if isinstance(value, (socket.socket, multiprocessing.connection.Connection)):
        value.close()


async def test_arguments_that_cannot_arrive(pool: WorkerPool) -> None:
    """What fails where it is unpickled is a PayloadError with the reason, and the worker lives."""
    before = await pool.run(jobs.pid)
    with pytest.raises(PayloadError, match="no unpickling of me"):
        await pool.run(jobs.echo, jobs.FailsOnUnpickle())
    assert await pool.run(jobs.pid) == before


@pytest.mark.parametrize(
    "size",
    [0, 1, (8 << 10) - 1, 8 << 10, (16 << 10) + 1, (64 << 10) - 1, (64 << 10) + 1, (4 << 20) + 1],
)
@pytest.mark.parametrize("kind", [bytes, bytearray, str, list])
async def test_sizes(pool: WorkerPool, size: int, kind: type[Any]) -> None:
    """Each size on either side of where ways part comes back whole."""
    value: Any = "x" * size if kind is str else kind(bytes(size))
    assert await pool.run(jobs.echo, value) == value


async def test_none_is_an_answer(pool: WorkerPool) -> None:
    """In every way to ask for one."""
    assert await pool.run(jobs.echo, None) is None
    async with pool.open_request(jobs.nothing) as request:
        assert await request.result() is None
        assert await request.result() is None


@pytest.mark.parametrize(
    ("give", "error"),
    [(fault_jobs.give_a_generator, PayloadError), (fault_jobs.give_a_coroutine, TypeError)],
)
async def test_results_that_would_run_later(
    pool: WorkerPool, give: Callable[[], Any], error: type[Exception]
) -> None:
    """They are errors that name what came, and the worker lives."""
    before = await pool.run(jobs.pid)
    with pytest.raises(error, match=r"generator|coroutine"):
        await pool.run(give)
    assert await pool.run(jobs.pid) == before


async def test_a_function_without_a_bottom(pool: WorkerPool) -> None:
    """A RecursionError comes home as itself; results that nest too deeply do not."""
    with pytest.raises(RecursionError) as caught:
        await pool.run(fault_jobs.recurse)
    assert len(traceback.extract_tb(caught.value.__traceback__)) > 100
    assert "in the middle of the traceback are left out" in caught.value.__notes__[0]
    with pytest.raises(PayloadError, match="RecursionError"):
        await pool.run(fault_jobs.nested, 100_000)


async def test_causes_that_go_round(pool: WorkerPool) -> None:
    """What can be told of such an exception is told; the worker lives."""
    before = await pool.run(jobs.pid)
    with trio.fail_after(20), pytest.raises((ValueError, PayloadError)):
        await pool.run(fault_jobs.fail_in_a_circle)
    assert await pool.run(jobs.pid) == before


async def test_an_error_of_many_words(pool: WorkerPool) -> None:
    """Ten million characters are an error like any other."""
    with trio.fail_after(20), pytest.raises(ValueError) as caught:  # noqa: PT011 - its text is long
        await pool.run(fault_jobs.fail_at_length, 10_000_000)
    assert len(str(caught.value)) == 10_000_000


async def test_an_argument_that_changes_later(pool: WorkerPool, tmp_path: Path) -> None:
    """What was sent was a copy of what it was then."""
    data = bytearray(b"before" * 100_000)
    async with pool.open_request(jobs.echo, data) as request:
        await request.wait_started()
        data[:] = b"after!" * 100_000
        assert await request.result() == b"before" * 100_000


# ---- what is run


async def test_standard_streams_that_were_closed(pool: WorkerPool) -> None:
    """A worker does not need them."""
    before = await pool.run(jobs.pid)
    await pool.run(fault_jobs.close_standard_streams)
    assert await pool.run(fault_jobs.print_much, 100) == 100
    assert await pool.run(jobs.pid) == before


def test_nobody_reads_what_workers_print(tmp_path: Path) -> None:
    """A function that prints into a pipe that was closed holds nothing up."""
    program = PROGRAM.replace("jobs.add, 1, 2", "fault_jobs.print_much, 1 << 22").replace(
        "import os, sys, jobs", "import os, sys, jobs, fault_jobs"
    )
    program = program.replace("print(", "tuple((").replace('"trio"))', '"trio")))')
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        process.wait(20)
        assert b"PayloadError" not in process.stderr.read()
    assert process.returncode == 0


async def test_threads_that_never_end() -> None:
    """A worker that waits for them at its end is not waited for."""
    start = time.monotonic()
    async with serving_pool(1) as pool:
        await pool.run(fault_jobs.leave_threads, 5)
    assert time.monotonic() - start < 20


async def test_a_function_that_changes_everything(pool: WorkerPool, tmp_path: Path) -> None:
    """The next request is served; what cannot be interrupted any more ends all the same."""
    assert await pool.run(jobs.sleep, 0) == "slept"
    await pool.run(fault_jobs.change_everything, str(tmp_path))
    assert await pool.run(jobs.add, 1, 2) == 3
    with trio.fail_after(20), pytest.raises(RequestTimeoutError):
        await pool.run(jobs.sleep, 60, timeout=0.1, grace=0.1)


async def test_a_function_that_blocks_all_signals(pool: WorkerPool, tmp_path: Path) -> None:
    """There is one that nobody can block."""
    with trio.move_on_after(20) as scope:
        async with pool.open_request(
            fault_jobs.block_all_signals, str(tmp_path / "begun"), grace=0.1
        ) as request:
            await wait_for_file(tmp_path / "begun")
            request.cancel()
    assert not scope.cancelled_caught
    assert pool.statistics().restarts == {"killed": 1}


async def test_sigterm_ends_what_functions_start(pool: WorkerPool) -> None:
    """The worker stays, its children and their programs end by it as they always do."""
    assert await pool.run(fault_jobs.sigterm_of_children) == ["SIGTERM"] * 2


async def test_more_memory_than_is_allowed(pool: WorkerPool) -> None:
    """It is a MemoryError of the function, and the worker lives."""
    before = await pool.run(jobs.pid)
    with pytest.raises(MemoryError):
        await pool.run(fault_jobs.take_memory, 64 << 20)
    assert await pool.run(jobs.pid) == before


async def test_workers_are_told_what_we_were(pool: WorkerPool) -> None:
    """Development mode and warnings as errors reach them."""
    found = await pool.run(fault_jobs.flags_and_warnings)
    assert found == (sys.flags.dev_mode, sys.warnoptions)


async def test_a_worker_that_the_kernel_kills(pool: WorkerPool) -> None:
    """When memory runs out it sends a SIGKILL that nobody here has asked for."""
    async with pool.open_request(jobs.sleep, 60) as request:
        await request.wait_started()
        os.kill(pool.workers[0].pid or 0, signal.SIGKILL)
        with pytest.raises(WorkerCrashedError, match="SIGKILL"):
            await request.result()
