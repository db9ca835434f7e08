"""What a pool promises wherever its functions run: in worker processes and on threads alike."""

from __future__ import annotations

import functools
import math
import operator
import os
import threading
import time
from typing import TYPE_CHECKING, Literal

import pytest
import trio
import trio.testing

from helpers import wait_for_file, wait_until
from jobs import (
    add,
    cooperate,
    count_and_fail,
    count_to,
    echo,
    fail,
    fail_in_cleanup,
    fail_with_cause,
    make,
    nothing,
    pid,
    reason_seen,
    request_id,
    seen_from_thread,
    sleep,
    swallow_checkpoint_and_return,
    time_left,
    wait_for,
)
from trioipc import (
    LocalProtocolError,
    OperationNotFoundError,
    PayloadError,
    Progress,
    RequestCancelledError,
    RequestExitError,
    RequestTimeoutError,
    SharedCancellation,
    open_worker_pool,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from trioipc import PoolRequest, WorkerPool

    Kind = Literal["cpu", "thread"]


@pytest.fixture(params=["cpu", "thread"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Provide each kind of worker."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
async def pool(kind: Kind) -> AsyncIterator[WorkerPool]:
    """Provide a pool of one worker that knows the operations of the tests."""
    async with open_worker_pool(1, kind=kind, modules=["jobs"], progress_interval=0.005) as pool:
        yield pool


# ---- values and exceptions


async def test_run_returns_what_the_function_returns(pool: WorkerPool) -> None:
    """A value comes home as it is, None too."""
    assert await pool.run(add, 2, 3) == 5
    assert await pool.run(nothing) is None
    assert await pool.run(echo, {"a": [1, (2.5, None)], "b": {3}}) == {
        "a": [1, (2.5, None)],
        "b": {3},
    }


@pytest.mark.parametrize(
    "function",
    [operator.mul, functools.partial(add, 6), (6).__add__, int],
    ids=["builtin", "partial", "method", "class"],
)
async def test_run_takes_any_callable(pool: WorkerPool, function: Callable[..., int]) -> None:
    """A function need not be one of Python's."""
    arguments = ("12",) if function is int else (6, 2) if function is operator.mul else (6,)
    assert await pool.run(function, *arguments) == 12


@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 100_000, 3_000_000])
@pytest.mark.parametrize(
    "wrap", [lambda b: b, lambda b: (b, 1), lambda b: [b, b], lambda b: {"k": b}]
)
async def test_bytes_arrive_as_what_they_were(
    pool: WorkerPool, size: int, wrap: Callable[[object], object]
) -> None:
    """Both kinds of bytes keep their type and content, there and back, whatever their size."""
    data = os.urandom(size)
    for value in (wrap(data), wrap(bytearray(data))):
        back = await pool.run(echo, value)
        assert back == value
        assert repr(back) == repr(value)


async def test_a_memoryview_arrives_as_one(pool: WorkerPool) -> None:
    """A view is a view on the other side, of this request's own memory."""
    back = await pool.run(echo, memoryview(b"abc"))
    assert type(back) is memoryview
    assert bytes(back) == b"abc"


async def test_the_event_loop_turns_while_arguments_are_copied() -> None:
    """Big arguments are copied in steps of 512 KiB, between which other tasks have their turn."""
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with open_worker_pool(1) as pool, trio.open_nursery() as nursery:
        await pool.run(nothing)
        nursery.start_soon(count_turns)
        async with pool.open_request(len, bytes(32 << 20)) as request:
            turns = 0
            while request._state == "loading":  # from here on it only waits
                await trio.lowlevel.checkpoint()
            assert turns >= 12  # a turn each 0.3 ms; two or three if it were held
            assert await request.result() == 32 << 20
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", [bytes, bytearray])
async def test_the_event_loop_turns_while_results_are_copied(
    kind: type[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A big result is copied in steps as well, once, whoever of several asks first."""
    turns = 0
    monkeypatch.setattr(
        "trioipc.pool.engines._pace._TURN_NANOSECONDS", 0
    )  # as if each piece took long

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def give_up_soon(request: PoolRequest[bytes]) -> None:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_after_turns, scope)
            await request.result()
        assert scope.cancelled_caught

    async def cancel_after_turns(scope: trio.CancelScope) -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async with open_worker_pool(1) as pool, trio.open_nursery() as nursery:
        async with pool.open_request(kind, 32 << 20) as request:
            await request.wait_started()
            while request._state != "ended":
                await trio.lowlevel.checkpoint()
            nursery.start_soon(count_turns)
            nursery.start_soon(give_up_soon, request)
            await trio.lowlevel.checkpoint()
            result = await request.result()
            assert turns >= 12  # a turn each 0.3 ms; two or three if it were held
            assert type(result) is kind
            assert len(result) == 32 << 20
            assert await request.result() is result
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("size", [10, 100_000, 3_000_001])
async def test_big_results_keep_their_types(pool: WorkerPool, size: int) -> None:
    """Bytes, bytearrays and views, also inside of what is returned."""
    value = [bytes(b"a" * size), bytearray(b"b" * size), {"deep": bytes(b"c" * size)}]
    assert await pool.run(echo, value) == value
    assert [type(v) for v in await pool.run(echo, value)] == [bytes, bytearray, dict]
    view = await pool.run(memoryview, b"d" * size)
    assert type(view) is memoryview
    assert view == b"d" * size


async def test_an_exception_comes_home_bare(pool: WorkerPool) -> None:
    """It is the function's own, with its traceback, its cause, its notes and one note of ours."""
    with pytest.raises(ValueError, match=r"^outer") as caught:
        await pool.run(fail_with_cause)
    assert isinstance(caught.value.__cause__, KeyError)
    assert "fail_with_cause" in [entry.name for entry in caught.traceback]
    first, ours = caught.value.__notes__
    assert first == "written by the function"
    assert ours.startswith("trioipc: request trioipc-")
    assert "(jobs.fail_with_cause), worker" in ours
    assert "try 1" in ours


async def test_a_group_of_the_function_stays_a_group(pool: WorkerPool) -> None:
    """Groups appear only when a function raised one."""
    with pytest.raises(ExceptionGroup) as caught:
        await pool.run(fail, ExceptionGroup("two", [ValueError(1), TypeError(2)]))
    assert [type(error) for error in caught.value.exceptions] == [ValueError, TypeError]


async def test_stop_iteration_becomes_a_runtime_error(pool: WorkerPool) -> None:
    """A coroutine cannot raise one (PEP 479)."""
    with pytest.raises(RuntimeError) as caught:
        await pool.run(fail, StopIteration(3))
    assert isinstance(caught.value.__cause__, StopIteration)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
async def test_an_exit_is_wrapped(pool: WorkerPool, error: BaseException) -> None:
    """What is no Exception cannot end the program that called, nor the worker."""
    before = await pool.run(pid)
    with pytest.raises(RequestExitError) as caught:
        await pool.run(fail, error)
    assert caught.value.type_name == type(error).__name__
    assert caught.value.code == (3 if isinstance(error, SystemExit) else None)
    assert await pool.run(pid) == before


async def test_asynchronous_functions_are_refused(pool: WorkerPool) -> None:
    """A coroutine function or a generator is a TypeError that names the way to go."""

    def generate() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match=r"trio\..*sleep is asynchronous; .*'io'"):
        await pool.run(trio.sleep, 1)
    with pytest.raises(TypeError, match=r"generate is a generator; .*stream"):
        await pool.run(generate)
    with pytest.raises(TypeError, match="must be callable, not int"):
        await pool.run(3)  # type: ignore[arg-type]


# ---- arguments of run


@pytest.mark.parametrize(
    ("option", "value", "error", "text"),
    [
        ("timeout", -1, ValueError, "timeout must be >= 0 seconds, not -1"),
        ("timeout", math.nan, ValueError, "timeout must be >= 0 seconds, not nan"),
        ("timeout", "1", TypeError, "timeout must be a number of seconds, not str"),
        ("queue_timeout", -0.5, ValueError, "queue_timeout must be >= 0 seconds, not -0.5"),
        (
            "priority",
            "urgent",
            ValueError,
            "priority must be one of high, normal, low, not 'urgent'",
        ),
        ("max_retries", -1, ValueError, "max_retries must be >= 0, not -1"),
        ("max_retries", 1, ValueError, r"max_retries=1 needs .* idempotent=True"),
        ("grace", -1, ValueError, "grace must be >= 0 seconds, not -1"),
    ],
)
async def test_wrong_options_are_refused(
    pool: WorkerPool, option: str, value: object, error: type[Exception], text: str
) -> None:
    """The error names the option, its value and what would be right; nothing was run."""
    with pytest.raises(error, match=text):
        await pool.run(nothing, **{option: value})  # type: ignore[arg-type]
    with pytest.raises(error, match=text):
        async with pool.open_request(nothing, **{option: value}):  # type: ignore[arg-type]
            raise AssertionError
    assert pool.statistics().total_tasks_processed == 0


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"size": 0}, ValueError, "size must be >= 1, not 0"),
        ({"size": 1.5}, TypeError, "size must be an int, not 1.5"),
        ({"size": math.inf}, TypeError, "size must be an int, not inf"),
        (
            {"modules": "jobs"},
            TypeError,
            "modules must be an iterable of names, not the str 'jobs'",
        ),
        ({"modules": [3]}, TypeError, "modules must hold names, not int"),
        ({"kind": "gpu"}, ValueError, "kind must be one of cpu, io, thread, not 'gpu'"),
        ({"strategy": "random"}, ValueError, "strategy must be one of least-busy, round-robin"),
        ({"task_timeout": -1}, ValueError, "task_timeout must be >= 0 seconds, not -1"),
        ({"queue_timeout": True}, TypeError, "queue_timeout must be a number of seconds, not bool"),
        ({"start_timeout": -1}, ValueError, "start_timeout must be >= 0 seconds, not -1"),
        ({"max_queue": -1}, ValueError, "max_queue must be >= 0, not -1"),
        ({"max_retries": 0.5}, TypeError, "max_retries must be an int, not 0.5"),
        ({"name": 3}, TypeError, "name must be a str, not int"),
        ({"stall_timeout": -1}, ValueError, "stall_timeout must be >= 0 seconds, not -1"),
        ({"spare": -1}, ValueError, "spare must be >= 0, not -1"),
        ({"spare": math.inf}, TypeError, "spare must be an int, not inf"),
        ({"size": 2, "min_size": 3}, ValueError, "min_size must be <= size, 2, not 3"),
        ({"min_size": -1}, ValueError, "min_size must be >= 0, not -1"),
        ({"max_requests": 0}, ValueError, "max_requests must be >= 1, not 0"),
        ({"max_memory": "1G"}, TypeError, "max_memory must be an int or math.inf, not '1G'"),
        ({"max_age": -1}, ValueError, "max_age must be >= 0 seconds, not -1"),
    ],
)
async def test_a_pool_checks_its_options(
    options: dict[str, object], error: type[Exception], text: str
) -> None:
    """What is wrong is said when the pool is opened, before anything is started."""
    with pytest.raises(error, match=text):
        async with open_worker_pool(**options):  # type: ignore[arg-type]
            raise AssertionError


# ---- requests


async def test_a_request_runs_beside_its_block(pool: WorkerPool, tmp_path: Path) -> None:
    """The block goes on while the function runs; `result` may be awaited often, by several."""
    results = []

    async def ask(request: PoolRequest[str]) -> None:
        results.append(await request.result())

    async with pool.open_request(wait_for, str(tmp_path / "go")) as request:
        await request.wait_started()
        assert pool.workers[0].state == "busy"
        assert pool.workers[0].request_id == request.id
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, request)
            nursery.start_soon(ask, request)
            await trio.testing.wait_all_tasks_blocked()
            (tmp_path / "go").touch()
        assert await request.result() == "found"
    assert results == ["found", "found"]


async def test_leaving_a_request_cancels_it(pool: WorkerPool, tmp_path: Path) -> None:
    """Without `result`, leaving waits until the function has stopped, and is silent."""
    async with pool.open_request(cooperate, str(tmp_path / "begun")):
        await wait_for_file(tmp_path / "begun")
    assert pool.workers[0].state == "idle"
    assert pool.statistics().total_cancelled == 1


async def test_an_error_that_nobody_asked_for_comes_out(pool: WorkerPool) -> None:
    """If the request had failed before its block was left, the block raises its error."""
    with pytest.raises(ValueError, match=r"^unheard"):
        async with pool.open_request(fail, ValueError("unheard")) as request:
            await wait_until(lambda: pool.statistics().total_tasks_processed)
            del request


async def test_the_body_of_a_request_raises_as_itself(pool: WorkerPool, tmp_path: Path) -> None:
    """Its exception leaves bare; that the request failed as well is in its notes."""
    with pytest.raises(KeyError) as caught:
        async with pool.open_request(fail_in_cleanup, str(tmp_path / "begun")):
            await wait_for_file(tmp_path / "begun")
            raise KeyError("body")
    assert caught.value.args == ("body",)
    assert [note for note in caught.value.__notes__ if "failed too, with LookupError" in note]


async def test_results_of_failed_requests_repeat(pool: WorkerPool) -> None:
    """Each `result` raises the same error."""
    async with pool.open_request(fail, ValueError("again")) as request:
        for _ in range(2):
            with pytest.raises(ValueError, match=r"^again"):
                await request.result()


async def test_requests_know_who_they_are(pool: WorkerPool) -> None:
    """The id is the same on both sides, also in the function's threads."""
    async with pool.open_request(request_id) as request:
        assert await request.result() == request.id
    assert repr(request) == f"<PoolRequest {request.id}: jobs.request_id, ended>"


async def test_time_left_is_that_of_the_run_clock(pool: WorkerPool) -> None:
    """A function sees how long it may still run."""
    assert await pool.run(time_left) == math.inf
    assert 9 < await pool.run(time_left, timeout=10) <= 10


async def test_time_left_is_that_of_the_callers_scope(pool: WorkerPool) -> None:
    """Its deadline travels with the call, and with no other; whichever comes first counts."""
    with trio.move_on_after(20), trio.move_on_after(60):
        assert 19 < await pool.run(time_left) <= 20
        assert 19 < await pool.run(time_left, timeout=30) <= 20
        assert 9 < await pool.run(time_left, timeout=10) <= 10
        async with pool.open_request(time_left) as request:
            assert 19 < await request.result() <= 20
        with trio.CancelScope(shield=True):
            assert await pool.run(time_left) == math.inf
    with trio.fail_after(1e300):
        assert await pool.run(time_left) == math.inf
    assert await pool.run(time_left) == math.inf
    message = {"type": "time left", "payload": None, "timeout": 40}
    assert 39 < await pool.execute(message) <= 40  # type: ignore[operator]


async def test_time_left_of_one_that_waited(pool: WorkerPool, tmp_path: Path) -> None:
    """It is what is left when it is taken up, though somebody else's answer sends it."""
    go = tmp_path / "go"

    async def ask() -> None:
        with trio.fail_after(20):
            left.append(await pool.run(time_left))

    left: list[float] = []
    async with trio.open_nursery() as nursery, pool.open_request(wait_for, str(go)) as first:
        nursery.start_soon(ask)
        await trio.sleep(1.1)
        go.touch()
        await first.result()
    assert len(left) == 1
    assert 10 < left[0] < 19


# ---- cancelling: the last table of the contract


async def test_a_cancelled_scope_stops_the_function(pool: WorkerPool, tmp_path: Path) -> None:
    """The caller's scope is cancelled: trio.Cancelled, and the worker goes on with the next."""
    worker = await pool.run(pid)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run, cooperate, str(tmp_path / "begun"))
            await wait_for_file(tmp_path / "begun")
            scope.cancel()
    assert scope.cancelled_caught
    assert await pool.run(pid) == worker


async def test_a_value_after_a_cancel_is_dropped(pool: WorkerPool, tmp_path: Path) -> None:
    """The function was cancelled, but returned: trio.Cancelled all the same."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run, swallow_checkpoint_and_return, str(tmp_path / "begun"))
            await wait_for_file(tmp_path / "begun")
            scope.cancel()
    assert scope.cancelled_caught


async def test_an_error_in_clean_up_is_not_lost(pool: WorkerPool, tmp_path: Path) -> None:
    """The scope was cancelled, then the function raised something else: that comes out."""
    with trio.CancelScope() as scope, pytest.raises(LookupError, match="clean-up failed"):
        async with pool.open_request(fail_in_cleanup, str(tmp_path / "begun")):
            await wait_for_file(tmp_path / "begun")
            scope.cancel()
            await trio.sleep_forever()
    assert not scope.cancelled_caught


async def test_cancel_ends_a_request(pool: WorkerPool, tmp_path: Path) -> None:
    """`cancel` is RequestCancelledError with its reason and rung; cancelling again is nothing."""
    async with pool.open_request(cooperate, str(tmp_path / "begun")) as request:
        await wait_for_file(tmp_path / "begun")
        request.cancel("no longer needed")
        request.cancel("changed my mind")
        with pytest.raises(RequestCancelledError, match="no longer needed") as caught:
            await request.result()
    assert (caught.value.reason, caught.value.rung) == ("no longer needed", "checkpoint")
    request.cancel()


async def test_the_function_sees_the_reason(pool: WorkerPool, tmp_path: Path) -> None:
    """A reason reaches the function; the function's own error is the cause of ours."""
    async with pool.open_request(reason_seen, str(tmp_path / "begun")) as request:
        await wait_for_file(tmp_path / "begun")
        request.cancel("because")
        with pytest.raises(RequestCancelledError) as caught:
            await request.result()
    assert isinstance(caught.value.__cause__, LookupError)
    assert caught.value.__cause__.args == ("because",)


async def test_a_cancelled_block_with_cancel_is_silent(pool: WorkerPool, tmp_path: Path) -> None:
    """Who called `cancel` and left without asking knows what happened."""
    async with pool.open_request(cooperate, str(tmp_path / "begun")) as request:
        await wait_for_file(tmp_path / "begun")
        request.cancel()


async def test_a_shared_cancellation_ends_a_request(pool: WorkerPool, tmp_path: Path) -> None:
    """Set by a thread, it is RequestCancelledError with its reason."""
    flag = SharedCancellation()

    async def set_it() -> None:
        await wait_for_file(tmp_path / "begun")
        await trio.to_thread.run_sync(flag.cancel, "said a thread")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(set_it)
        with pytest.raises(RequestCancelledError) as caught:
            await pool.run(cooperate, str(tmp_path / "begun"), cancellation=flag)
    assert (caught.value.reason, caught.value.rung) == ("said a thread", "checkpoint")


async def test_a_cancellation_set_before_asks_no_worker(pool: WorkerPool, tmp_path: Path) -> None:
    """Rung "queue"; the function never runs."""
    flag = SharedCancellation()
    flag.cancel("too late")
    with pytest.raises(RequestCancelledError) as caught:
        await pool.run(sleep, 0.0, str(tmp_path / "begun"), cancellation=flag)
    assert (caught.value.reason, caught.value.rung) == ("too late", "queue")
    await pool.run(nothing)
    assert not (tmp_path / "begun").exists()


async def test_the_run_clock_ends_a_request(pool: WorkerPool) -> None:
    """RequestTimeoutError, also a TimeoutError, that says which clock and which rung."""
    with pytest.raises(TimeoutError) as caught:
        await pool.run(cooperate, timeout=0.05)
    assert isinstance(caught.value, RequestTimeoutError)
    assert (caught.value.clock, caught.value.rung) == ("run", "checkpoint")
    assert "longer than 0.05 s (the run clock)" in str(caught.value)
    assert await pool.run(add, 1, 1) == 2


async def test_the_queue_clock_counts_the_wait_only(pool: WorkerPool, tmp_path: Path) -> None:
    """What waits too long ends as RequestTimeoutError and never runs; what runs may run on."""
    async with pool.open_request(wait_for, str(tmp_path / "go"), queue_timeout=0.05) as first:
        await first.wait_started()
        with pytest.raises(RequestTimeoutError) as caught:
            await pool.run(sleep, 0.0, str(tmp_path / "begun"), queue_timeout=0.1)
        assert (caught.value.clock, caught.value.rung) == ("queue", "queue")
        (tmp_path / "go").touch()
        assert await first.result() == "found"
    assert not (tmp_path / "begun").exists()


async def test_a_cancelled_request_in_the_queue_never_runs(
    pool: WorkerPool, tmp_path: Path
) -> None:
    """It ends at once, without waiting for the worker."""
    async with pool.open_request(wait_for, str(tmp_path / "go")) as first:
        await first.wait_started()
        with trio.move_on_after(0.02) as scope:
            await pool.run(sleep, 0.0, str(tmp_path / "begun"))
        assert scope.cancelled_caught
        async with pool.open_request(sleep, 0.0, str(tmp_path / "begun")) as second:
            second.cancel()
            with pytest.raises(RequestCancelledError) as caught:
                await second.result()
        assert caught.value.rung == "queue"
        (tmp_path / "go").touch()
        await first.result()
    await pool.run(nothing)
    assert not (tmp_path / "begun").exists()


async def test_the_callers_scope_wins(pool: WorkerPool, tmp_path: Path) -> None:
    """Of a cancelled scope and `cancel`, the scope is what the caller sees."""
    flag = SharedCancellation()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                await pool.run(
                    swallow_checkpoint_and_return, str(tmp_path / "begun"), cancellation=flag
                )

            nursery.start_soon(run)
            await wait_for_file(tmp_path / "begun")
            flag.cancel()
            scope.cancel()
    assert scope.cancelled_caught


# ---- progress


async def test_progress_reaches_the_callback(pool: WorkerPool, tmp_path: Path) -> None:
    """Values rise, the last always arrives, and the callback runs in the caller's task."""
    seen: list[Progress] = []
    task = trio.lowlevel.current_task()
    go = tmp_path / "go"

    def note(progress: Progress) -> None:
        assert trio.lowlevel.current_task() is task
        seen.append(progress)
        go.touch()

    assert await pool.run(count_to, 1000, str(go), on_progress=note) == 1000
    values = [progress.value for progress in seen]
    assert values == sorted(values)
    assert values[0] <= 500
    last = seen[-1]
    assert (last.value, last.total, last.fraction, last.percent) == (1000, 1000, 1.0, 100.0)
    assert (last.phase, last.attempt, last.eta) == ("counting", 1, 0.0)
    assert last.elapsed > 0
    assert last.rate > 0


async def test_the_last_progress_of_a_failure_arrives(pool: WorkerPool) -> None:
    """What a function wrote before it failed is delivered before its error."""
    seen: list[int] = []
    with pytest.raises(LookupError, match="half-way"):
        await pool.run(count_and_fail, 10, on_progress=lambda progress: seen.append(progress.value))
    assert seen[-1] == 5


async def test_no_progress_no_call(pool: WorkerPool) -> None:
    """A function that says nothing makes no progress."""
    seen: list[Progress] = []
    assert await pool.run(add, 1, 2, on_progress=seen.append) == 3
    assert seen == []


async def test_an_asynchronous_callback_is_awaited(pool: WorkerPool) -> None:
    """`on_progress` may be asynchronous; the result waits for its last call."""
    seen: list[int] = []

    async def note(progress: Progress) -> None:
        await trio.sleep(0.01)
        seen.append(progress.value)

    assert await pool.run(count_to, 50, on_progress=note) == 50
    assert seen[-1] == 50


async def test_a_callback_that_raises_cancels(pool: WorkerPool) -> None:
    """Its exception comes out bare, when the function has stopped."""

    def refuse(progress: Progress) -> None:
        raise KeyError("I refuse")

    with pytest.raises(KeyError, match="I refuse"):
        await pool.run(count_to, 10, "/nowhere", on_progress=refuse)
    assert pool.workers[0].state == "idle"
    assert await pool.run(add, 1, 2) == 3


async def test_progress_as_a_channel(pool: WorkerPool, tmp_path: Path) -> None:
    """`request.progress` conflates, and ends with the request, without raising."""
    async with pool.open_request(count_to, 100, str(tmp_path / "go")) as request:
        first = await request.progress.receive()
        assert first.value <= 50
        (tmp_path / "go").touch()
        values = [progress.value async for progress in request.progress]
        assert values[-1] == 100
        assert await request.result() == 100


async def test_progress_asked_for_afterwards(pool: WorkerPool) -> None:
    """Who asks when all is over still gets the last value."""
    async with pool.open_request(count_to, 7) as request:
        await request.result()
        assert [progress.value async for progress in request.progress] == [7]


async def test_a_slow_reader_gets_the_newest(pool: WorkerPool, tmp_path: Path) -> None:
    """Values that nobody read are replaced, never queued."""
    async with pool.open_request(count_to, 100) as request:
        request.progress  # noqa: B018 - listen from now on
        assert await request.result() == 100
        assert [progress.value async for progress in request.progress] == [100]


# ---- the queue


async def test_priorities_go_first(pool: WorkerPool, tmp_path: Path) -> None:
    """High before normal before low; first come, first served within each."""
    began: dict[int, str] = {}

    async def run(priority: Literal["low", "normal", "high"], name: str) -> None:
        began[await pool.run(time.perf_counter_ns, priority=priority)] = name

    async with pool.open_request(wait_for, str(tmp_path / "go")) as first:
        await first.wait_started()
        async with trio.open_nursery() as nursery:
            for priority in ("low", "normal", "high"):
                for number in (1, 2):
                    nursery.start_soon(run, priority, f"{priority} {number}")
                    await trio.testing.wait_all_tasks_blocked(0.005)
            assert pool.statistics().queued_tasks == 6
            (tmp_path / "go").touch()
        await first.result()
    order = [began[when] for when in sorted(began)]
    assert order == ["high 1", "high 2", "normal 1", "normal 2", "low 1", "low 2"]


async def test_a_full_queue_holds_callers_back(kind: Kind, tmp_path: Path) -> None:
    """With `max_queue`, further callers wait for room; the queue clock runs meanwhile."""
    async with (
        open_worker_pool(1, kind=kind, max_queue=1) as pool,
        pool.open_request(wait_for, str(tmp_path / "go")) as first,
    ):
        await first.wait_started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run, nothing)
            await wait_until(lambda: pool.statistics().queued_tasks == 1)
            with pytest.raises(RequestTimeoutError) as caught:
                await pool.run(nothing, queue_timeout=0.05)
            assert caught.value.clock == "queue"
            nursery.start_soon(pool.run, nothing)
            await trio.testing.wait_all_tasks_blocked(0.005)
            assert pool.statistics().queued_tasks == 1
            (tmp_path / "go").touch()
        await first.result()


# ---- messages


async def test_execute_runs_operations(pool: WorkerPool) -> None:
    """A message names an operation; a mapping with its fields will do."""
    assert await pool.execute({"type": "double", "payload": 21}) == 42
    assert await pool.execute({"type": "shout", "channel": "file", "payload": "hey"}) == "HEY!"
    assert await pool.execute({"type": "whoami", "id": "my own"}) == "my own"
    seen: list[int] = []
    await pool.execute(
        {"type": "count", "payload": 9}, on_progress=lambda progress: seen.append(progress.value)
    )
    assert seen[-1] == 9


@pytest.mark.parametrize(
    ("message", "error", "text"),
    [
        (
            {"type": "triple"},
            OperationNotFoundError,
            "no operation 'triple' on channel 'custom'; there are: .*double",
        ),
        (
            {"type": "shout"},
            OperationNotFoundError,
            "'shout' is on channel 'file', not on 'custom'",
        ),
        ({"type": 3}, LocalProtocolError, "this is no message: .*type"),
        ({}, LocalProtocolError, "this is no message: .*type"),
        ({"type": "double", "size": 1}, LocalProtocolError, "this is no message: .*size"),
        ({"type": "double", "channel": "x"}, LocalProtocolError, "this is no message: .*channel"),
        (3, LocalProtocolError, "a int is no message"),
    ],
)
async def test_wrong_messages_are_refused(
    pool: WorkerPool, message: object, error: type[Exception], text: str
) -> None:
    """No worker is asked."""
    with pytest.raises(error, match=text):
        await pool.execute(message)  # type: ignore[arg-type]


async def test_a_message_times_out_in_total(pool: WorkerPool, tmp_path: Path) -> None:
    """Its `timeout` counts from the send, whether it waits or runs."""
    with pytest.raises(RequestTimeoutError) as caught:
        await pool.execute({"type": "work", "payload": str(tmp_path / "begun"), "timeout": 0.1})
    assert caught.value.clock == "total"


# ---- what it looks like


async def test_statistics_count(pool: WorkerPool, tmp_path: Path) -> None:
    """Each request ends as one of the three: a value, an error, cancelled."""
    await pool.run(nothing)
    await pool.run(sleep, 0.03)
    with pytest.raises(ValueError, match="x"):
        await pool.run(fail, ValueError("x"))
    with pytest.raises(RequestTimeoutError):
        await pool.run(cooperate, timeout=0.02)
    async with pool.open_request(cooperate, str(tmp_path / "begun")) as request:
        await wait_for_file(tmp_path / "begun")
        request.cancel()
    statistics = pool.statistics()
    assert statistics.pool_size == 1
    assert statistics.busy_workers == 0
    assert statistics.queued_tasks == 0
    assert statistics.total_tasks_processed == 5
    assert statistics.total_errors == 2
    assert statistics.total_cancelled == 1
    assert statistics.restarts == {}
    assert statistics.run_time.count == 5
    assert 0.03 <= statistics.run_time.max < 5
    assert statistics.total_time.max >= statistics.run_time.max
    (worker,) = statistics.workers
    assert (worker.state, worker.request_id, worker.requests) == ("idle", None, 5)


async def test_the_repr_shows_what_is_going_on(pool: WorkerPool, tmp_path: Path) -> None:
    """Busy, idle and waiting are there; after the block it is closed."""
    assert repr(pool) == "<WorkerPool: 0 busy, 1 idle, 0 waiting>"
    async with pool.open_request(wait_for, str(tmp_path / "go")) as request:
        await request.wait_started()
        assert repr(pool) == "<WorkerPool: 1 busy, 0 idle, 0 waiting>"
        (tmp_path / "go").touch()
        await request.result()


# ---- the block


async def test_a_clean_exit_drains(kind: Kind, tmp_path: Path) -> None:
    """Requests that wait or run are served before the block is left."""
    results = []

    async def run() -> None:
        results.append(await pool.run(wait_for, str(tmp_path / "go")))

    async with trio.open_nursery() as nursery, open_worker_pool(1, kind=kind) as pool:
        for _ in range(3):
            nursery.start_soon(run)
        await wait_until(lambda: pool.statistics().queued_tasks == 2)
        nursery.start_soon(_touch_soon, tmp_path / "go")
    assert results == ["found"] * 3


async def _touch_soon(path: Path) -> None:
    await trio.testing.wait_all_tasks_blocked(0.01)
    path.touch()


@pytest.mark.parametrize(
    "make_error",
    [ValueError, KeyboardInterrupt, lambda: ExceptionGroup("g", [ValueError(), KeyError()])],
    ids=["ValueError", "KeyboardInterrupt", "ExceptionGroup"],
)
async def test_the_body_raises_as_itself(
    kind: Kind, tmp_path: Path, make_error: Callable[[], BaseException]
) -> None:
    """What the body raises leaves the block bare; requests in other tasks are aborted."""
    error = make_error()
    aborted = []

    async def run() -> None:
        try:
            await pool.run(cooperate, str(tmp_path / "begun"))
        except trio.ClosedResourceError:
            aborted.append(True)

    async with trio.open_nursery() as nursery:
        with pytest.raises(type(error)) as caught:
            async with open_worker_pool(1, kind=kind) as pool:
                nursery.start_soon(run)
                await wait_for_file(tmp_path / "begun")
                raise error
        assert caught.value is error
    assert aborted == [True]


async def test_a_cancelled_body_aborts(kind: Kind) -> None:
    """If the block was cancelled, on its way in or in its body, trio.Cancelled leaves it bare."""

    async def use(scope: trio.CancelScope, *, at_once: bool) -> None:
        if at_once:
            scope.cancel()
        with pytest.raises(trio.Cancelled):
            async with open_worker_pool(1, kind=kind) as pool:
                scope.cancel()
                await pool.run(cooperate)
        await trio.lowlevel.checkpoint()

    for at_once in (True, False):
        with trio.CancelScope() as scope:
            await use(scope, at_once=at_once)
        assert scope.cancelled_caught


async def test_after_the_block_it_is_closed(kind: Kind) -> None:
    """Every call is then a ClosedResourceError; what can only be looked at still can."""
    async with open_worker_pool(1, kind=kind) as pool:
        pass
    for call in (
        lambda: pool.run(nothing),
        lambda: pool.execute({"type": "double"}),
        lambda: pool.warm(),
    ):
        with pytest.raises(trio.ClosedResourceError, match="this pool is closed"):
            await call()
    with pytest.raises(trio.ClosedResourceError):
        async with pool.open_request(nothing):
            raise AssertionError
    assert pool.workers == ()
    assert pool.statistics().total_tasks_processed == 0
    assert repr(pool) == "<WorkerPool: 0 busy, 0 idle, 0 waiting, closed>"


async def test_a_pool_belongs_to_its_run(pool: WorkerPool) -> None:
    """Another thread, with or without a run of its own, is told so."""
    errors = []

    def elsewhere() -> None:
        try:
            trio.run(pool.run, nothing)
        except RuntimeError as error:
            errors.append(str(error))
        try:
            pool.run(nothing).send(None)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=elsewhere)
    await trio.to_thread.run_sync(thread.start)
    await trio.to_thread.run_sync(thread.join)
    assert errors[0] == "this pool belongs to another trio.run()"
    assert len(errors) == 2


async def test_threads_of_the_function_belong_to_the_request(kind: Kind) -> None:
    """In a worker process, `current_request` is the same from every thread."""
    async with (
        open_worker_pool(1, kind="cpu") as pool,
        pool.open_request(seen_from_thread) as request,
    ):
        assert await request.result() == request.id


async def test_an_object_that_cannot_travel_costs_nothing() -> None:
    """Arguments, results and exceptions that cannot be pickled are PayloadErrors that say which."""
    async with open_worker_pool(1) as pool:
        worker = await pool.run(pid)
        with pytest.raises(PayloadError, match=r"the function .*<lambda>.* cannot be sent"):
            await pool.run(lambda: 3)
        with pytest.raises(PayloadError, match=r"argument 1 of jobs.add, of type lock, cannot"):
            await pool.run(add, 1, threading.Lock())  # type: ignore[arg-type]
        with pytest.raises(PayloadError, match="no pickling of me"):
            await pool.run(make, "FailsOnPickle")
        with pytest.raises(PayloadError, match="no unpickling of me"):
            await pool.run(make, "FailsOnUnpickle")
        assert await pool.run(pid) == worker
