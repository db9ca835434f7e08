"""What a worker process is to the machine, and what it leaves when it dies."""

from __future__ import annotations

import math
import os
import resource
import signal
from typing import TYPE_CHECKING

import pytest
import trio

import jobs
import life_jobs
from helpers import wait_for_file
from trioipc import WorkerCrashedError, open_worker_pool
from trioipc.worker._life import title

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture
def cores_allowed() -> Iterator[None]:
    """Let processes that start now leave cores."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


async def test_what_a_worker_is_to_the_kernel() -> None:
    """It says what it is, gives way, is the first to go, and leaves no core: cpu and io alike."""
    expected = {"nice": os.nice(0) + 1, "oom": 1000, "core": (1, 1)}
    async with open_worker_pool(1, name="shop") as pool:
        assert await pool.run(life_jobs.describe) == {**expected, "title": "shop:cpu"}
    async with open_worker_pool(1, name="shop", kind="io") as pool:
        assert await pool.run(life_jobs.describe_async) == {**expected, "title": "shop:io"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("trioipc", "trioipc:cpu"),
        ("a-name-that-is-long", "a-name-that:cpu"),
        ("ääääää", "äääää:cpu"),
        ("\ud800", "?:cpu"),
        ("", ":cpu"),
    ],
)
def test_titles_fit(name: str, expected: str) -> None:
    """Fifteen bytes, no half characters, and the kind is never cut."""
    assert title(name, "cpu").decode() == expected
    assert len(title(name, "cpu")) <= 15


async def test_no_core_is_left(cores_allowed: None, tmp_path: Path) -> None:
    """Where a process would leave one, a worker does not."""
    if not life_jobs.dumps_core(str(tmp_path)):
        pytest.skip("this machine leaves no cores")
    async with open_worker_pool(1) as pool:
        assert await pool.run(life_jobs.dumps_core, str(tmp_path)) is False


async def test_a_memory_limit_is_a_memory_error() -> None:
    """What is too much is refused there, and the worker goes on; shared memory does not count."""
    async with open_worker_pool(1, memory_limit=128 * MIB) as pool:
        with pytest.raises(MemoryError):
            await pool.run(life_jobs.fill, 256 * MIB)
        assert await pool.run(life_jobs.fill, 64 * MIB) == 64 * MIB
        big = memoryview(bytes(256 * MIB))
        assert await pool.run(len, big) == 256 * MIB
        assert pool.statistics().restarts == {}


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("memory_limit", (32 << 20) - 1, ValueError),
        ("memory_limit", 1.5, TypeError),
        ("scrub_environment", 1, TypeError),
    ],
)
async def test_options_are_checked(option: str, value: object, error: type[Exception]) -> None:
    """Before anything starts, by name."""
    with pytest.raises(error, match=option):
        async with open_worker_pool(1, **{option: value}):  # type: ignore[arg-type]
            raise AssertionError("it opened")


async def test_a_scrubbed_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets are gone, wherever one looks; what programs need is there, also for C."""
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    monkeypatch.setenv("LC_TIME", "C")
    async with open_worker_pool(1, scrub_environment=True) as pool:
        variables, block = await pool.run(life_jobs.environment)
        assert "SECRET_TOKEN" not in variables
        assert variables["PATH"] == os.environ["PATH"]
        assert b"hunter2" not in block
        assert await pool.run(life_jobs.value_in_libc, "SECRET_TOKEN") is None
        assert await pool.run(life_jobs.value_in_libc, "LC_TIME") == b"C"
    async with open_worker_pool(1) as pool:  # or else all that says nothing
        variables, block = await pool.run(life_jobs.environment)
        assert variables["SECRET_TOKEN"] == "hunter2"
        assert b"hunter2" in block


# ---- stacks


@pytest.mark.parametrize("depth", [0, 90])
async def test_a_crash_says_where(depth: int, capfd: pytest.CaptureFixture[str]) -> None:
    """The stack of a worker that crashed is a note of the error, and on nobody's stderr."""
    async with open_worker_pool(1) as pool:
        with pytest.raises(WorkerCrashedError) as caught:
            await pool.run(life_jobs.crash_deep, depth)
        notes = "\n".join(caught.value.__notes__)
        assert "Fatal Python error: Segmentation fault" in notes
        assert notes.count("in crash_deep") == depth + 1
        assert await pool.run(jobs.add, 1, 2) == 3
    assert capfd.readouterr().err == ""


async def test_a_kill_says_nothing() -> None:
    """Nor does what was said earlier come again."""
    async with open_worker_pool(1) as pool:
        await pool.dump_stacks()
        with pytest.raises(WorkerCrashedError) as caught:
            await pool.run(jobs.kill_self, signal.SIGKILL)
        assert len(caught.value.__notes__) == 1


async def test_a_fork_that_crashes_writes_nowhere(tmp_path: Path) -> None:
    """What has the number of the pipe there is not ours."""
    path = tmp_path / "file"
    async with open_worker_pool(1) as pool:
        assert await pool.run(life_jobs.crash_in_a_fork, str(path)) == signal.SIGSEGV
    assert path.read_bytes() == b""


async def test_stacks_while_c_code_holds_the_gil(tmp_path: Path) -> None:
    """All threads, within a fraction of the second for which no Python runs there."""
    path = str(tmp_path / "begun")
    async with open_worker_pool(1) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.run, life_jobs.stay_with_a_thread, path)
        await wait_for_file(path)
        with trio.fail_after(0.8):
            stacks = await pool.dump_stacks()
        (worker,) = pool.workers
        assert list(stacks) == [worker.pid]
        text = stacks[worker.pid]
        assert "in stay_with_a_thread" in text
        assert "in wait_for_ever" in text


async def test_stacks_of_all_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle, busy, deeper than what is written, stopped; asked several times at once."""
    monkeypatch.setattr(
        "trioipc.pool.team._health._STOPPED_SECONDS", math.inf
    )  # else it is replaced
    busy, low = str(tmp_path / "busy"), str(tmp_path / "low")
    async with open_worker_pool(4) as pool, trio.open_nursery() as nursery:
        await pool.warm()
        nursery.start_soon(pool.run, life_jobs.look_busy, busy)
        await wait_for_file(busy)
        nursery.start_soon(pool.run, life_jobs.deep, 150, low)
        await wait_for_file(low)
        stopped = next(w.pid for w in pool.workers if w.state == "idle")
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        dumps: list[dict[int, str]] = []

        async def dump() -> None:
            dumps.append(await pool.dump_stacks())

        with trio.fail_after(5):
            async with trio.open_nursery() as askers:
                for _ in range(3):
                    askers.start_soon(dump)
        os.kill(stopped, signal.SIGCONT)
        for stacks in dumps:
            assert set(stacks) == {worker.pid for worker in pool.workers}
            assert stacks.pop(stopped) == "(it does not say)"
            assert sum("in look_busy" in text for text in stacks.values()) == 1
            assert sum(text.count("in deep") for text in stacks.values()) >= 100
        assert "in _read" in (await pool.dump_stacks())[stopped]
        nursery.cancel_scope.cancel()


async def test_stacks_on_threads_and_in_io_workers() -> None:
    """Where the workers are threads, it is this process; where they run Trio, it is in there."""
    async with open_worker_pool(1, kind="thread") as pool:
        stacks = await pool.dump_stacks()
        assert "dump_stacks" in stacks[os.getpid()]
    async with open_worker_pool(1, kind="io") as pool:
        await pool.run(life_jobs.describe_async)
        (text,) = (await pool.dump_stacks()).values()
        assert "_serve_io" in text
    with pytest.raises(trio.ClosedResourceError):
        await pool.dump_stacks()
