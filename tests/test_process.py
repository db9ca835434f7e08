"""What only real worker processes show: crashes, kills, signals, descriptors, orphans."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

import jobs
from conftest import children, open_descriptors
from helpers import is_alive, wait_for_file, wait_until
from trioipc import (
    FallbackWarning,
    PayloadError,
    PoisonedRequestError,
    RequestCancelledError,
    RequestTimeoutError,
    WorkerCrashedError,
    WorkerStartError,
    current_request,
    open_worker_bridge,
    open_worker_pool,
)
from trioipc.protocol._codec import BESIDE, FROM_WORKER, NONE, READY, VALUE
from trioipc.testing import cancel_at_each_step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from trioipc import WorkerPool


@pytest.fixture
async def pool() -> AsyncIterator[WorkerPool]:
    """Provide a pool of one worker process."""
    async with open_worker_pool(1, modules=["jobs"]) as pool:
        yield pool


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Provide a way to run a script as a user would."""

    def run(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(text))
        return subprocess.run(
            [sys.executable, path, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


# ---- crashes


async def test_a_crash_is_an_error_at_that_call(pool: WorkerPool) -> None:
    """It says how the worker died and how far the function had come; the next call works."""
    before = await pool.run(jobs.pid)
    with pytest.raises(WorkerCrashedError) as caught:
        await pool.run(jobs.die, 42)
    error = caught.value
    assert (error.exitcode, error.signal, error.pid) == (42, None, before)
    assert (error.phase, error.last_progress, error.attempts) == ("dying", (4, 10), 1)
    assert 0 <= error.seconds_running < 10
    assert "with exit code 42" in str(error)
    assert await pool.run(jobs.pid) != before
    assert pool.statistics().restarts == {"crashed": 1}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR2, signal.SIGABRT])
async def test_a_signal_is_named(pool: WorkerPool, number: signal.Signals) -> None:
    """A worker that a signal killed says which."""
    with pytest.raises(WorkerCrashedError, match=f"killed by {number.name}") as caught:
        await pool.run(jobs.kill_self, number)
    assert (caught.value.signal, caught.value.exitcode) == (number, -number)


async def test_a_segfault_is_a_crash(pool: WorkerPool) -> None:
    """C code that goes wrong costs its request, and nothing else."""
    with pytest.raises(WorkerCrashedError) as caught:
        await pool.run(jobs.segfault)
    assert caught.value.signal == signal.SIGSEGV
    assert await pool.run(jobs.add, 1, 2) == 3


@pytest.mark.parametrize(
    ("function", "argument", "code"),
    [(jobs.make, "DiesOnPickle", 5), (jobs.echo, jobs.DiesOnUnpickle(), 6)],
    ids=["result", "argument"],
)
async def test_pickling_may_kill(
    pool: WorkerPool, function: Callable[[object], object], argument: object, code: int
) -> None:
    """A worker that dies while it pickles a result or unpickles an argument is a crash."""
    with pytest.raises(WorkerCrashedError) as caught:
        await pool.run(function, argument)
    assert caught.value.exitcode == code
    assert await pool.run(jobs.add, 1, 2) == 3


async def test_an_idle_worker_that_is_killed_is_replaced(pool: WorkerPool) -> None:
    """Nobody notices but the statistics."""
    before = await pool.run(jobs.pid)
    os.kill(before, signal.SIGKILL)
    assert await pool.run(jobs.pid) != before
    assert pool.statistics().restarts == {"crashed": 1}
    assert pool.statistics().total_errors == 0


async def test_only_the_request_of_a_dead_worker_suffers(tmp_path: Path) -> None:
    """Everything else goes on: on other workers, and in the queue."""
    async with open_worker_pool(2) as pool:
        await pool.warm()
        results: list[object] = []

        async def run(function: Callable[..., object], *arguments: object) -> None:
            try:
                results.append(await pool.run(function, *arguments))
            except WorkerCrashedError as error:
                results.append(error.exitcode)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, jobs.wait_for, str(tmp_path / "go"))
            await wait_until(lambda: pool.statistics().busy_workers == 1)
            nursery.start_soon(run, jobs.die, 9)
            await trio.testing.wait_all_tasks_blocked()
            for number in range(5):
                nursery.start_soon(run, jobs.echo, f"queued {number}")
            await wait_until(lambda: len(results) == 6)
            (tmp_path / "go").touch()
    assert results[0] == 9
    assert sorted(str(result) for result in results[1:6]) == [f"queued {n}" for n in range(5)]
    assert results[6] == "found"


async def test_a_retry_after_a_crash(pool: WorkerPool, tmp_path: Path) -> None:
    """What is idempotent is tried again on another worker; what is not, is not."""
    with pytest.raises(WorkerCrashedError):
        await pool.run(jobs.die_once, str(tmp_path / "first"))
    assert await pool.run(jobs.die_once, str(tmp_path / "second"), idempotent=True) == "second try"
    assert await pool.execute({"type": "frail", "payload": str(tmp_path / "third")}) == "second try"


async def test_a_request_that_kills_every_worker(pool: WorkerPool) -> None:
    """It ends as PoisonedRequestError, with each crash in its cause."""
    with pytest.raises(PoisonedRequestError) as caught:
        await pool.run(jobs.die, 3, idempotent=True, max_retries=1)
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    crashes = caught.value.__cause__.exceptions
    assert [crash.attempts for crash in crashes if isinstance(crash, WorkerCrashedError)] == [1, 2]
    assert await pool.run(jobs.add, 1, 2) == 3


def frame(kind: int, flags: int = 0, body: bytes = b"", generation: int = 1) -> bytes:
    """Write a frame as a worker does."""
    return FROM_WORKER.pack(len(body), kind, flags, 0, generation) + body


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"\xff" * 100, "a frame of 4294967295 bytes"),
        (frame(77), "77"),
        (frame(VALUE, BESIDE, b"\0"), "a body of 1 bytes cannot hold a table"),
        (frame(VALUE, BESIDE, b"\xff" * 30), "a table of 4294967295 places"),
        (frame(VALUE, BESIDE, b"\1\0\0\0" + bytes(25)), "unavailable"),
        (frame(READY, 0, b"not a pickle"), "breaks off"),
        (frame(NONE, generation=1 << 40), None),
    ],
    ids=["length", "kind", "half a table", "long table", "no segment", "ready", "generation"],
)
async def test_garbage_from_a_worker_ends_it(
    pool: WorkerPool, data: bytes, cause: str | None
) -> None:
    """A stream that makes no sense is a crash of that worker, with the reason as its cause."""
    with pytest.raises(WorkerCrashedError) as caught:
        await pool.run(_write_to_parent, data)
    assert caught.value.signal == signal.SIGKILL
    if cause is None:
        assert caught.value.__cause__ is None
    else:
        assert cause in str(caught.value.__cause__)
    assert await pool.run(jobs.add, 1, 2) == 3


def _write_to_parent(data: bytes) -> None:
    server = current_request()._server
    assert server is not None
    os.write(server._wires.answers, data)
    time.sleep(60)


# ---- the ladder


async def test_a_sleep_is_interrupted(pool: WorkerPool) -> None:
    """A function that never looks is interrupted, C functions too; its worker is replaced."""
    before = await pool.run(jobs.pid)
    started = time.monotonic()
    with trio.move_on_after(0.1) as scope:
        await pool.run(time.sleep, 60)
    assert scope.cancelled_caught
    assert time.monotonic() - started < 10
    assert await pool.run(jobs.pid) != before
    assert pool.statistics().restarts == {"interrupted": 1}


async def test_a_loop_is_interrupted(pool: WorkerPool, tmp_path: Path) -> None:
    """So is a loop of Python's; the rung says so."""
    async with pool.open_request(jobs.spin, str(tmp_path / "begun")) as request:
        await wait_for_file(tmp_path / "begun")
        request.cancel()
        with pytest.raises(RequestCancelledError) as caught:
            await request.result()
    assert caught.value.rung == "interrupt"


async def test_the_stubborn_are_killed(pool: WorkerPool, tmp_path: Path) -> None:
    """What swallows interrupts is killed after its grace, not before."""
    before = await pool.run(jobs.pid)
    async with pool.open_request(jobs.stubborn, str(tmp_path / "begun"), grace=0.2) as request:
        await wait_for_file(tmp_path / "begun")
        started = time.monotonic()
        request.cancel()
        with pytest.raises(RequestCancelledError) as caught:
            await request.result()
    assert caught.value.rung == "kill"
    assert time.monotonic() - started >= 0.2
    assert not is_alive(before)
    assert pool.statistics().restarts == {"killed": 1}


async def test_no_grace_kills_at_once(pool: WorkerPool, tmp_path: Path) -> None:
    """`grace=0` asks nobody."""
    with pytest.raises(RequestTimeoutError) as caught:
        await pool.run(jobs.cooperate, timeout=0.05, grace=0)
    assert caught.value.rung == "kill"


async def test_a_worker_that_dies_after_its_cancel(pool: WorkerPool, tmp_path: Path) -> None:
    """The scope was cancelled, then the worker died by itself: trio.Cancelled."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run, jobs.die_when_cancelled, str(tmp_path / "begun"))
            await wait_for_file(tmp_path / "begun")
            scope.cancel()
    assert scope.cancelled_caught
    assert await pool.run(jobs.add, 1, 2) == 3


async def test_an_exit_after_a_cancel_is_dropped(pool: WorkerPool, tmp_path: Path) -> None:
    """The scope was cancelled, then the function called sys.exit: trio.Cancelled."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run, jobs.exit_in_cleanup, str(tmp_path / "begun"))
            await wait_for_file(tmp_path / "begun")
            scope.cancel()
    assert scope.cancelled_caught


async def test_an_error_after_a_clock_is_its_cause(pool: WorkerPool, tmp_path: Path) -> None:
    """A clock ran out, then the function raised something else: that is the cause of ours."""
    with pytest.raises(RequestTimeoutError) as caught:
        await pool.run(jobs.fail_in_cleanup, str(tmp_path / "begun"), timeout=0.1)
    assert isinstance(caught.value.__cause__, LookupError)


async def test_a_critical_section_is_not_interrupted(pool: WorkerPool, tmp_path: Path) -> None:
    """What is `uninterruptible` is finished before the interrupt gets in."""
    begun, finished = tmp_path / "begun", tmp_path / "finished"
    async with pool.open_request(jobs.uninterruptible, str(begun), str(finished)) as request:
        await wait_for_file(begun)
        request.cancel()
        with pytest.raises(RequestCancelledError) as caught:
            await request.result()
    assert finished.exists()
    assert caught.value.rung == "interrupt"


async def test_clean_up_is_not_interrupted(pool: WorkerPool, tmp_path: Path) -> None:
    """A `finally` has its grace, though the signal is sent again and again."""
    begun, tidied = tmp_path / "begun", tmp_path / "tidied"
    async with pool.open_request(jobs.tidy_up, str(begun), str(tidied)) as request:
        await wait_for_file(begun)
        request.cancel()
        with pytest.raises(RequestCancelledError) as caught:
            await request.result()
    assert tidied.exists()
    assert caught.value.rung == "interrupt"


async def test_threads_left_behind_write_nowhere(pool: WorkerPool) -> None:
    """A thread that outlives its request cannot touch the next one's progress."""
    await pool.run(jobs.leave_a_thread)
    seen: list[tuple[int, str | None]] = []
    await pool.run(
        jobs.count_to, 5, on_progress=lambda progress: seen.append((progress.value, progress.phase))
    )
    assert seen[-1] == (5, "counting")
    assert (99, "from the past") not in seen


async def test_a_stopped_worker_is_killed(pool: WorkerPool) -> None:
    """One that was stopped cannot look or be interrupted, but it can be killed."""
    with pytest.raises(RequestTimeoutError) as caught:
        await pool.run(jobs.stop_self, timeout=0.1, grace=0.1)
    assert caught.value.rung == "kill"


# ---- payloads


async def test_a_huge_answer_of_a_dying_worker_is_whole(pool: WorkerPool) -> None:
    """What was answered before the death is delivered; what was not, is a crash."""
    data = os.urandom(20_000_000)
    assert await pool.run(jobs.echo, data) == data
    assert await pool.run(jobs.echo, [data, data[:9000], "text"]) == [data, data[:9000], "text"]


async def test_a_cancel_while_arguments_are_copied(pool: WorkerPool) -> None:
    """The function never runs, nothing is left, and the worker takes the next."""
    data = bytes(200_000_000)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run, jobs.echo, data)
            await wait_until(lambda: pool.workers[0].state == "busy")
            scope.cancel()
    assert scope.cancelled_caught
    assert pool.workers[0].state == "idle"
    assert pool.workers[0].requests == 0
    assert await pool.run(jobs.add, 1, 2) == 3


async def test_no_memory_for_arguments(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, the call fails with the system's own error, and the next works."""

    def refuse(*arguments: object) -> object:
        raise OSError(28, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr("trioipc.memory._arena.create", refuse)
        with pytest.raises(OSError, match="no space left"):
            await pool.run(jobs.echo, bytes(100_000))
    assert await pool.run(jobs.echo, bytes(100_000)) == bytes(100_000)


async def test_a_result_that_kills_the_reader(pool: WorkerPool) -> None:
    """A result that cannot be read at home is a PayloadError; the worker lives on."""
    before = await pool.run(jobs.pid)
    with pytest.raises(PayloadError, match="no unpickling of me"):
        await pool.run(jobs.make, "FailsOnUnpickle")
    assert await pool.run(jobs.pid) == before


async def test_exceptions_with_an_odd_init(pool: WorkerPool) -> None:
    """An exception comes home whatever its __init__ wants, unless what it holds cannot travel."""
    with pytest.raises(jobs.PickyError) as caught:
        await pool.run(jobs.fail_pickily, 1, 2)
    assert (caught.value.args, caught.value.first, caught.value.second) == (("picky",), 1, 2)
    with pytest.raises(PayloadError, match=r"an exception of type jobs\.PickyError") as lost:
        await pool.run(jobs.fail_with_a_lock)
    assert "fail_with_a_lock" in lost.value.__notes__[0]


# ---- the worker as a process


async def test_a_worker_loads_no_trio(
    script: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """Unless the main module does; here it imports Trio only under its guard."""
    result = await trio.to_thread.run_sync(
        script,
        f"""
        import sys
        sys.path.insert(0, {os.path.dirname(jobs.__file__)!r})
        from jobs import loaded

        if __name__ == "__main__":
            import trio, trioipc

            async def main():
                async with trioipc.open_worker_pool(1) as pool:
                    print(await pool.run(loaded, "trio"), await pool.run(loaded, "asyncio"))
                async with trioipc.open_worker_bridge(1) as bridge:
                    await bridge.crypto.hash_file(b"")
                    print(await bridge.pool.run(loaded, "trio"))

            trio.run(main)
        """,
    )
    assert (result.stdout, result.stderr) == ("False False\nFalse\n", "")


async def test_workers_keep_their_descriptors(pool: WorkerPool) -> None:
    """Programs that a function starts inherit none, and its forks have pipes and sockets closed.

    Shared memory they have mapped anyway.
    """
    assert await pool.run(jobs.inheritable_descriptors) == []
    left = await pool.run(jobs.descriptors_after_fork)
    assert [name for name in left if "pipe:" in name or "socket:" in name] == []


async def test_a_grandchild_holds_nothing_up() -> None:
    """A program or a fork that outlives its worker delays neither a cancel nor the block's end."""
    started = time.monotonic()
    async with open_worker_pool(1) as pool:
        program = await pool.run(jobs.start_grandchild, 60)
    assert time.monotonic() - started < 20
    assert is_alive(program)
    os.kill(program, signal.SIGKILL)


async def test_a_forked_grandchild_holds_nothing_up(tmp_path: Path) -> None:
    """Nor when its worker is killed while the fork lives on."""
    started = time.monotonic()
    async with open_worker_pool(1) as pool:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pool.run, jobs.fork_grandchild, 60, str(tmp_path / "pid"))
                await wait_for_file(tmp_path / "pid")
                scope.cancel()
        assert await pool.run(jobs.add, 1, 2) == 3
    assert time.monotonic() - started < 20
    grandchild = int((tmp_path / "pid").read_text())
    assert is_alive(grandchild)
    os.kill(grandchild, signal.SIGKILL)


async def test_a_worker_that_closes_everything(pool: WorkerPool) -> None:
    """Its stream ends while it lives: it is killed, and the call is a crash."""
    with trio.fail_after(20), pytest.raises(WorkerCrashedError) as caught:
        await pool.run(jobs.close_all_descriptors)
    assert caught.value.signal == signal.SIGKILL
    assert await pool.run(jobs.add, 1, 2) == 3


ORPHANAGE = """
    import sys
    sys.path.insert(0, {folder!r})
    import jobs

    if __name__ == "__main__":
        import os, signal, trio, trioipc

        async def main():
            async with trioipc.open_worker_pool(1) as pool, trio.open_nursery() as nursery:
                print(await pool.run(jobs.pid), flush=True)
                {start}
                while not os.path.exists(sys.argv[1]):
                    await trio.sleep(0.001)
                os.kill(os.getpid(), signal.SIGKILL)

        trio.run(main)
"""


@pytest.mark.parametrize(
    "start",
    [
        "jobs.touch(sys.argv[1])",
        "nursery.start_soon(pool.run, jobs.spin, sys.argv[1])",
        "nursery.start_soon(pool.run, jobs.stubborn, sys.argv[1])",
        "nursery.start_soon(pool.run, jobs.hold_the_gil, 60, sys.argv[1])",
    ],
    ids=["idle", "in Python", "in C", "in C with the interpreter lock"],
)
async def test_a_worker_does_not_outlive_its_parent(
    script: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, start: str
) -> None:
    """When the parent is killed, the kernel ends its workers, whatever they do."""
    text = textwrap.dedent(ORPHANAGE).format(folder=os.path.dirname(jobs.__file__), start=start)
    result = await trio.to_thread.run_sync(script, text, str(tmp_path / "begun"))
    assert result.returncode == -signal.SIGKILL
    worker = int(result.stdout)
    with trio.fail_after(1):
        while is_alive(worker):
            await trio.sleep(0.005)


# ---- starting


async def test_a_module_that_is_not_there() -> None:
    """A bad module is a WorkerStartError when the pool is opened, with the reason."""
    with pytest.raises(WorkerStartError, match="could not import 'no_such_module': ModuleNotFound"):
        async with open_worker_pool(1, modules=["no_such_module"]):
            raise AssertionError


async def test_a_worker_that_starts_too_slowly() -> None:
    """After `start_timeout` it is killed, and the error says so."""
    with pytest.raises(WorkerStartError, match=r"not ready within 0.3 s \(start_timeout\)"):
        async with open_worker_pool(1, modules=["slow_module"], start_timeout=0.3):
            raise AssertionError


async def test_a_worker_that_dies_while_it_starts() -> None:
    """Its exit code is in the error."""
    with pytest.raises(WorkerStartError, match="exit code 12"):
        async with open_worker_pool(1, modules=["deadly_module"]):
            raise AssertionError


async def test_no_descriptor_for_a_worker() -> None:
    """Wherever the system refuses one, opening fails with its reason, until there are enough."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(number) for number in os.listdir("/proc/self/fd"))
    # All numbers below the limit are taken, so that each one above counts.
    taken = [os.open(os.devnull, os.O_RDONLY)]
    while taken[-1] <= highest:
        taken.append(os.open(os.devnull, os.O_RDONLY))
    refused = 0
    try:
        while True:
            resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1 + refused, hard))
            try:
                async with open_worker_pool(1) as pool:
                    assert await pool.run(len, bytes(100_000)) == 100_000
                break
            except WorkerStartError as error:
                assert "Too many open files" in str(error)  # noqa: PT017 - it may succeed too
                refused += 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)
    assert 8 < refused < 40


def test_the_missing_guard(script: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """A script without a guard fails with an error that names it; no hang, no fork bomb."""
    result = script(
        """
        import trio, trioipc

        async def main():
            async with trioipc.open_worker_pool(1):
                print("opened")

        trio.run(main)
        """
    )
    assert result.returncode == 1
    assert "opened" not in result.stdout
    assert "`if __name__ == '__main__':`" in result.stderr
    assert "WorkerStartError" in result.stderr.strip().splitlines()[-1]


def test_a_script_with_a_guard(script: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Functions of the main module work, and nothing is printed that was not asked for."""
    result = script(
        """
        import trio, trioipc

        def square(number):
            return number * number

        async def main():
            async with trioipc.open_worker_pool(2) as pool:
                print(await pool.run(square, 12))

        if __name__ == "__main__":
            trio.run(main)
        """
    )
    assert (result.stdout, result.stderr, result.returncode) == ("144\n", "", 0)


async def test_no_pool_within_a_worker(pool: WorkerPool) -> None:
    """A function that opens a pool is told that it cannot."""
    with pytest.raises(WorkerStartError, match="cannot start worker processes of its own"):
        await pool.run(_open_a_pool)


def _open_a_pool() -> None:
    async def main() -> None:
        async with open_worker_pool(1):
            pass

    trio.run(main)


async def test_a_forked_child_is_refused(pool: WorkerPool) -> None:
    """A pool belongs to its process: in a fork of it, every call is a RuntimeError."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            pool.run(jobs.nothing).send(None)
        except BaseException as error:
            os.write(theirs, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    text = os.read(ours, 1000).decode()
    os.close(ours)
    assert text == "RuntimeError: this pool belongs to another process, the one that forked this"


async def test_all_threads_wait_for_the_pool() -> None:
    """Threads that wait for a pool, and the pool that needs a thread, do not block each other."""
    token = trio.lowlevel.current_trio_token()
    limiter = trio.to_thread.current_default_thread_limiter()
    total = limiter.total_tokens
    opened = threading.Event()

    async def open_one() -> None:
        async with open_worker_pool(1) as pool:
            assert await pool.run(jobs.add, 1, 2) == 3
        opened.set()

    async with trio.open_nursery() as nursery:
        for _ in range(int(total)):
            nursery.start_soon(trio.to_thread.run_sync, opened.wait)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert limiter.available_tokens == 0
        nursery.start_soon(open_one)
        with trio.fail_after(20):
            while not opened.is_set():
                await trio.sleep(0.01)
    assert limiter.total_tokens == total
    del token


# ---- runs


def test_two_runs_one_after_the_other() -> None:
    """Nothing of a run is left for the next."""

    async def main() -> int:
        async with open_worker_pool(1) as pool:
            return await pool.run(jobs.add, 1, 2)

    assert [trio.run(main), trio.run(main)] == [3, 3]


def test_two_runs_at_once() -> None:
    """Each in a thread of its own."""
    results: list[int] = []

    async def main() -> None:
        async with open_worker_pool(1) as pool:
            results.extend([await pool.run(jobs.add, 1, 2) for _ in range(20)])

    threads = [threading.Thread(target=trio.run, args=(main,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [3] * 40


def test_guest_mode() -> None:
    """A pool works where Trio is a guest of another loop."""
    import queue

    todo: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
    results: list[int] = []

    async def main() -> None:
        async with open_worker_pool(1) as pool:
            results.append(await pool.run(jobs.add, 1, 2))
            with trio.move_on_after(0.05):
                await pool.run(jobs.cooperate)
            results.append(await pool.run(jobs.add, 2, 2))

    done = threading.Event()
    trio.lowlevel.start_guest_run(
        main,
        run_sync_soon_threadsafe=todo.put,
        done_callback=lambda outcome: (done.set(), outcome.unwrap()),
        host_uses_signal_set_wakeup_fd=False,
    )
    while not done.is_set():
        todo.get(timeout=20)()
    assert results == [3, 4]


def test_ctrl_c_in_a_terminal(tmp_path: Path) -> None:
    """One KeyboardInterrupt in the parent, no traceback of a worker, nothing left running."""
    path = tmp_path / "script.py"
    path.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {os.path.dirname(jobs.__file__)!r})
            import jobs

            if __name__ == "__main__":
                import trio, trioipc

                async def main():
                    async with trioipc.open_worker_pool(2) as pool, trio.open_nursery() as nursery:
                        nursery.start_soon(pool.run, jobs.cooperate, sys.argv[1])
                        nursery.start_soon(pool.run, jobs.cooperate, sys.argv[2])

                trio.run(main)
            """
        )
    )
    begun = [tmp_path / "first", tmp_path / "second"]
    process = subprocess.Popen(
        [sys.executable, path, *begun],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not all(file.exists() for file in begun):
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert out == ""
    assert err.count("KeyboardInterrupt") == err.count("Traceback") or "KeyboardInterrupt" in err
    assert "jobs.py" not in err
    assert process.returncode in (1, -signal.SIGINT)


# ---- nothing is left


async def test_cancelling_run_at_each_step(pool: WorkerPool) -> None:
    """Wherever a call is cancelled, the worker is soon idle and the next call works."""

    async def check() -> None:
        assert await pool.run(jobs.add, 1, 2) == 3
        assert pool.statistics().busy_workers == 0
        assert pool.statistics().queued_tasks == 0

    await pool.run(jobs.nothing)
    for call in (
        lambda: pool.run(jobs.add, 3, 4),
        lambda: pool.run(jobs.echo, bytes(1_000_000)),
        lambda: pool.run(jobs.count_to, 3, on_progress=lambda progress: None),
        lambda: pool.execute({"type": "double", "payload": 4}),
        lambda: _ask(pool),
        pool.warm,
    ):
        steps = await cancel_at_each_step(call, check)
        assert steps > 0


async def _ask(pool: WorkerPool) -> None:
    async with pool.open_request(jobs.add, 3, 4) as request:
        await request.wait_started()
        assert await request.result() == 7
        async for _ in request.progress:
            pass


async def test_cancelling_a_pool_at_each_step() -> None:
    """Wherever it is cancelled, no process, descriptor or token is left."""
    limiter = trio.to_thread.current_default_thread_limiter()
    before, before_children = open_descriptors(), children()

    async def use() -> None:
        async with open_worker_pool(1) as pool:
            await pool.run(jobs.add, 1, 2)

    async def check() -> None:
        gc.collect()
        assert open_descriptors() == before
        assert children() == before_children
        assert limiter.borrowed_tokens == 0

    await trio.to_thread.run_sync(int)
    steps = await cancel_at_each_step(use, check)
    assert steps > 3


def test_nothing_waits_for_the_collector() -> None:
    """Descriptors are closed when the block is left, not when garbage is next collected."""

    async def main() -> None:
        async with open_worker_pool(1) as pool:
            await pool.run(jobs.echo, bytes(100_000))
            with trio.move_on_after(0.05):
                await pool.run(jobs.cooperate)
        before_leaving.update(open_descriptors())

    before_leaving: set[str] = set()
    before = {name.partition(": ")[2] for name in open_descriptors()}
    gc.collect()
    gc.disable()
    try:
        trio.run(main)
    finally:
        gc.enable()
    left = {name.partition(": ")[2] for name in before_leaving} - before
    # What is open inside of a run is Trio's own: its epoll and its wake-up sockets.
    assert [name for name in left if "pipe" in name or "memfd" in name] == []


async def test_context_of_the_caller_stays_his(pool: WorkerPool) -> None:
    """A worker started for one caller does not keep that caller's context alive."""
    import contextvars
    import weakref

    class Thing:
        pass

    variable: contextvars.ContextVar[Thing] = contextvars.ContextVar("variable")

    async def call() -> weakref.ref[Thing]:
        thing = Thing()
        variable.set(thing)
        with pytest.raises(WorkerCrashedError):
            await pool.run(jobs.die, 1)
        assert await pool.run(jobs.add, 1, 2) == 3
        return weakref.ref(thing)

    references: list[weakref.ref[Thing]] = []

    async def keep() -> None:
        references.append(await call())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep)
    gc.collect()
    assert references[0]() is None


@pytest.mark.parametrize(
    ("kind", "match"), [("plain", "TRIOIPC_SEGMENT=plain"), ("nonsense", "not 'nonsense'")]
)
async def test_memory_that_no_process_can_see(
    kind: str, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says which setting is at fault; a bridge works on threads instead."""
    monkeypatch.setenv("TRIOIPC_SEGMENT", kind)
    with pytest.raises(WorkerStartError, match=match):
        async with open_worker_pool(1):
            pass
    if kind == "plain":
        with pytest.warns(FallbackWarning, match=match):
            async with open_worker_bridge(1) as bridge:
                assert len(await bridge.crypto.hash_file(b"")) == 64


async def test_a_fork_keeps_what_the_function_has_opened(pool: WorkerPool) -> None:
    """What is ours is closed in it, and nothing else, whichever numbers that has."""
    assert await pool.run(jobs.write_from_a_fork, 12) == [b"%d" % index for index in range(12)]
