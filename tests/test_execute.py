"""An interrupt ends the function that runs, and nothing else: tried at every opcode.

Random storms of signals did not tell a broken handler from a right one; this does.
"""

from __future__ import annotations

import gc
import inspect
import signal
import sys
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from trioipc import RequestInterrupt, current_request
from trioipc.memory._board import CANCEL, SLOT
from trioipc.protocol._codec import ERROR, EXIT, NONE, STOPPED, VALUE
from trioipc.worker import _execute
from trioipc.worker._execute import Executor
from trioipc.worker._stream import produce
from trioipc.worker.request import CurrentRequest, set_process_request

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from types import FrameType

GENERATION = 7


@pytest.fixture(autouse=True)
def own_handler() -> Iterator[None]:
    """Leave the signal's handler as it was."""
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def make_request(cancel: int = 0) -> CurrentRequest:
    """Make a request whose cancel word may be set."""
    cells = memoryview(bytearray(SLOT * 8)).cast("Q")
    cells[CANCEL] = cancel
    return CurrentRequest(cells, GENERATION, "test-1")


class Placement:
    """Counts opcodes, and at one of them sets the cancel word and calls the handler.

    Not by a real signal: its handler would be given the frame of this trace function.
    """

    def __init__(
        self, at: int, executor: Executor, request: CurrentRequest, word: int = GENERATION
    ) -> None:
        self.at = at
        self.executor = executor
        self.request = request
        self.cells = request._cells  # which the request lets go of when it ends
        self.word = word
        self.count = 0
        self.fired = False
        self.where = ""

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code is Executor.on_signal.__code__:  # a signal is not interrupted by another
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if self.count == self.at:
                self.fired = True
                self.where = f"{frame.f_code.co_qualname} at {frame.f_lasti}"
                self.cells[CANCEL] = self.word
                self.count += 1
                self.executor.on_signal(signal.SIGUSR1, frame)
                return self
            self.count += 1
        return self


def run_at(
    at: int, function: Callable[..., object], *arguments: object, word: int = GENERATION
) -> tuple[Placement, Executor, int, Any]:
    """Run a function with the interrupt at the opcode of that number."""
    _trace_once()
    executor = Executor()
    executor.install()
    placement = Placement(at, executor, make_request(), word)
    before = sys.gettrace()  # somebody may be measuring coverage
    gc.disable()  # an interrupt in a callback of the collector is lost, and so sent again
    sys.settrace(placement)
    try:
        kind, value = executor.run(placement.request, function, arguments)
    finally:
        sys.settrace(before)
        gc.enable()
    return placement, executor, kind, value


@cache
def _trace_once() -> None:
    """Trace before it counts: Python 3.12 reports no opcodes the first time."""
    before = sys.gettrace()
    placement = Placement(-1, Executor(), make_request(), GENERATION)
    sys.settrace(placement)
    try:
        add(1, 1)
    finally:
        sys.settrace(before)


# ---- what is run


def add(first: int, second: int) -> int:
    """Compute a little."""
    total = 0
    for number in (first, second):
        total += number
    return total


def fail() -> None:
    """Raise."""
    raise LookupError("mine")


def leave() -> None:
    """Raise what is no Exception."""
    raise SystemExit(3)


LOCK = threading.Lock()


def critical() -> str:
    """Hold a lock in a section that is not interrupted."""
    with current_request().uninterruptible():
        LOCK.acquire()
        text = "".join(["a", "b"])
        LOCK.release()
    return text


def report() -> int:
    """Use what a request offers."""
    request = current_request()
    request.progress.set_total(3)
    request.progress.increment()
    request.set_phase("phase")
    view = request.allocate(16)
    request.checkpoint()
    return len(view)


def look() -> None:
    """Be cancelled, and see it: the signal then comes on top."""
    current_request()._cells[CANCEL] = GENERATION
    current_request().checkpoint()


def swallow() -> str:
    """Swallow whatever comes."""
    try:
        add(1, 2)
    except BaseException:
        return "swallowed"
    return "done"


CASES: list[tuple[Callable[..., object], tuple[object, ...], int, object]] = [
    (add, (2, 3), VALUE, 5),
    (max, (2, 3), VALUE, 3),
    (len, ("four",), VALUE, 4),
    (fail, (), ERROR, LookupError),
    (leave, (), EXIT, SystemExit),
    (critical, (), VALUE, "ab"),
    (report, (), VALUE, 16),
    (look, (), STOPPED, None),
    (swallow, (), VALUE, "done"),
]


@pytest.mark.parametrize(("function", "arguments", "kind", "value"), CASES)
def test_the_signal_at_every_opcode(
    function: Callable[..., object], arguments: tuple[object, ...], kind: int, value: object
) -> None:
    """`run` never raises, its answer agrees with what happened, and nothing is left."""
    kinds = set()
    for at in range(100_000):
        placement, executor, got, result = run_at(at, function, *arguments)
        where = placement.where
        kinds.add(got)
        if got == STOPPED:
            assert result is None, where
        elif isinstance(value, type):
            assert (got, type(result)) == (kind, value), where
        else:
            assert (got, result) in ((kind, value), (kind, "swallowed")), where
        if executor.interrupted:
            assert got == STOPPED or result == "swallowed", where
        assert executor._armed is False, where
        assert current_request().id is None, where
        assert not LOCK.locked(), where
        assert placement.request._shields == 0, where
        # A late signal finds nothing to interrupt, and the next call is not touched.
        signal.raise_signal(signal.SIGUSR1)
        assert executor.run(make_request(), add, (1, 1)) == (VALUE, 2), where
        if not placement.fired:
            break
    else:
        raise AssertionError("it never ended")
    assert at > 20
    assert kinds == {kind, STOPPED}


class Box:
    """A belt with room for all."""

    def __init__(self) -> None:
        self.items: list[object] = []

    def has_room(self) -> bool:
        """Say so."""
        return True

    def lay(self, item: object) -> None:
        """Keep it."""
        self.items.append(item)


def test_the_signal_at_every_opcode_of_a_stream() -> None:
    """A generator that has begun is closed, and what it yielded first is on the belt."""
    made: list[Generator[int, None, None]] = []

    def generate() -> Generator[int, None, None]:
        try:
            yield from range(2)
        finally:
            add(1, 2)

    def make() -> Generator[int, None, None]:
        made.append(generate())
        return made[-1]

    kinds = set()
    for at in range(100_000):
        made.clear()
        box = Box()
        placement, executor, got, result = run_at(at, produce, box, make)
        where = placement.where
        kinds.add(got)
        assert result is None, where
        assert box.items == [0, 1][: len(box.items)], where
        assert got == STOPPED or box.items == [0, 1], where
        states = {*map(inspect.getgeneratorstate, made)}
        assert states <= {inspect.GEN_CREATED, inspect.GEN_CLOSED}, where
        assert placement.request._shields == 0, where
        if executor.interrupted:
            assert got == STOPPED, where
        if not placement.fired:
            break
    else:
        raise AssertionError("it never ended")
    assert at > 100
    assert kinds == {NONE, STOPPED}


def test_another_requests_word_is_none_of_its_business() -> None:
    """A signal while the word names another generation never raises."""
    at = 0
    while True:
        placement, executor, kind, value = run_at(at, add, 2, 3, word=GENERATION + 1)
        assert (kind, value, executor.interrupted) == (VALUE, 5, False)
        if not placement.fired:
            break
        at += 1
    assert at > 20


@pytest.mark.parametrize(
    ("function", "kind", "value"), [(fail, ERROR, LookupError), (look, STOPPED, None)]
)
def test_the_harness_finds_a_broken_handler(
    monkeypatch: pytest.MonkeyPatch, function: Callable[..., object], kind: int, value: object
) -> None:
    """Without the rule that spares our own frames, some placement escapes."""

    def place() -> Iterator[None]:
        """Be a generator: what raises within a handler leaves the exception of that behind."""
        yield test_the_signal_at_every_opcode(function, (), kind, value)

    monkeypatch.setattr(_execute, "OURS", frozenset())
    with pytest.raises(RequestInterrupt):
        next(place())
    set_process_request(None)
    assert not _execute._is_cleaning_up(sys.exception())


def test_a_word_that_was_set_before() -> None:
    """The function is not called, though no signal comes."""
    calls: list[int] = []
    executor = Executor()
    assert executor.run(make_request(GENERATION), calls.append, (1,)) == (STOPPED, None)
    assert calls == []
    assert executor.interrupted is False


def test_clean_up_is_not_interrupted() -> None:
    """Not by the next signal either, nor in a handler of something else within it."""
    trace: list[str] = []

    def interrupted() -> None:
        request._cells[CANCEL] = GENERATION
        try:
            signal.raise_signal(signal.SIGUSR1)
        finally:
            try:
                raise LookupError
            except LookupError:
                signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGUSR1)
            trace.append("tidied up")

    executor = Executor()
    executor.install()
    request = make_request()
    assert executor.run(request, interrupted, ()) == (STOPPED, None)
    assert trace == ["tidied up"]


def test_what_swallows_it_is_interrupted_again() -> None:
    """When its handler has ended."""
    trace: list[str] = []

    def swallow_and_go_on() -> None:
        request._cells[CANCEL] = GENERATION
        try:
            signal.raise_signal(signal.SIGUSR1)
        except BaseException:
            trace.append("swallowed")
        signal.raise_signal(signal.SIGUSR1)
        trace.append("went on")

    executor = Executor()
    executor.install()
    request = make_request()
    assert executor.run(request, swallow_and_go_on, ()) == (STOPPED, None)
    assert trace == ["swallowed"]


def test_none_is_none() -> None:
    """A function that returns None is answered without a value."""
    executor = Executor()
    assert executor.run(make_request(), print, ()) == (NONE, None)
