"""Shared state: what each of the four classes gives, in one process and in several."""

from __future__ import annotations

import gc
import math
import mmap
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from multiprocessing import resource_sharer
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio_parallel
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import state_jobs
from helpers import is_alive, wait_until
from trioipc import (
    SharedCancellation,
    SharedCounter,
    SharedFlag,
    SharedProgress,
    SharedStateError,
    open_worker_pool,
)
from trioipc.memory import _cell, _segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KINDS = [SharedProgress, SharedCancellation, SharedCounter, SharedFlag]

# Makes one of each, and says what it holds after something was done to it.
CHANGED: list[tuple[Callable[[], Any], Callable[[Any], object], str]] = [
    (SharedProgress, lambda s: s.increment(7), "<SharedProgress: 7 of 100>"),
    (SharedCancellation, lambda s: s.cancel("enough"), "<SharedCancellation: cancelled>"),
    (SharedCounter, lambda s: s.decrement(7), "<SharedCounter: -7>"),
    (SharedFlag, lambda s: s.set(), "<SharedFlag: set>"),
]


@pytest.fixture(params=["memfd", "shm"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force one kind of segment."""
    monkeypatch.setenv(_segment.ENVIRONMENT_VARIABLE, request.param)
    return str(request.param)


@pytest.fixture(autouse=True)
def _nothing_is_kept_for_others() -> Iterator[None]:
    """Let go of what was pickled for processes that never asked for it."""
    yield
    resource_sharer.stop(timeout=5)


@contextmanager
def process(function: Callable[..., object], *arguments: object, method: str = "spawn") -> Any:
    """Have a process of multiprocessing for a block, and kill it in the end."""
    context = multiprocessing.get_context(method)
    child = context.Process(target=function, args=arguments, daemon=True)  # type: ignore[attr-defined]
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()
        child.close()


# ---- one process


@pytest.mark.parametrize("backend", ["memfd", "shm", "plain"], indirect=True)
def test_a_counter_counts(backend: str) -> None:
    """Up and down, and says the new value; it can be set and swapped."""
    with SharedCounter(5) as counter:
        assert (counter.increment(), counter.increment(10), counter.decrement(20)) == (6, 16, -4)
        assert counter.decrement() == -5
        counter.set(3)
        assert counter.compare_and_swap(3, -9) is True
        assert counter.compare_and_swap(3, 1) is False
        assert counter.get() == -9
        assert repr(counter) == "<SharedCounter: -9>"
    assert repr(counter) == "<SharedCounter: closed>"


@pytest.mark.parametrize(
    ("value", "delta"), [(2**63 - 1, 1), (-(2**63), -1), (0, 2**63), (5, -(2**64))]
)
def test_a_counter_does_not_overflow(value: int, delta: int) -> None:
    """Beyond 64 bits is an OverflowError, and the value stays."""
    counter = SharedCounter(value)
    with pytest.raises(OverflowError, match=r"-2\*\*63 to 2\*\*63 - 1"):
        counter.increment(delta)
    with pytest.raises(OverflowError, match=r"-2\*\*63 to 2\*\*63 - 1"):
        counter.decrement(-delta)
    assert counter.get() == value


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
def test_a_counter_holds_64_bits(value: int) -> None:
    """What does not fit cannot be set either."""
    counter = SharedCounter()
    for call in (
        lambda: SharedCounter(value),
        lambda: counter.set(value),
        lambda: counter.compare_and_swap(0, value),
        lambda: counter.compare_and_swap(value, 0),
    ):
        with pytest.raises(OverflowError, match=str(value)):
            call()
    assert counter.get() == 0


@pytest.mark.parametrize("value", [1.0, math.nan, "1", None, True])
def test_a_counter_takes_ints_only(value: Any) -> None:
    """Anything else is a TypeError that says what it was."""
    counter = SharedCounter(1)
    for call in (SharedCounter, counter.set, counter.increment, counter.decrement):
        with pytest.raises(TypeError, match="must be an int, not "):
            call(value)
    with pytest.raises(TypeError, match="must be an int, not "):
        counter.compare_and_swap(1, value)
    assert counter.get() == 1


@pytest.mark.parametrize("backend", ["memfd", "shm", "plain"], indirect=True)
def test_a_flag_flips(backend: str) -> None:
    """It is set, cleared and turned over."""
    with SharedFlag() as flag:
        assert (flag.is_set(), flag.toggle(), flag.toggle(), flag.toggle()) == (
            False,
            True,
            False,
            True,
        )
        flag.clear()
        assert (flag.is_set(), repr(flag)) == (False, "<SharedFlag: not set>")
        flag.set()
        flag.set()
        assert (flag.is_set(), repr(flag)) == (True, "<SharedFlag: set>")
    assert SharedFlag(True).is_set()
    with pytest.raises(TypeError, match="initial must be a bool, not int"):
        SharedFlag(1)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_closed_stays_closed(kind: type[Any]) -> None:
    """Every use is a SharedStateError that says of what; closing twice is fine; views stay."""
    state = kind()
    view = state.get_buffer()
    state.close()
    state.close()
    assert "closed" in repr(state)
    names = [name for name in dir(kind) if not name.startswith("_")]
    arguments = {"set": (1,), "set_total": (1,), "compare_and_swap": (1, 2)}
    asynchronous = {"subscribe", "open_cancel_scope", "wait_set", "wait_cancelled"}
    for name in sorted({*names} - {"close", "from_buffer"} - asynchronous):
        given = () if kind is SharedFlag else arguments.get(name, ())
        with pytest.raises(SharedStateError, match=f"this {kind.__name__} is closed"):
            getattr(state, name)(*given)
    with pytest.raises(SharedStateError, match="closed"):
        pickle.dumps(state)
    assert len(view) == kind._nbytes()
    view[9] = 1


@pytest.mark.parametrize(("make", "change", "after"), CHANGED)
def test_memory_of_others_will_do(
    make: Callable[[], Any], change: Callable[[Any], object], after: str
) -> None:
    """Fresh memory becomes a new state; memory that holds one is that one."""
    kind: Any = make
    memory = mmap.mmap(-1, 4096)
    state = kind.from_buffer(memory)
    assert repr(state) == repr(make())
    change(state)
    assert repr(kind.from_buffer(memory)) == after
    original = make()
    change(original)
    assert repr(kind.from_buffer(original.get_buffer())) == after
    with pytest.raises(SharedStateError, match="is in memory that is not its own"):
        pickle.dumps(state)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_that_will_not_do(kind: type[Any]) -> None:
    """Too small, another kind, another version, read-only, not aligned: each says what is wrong."""
    size = kind._nbytes()
    with pytest.raises(SharedStateError, match=f"needs {size} bytes, the buffer has {size - 1}"):
        kind.from_buffer(bytearray(size - 1))
    with pytest.raises(SharedStateError, match="the buffer has 0"):
        kind.from_buffer(bytearray())
    for other in KINDS:
        if other is not kind:
            memory = bytearray(256)
            other.from_buffer(memory)  # type: ignore[attr-defined]
            with pytest.raises(SharedStateError, match=f"does not hold a {kind.__name__}"):
                kind.from_buffer(memory)
    later = bytearray(kind().get_buffer())
    later[4] += 1
    with pytest.raises(SharedStateError, match="of version 1"):
        kind.from_buffer(later)
    with pytest.raises(ValueError, match="writable"):
        kind.from_buffer(bytes(256))
    with pytest.raises(ValueError, match="aligned"):
        kind.from_buffer(memoryview(bytearray(256))[1:])
    with pytest.raises(TypeError):
        kind.from_buffer(3)


def test_an_unrelated_process_can_attach(tmp_path: Any) -> None:
    """Over memory that both have mapped, by its first bytes."""
    path = tmp_path / "memory"
    path.write_bytes(bytes(4096))
    with open(path, "r+b") as file:
        memory = mmap.mmap(file.fileno(), 4096)
    counter = SharedCounter.from_buffer(memory)
    counter.set(41)
    script = [sys.executable, state_jobs.__file__, str(path)]
    assert subprocess.run(script, check=True, capture_output=True, timeout=30).stderr == b""
    assert counter.get() == 42


def test_threads_lose_nothing() -> None:
    """Four threads count at once: on a state of its own, and on one in memory of others."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for counter in (SharedCounter(), SharedCounter.from_buffer(mmap.mmap(-1, 4096))):
            threads = [
                threading.Thread(target=state_jobs.count_up, args=(counter, 5_000))
                for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert counter.get() == 20_000
    finally:
        sys.setswitchinterval(before)


class CounterMachine(RuleBasedStateMachine):
    """A counter, and a copy of it by pickle, against a plain int."""

    def __init__(self) -> None:
        super().__init__()
        self.value = 0
        self.first = SharedCounter()
        self.second: SharedCounter = pickle.loads(pickle.dumps(self.first))

    @rule(delta=st.integers(-(2**63), 2**63), first=st.booleans())
    def increment(self, delta: int, first: bool) -> None:
        """Add; beyond 64 bits nothing happens."""
        counter = self.first if first else self.second
        new = self.value + delta
        if -(2**63) <= new < 2**63:
            self.value = new
            assert counter.increment(delta) == new
        else:
            with pytest.raises(OverflowError):
                counter.increment(delta)

    @rule(new=st.integers(-(2**63), 2**63 - 1), first=st.booleans(), hit=st.booleans())
    def swap(self, new: int, first: bool, hit: bool) -> None:
        """Swap, with the right expectation or another."""
        counter = self.first if first else self.second
        assert counter.compare_and_swap(self.value if hit else self.value ^ 1, new) is hit
        if hit:
            self.value = new

    @invariant()
    def both_agree(self) -> None:
        """Both see the value."""
        assert self.first.get() == self.second.get() == self.value

    def teardown(self) -> None:
        """Let go."""
        self.first.close()
        self.second.close()


class ProgressMachine(RuleBasedStateMachine):
    """A progress, and a copy of it by pickle, against plain ints."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.total = 0, 100
        self.first = SharedProgress()
        self.second: SharedProgress = pickle.loads(pickle.dumps(self.first))

    @rule(delta=st.integers(-5, 2**64), first=st.booleans())
    def increment(self, delta: int, first: bool) -> None:
        """Add; out of bounds nothing happens."""
        progress = self.first if first else self.second
        if 0 <= self.value + delta < 2**64:
            self.value += delta
            assert progress.increment(delta) == self.value
        else:
            with pytest.raises(ValueError, match="from 0 to"):
                progress.increment(delta)

    @rule(value=st.integers(0, 2**64 - 1), total=st.integers(0, 2**64 - 1))
    def set(self, value: int, total: int) -> None:
        """Set both."""
        self.value, self.total = value, total
        self.first.set(value)
        self.second.set_total(total)

    @rule()
    def reset(self) -> None:
        """The total stays."""
        self.value = 0
        self.second.reset()

    @invariant()
    def both_agree(self) -> None:
        """Both see value, total and percent."""
        for progress in (self.first, self.second):
            assert (progress.get(), progress.get_total()) == (self.value, self.total)
            percent = min(100.0, 100.0 * self.value / self.total) if self.total else 100.0
            assert progress.get_percent() == percent

    def teardown(self) -> None:
        """Let go."""
        self.first.close()
        self.second.close()


class FlagMachine(RuleBasedStateMachine):
    """A flag and a cancellation, and copies of them by pickle, against plain values."""

    def __init__(self) -> None:
        super().__init__()
        self.is_set, self.is_cancelled, self.reason = False, False, None
        self.flags = [SharedFlag()]
        self.flags.append(pickle.loads(pickle.dumps(self.flags[0])))
        self.cancellations = [SharedCancellation()]
        self.cancellations.append(pickle.loads(pickle.dumps(self.cancellations[0])))

    @rule(which=st.integers(0, 1), what=st.sampled_from(["set", "clear", "toggle"]))
    def flip(self, which: int, what: str) -> None:
        """Set, clear or toggle it."""
        self.is_set = {"set": True, "clear": False, "toggle": not self.is_set}[what]
        assert getattr(self.flags[which], what)() in (None, self.is_set)

    @rule(which=st.integers(0, 1), reason=st.none() | st.text("ab", max_size=40))
    def cancel(self, which: int, reason: Any) -> None:
        """The first reason stays."""
        self.cancellations[which].cancel(reason)
        if not self.is_cancelled:
            self.is_cancelled, self.reason = True, reason

    @rule(which=st.integers(0, 1))
    def reset(self, which: int) -> None:
        """Take it back, with its reason."""
        self.cancellations[which].reset()
        self.is_cancelled, self.reason = False, None

    @invariant()
    def both_agree(self) -> None:
        """Both see the same."""
        for flag in self.flags:
            assert flag.is_set() is self.is_set
        for cancellation in self.cancellations:
            assert cancellation.is_cancelled() is self.is_cancelled
            assert cancellation.reason() == self.reason

    def teardown(self) -> None:
        """Let go."""
        for state in (*self.flags, *self.cancellations):
            state.close()


MACHINE = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestCounterMachine = CounterMachine.TestCase
TestCounterMachine.settings = MACHINE
TestProgressMachine = ProgressMachine.TestCase
TestProgressMachine.settings = MACHINE
TestFlagMachine = FlagMachine.TestCase
TestFlagMachine.settings = MACHINE


def test_cycles_leave_nothing() -> None:
    """A thousand are made, sent and closed: no descriptor, map or thread more than before."""

    def one(index: int) -> None:
        state = KINDS[index % 4]()
        if index % 2:
            pickle.loads(pickle.dumps(state))
        if index % 3:
            state.close()

    def held() -> tuple[int, int, int]:
        gc.collect()
        with open("/proc/self/maps") as maps:
            shared = sum("trioipc" in line for line in maps)
        return len(os.listdir("/proc/self/fd")), shared, threading.active_count()

    one(1)
    before = held()
    for index in range(1000):
        one(index)
    assert held() == before


def test_a_killed_writer_leaves_what_somebody_wrote(backend: str) -> None:
    """Killed anywhere, its lock is free, and the value is one that was written."""
    counter = SharedCounter()
    for _ in range(3):
        with process(state_jobs.write_and_die, counter) as child:
            while counter.get() in (0, 3):
                time.sleep(0.001)
            child.kill()
            child.join()
        assert counter.get() in (0x1111111111111111, 0x2222222222222222)
        counter.set(3)
        assert counter.increment() == 4
        counter.set(3)


def test_a_reader_never_sees_half_a_value() -> None:
    """Beside a writer in another process, whatever is loaded was stored."""
    counter, ready, stop = SharedCounter(0x1111111111111111), SharedFlag(), SharedFlag()
    with process(state_jobs.store_forever, counter, ready, stop):
        assert ready.wait(20)
        seen = {counter.get() for _ in range(300_000)}
        stop.set()
    assert seen == {0x1111111111111111, 0x2222222222222222}


def test_a_stopped_holder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever: after a while it is a SharedStateError; a killed one is no matter."""
    monkeypatch.setattr(_cell, "_PATIENCE_SECONDS", 0.1)
    counter, ready = SharedCounter(5), SharedFlag()
    with process(state_jobs.hold_lock, counter, ready, "stop") as child:
        assert ready.wait(20)
        with pytest.raises(SharedStateError, match=r"not free for 0.1 s; .* stopped"):
            counter.increment()
        assert counter.get() == 5
        os.kill(child.pid, signal.SIGCONT)  # it then kills itself, with the lock
        child.join()
        assert counter.increment() == 6


def test_a_fork_counts_with_its_parent() -> None:
    """Forked children count exactly, though they inherit the descriptor."""
    counter = SharedCounter()
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:
                state_jobs.count_up(counter, 10_000)
            finally:
                os._exit(0)
        children.append(child)
    state_jobs.count_up(counter, 10_000)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    assert counter.get() == 30_000


def test_without_proc_the_process_holds_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be opened anew, counting is still exact, between processes as well."""
    counter = SharedCounter()
    monkeypatch.setattr(_segment.Segment, "reopen", lambda self: False)
    copy: SharedCounter = pickle.loads(pickle.dumps(counter))
    assert copy._lock._take.args != counter._lock._take.args  # type: ignore[union-attr]
    with process(state_jobs.count_up, counter, 20_000) as child:
        state_jobs.count_up(copy, 20_000)
        child.join()
    assert counter.get() == 40_000


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_a_pickle_is_good_once_or_while_the_sender_lives(kinds: list[type[Any]]) -> None:
    """Loaded again it is had from the sender; when that has closed it, the error says so."""
    states = [kind() for kind in kinds]
    data = [pickle.dumps(state) for state in states]
    for state, pickled in zip(states, data, strict=True):
        assert repr(pickle.loads(pickled)) == repr(state)
        assert repr(pickle.loads(pickled)) == repr(state)
        state.close()
        with pytest.raises(SharedStateError, match="cannot be had"):
            pickle.loads(pickled)


def test_plain_memory_does_not_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without shared memory, sending a state is an error, not a silent copy."""
    monkeypatch.setenv(_segment.ENVIRONMENT_VARIABLE, "plain")
    with pytest.raises(SharedStateError, match="cannot go to another"):
        pickle.dumps(SharedCounter())


# ---- other processes


@pytest.mark.parametrize(("make", "change", "after"), CHANGED)
async def test_state_goes_to_our_workers_and_back(
    make: Callable[[], Any], change: Callable[[Any], object], after: str
) -> None:
    """As an argument, deep inside one, as a temporary, and as a result."""
    async with open_worker_pool(1) as pool:
        state = make()
        change(state)
        assert await pool.run(state_jobs.read, state) == after
        assert after in await pool.run(state_jobs.read, {"deep": [(state, bytes(100_000))]})
        assert await pool.run(state_jobs.read, make()) == repr(make())
        counter = await pool.run(state_jobs.make_counter, 9)
        assert await pool.run(state_jobs.count_up, counter, 5) == 5
        assert counter.get() == 14
        assert await pool.run(state_jobs.both, counter, counter)


async def test_a_state_that_was_closed_meanwhile_still_arrives() -> None:
    """What has been sent is the receiver's, whatever the sender does."""
    async with open_worker_pool(1) as pool:
        counter = SharedCounter(3)
        async with pool.open_request(state_jobs.read, counter) as request:
            counter.close()
            assert await request.result() == "<SharedCounter: 3>"


async def test_state_goes_to_trio_parallel() -> None:
    """Into a worker that runs already: several times, and as a temporary."""
    async with trio_parallel.open_worker_context() as context:
        counter = SharedCounter()
        for _ in range(2):
            assert await context.run_sync(state_jobs.count_up, counter, 10) == 10
        assert counter.get() == 20
        assert await context.run_sync(state_jobs.read, SharedProgress(3)) == (
            "<SharedProgress: 0 of 3>"
        )


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_state_goes_to_multiprocessing(method: str) -> None:
    """To a process that is being started, as itself and as a temporary."""
    counter, flag = SharedCounter(), SharedFlag()
    with process(state_jobs.count_up, counter, 100, method=method) as child:
        child.join()
    assert counter.get() == 100
    with process(state_jobs.set_flag, flag, method=method) as child:
        assert flag.wait(20)
        child.join()
    with process(state_jobs.read, SharedCounter(), method=method) as child:
        child.join()
        assert child.exitcode == 0
    if method == "forkserver":
        from multiprocessing import forkserver

        forkserver._forkserver._stop()  # type: ignore[attr-defined]


async def test_a_worker_can_cancel_its_caller() -> None:
    """A cancellation that was sent along is the same one on both sides."""
    flag = SharedCancellation()
    async with open_worker_pool(1) as pool:
        await pool.run(state_jobs.cancel, flag, "from there")
    assert (flag.is_cancelled(), flag.reason()) == (True, "from there")


# ---- waiting


def test_a_thread_waits_for_another_process() -> None:
    """Both ways, and soon."""
    flag, answer = SharedFlag(), SharedFlag()
    with process(state_jobs.wait_and_answer, flag, answer):
        assert answer.wait(0) is False
        assert answer.wait(0.01) is False
        flag.set()
        assert answer.wait(20) is True


@pytest.mark.parametrize("kind", [SharedFlag, SharedCancellation])
async def test_wait_would_block_the_event_loop(kind: type[Any]) -> None:
    """On a Trio task it is a RuntimeError that says what to await; a look is allowed."""
    state = kind()
    with pytest.raises(RuntimeError, match=r"await wait_(set|cancelled)\(\) instead"):
        state.wait(1)
    assert state.wait(0) is False
    assert await trio.to_thread.run_sync(state.wait, 0.01) is False


@pytest.mark.parametrize(
    ("kind", "wait", "change"),
    [
        (SharedFlag, SharedFlag.wait_set, SharedFlag.set),
        (SharedCancellation, SharedCancellation.wait_cancelled, SharedCancellation.cancel),
    ],
)
async def test_a_task_waits(
    kind: type[Any], wait: Callable[[Any], Any], change: Callable[[Any], object]
) -> None:
    """Until it is set, or closed; a checkpoint in any case."""
    state = kind()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, change, state)
        with trio.fail_after(20):
            await wait(state)
    with trio.testing.assert_checkpoints():
        await wait(state)
    closed = kind()

    async def close_soon() -> None:
        await trio.testing.wait_all_tasks_blocked()
        closed.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close_soon)
        with trio.fail_after(20), pytest.raises(SharedStateError, match="closed"):
            await wait(closed)


async def test_subscribers_see_the_newest(autojump_clock: trio.testing.MockClock) -> None:
    """First the current value, then each newest one, until it is closed."""
    for state, change, values in (
        (SharedCounter(1), lambda s: (s.set(5), s.set(6)), [1, 6]),
        (SharedProgress(9), lambda s: (s.increment(), s.increment()), [0, 2]),
        (SharedFlag(), lambda s: s.set(), [False, True]),
    ):
        seen = []
        async with state.subscribe() as changes:
            async for value in changes:
                seen.append(value)
                if len(seen) == 1:
                    change(state)
                else:
                    state.close()
        assert seen == values


async def test_a_subscriber_to_a_cancellation_gets_its_reason(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Once, when it is set; then it ends. So it does when it is closed."""
    flag = SharedCancellation()

    async def cancel_soon() -> None:
        await trio.sleep(1)
        flag.cancel("why")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_soon)
        async with flag.subscribe() as reasons:
            seen = [reason async for reason in reasons]
    assert seen == ["why"]
    flag.close()
    async with flag.subscribe() as reasons:
        assert [reason async for reason in reasons] == []


# ---- cancel scopes


async def test_a_flag_cancels_a_block() -> None:
    """The block just ends, and the scope says so; the reason is Trio's."""
    flag = SharedCancellation()
    with trio.fail_after(20):
        async with flag.open_cancel_scope() as scope:
            flag.cancel("enough")
            with pytest.raises(trio.Cancelled) as caught:
                await trio.sleep_forever()
            assert caught.value.reason == "enough"
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught


async def test_a_block_that_ends_by_itself() -> None:
    """Neither is cancelled; nor is a flag that is closed meanwhile."""
    flag = SharedCancellation()
    async with flag.open_cancel_scope(propagate=True) as scope:
        await trio.lowlevel.checkpoint()
    assert not scope.cancelled_caught
    assert not flag.is_cancelled()
    async with flag.open_cancel_scope() as scope:
        flag.close()
        await trio.sleep(0.02)
    assert not scope.cancelled_caught


@pytest.mark.parametrize("propagate", [True, False])
async def test_a_scope_sets_its_flag(propagate: bool) -> None:
    """If it was told to, with the reason, and not if the cancel comes from outside."""
    flag = SharedCancellation()
    async with flag.open_cancel_scope(propagate=propagate) as scope:
        scope.cancel("because")
        await trio.sleep_forever()
    assert scope.cancelled_caught
    assert flag.is_cancelled() is propagate
    assert flag.reason() == ("because" if propagate else None)
    outside = SharedCancellation()
    with trio.CancelScope() as outer:
        async with outside.open_cancel_scope(propagate=propagate) as scope:
            outer.cancel()
            await trio.sleep_forever()
    assert outer.cancelled_caught
    assert not scope.cancelled_caught
    assert not outside.is_cancelled()


@pytest.mark.parametrize(
    "make_error",
    [ValueError, KeyboardInterrupt, lambda: ExceptionGroup("group", [OSError()])],
    ids=["ValueError", "KeyboardInterrupt", "ExceptionGroup"],
)
async def test_what_the_block_raises_leaves_as_itself(
    make_error: Callable[[], BaseException],
) -> None:
    """Also if the flag is set as well."""
    for is_set in (False, True):
        error = make_error()
        flag = SharedCancellation()
        with pytest.raises(type(error)) as caught:
            async with flag.open_cancel_scope():
                if is_set:
                    flag.cancel()
                    with pytest.raises(trio.Cancelled):
                        await trio.sleep_forever()
                raise error
        assert caught.value is error


async def test_a_flag_of_another_process_cancels_a_block() -> None:
    """Within 10 ms of its being set there; here only that it does."""
    flag = SharedCancellation()
    async with open_worker_pool(1) as pool:
        with trio.fail_after(20):
            async with flag.open_cancel_scope() as scope, trio.open_nursery() as nursery:
                nursery.start_soon(pool.run, state_jobs.cancel, flag, "from there")
                await trio.sleep_forever()
    assert scope.cancelled_caught
    assert flag.reason() == "from there"


async def test_all_is_gone_when_the_sender_is_killed() -> None:
    """State of a process that was killed lives on where it was sent, and nowhere else."""
    counter = SharedCounter(8)
    async with open_worker_pool(1) as pool:
        pid = (await pool.run(os.getpid)) or 0
        made = await pool.run(state_jobs.make_counter, 5)
        os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: not is_alive(pid))
        assert made.increment() == 6
        assert await pool.run(state_jobs.count_up, counter, 1) == 1
    assert counter.get() == 9
