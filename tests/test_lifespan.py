"""What a worker has for its whole life."""

from __future__ import annotations

import functools
import logging
import math
from typing import TYPE_CHECKING, Any

import pytest
import trio

import jobs
import lifespan_jobs as life
from helpers import wait_until
from trioipc import (
    PayloadError,
    WorkerCrashedError,
    WorkerStartError,
    current_request,
    open_worker_bridge,
    open_worker_pool,
)

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ("cpu", "thread")


def diary(folder: Path) -> Any:
    """Make what makes a diary in each worker."""
    return functools.partial(life.Diary, folder)


def entries(folder: Path) -> list[list[str]]:
    """Return the lines of each worker's diary."""
    return [path.read_text().split("\n")[:-1] for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_worker_lives_in_it(kind: Any, tmp_path: Path) -> None:
    """Entered before the first call, seen by all of them, left when the pool is."""
    async with open_worker_pool(1, kind=kind, lifespan=diary(tmp_path)) as pool:
        assert entries(tmp_path) == [["entered"]]
        first = await pool.run(life.write, "one")
        assert await pool.run(life.write, "two") == first
        await pool.run(life.write_from_a_thread, "three") if kind == "cpu" else None
    lines = entries(tmp_path)[0]
    assert [line for line in lines if line != "three"] == ["entered", "one", "two", "left"]


@pytest.mark.parametrize("kind", KINDS)
async def test_each_worker_has_its_own(kind: Any, tmp_path: Path) -> None:
    """As many as there are workers."""
    async with open_worker_pool(2, kind=kind, lifespan=diary(tmp_path)) as pool:
        await pool.warm()
    assert entries(tmp_path) == [["entered", "left"]] * 2


@pytest.mark.parametrize("kind", KINDS)
async def test_what_belongs_to_a_thread(kind: Any) -> None:
    """All calls of a worker run in the thread that has entered its lifespan."""
    async with open_worker_pool(1, kind=kind, lifespan=life.database) as pool:
        assert [await pool.run(life.insert, number) for number in (1, 2, 3)] == [1, 3, 6]


@pytest.mark.parametrize("kind", KINDS)
async def test_there_need_not_be_one(kind: Any) -> None:
    """The state is None then, and in code that no worker runs."""
    async with open_worker_pool(1, kind=kind) as pool:
        assert await pool.run(life.state) is None
    assert current_request().state is None


async def test_it_may_be_asynchronous_where_functions_are(tmp_path: Path) -> None:
    """With tasks of its own; it is left in the same way."""
    lifespan = functools.partial(life.background, tmp_path)
    async with open_worker_pool(1, kind="io", lifespan=lifespan) as pool:
        assert await pool.run(life.wait_for_count, 10)
        assert not (tmp_path / "left").exists()
    assert (tmp_path / "left").exists()
    async with open_worker_pool(1, kind="io", lifespan=diary(tmp_path)) as pool:
        assert isinstance(await pool.run(life.state_async), life.Diary)


async def test_a_task_of_it_that_fails_is_a_crash() -> None:
    """The worker is of no use then, and another takes its place."""
    async with open_worker_pool(1, kind="io", lifespan=life.short_lived) as pool:
        with pytest.raises(WorkerCrashedError):
            await pool.run(life.set_event)
        assert await pool.run(life.type_of_state) == "Event"
        assert pool.statistics().restarts == {"crashed": 1}


@pytest.mark.parametrize("kind", KINDS)
async def test_those_that_are_recycled_leave_it(kind: Any, tmp_path: Path) -> None:
    """And those that take their place enter it."""
    async with open_worker_pool(1, kind=kind, lifespan=diary(tmp_path), max_requests=2) as pool:
        for number in range(4):
            await pool.run(life.write, str(number))
    found = entries(tmp_path)
    assert sorted(line for lines in found for line in lines if line.isdigit()) == [*"0123"]
    assert {lines[0] for lines in found} == {"entered"}
    assert {lines[-1] for lines in found} == {"left"}


async def test_those_that_are_too_many_leave_it(tmp_path: Path) -> None:
    """When the pool is made smaller."""
    async with open_worker_pool(2, lifespan=diary(tmp_path)) as pool:
        await pool.warm()
        await pool.resize(1)
        assert sorted(entries(tmp_path), key=len) == [["entered"], ["entered", "left"]]


async def test_those_that_die_do_not(tmp_path: Path) -> None:
    """Nor what was forked from a worker."""
    async with open_worker_pool(1, lifespan=diary(tmp_path)) as pool:
        with pytest.raises(WorkerCrashedError):
            await pool.run(life.die)
        assert entries(tmp_path) == [["entered"]]
    (path,) = tmp_path.iterdir()
    path.unlink()
    async with open_worker_pool(1, lifespan=diary(tmp_path)) as pool:
        await pool.run(life.fork_and_return)
        assert entries(tmp_path) == [["entered"]]


# -- entering that fails


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("lifespan", "text", "cause"),
    [
        (life.fails_to_be_made, "LookupError: no such thing", LookupError),
        (
            functools.partial(life.fails_on_entering, ZeroDivisionError("oh")),
            "ZeroDivisionError: oh",
            ZeroDivisionError,
        ),
        (functools.partial(life.fails_on_entering, SystemExit(3)), "SystemExit: 3", None),
        (int, "it must make a context manager, not a int", TypeError),
        (life.short_lived, "only workers of kind='io' enter it", TypeError),
    ],
)
async def test_an_error_on_entering(kind: Any, lifespan: Any, text: str, cause: Any) -> None:
    """It is one of opening the pool, and says what went wrong."""
    with pytest.raises(WorkerStartError, match=text) as caught:
        async with open_worker_pool(1, kind=kind, lifespan=lifespan):
            raise AssertionError("it has opened")
    assert isinstance(caught.value.__cause__, cause or type(None))


async def test_an_error_on_entering_asynchronously() -> None:
    """Likewise."""
    with pytest.raises(WorkerStartError, match="LookupError: no such thing") as caught:
        async with open_worker_pool(1, kind="io", lifespan=life.fails_to_be_made):
            raise AssertionError("it has opened")
    assert isinstance(caught.value.__cause__, LookupError)


async def test_an_error_that_cannot_travel() -> None:
    """Is told in words."""
    lifespan = functools.partial(life.cannot_be_told, "the price is wrong")
    with pytest.raises(WorkerStartError, match=r"Unpicklable.*the price is wrong") as caught:
        async with open_worker_pool(1, lifespan=lifespan):
            raise AssertionError("it has opened")
    assert "raise Unpicklable(text)" in "".join(caught.value.__notes__)


async def test_an_exit_on_entering() -> None:
    """The code is known, and the main module is not blamed for it."""
    with pytest.raises(WorkerStartError, match="exit code 7 before it was ready"):
        async with open_worker_pool(1, lifespan=life.dies_on_entering):
            raise AssertionError("it has opened")


async def test_a_hang_on_entering() -> None:
    """It is given the start timeout."""
    with trio.fail_after(20), pytest.raises(WorkerStartError, match="start_timeout"):
        async with open_worker_pool(1, lifespan=life.hangs_on_entering, start_timeout=0.5):
            raise AssertionError("it has opened")


async def test_a_later_worker_that_fails(tmp_path: Path) -> None:
    """As any start that fails: an error of the calls that wait for a worker."""
    lifespan = functools.partial(life.fails_later, tmp_path / "flag")
    async with open_worker_pool(1, lifespan=lifespan) as pool:
        with pytest.raises(WorkerCrashedError):
            await pool.run(life.die)
        with pytest.raises(WorkerStartError, match="not twice"):
            await pool.run(jobs.add, 1, 2)
        (tmp_path / "flag").unlink()
        await pool.warm()
        assert await pool.run(jobs.add, 1, 2) == 3


# -- leaving that fails


@pytest.mark.parametrize(
    ("kind", "lifespan"),
    [
        ("cpu", life.fails_on_leaving),
        ("thread", life.fails_on_leaving),
        ("io", life.fails_on_leaving),
        ("io", life.fails_on_leaving_async),
    ],
)
async def test_an_error_on_leaving_is_logged(
    kind: Any, lifespan: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for it, so it stands in the log, with where it was raised."""
    async with open_worker_pool(1, kind=kind, lifespan=lifespan, forward_logs=True):
        pass
    (record,) = [found for found in caplog.records if found.name == "trioipc.worker"]
    assert record.levelno == logging.ERROR
    assert "LookupError: something was not flushed" in caplog.text
    assert "lifespan_jobs.py" in caplog.text


async def test_an_error_on_leaving_is_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    """Where no log records are forwarded."""
    async with open_worker_pool(1, lifespan=life.fails_on_leaving):
        pass
    assert "LookupError: something was not flushed" in capfd.readouterr().err


async def test_a_hang_on_leaving(caplog: pytest.LogCaptureFixture) -> None:
    """It is killed, and that is said."""
    with trio.fail_after(20):
        async with open_worker_pool(1, lifespan=life.hangs_on_leaving, grace=0.1):
            pass
    assert "had not left its lifespan after 2.1 s, and is killed" in caplog.text


async def test_logs_of_a_lifespan_are_forwarded(caplog: pytest.LogCaptureFixture) -> None:
    """From the first to the last."""
    async with open_worker_pool(1, lifespan=life.logs, forward_logs=True):
        await wait_until(lambda: caplog.messages)
    assert caplog.messages == ["entered", "left"]


# -- arguments, and the bridge


async def test_what_is_no_lifespan_is_refused() -> None:
    """At the call."""
    for wrong in (3, life.database(), life.short_lived()):
        with pytest.raises(TypeError, match="makes a context manager when called"):
            async with open_worker_pool(1, lifespan=wrong):  # type: ignore[arg-type]
                raise AssertionError("it has opened")
    for kind in ("cpu", "io"):
        with pytest.raises(PayloadError, match="lambda"):
            async with open_worker_pool(1, kind=kind, lifespan=lambda: life.database()):
                raise AssertionError("it has opened")


@pytest.mark.parametrize("placement", ["process", "thread", "auto"])
async def test_a_bridge_has_it_where_functions_run(placement: Any, tmp_path: Path) -> None:
    """Its network's worker, and threads beside processes, do without."""
    options: Any = {"placement": placement, "lifespan": diary(tmp_path)}
    async with open_worker_bridge(1, **options) as bridge:
        await bridge.pool.run(life.write, "here")
        assert await bridge.crypto.hash_file(b"") == (
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        )
    assert entries(tmp_path) == [["entered", "here", "left"]]


async def test_threads_do_not_outlive_their_pool(tmp_path: Path) -> None:
    """Also if the body raises."""
    with pytest.raises(KeyError):
        async with open_worker_pool(
            2, kind="thread", lifespan=diary(tmp_path), drain_timeout=math.inf
        ) as pool:
            await pool.warm()
            raise KeyError
    assert entries(tmp_path) == [["entered", "left"]] * 2
