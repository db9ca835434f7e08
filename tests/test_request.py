"""The request as its function sees it, and the operations that messages ask for."""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

import pytest

from trioipc import (
    LocalProtocolError,
    OperationNotFoundError,
    RequestInterrupt,
    SharedStateError,
    WorkerStartError,
    current_request,
    operation,
)
from trioipc.memory._board import (
    CANCEL,
    DEADLINE,
    DONE,
    LIMIT,
    PHASE,
    REASON,
    SLOT,
    STARTED_AT,
    TICK,
    TOTAL,
    read_text,
    write_text,
)
from trioipc.worker import registry
from trioipc.worker.request import CurrentRequest, set_context_request, set_process_request

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def cells() -> memoryview:
    """Provide a slot."""
    return memoryview(bytearray(SLOT * 8)).cast("Q")


@pytest.fixture
def request_(cells: memoryview) -> CurrentRequest:
    """Provide a request over that slot."""
    return CurrentRequest(cells, 5, "name")


# ---- what the slot shows


def test_progress_is_in_the_slot(request_: CurrentRequest, cells: memoryview) -> None:
    """Value, total and phase are stores, and no messages."""
    request_.progress.set_total(8)
    request_.progress.increment(3)
    request_.set_phase("reading")
    assert (cells[DONE], cells[TOTAL], read_text(cells, PHASE)) == (3, 8, "reading")
    assert repr(request_) == "<CurrentRequest: name>"


def test_a_checkpoint_counts_and_looks(request_: CurrentRequest, cells: memoryview) -> None:
    """It raises when the cancel word names this request, again and again, and else never."""
    request_.checkpoint()
    cells[CANCEL] = 4
    request_.checkpoint()
    assert cells[TICK] == 2
    assert not request_.cancellation.is_cancelled()
    cells[CANCEL] = 5
    write_text(cells, REASON, "enough")
    for _ in range(2):
        with pytest.raises(RequestInterrupt):
            request_.checkpoint()
    assert (request_.cancellation.is_cancelled(), request_.cancellation.reason()) == (
        True,
        "enough",
    )


def test_only_the_caller_cancels(request_: CurrentRequest) -> None:
    """The function's view of it is read-only."""
    for call in (request_.cancellation.cancel, request_.cancellation.reset):
        with pytest.raises(SharedStateError, match="only the caller"):
            call()


def test_time_left(request_: CurrentRequest, cells: memoryview) -> None:
    """Counts down from the run timeout; without one there is no end."""
    assert request_.time_left() == math.inf
    cells[STARTED_AT] = time.perf_counter_ns()
    cells[LIMIT] = 2_000_000_000
    assert 1.5 < request_.time_left() <= 2
    cells[DEADLINE] = time.perf_counter_ns() + 1_000_000_000
    assert 0.5 < request_.time_left() <= 1  # whichever comes first
    cells[LIMIT] = 0
    assert 0.5 < request_.time_left() <= 1
    cells[LIMIT] = 1
    assert request_.time_left() < 0
    cells[LIMIT], cells[DEADLINE] = 0, 1
    assert request_.time_left() < 0


def test_allocated_memory_is_writable(request_: CurrentRequest) -> None:
    """And zero; its size may be 0, but not less."""
    view = request_.allocate(10)
    view[:] = b"0123456789"
    assert bytes(view) == b"0123456789"
    assert len(request_.allocate(0)) == 0
    assert bytes(request_.allocate(3)) == bytes(3)
    with pytest.raises(ValueError, match="nbytes must be >= 0, not -1"):
        request_.allocate(-1)


def test_what_was_handed_out_ends_with_the_request(
    request_: CurrentRequest, cells: memoryview
) -> None:
    """Afterwards it writes to scrap, and a cancellation is closed."""
    progress, cancellation = request_.progress, request_.cancellation
    progress.set(1)
    request_._end()
    progress.set(99)
    request_.set_phase("late")
    request_.checkpoint()
    assert cells[DONE] == 1
    assert cells[TICK] == 0
    assert read_text(cells, PHASE) is None
    with pytest.raises(SharedStateError):
        cancellation.is_cancelled()


def test_ending_without_having_asked_for_anything(request_: CurrentRequest) -> None:
    """Is fine."""
    request_._end()
    request_.progress.set(1)


# ---- who asks


def test_elsewhere_it_does_nothing() -> None:
    """Outside of a worker a function can be called and tested as it is."""
    request = current_request()
    assert request.id is None
    request.progress.set(3)
    request.set_phase("x")
    request.checkpoint()
    assert request.time_left() == math.inf
    assert not request.cancellation.is_cancelled()
    with request.uninterruptible():
        request.checkpoint()


def test_all_threads_of_a_process_see_it(request_: CurrentRequest) -> None:
    """Where a process runs one request, every thread runs for it."""
    seen: list[CurrentRequest] = []
    set_process_request(request_)
    try:
        thread = threading.Thread(target=lambda: seen.append(current_request()))
        thread.start()
        thread.join()
    finally:
        set_process_request(None)
    assert seen == [request_]


def test_each_context_has_its_own(request_: CurrentRequest) -> None:
    """Where many run at once, each thread or task sees its own."""
    seen: list[str | None] = []

    def work() -> None:
        set_context_request(request_)
        seen.append(current_request().id)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["name"]
    assert current_request().id is None


# ---- operations


@pytest.fixture
def _empty_registry() -> Iterator[None]:
    before = dict(registry._registered)
    registry._registered.clear()
    yield
    registry._registered.clear()
    registry._registered.update(before)


@pytest.mark.usefixtures("_empty_registry")
def test_an_operation_is_the_function_itself() -> None:
    """With a name and a channel, with or without parentheses."""

    @operation
    def plain(payload: int) -> int:
        return payload + 1

    @operation("renamed", channel="file", idempotent=True)
    def other(payload: int) -> int:
        return payload - 1

    assert (plain(1), other(1)) == (2, 0)
    assert registry.registered() == (("custom", "plain", False), ("file", "renamed", True))
    assert registry.perform("custom", "plain", 5) == 6
    assert registry.perform("file", "renamed", 5) == 4
    assert repr(getattr(other, registry.MARK)) == (
        "<Operation: 'renamed' on 'file', idempotent True>"
    )


@pytest.mark.usefixtures("_empty_registry")
def test_a_name_is_taken_once() -> None:
    """By one function on each channel; a module that is loaded again takes its own again."""

    def define() -> None:
        @operation("name")
        def first(payload: object) -> None:
            """Do nothing."""

    define()
    define()
    with pytest.raises(LocalProtocolError, match=r"'name' on channel 'custom' is already .*first"):

        @operation("name")
        def second(payload: object) -> None:
            """Do nothing."""

    @operation("name", channel="file")
    def third(payload: object) -> None:
        """Do nothing."""

    with pytest.raises(LocalProtocolError):
        operation("name")(len)


@pytest.mark.usefixtures("_empty_registry")
def test_unknown_operations() -> None:
    """The error names the channel it is on, or what there is instead."""
    with pytest.raises(OperationNotFoundError, match="there are: none"):
        registry.perform("custom", "name", None)

    @operation("name", channel="file")
    def function(payload: object) -> None:
        """Do nothing."""

    with pytest.raises(OperationNotFoundError, match="is on channel 'file', not on 'custom'"):
        registry.perform("custom", "name", None)
    with pytest.raises(OperationNotFoundError, match=r"no operation 'x' .*; there are: name"):
        registry.perform("file", "x", None)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((3,), {}, TypeError, "name must be a str, not int"),
        (("x",), {"channel": "radio"}, ValueError, "channel must be one of .*, not 'radio'"),
    ],
)
def test_wrong_operations(
    arguments: tuple[object, ...], options: dict[str, object], error: type[Exception], text: str
) -> None:
    """What is wrong is said at the decorator."""
    with pytest.raises(error, match=text):
        operation(*arguments, **options)  # type: ignore[call-overload]


def test_modules_that_cannot_be_loaded() -> None:
    """Whatever importing them raises is the reason of a WorkerStartError."""
    with pytest.raises(WorkerStartError, match="could not import 'no_such_module'") as caught:
        registry.load(["math", "no_such_module"])
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    with pytest.raises(WorkerStartError, match="SystemExit: 3"):
        registry.load(["exiting_module"])
