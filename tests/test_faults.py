"""Faults that were found by looking for them, each with what must happen instead."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

import fault_jobs
import jobs
from fakes import FakeEngine, start_error
from helpers import serving_pool, wait_for_file, wait_until
from trioipc import (
    PayloadError,
    RequestCancelledError,
    RequestExitError,
    RequestTimeoutError,
    SharedCancellation,
    SharedStateError,
    open_worker_bridge,
    open_worker_pool,
)
from trioipc.pool._opening import open_on
from trioipc.pool._options import Options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path
    from types import FrameType

    from trioipc import PoolRequest, WorkerPool


pytestmark = pytest.mark.stderr("")


@pytest.fixture
async def pool() -> AsyncIterator[WorkerPool]:
    """Provide a pool of one process, and see that it serves the next request in the end."""
    async with serving_pool(1) as pool:
        yield pool


async def outcome_of(call: Callable[[], Any]) -> str:
    """Return what a call returns, or the name of what it raises."""
    try:
        return str(await call())
    except Exception as error:
        return type(error).__name__


# ---- Ctrl-C


def interrupt_at(
    codes: set[Any], at: int, main: Callable[[], Any]
) -> tuple[bool, BaseException | None]:
    """Run ``main`` with a SIGINT at an opcode of ``codes``; return whether it came, and the end."""
    seen = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal seen
        if frame.f_code not in codes:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen += 1
            if seen == at + 1:
                os.kill(os.getpid(), signal.SIGINT)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        trio.run(main)
    except BaseException as error:
        return seen > at, error
    finally:
        sys.settrace(before)
    return seen > at, None


async def run_a_pool() -> None:
    """Enter and leave."""
    async with open_worker_pool(1, kind="thread") as pool, pool.open_request(jobs.nothing):
        pass


async def run_a_bridge() -> None:
    """Enter and leave."""
    async with open_worker_bridge(1, placement="thread"):
        pass


@pytest.mark.parametrize("main", [run_a_pool, run_a_bridge])
def test_ctrl_c_on_the_way_in_and_out(main: Callable[[], Any]) -> None:
    """Wherever it strikes in contextlib's own code, it comes out as one KeyboardInterrupt."""
    codes = {
        contextlib._AsyncGeneratorContextManager.__aenter__.__code__,
        contextlib._AsyncGeneratorContextManager.__aexit__.__code__,
        contextlib.AsyncExitStack.__aexit__.__code__,
    }
    interrupt_at(codes, 0, main)  # Python 3.12 reports no opcodes the first time
    at = 0
    while True:
        came, error = interrupt_at(codes, at, main)
        if not came:
            break
        assert type(error) is KeyboardInterrupt, at
        del error
        at += 1
    assert at > 40


@pytest.mark.parametrize("in_a_block", [False, True])
def test_ctrl_c_while_arguments_are_copied(in_a_block: bool) -> None:
    """It comes out bare, also while the copying has not ended yet."""

    async def strike() -> None:
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        os.kill(os.getpid(), signal.SIGINT)

    async def main() -> None:
        async with open_worker_pool(1) as pool:
            await pool.run(jobs.nothing)
            trio.lowlevel.spawn_system_task(strike)
            if in_a_block:
                async with pool.open_request(len, bytes(32 << 20)) as request:
                    await request.result()
            await pool.run(len, bytes(32 << 20))

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)


# ---- callers that wait for room


@pytest.mark.parametrize("max_queue", [0, 1])
async def test_room_goes_to_the_next_if_one_does_not_need_it(
    max_queue: int, tmp_path: Path
) -> None:
    """Callers who were held back are woken one after the other, whatever becomes of each."""
    flag = SharedCancellation()
    async with open_worker_pool(1, max_queue=max_queue) as pool:
        calls: list[Callable[[], Any]] = [
            *[lambda: pool.run(jobs.nothing)] * (1 + max_queue),
            lambda: pool.run(jobs.echo, lambda: None),  # which cannot be pickled
            lambda: pool.run(jobs.pid),
            lambda: pool.run(jobs.echo, 1, cancellation=flag),
            lambda: pool.run(jobs.echo, 2),
        ]
        found: list[str] = [""] * len(calls)

        async def call(index: int) -> None:
            found[index] = await outcome_of(calls[index])

        with trio.fail_after(20):
            async with (
                trio.open_nursery() as nursery,
                pool.open_request(jobs.wait_for, str(tmp_path / "go")) as first,
            ):
                await first.wait_started()
                for index in range(len(calls)):
                    nursery.start_soon(call, index)
                    await trio.testing.wait_all_tasks_blocked()
                flag.cancel()
                # It is told while it is still held back.
                await wait_until(lambda: "RequestCancelledError" in found)
                (tmp_path / "go").touch()
                await first.result()
        assert [name for name in found if name.isalpha()] == [
            *["None"] * (1 + max_queue),
            "PayloadError",
            "RequestCancelledError",
        ]
        assert found[-1] == "2"


# ---- leaving


async def test_a_stopped_idle_worker_holds_nothing_up() -> None:
    """It cannot see that its pipe was closed; it is killed after a moment."""
    async with open_worker_pool(1) as pool:
        os.kill(await pool.run(jobs.pid), signal.SIGSTOP)
    # And conftest sees that the worker is gone.


async def test_leaving_ends_a_warm_elsewhere(autojump_clock: trio.testing.MockClock) -> None:
    """Who waits for workers that will not come is told that the pool is closed."""
    seen: list[str] = []

    async def warm(pool: WorkerPool) -> None:
        seen.append(await outcome_of(pool.warm))

    engine = FakeEngine(starts=[0, 1000])
    async with trio.open_nursery() as nursery, open_on(engine, Options(size=2)) as pool:
        nursery.start_soon(warm, pool)
        await trio.sleep(1)
    assert seen == ["ClosedResourceError"]


async def test_each_aborted_caller_has_an_error_of_its_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """One that is shared would gather the tracebacks of all."""
    errors: list[BaseException] = []

    async def call(pool: WorkerPool) -> None:
        try:
            await pool.run(jobs.spin)
        except trio.ClosedResourceError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        engine = FakeEngine(twins={jobs.spin: trio.sleep_forever})
        async with open_on(engine, Options(size=1, drain_timeout=1)) as pool:
            for _ in range(4):
                nursery.start_soon(call, pool)
            await trio.sleep(0.1)
    assert len({id(error) for error in errors}) == 4


async def test_draining_retries(tmp_path: Path) -> None:
    """What is idempotent and crashes while the pool drains is tried again."""
    results: list[str] = []

    async def call(pool: WorkerPool) -> None:
        path = str(tmp_path / "died")
        results.append(await pool.run(jobs.die_once, path, idempotent=True))

    async with trio.open_nursery() as nursery, open_worker_pool(1) as pool:
        nursery.start_soon(call, pool)
        await trio.testing.wait_all_tasks_blocked()
    assert len(results) == 1


async def test_left_is_cancelled(pool: WorkerPool, tmp_path: Path) -> None:
    """Who asks for the result of a request whose block was left is told that it was cancelled."""
    seen: list[str] = []

    async def ask(request: PoolRequest[Any]) -> None:
        seen.append(await outcome_of(request.result))

    async with (
        trio.open_nursery() as nursery,
        pool.open_request(jobs.cooperate, str(tmp_path / "begun")) as request,
    ):
        nursery.start_soon(ask, request)
        await wait_for_file(tmp_path / "begun")
    assert seen == ["RequestCancelledError"]
    with pytest.raises(RequestCancelledError, match="its block was left") as caught:
        await request.result()
    assert caught.value.rung == "checkpoint"


# ---- flags and clocks


@pytest.mark.parametrize("in_a_block", [False, True])
async def test_a_flag_that_is_none(pool: WorkerPool, in_a_block: bool) -> None:
    """A closed flag, or something else, is an error of the call, bare; the pool goes on."""
    closed = SharedCancellation()
    closed.close()
    for flag, error in ((closed, SharedStateError), (object(), TypeError)):
        with pytest.raises(error):
            if in_a_block:
                async with pool.open_request(jobs.nothing, cancellation=flag):
                    raise AssertionError
            await pool.run(jobs.nothing, cancellation=flag)
    assert await pool.run(jobs.add, 1, 2) == 3


async def test_a_flag_that_is_closed_meanwhile(pool: WorkerPool, tmp_path: Path) -> None:
    """It can no longer be set; the request goes on, and so does the pool."""
    flag = SharedCancellation()
    go = tmp_path / "go"
    async with pool.open_request(jobs.wait_for, str(go), cancellation=flag) as request:
        await request.wait_started()
        flag.close()
        other = SharedCancellation()
        async with open_worker_pool(1, kind="thread") as second:  # lets the sampler look
            await second.run(jobs.nothing, cancellation=other)
        go.touch()
        assert await request.result() == "found"
    with pytest.raises(RequestCancelledError):
        other.cancel()
        await pool.run(jobs.nothing, cancellation=other)


@pytest.mark.parametrize(
    ("options", "clock"),
    [({"queue_timeout": 0.2}, "queue"), ({"timeout": 0.2}, "run")],
)
async def test_clocks_of_a_call_that_is_not_taken_up(
    pool: WorkerPool, options: dict[str, float], clock: str
) -> None:
    """A worker that was stopped while it was idle takes nothing up, and the clocks know."""
    os.kill(await pool.run(jobs.pid), signal.SIGSTOP)
    with trio.fail_after(20), pytest.raises(RequestTimeoutError) as caught:
        await pool.run(jobs.nothing, grace=0.1, **options)  # type: ignore[arg-type]
    assert caught.value.clock == clock
    assert await pool.run(jobs.add, 1, 2) == 3


async def test_a_thread_that_did_not_look_goes_on() -> None:
    """A thread cannot be killed; it takes the next request when it is done."""
    async with open_worker_pool(1, kind="thread", grace=0.01) as pool:
        with pytest.raises(RequestTimeoutError):
            await pool.run(fault_jobs.sleep_in_thread, 0.3, timeout=0.05)
        with trio.fail_after(20):
            assert await pool.run(jobs.add, 3, 4) == 7


@pytest.mark.parametrize("reason", [1, b"bytes", ValueError()])
async def test_a_reason_is_text(pool: WorkerPool, tmp_path: Path, reason: Any) -> None:
    """Anything else is a TypeError, and the request can still be cancelled."""
    async with pool.open_request(jobs.cooperate, str(tmp_path / "begun")) as request:
        await wait_for_file(tmp_path / "begun")
        with pytest.raises(
            TypeError, match=f"reason must be a str or None, not {type(reason).__name__}"
        ):
            request.cancel(reason)
        request.cancel("text")
        with pytest.raises(RequestCancelledError):
            await request.result()


# ---- starting


async def test_one_failed_start_does_not_fail_what_another_will_serve(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Requests wait as long as a worker is still starting."""
    engine = FakeEngine(starts=[0, start_error(), 1])
    async with open_on(engine, Options(size=2)) as pool:
        engine.endpoints[0].die(1)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(pool.run, jobs.nothing)
            await trio.sleep(0.5)


# ---- payloads


async def test_a_failure_beside_a_view_can_be_collected(pool: WorkerPool) -> None:
    """Views in shared memory and tracebacks of other processes are no trouble to the collector."""
    source = memoryview(bytes(100_000))
    for view in (source, source[10:], memoryview(bytearray(100_000)).cast("B")):
        with pytest.raises(LookupError):
            await pool.run(fault_jobs.fail_with, view)
        gc.collect()


@pytest.mark.parametrize("name", ["NoText", "SystemExit", "KeyboardInterrupt"])
async def test_results_that_will_not_travel(pool: WorkerPool, name: str) -> None:
    """Whatever pickling them raises, it is a PayloadError and the worker lives."""
    before = await pool.run(jobs.pid)
    with pytest.raises(PayloadError, match=r"a result of type fault_jobs\.Raises"):
        await pool.run(fault_jobs.give, name)
    error = fault_jobs.NoText() if name == "NoText" else SystemExit(1)
    with pytest.raises(PayloadError, match=r"argument 0 of .*echo"):
        await pool.run(jobs.echo, fault_jobs.Raises(error))
    assert await pool.run(jobs.pid) == before


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("ExitsAsError", PayloadError),
        ("NoText", fault_jobs.NoText),
        ("OddBase", RequestExitError),
        ("OddCode", RequestExitError),
        ("NoRepr", RequestExitError),
    ],
)
async def test_failures_that_will_not_travel(
    pool: WorkerPool, name: str, error: type[BaseException]
) -> None:
    """However odd what a function raises, the call says so and the worker lives."""
    before = await pool.run(jobs.pid)
    with pytest.raises(error):
        await pool.run(fault_jobs.throw, name)
    assert await pool.run(jobs.pid) == before


async def test_bound_methods_of_builtins_are_sent_each_time(pool: WorkerPool) -> None:
    """What they give depends on what they are bound to, which may have changed."""
    items = [1]
    assert await pool.run(items.copy) == [1]
    items.append(2)
    assert await pool.run(items.copy) == [1, 2]
    assert await pool.run(bytes(100_000).hex) == "00" * 100_000


async def test_a_module_that_exits_where_it_is_loaded(
    pool: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that cannot be loaded is a PayloadError, whatever its module does."""
    (tmp_path / "exits_elsewhere.py").write_text(
        f"import os, sys\nif os.getpid() != {os.getpid()}: sys.exit(5)\ndef function(): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    await pool.run(fault_jobs.add_path, str(tmp_path))
    import exits_elsewhere  # type: ignore[import-not-found]

    before = await pool.run(jobs.pid)
    with pytest.raises(PayloadError, match="SystemExit: 5"):
        await pool.run(exits_elsewhere.function)
    assert await pool.run(jobs.pid) == before


async def test_many_pieces_of_memory_come_home(pool: WorkerPool) -> None:
    """More than a socket takes at a time."""
    with trio.fail_after(20):
        views = await pool.run(fault_jobs.many_views, 600)
    assert [view[0] for view in views] == [index % 256 for index in range(600)]


async def test_a_function_that_closes_everything_prints_nothing(pool: WorkerPool) -> None:
    """Its worker is lost, and says no more."""
    outcome = await outcome_of(lambda: pool.run(jobs.close_all_descriptors))
    assert outcome == "WorkerCrashedError"
