"""What a worker process is to the machine, and what it leaves when it dies."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

import pytest

import life_jobs
from trioipc import open_worker_pool
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
