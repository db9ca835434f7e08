"""The last table of the contract, row by row, and what leaves a block: on real workers.

"What happened" on the left is a function of `jobs`; the call on the right is `run`, or `result()`
in an `open_request` block, of which it counts what leaves the block.
"""

from __future__ import annotations

import functools
import gc
import itertools
import os
import signal
import weakref
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import attrs
import pytest
import trio
import trio.testing

import jobs
from fakes import FakeEngine, start_error
from helpers import wait_for_file, wait_until
from trioipc import (
    IPCProtocol,
    PayloadError,
    PoisonedRequestError,
    RequestCancelledError,
    RequestExitError,
    RequestTimeoutError,
    SharedCancellation,
    WorkerCrashedError,
    WorkerStartError,
    open_worker,
    open_worker_bridge,
    open_worker_pool,
)
from trioipc.pool._opening import open_on
from trioipc.pool._options import Options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from trio.testing import MockClock

    from trioipc import PoolRequest, WorkerPool

    Kind = Literal["cpu", "thread"]
    How = Literal["run", "run with progress", "result", "block"]
    Cause = Literal["scope", "cancel", "flag", "clock"]

BIG = bytes(200_000)


@pytest.fixture(params=["cpu", "thread"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Provide each kind of worker."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
async def pool(kind: Kind) -> AsyncIterator[WorkerPool]:
    """Provide a pool of one worker that knows the operations of the tests."""
    async with open_worker_pool(1, kind=kind, modules=["jobs"], progress_interval=0.005) as pool:
        yield pool


# ---- ways to call, and to end a call


@attrs.define(eq=False)
class Levers:
    """What ends a call from outside, by name; pulled by a task of its own."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    flag: SharedCancellation = attrs.field(factory=SharedCancellation)
    request: PoolRequest[Any] | None = None

    def pull(self, cause: Cause) -> None:
        """End the call for that cause; a clock ends it by itself."""
        if cause == "scope":
            self.scope.cancel()
        elif cause == "flag":
            self.flag.cancel("by flag")
        elif cause == "cancel":
            assert self.request is not None
            self.request.cancel("by cancel")


async def call(
    pool: WorkerPool, how: How, levers: Levers, function: Any, *arguments: str, **options: Any
) -> object:
    """Call a function in one of the ways; return its value."""
    if how == "run":
        return await pool.run(function, *arguments, cancellation=levers.flag, **options)
    if how == "run with progress":
        return await pool.run(
            function, *arguments, cancellation=levers.flag, on_progress=str, **options
        )
    async with pool.open_request(
        function, *arguments, cancellation=levers.flag, **options
    ) as levers.request:
        if how == "block":
            await trio.sleep_forever()
        return await levers.request.result()


async def what_comes_out(
    levers: Levers, script: Callable[[], Awaitable[object]], call: Callable[[], Awaitable[object]]
) -> BaseException | object:
    """Make a call while a script pulls the levers; return what it raises or else returns."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(script)
        out: BaseException | object = None
        with levers.flag, trio.fail_after(20), levers.scope:
            try:
                out = await call()
            except trio.Cancelled as error:
                out = error
                raise
            except BaseException as error:
                out = error
    assert levers.scope.cancelled_caught == isinstance(out, trio.Cancelled)
    return out


ENDINGS: dict[str, tuple[Any, str | None, dict[str, float]]] = {
    "returns": (jobs.swallow_checkpoint_and_return, "checkpoint", {}),
    "stops": (jobs.cooperate, "checkpoint", {}),
    "exits": (jobs.exit_in_cleanup, "checkpoint", {}),
    "fails": (jobs.fail_in_cleanup, "checkpoint", {}),
    "is interrupted": (jobs.spin, "interrupt", {}),
    "is killed": (jobs.stubborn, "kill", {"grace": 0.05}),
    "dies": (jobs.die_when_cancelled, None, {}),
}
COOPERATIVE = ["returns", "stops", "exits", "fails"]


@pytest.mark.parametrize(
    ("cause", "how"),
    [
        *itertools.product(("scope", "flag", "clock"), ("run", "run with progress", "result")),
        ("cancel", "result"),
    ],
)
async def test_one_cause_then_whatever(
    pool: WorkerPool, kind: Kind, cause: Cause, how: How, tmp_path: Path
) -> None:
    """A scope is Cancelled, or what the function raises then; all else is that error, its cause."""
    # The others cost a process each, and are in test_process for `run`.
    costly = kind == "cpu" and how == "result" and cause != "flag"
    for ending in ENDINGS if costly else COOPERATIVE:
        function, rung, options = ENDINGS[ending]
        begun = tmp_path / ending
        if cause == "clock":
            options = {**options, "timeout": 0.05}
        levers = Levers()

        async def script(begun: Path = begun, levers: Levers = levers) -> None:
            await wait_for_file(begun)
            levers.pull(cause)

        out = await what_comes_out(
            levers,
            script,
            functools.partial(call, pool, how, levers, function, str(begun), **options),
        )
        told = (ending, out)
        failed = ending == "fails"
        if cause == "scope":
            assert type(out) is (LookupError if failed else trio.Cancelled), told
        else:
            expected = RequestTimeoutError if cause == "clock" else RequestCancelledError
            assert type(out) is expected, told
            assert isinstance(out, RequestTimeoutError | RequestCancelledError)
            assert out.rung == (rung or out.rung), told
            assert type(out.__cause__) is (LookupError if failed else type(None)), told
            if isinstance(out, RequestTimeoutError):
                assert out.clock == "run", told
            else:
                assert out.reason == f"by {cause}", told
        assert pool.statistics().busy_workers == 0
        assert await pool.run(jobs.add, 1, 2) == 3


RUNS: list[How] = ["run", "run with progress", "result"]
PAIRS: dict[tuple[Cause, Cause], list[How]] = {
    ("scope", "flag"): [*RUNS, "block"],
    ("flag", "scope"): [*RUNS, "block"],
    ("clock", "scope"): [*RUNS, "block"],
    ("clock", "flag"): RUNS,
    ("scope", "cancel"): ["result", "block"],
    ("cancel", "scope"): ["result", "block"],
    ("cancel", "flag"): ["result"],
    ("flag", "cancel"): ["result"],
    ("clock", "cancel"): ["result"],
}


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
async def test_of_two_causes(pool: WorkerPool, pair: tuple[Cause, Cause], tmp_path: Path) -> None:
    """The caller's scope wins, whether it was first or not; of the others the first."""
    first, second = pair
    for how in PAIRS[pair]:
        paths = begun, noticed, go = [tmp_path / f"{how} {name}" for name in ("1", "2", "3")]
        levers = Levers()

        async def script(
            begun: Path = begun, noticed: Path = noticed, go: Path = go, levers: Levers = levers
        ) -> None:
            await wait_for_file(begun)
            levers.pull(first)
            await wait_for_file(noticed)
            levers.pull(second)
            await trio.testing.wait_all_tasks_blocked()
            go.touch()

        options = {"grace": 20.0, **({"timeout": 0.02} if first == "clock" else {})}
        out = await what_comes_out(
            levers,
            script,
            functools.partial(call, pool, how, levers, jobs.linger, *map(str, paths), **options),
        )
        if "scope" in pair:
            assert type(out) is trio.Cancelled, how
        elif first == "clock":
            assert type(out) is RequestTimeoutError, how
        else:
            assert isinstance(out, RequestCancelledError), how
            assert out.reason == f"by {first}", how
        assert pool.statistics().busy_workers == 0


# ---- the other rows, where `test_pool` and `test_process` have only `run`


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
async def test_the_result_of_an_exit(pool: WorkerPool, error: BaseException) -> None:
    """It is a RequestExitError, as often as one asks."""
    async with pool.open_request(jobs.fail, error) as request:
        for _ in range(2):
            with pytest.raises(RequestExitError) as caught:
                await request.result()
            assert caught.value.type_name == type(error).__name__


async def test_the_result_of_a_crash(tmp_path: Path) -> None:
    """It is a WorkerCrashedError, a second try, or a PoisonedRequestError."""
    async with open_worker_pool(1) as pool:
        async with pool.open_request(jobs.die, 42) as request:
            with pytest.raises(WorkerCrashedError) as caught:
                await request.result()
        assert (caught.value.exitcode, caught.value.attempts) == (42, 1)
        once = str(tmp_path / "once")
        async with pool.open_request(jobs.die_once, once, idempotent=True) as request:
            assert await request.result() == "second try"
        async with pool.open_request(jobs.die, 3, idempotent=True, max_retries=1) as request:
            with pytest.raises(PoisonedRequestError) as poisoned:
                await request.result()
        assert poisoned.value.attempts == 2


@pytest.mark.parametrize("how", ["run", "run with progress", "result"])
async def test_a_worker_that_dies_before_it_had_begun(how: How) -> None:
    """The call moves on to another worker and does not notice."""
    async with open_worker_pool(1) as pool:
        before = await pool.run(jobs.pid)
        os.kill(before, signal.SIGSTOP)

        async def script() -> None:
            await wait_until(lambda: pool.statistics().busy_workers)
            os.kill(before, signal.SIGKILL)

        levers = Levers()
        after = await what_comes_out(levers, script, lambda: call(pool, how, levers, jobs.pid))
        assert isinstance(after, int)
        assert after != before
        assert pool.statistics().total_errors == 0


@pytest.mark.parametrize("how", ["run", "result"])
@pytest.mark.parametrize("max_queue", [0, 9])
async def test_a_flag_that_was_set_before(
    kind: Kind, how: How, max_queue: int, tmp_path: Path
) -> None:
    """No worker is asked, rung "queue"; nor does it matter whether there is room."""
    async with (
        open_worker_pool(1, kind=kind, max_queue=max_queue) as pool,
        pool.open_request(jobs.cooperate) as first,
    ):
        await first.wait_started()
        levers = Levers()
        levers.flag.cancel("too late")
        with levers.flag, trio.fail_after(2), pytest.raises(RequestCancelledError) as caught:
            await call(pool, how, levers, jobs.touch, str(tmp_path / "begun"))
        assert (caught.value.reason, caught.value.rung) == ("too late", "queue")
        first.cancel()
    assert not (tmp_path / "begun").exists()


@pytest.mark.parametrize("how", ["run", "result"])
async def test_a_flag_that_is_set_while_the_queue_is_full(kind: Kind, how: How) -> None:
    """Who waits for room is cancelled like everybody else."""
    async with (
        open_worker_pool(1, kind=kind, max_queue=0) as pool,
        pool.open_request(jobs.cooperate) as first,
    ):
        await first.wait_started()
        levers = Levers()

        async def script() -> None:
            await trio.testing.wait_all_tasks_blocked(0.002)
            levers.flag.cancel("by flag")

        async def ask() -> None:
            with trio.fail_after(2):
                await call(pool, how, levers, jobs.nothing)

        out = await what_comes_out(levers, script, ask)
        assert type(out) is RequestCancelledError
        assert (out.reason, out.rung) == ("by flag", "queue")
        first.cancel()


async def test_messages_end_like_calls(tmp_path: Path) -> None:
    """`execute` and `IPCProtocol.request` have the same rows."""
    protocol = IPCProtocol()
    paths = (tmp_path / str(number) for number in range(100))

    async def by_request(type: str, path: Path, flag: SharedCancellation, **more: Any) -> object:
        return await protocol.request(
            worker, type, "custom", str(path), message_id="it", cancellation=flag, **more
        )

    async def by_execute(type: str, path: Path, flag: SharedCancellation, **more: Any) -> object:
        message = {"type": type, "payload": str(path), **more}
        return await pool.execute(message, cancellation=flag)

    async def end(way: Any, type: str, cause: str, **more: Any) -> object:
        levers, path = Levers(), next(paths)

        async def script() -> None:
            await wait_for_file(path)
            if cause == "cancel_request":
                assert protocol.cancel_request("it")
            elif cause != "clock":
                levers.pull(cause)  # type: ignore[arg-type]

        ask = functools.partial(way, type, path, levers.flag, **more)
        return await what_comes_out(levers, script, ask)

    async with (
        open_worker("jobs") as worker,
        open_worker_pool(1, modules=["jobs"]) as pool,
    ):
        for way in (by_request, by_execute):
            assert type(await end(way, "work", "scope")) is trio.Cancelled
            assert type(await end(way, "end_badly", "scope")) is LookupError
            for cause in ("flag", "cancel_request") if way is by_request else ("flag",):
                out = await end(way, "end_badly", cause)
                assert isinstance(out, RequestCancelledError)
                assert type(out.__cause__) is LookupError
            out = await end(way, "end_badly", "clock", timeout=0.1)
            assert isinstance(out, RequestTimeoutError)
            assert (out.clock, type(out.__cause__)) == ("total", LookupError)
            with SharedCancellation() as flag:
                flag.cancel("too late")
                path = next(paths)
                with pytest.raises(RequestCancelledError) as caught:
                    await way("work", path, flag)
                assert (caught.value.reason, caught.value.rung) == ("too late", "queue")
                assert not path.exists()
        assert protocol.statistics().pending_requests == 0
        assert worker.restarts == 0


WAITS: dict[str, Callable[[WorkerPool, PoolRequest[None]], Awaitable[object]]] = {
    "result": lambda pool, request: request.result(),
    "the queue": lambda pool, request: pool.run(jobs.nothing),
    "the result of what is in the queue": lambda pool, request: call(
        pool, "result", Levers(), jobs.nothing
    ),
    "a message": lambda pool, request: pool.execute({"type": "double", "payload": 1}),
    "room": lambda pool, request: pool.run(jobs.add, 1, 2),
}


@pytest.mark.parametrize("wait", WAITS)
async def test_a_pool_that_is_aborted_tells_who_waits(wait: str, kind: Kind) -> None:
    """ClosedResourceError, for whatever another task waits."""
    told = []

    async def use(pool: WorkerPool) -> None:
        with pytest.raises(trio.ClosedResourceError):
            async with pool.open_request(jobs.cooperate) as request:
                await request.wait_started()
                begun.set()
                try:
                    await WAITS[wait](pool, request)
                except trio.ClosedResourceError:
                    told.append(wait)
                    raise

    error = KeyError("body")
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            begun = trio.Event()
            with pytest.raises(KeyError) as caught:
                max_queue = 0 if wait == "room" else 5
                async with open_worker_pool(
                    1, kind=kind, modules=["jobs"], max_queue=max_queue
                ) as pool:
                    nursery.start_soon(use, pool)
                    await begun.wait()
                    await trio.testing.wait_all_tasks_blocked(0.002)
                    raise error
            assert caught.value is error
    assert told == [wait]


# ---- nobody waits for ever


async def test_whoever_waits_for_room_gets_it(kind: Kind) -> None:
    """One who got room and did not need it leaves it to the next."""
    async with open_worker_pool(1, kind=kind, max_queue=1) as pool, trio.open_nursery() as nursery:
        ended: list[str] = []

        async def refused() -> None:
            # Threads take any object, but no coroutine function.
            with pytest.raises((PayloadError, TypeError)):
                await pool.run(jobs.echo if kind == "cpu" else trio.sleep, lambda: 3)
            ended.append("refused")

        async def served(name: str) -> None:
            assert await pool.run(jobs.add, 1, 2) == 3
            ended.append(name)

        async with pool.open_request(jobs.cooperate) as first:
            await first.wait_started()
            for ask in (functools.partial(served, "queued"), refused):
                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked(0.002)
            for number in range(3):
                nursery.start_soon(served, f"waiter {number}")
                await trio.testing.wait_all_tasks_blocked(0.002)
            first.cancel()
        with trio.fail_after(2):
            await wait_until(lambda: len(ended) == 5)
        assert sorted(ended) == ["queued", "refused", "waiter 0", "waiter 1", "waiter 2"]


async def test_room_when_no_worker_is_left(autojump_clock: MockClock) -> None:
    """With no queue and a worker that could not be replaced, the next call tries again."""
    engine = FakeEngine(starts=[0.0, start_error()])
    async with open_on(engine, Options(size=1, max_queue=0)) as pool:
        engine.endpoints[0].die(1)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(60):
            try:
                await pool.run(jobs.nothing)
            except WorkerStartError:
                await pool.run(jobs.nothing)


async def test_warm_when_the_block_is_left(autojump_clock: MockClock) -> None:
    """Who waits for a worker that will not come any more is told."""
    told = []

    async def warm(pool: WorkerPool) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await pool.warm()
        told.append(True)

    with trio.fail_after(60):
        engine = FakeEngine(starts=[0.0, 1000.0])
        async with trio.open_nursery() as nursery, open_on(engine, Options(size=2)) as pool:
            nursery.start_soon(warm, pool)
            await trio.testing.wait_all_tasks_blocked()
    assert told == [True]


async def test_warm_when_one_fails_and_another_does_not(autojump_clock: MockClock) -> None:
    """The failure is told, whichever of them comes first in that turn of the loop."""
    for _ in range(20):
        engine = FakeEngine(starts=[0.0, start_error(), 0.0])
        async with open_on(engine, Options(size=3)) as pool:
            with trio.fail_after(60), pytest.raises(WorkerStartError, match="no such luck"):
                await pool.warm()


# ---- what leaves a block


BLOCKS: dict[str, Callable[[], AbstractAsyncContextManager[object]]] = {
    "worker": lambda: open_worker("jobs"),
    "pool": lambda: open_worker_pool(1),
    "pool of threads": lambda: open_worker_pool(1, kind="thread"),
    "bridge": lambda: open_worker_bridge(1, placement="process"),
    "bridge of threads": lambda: open_worker_bridge(1, placement="thread"),
}
STATES: dict[str, tuple[Any, ...]] = {
    "loading": (jobs.echo, BIG),
    "waiting": (jobs.nothing,),
    "running": (jobs.cooperate,),
    "ended": (jobs.nothing,),
    "failed": (jobs.fail, LookupError("unheard")),
    "cancelled": (jobs.cooperate,),
}
RAISED: dict[str, Callable[[], BaseException]] = {
    "ValueError": ValueError,
    "KeyboardInterrupt": KeyboardInterrupt,
    "ExceptionGroup": lambda: ExceptionGroup("g", [ValueError(), KeyError()]),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("g", [KeyboardInterrupt()]),
    "StopAsyncIteration": StopAsyncIteration,
    "ClosedResourceError": trio.ClosedResourceError,
    "WorkerStartError": WorkerStartError,
}


@asynccontextmanager
async def request_that_is(state: str, pool: WorkerPool) -> AsyncIterator[None]:
    """Open a request, and let the body begin when it is in that state."""
    async with AsyncExitStack() as stack:
        if state == "waiting":
            first = await stack.enter_async_context(pool.open_request(jobs.cooperate))
            await first.wait_started()
        before = pool.statistics().total_tasks_processed
        request = await stack.enter_async_context(pool.open_request(*STATES[state]))
        if state == "cancelled":
            request.cancel()
        if state in ("running", "ended", "failed"):
            await request.wait_started()
        if state in ("ended", "failed", "cancelled"):
            await wait_until(lambda: pool.statistics().total_tasks_processed > before)
        yield


async def leave_with(error: BaseException, block: AbstractAsyncContextManager[object]) -> None:
    """Raise in a block; the very same must come out, in no group, with nothing added to it."""
    with pytest.raises(type(error)) as caught:
        async with block:
            raise error
    assert caught.value is error
    assert (error.__cause__, error.__context__) == (None, None)


async def leave_cancelled(block: AbstractAsyncContextManager[object]) -> None:
    """Be cancelled in a block; the very same Cancelled must come out."""
    raised: list[BaseException] = []
    with trio.CancelScope() as scope:
        try:
            async with block:
                scope.cancel()
                try:
                    await trio.sleep_forever()
                except trio.Cancelled as error:
                    raised.append(error)
                    raise
        except BaseException as error:
            raised.append(error)
            raise
    assert scope.cancelled_caught
    inside, outside = raised
    assert inside is outside


@pytest.mark.parametrize("name", ["ValueError", "KeyboardInterrupt", "ExceptionGroup"])
async def test_what_the_body_of_a_worker_raises(name: str) -> None:
    """It leaves `open_worker` as itself."""
    await leave_with(RAISED[name](), open_worker("jobs"))


@pytest.mark.parametrize("block", BLOCKS)
async def test_what_the_body_of_a_block_raises(block: str) -> None:
    """Also what the machinery of blocks and nurseries could take for its own."""
    for name in ("BaseExceptionGroup", "StopAsyncIteration"):
        await leave_with(RAISED[name](), BLOCKS[block]())


@pytest.mark.parametrize("block", BLOCKS)
async def test_a_cancel_leaves_a_block_as_itself(block: str) -> None:
    """It is the very Cancelled that the body got."""
    await leave_cancelled(BLOCKS[block]())


@pytest.mark.parametrize("state", STATES)
async def test_what_the_body_of_a_request_raises(pool: WorkerPool, state: str) -> None:
    """It leaves as itself, whatever the request is doing or has come to; so does a cancel.

    But for the error of a request that had failed before, and of which nobody had asked.
    """
    for make in RAISED.values():
        await leave_with(make(), request_that_is(state, pool))
        assert pool.statistics().busy_workers == 0
    if state == "failed":
        with pytest.raises(LookupError, match="unheard"):
            await leave_cancelled(request_that_is(state, pool))
    else:
        await leave_cancelled(request_that_is(state, pool))
    assert await pool.run(jobs.add, 1, 2) == 3


# ---- Ctrl-C


@trio.lowlevel.enable_ki_protection
async def press_ctrl_c(when: Callable[[], object]) -> None:
    """Interrupt the main task, once it waits for something."""
    await wait_until(when)
    await trio.testing.wait_all_tasks_blocked(0.002)
    signal.raise_signal(signal.SIGINT)


async def wait_in_a_block(pool: WorkerPool) -> None:
    """Wait for the result of a request."""
    async with pool.open_request(jobs.cooperate) as request:
        await request.result()


async def wait_while_leaving(pool: WorkerPool) -> None:
    """Wait until a function that does not look has ended."""
    async with pool.open_request(jobs.sleep, 0.1) as request:
        await request.wait_started()


PRESSED: dict[str, Callable[[WorkerPool], Awaitable[object]]] = {
    "run": lambda pool: pool.run(jobs.cooperate),
    "run with progress": lambda pool: pool.run(jobs.cooperate, on_progress=str),
    "execute": lambda pool: pool.execute({"type": "work", "payload": "/dev/null"}),
    "result": wait_in_a_block,
    "leaving a request": wait_while_leaving,
}


@pytest.mark.parametrize("wait", PRESSED)
def test_ctrl_c_in_a_call(wait: str, kind: Kind) -> None:
    """It comes out of the call as itself, once; the pool goes on."""

    async def main() -> None:
        async with open_worker_pool(1, kind=kind, modules=["jobs"]) as pool:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(press_ctrl_c, lambda: pool.statistics().busy_workers)
                with pytest.raises(KeyboardInterrupt):
                    await PRESSED[wait](pool)
            assert pool.statistics().busy_workers == 0
            assert await pool.run(jobs.add, 1, 2) == 3

    trio.run(main)


@pytest.mark.parametrize("body", ["waits", "is left"])
def test_ctrl_c_in_a_block(body: str, kind: Kind) -> None:
    """It leaves the block as itself, also while that drains; others are aborted."""
    told = []

    async def ask(pool: WorkerPool) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await pool.run(jobs.cooperate)
        told.append(True)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            with pytest.raises(KeyboardInterrupt):
                async with open_worker_pool(1, kind=kind) as pool:
                    nursery.start_soon(ask, pool)
                    await wait_until(lambda: pool.statistics().busy_workers)
                    nursery.start_soon(press_ctrl_c, lambda: True)
                    if body == "waits":
                        await trio.sleep_forever()

    trio.run(main)
    assert told == [True]


# ---- nothing is kept


def refuse(progress: object) -> None:
    """Raise, as a callback may."""
    raise KeyError


async def end_by_flag(pool: WorkerPool, view: memoryview) -> None:
    """Cancel a call before it has begun."""
    with SharedCancellation() as flag:
        flag.cancel()
        await pool.run(jobs.count_arguments, view, cancellation=flag)


async def end_by_scope(pool: WorkerPool, view: memoryview, **options: Any) -> None:
    """Cancel a call from outside."""
    with trio.move_on_after(0.02):
        await pool.run(jobs.cooperate_with, view, **options)


async def end_by_leaving(
    pool: WorkerPool, view: memoryview, error: BaseException | None = None
) -> None:
    """Leave the block of a request."""
    async with pool.open_request(jobs.cooperate_with, view):
        if error is not None:
            raise error


async def end_by_result(pool: WorkerPool, view: memoryview, function: Any) -> None:
    """Ask for the result of a request."""
    async with pool.open_request(function, view) as request:
        await request.result()


async def end_unheard(pool: WorkerPool, view: memoryview) -> None:
    """Do not ask for it."""
    async with pool.open_request(jobs.fail_with, view):
        await wait_until(lambda: not pool.statistics().busy_workers)


WAYS_TO_END: dict[str, Callable[[WorkerPool, memoryview], Awaitable[object]]] = {
    "a value": lambda pool, view: pool.run(jobs.count_arguments, view),
    "an error": lambda pool, view: pool.run(jobs.fail_with, view),
    "the run clock": lambda pool, view: pool.run(jobs.cooperate_with, view, timeout=0.02),
    "a crash": lambda pool, view: pool.run(jobs.die_with, view),
    "a callback": lambda pool, view: pool.run(jobs.count_arguments, view, on_progress=refuse),
    "a flag": end_by_flag,
    "a scope": end_by_scope,
    "a scope, with progress": functools.partial(end_by_scope, on_progress=str),
    "a block that is left": end_by_leaving,
    "a block that raises": lambda pool, view: end_by_leaving(pool, view, KeyError()),
    "a result": lambda pool, view: end_by_result(pool, view, jobs.count_arguments),
    "a result that is an error": lambda pool, view: end_by_result(pool, view, jobs.fail_with),
    "an error that nobody asked for": end_unheard,
}


async def test_arguments_are_let_go_of_at_once() -> None:
    """However a call ends, no circle keeps its payload until the collector comes.

    Before 3.11.8 and 3.12.2, Python may crash when it collects circles with memoryviews in them
    (https://github.com/python/cpython/issues/77894).
    """
    kept = []
    async with open_worker_pool(1) as pool:
        await pool.run(jobs.nothing)
        gc.collect()
        gc.disable()
        try:
            for how in WAYS_TO_END:
                view = memoryview(bytearray(BIG))
                gone = weakref.ref(view)
                try:
                    await WAYS_TO_END[how](pool, view)
                except Exception as error:
                    # The frames of its traceback are the caller's business.
                    error.__traceback__ = None
                del view
                await trio.testing.wait_all_tasks_blocked()
                if gone() is not None:
                    kept.append(how)
        finally:
            gc.enable()
    assert kept == []
