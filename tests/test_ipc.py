"""Typed messages to a worker of one's own: `IPCProtocol` and `open_worker`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
import trio.testing

from helpers import wait_for_file, wait_until
from trioipc import (
    IPCMessage,
    IPCProtocol,
    IPCRequest,
    IPCResponse,
    LocalProtocolError,
    OperationNotFoundError,
    RemoteProtocolError,
    RequestCancelledError,
    RequestTimeoutError,
    SharedCancellation,
    WorkerCrashedError,
    WorkerStartError,
    open_worker,
)
from trioipc.testing import cancel_at_each_step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trioipc import Progress, Worker


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    """Provide a worker that serves the operations of the tests."""
    async with open_worker("jobs", grace=0.5) as worker:
        yield worker


# ---- without a worker


def test_ids_are_unique() -> None:
    """No id is given twice."""
    protocol = IPCProtocol()
    assert len({protocol.generate_message_id() for _ in range(1000)}) == 1000


def test_messages_carry_what_was_said() -> None:
    """A request has its fields; what was not said has its default."""
    protocol = IPCProtocol()
    message = protocol.create_message("hash", "file", b"payload", priority="high", timeout=3.0)
    assert isinstance(message, IPCRequest)
    assert (message.type, message.channel, message.payload) == ("hash", "file", b"payload")
    assert (message.priority, message.timeout, message.correlation_id) == ("high", 3.0, None)
    assert "payload" not in repr(message)


def test_answers_name_what_they_answer() -> None:
    """Responses and progress carry the request's id."""
    protocol = IPCProtocol()
    good = protocol.create_success_response("7", {"x": 1})
    assert (good.correlation_id, good.ok, good.result, good.error) == ("7", True, {"x": 1}, None)
    error = ValueError("v")
    bad = protocol.create_error_response("7", error)
    assert (bad.correlation_id, bad.ok, bad.error) == ("7", False, error)
    assert isinstance(protocol.create_error_response("7", "text").error, RemoteProtocolError)
    progress = protocol.create_progress_message("7", 3, 9)
    assert (progress.correlation_id, progress.value, progress.total) == ("7", 3, 9)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        (("x", "nowhere", None), {}, ValueError, "channel"),
        ((3, "custom", None), {}, TypeError, "type"),
        (("x", "custom", None), {"priority": "urgent"}, ValueError, "priority"),
        (("x", "custom", None), {"timeout": -1}, ValueError, "timeout must be >= 0 seconds"),
    ],
)
def test_wrong_messages_are_refused(
    arguments: tuple[object, ...], options: dict[str, object], error: type[Exception], text: str
) -> None:
    """When they are made."""
    with pytest.raises(error, match=text):
        IPCProtocol().create_message(*arguments, **options)  # type: ignore[arg-type]


def test_answers_to_nobody() -> None:
    """An answer that nobody waits for is not an error: it came late."""
    protocol = IPCProtocol()
    assert protocol.handle_message(protocol.create_success_response("unknown", 1)) is False
    assert protocol.handle_message(protocol.create_progress_message("unknown", 1, 2)) is False


def test_what_is_no_answer() -> None:
    """Requests, other objects and other versions are RemoteProtocolErrors."""
    protocol = IPCProtocol()
    with pytest.raises(RemoteProtocolError, match="expected an answer, not a IPCRequest"):
        protocol.handle_message(protocol.create_message("x", "custom", None))
    with pytest.raises(RemoteProtocolError, match="not a str"):
        protocol.handle_message("hello")  # type: ignore[arg-type]
    old = attrs.evolve(protocol.create_success_response("1", 1), version=99)
    with pytest.raises(RemoteProtocolError, match="version 99"):
        protocol.handle_message(old)


async def test_a_destroyed_protocol_is_closed() -> None:
    """Every call is then a ClosedResourceError; destroying again is fine."""
    protocol = IPCProtocol()
    assert repr(protocol) == "<IPCProtocol: 0 pending>"
    protocol.destroy()
    protocol.destroy()
    for call in (
        lambda: protocol.create_message("x", "custom", None),
        lambda: protocol.create_success_response("1", 1),
        lambda: protocol.create_error_response("1", "text"),
        lambda: protocol.create_progress_message("1", 1, 2),
        lambda: protocol.handle_message(IPCResponse(id="1", type="response")),
        lambda: protocol.cancel_request("1"),
        protocol.cancel_all,
        protocol.statistics,
    ):
        with pytest.raises(trio.ClosedResourceError):
            call()
    assert repr(protocol) == "<IPCProtocol: destroyed>"


# ---- with a worker


async def test_a_request_is_answered(worker: Worker) -> None:
    """With what the operation returned, by name and channel."""
    protocol = IPCProtocol()
    assert await protocol.request(worker, "double", "custom", 21) == 42
    assert await protocol.request(worker, "shout", "file", "hey") == "HEY!"
    assert await protocol.request(worker, "whoami", "custom", None, message_id="mine") == "mine"
    statistics = protocol.statistics()
    assert statistics.pending_requests == 0
    assert 0 < statistics.average_response_time < 10
    assert isinstance(worker.pid, int)
    assert repr(worker) == f"<Worker: pid {worker.pid}, 0 restarts>"


async def test_unknown_operations_are_named(worker: Worker) -> None:
    """The error says what there is instead."""
    protocol = IPCProtocol()
    with pytest.raises(OperationNotFoundError, match=r"'halve' on .* there are: .*double"):
        await protocol.request(worker, "halve", "custom", 3)
    with pytest.raises(OperationNotFoundError, match="is on channel 'file', not on 'crypto'"):
        await protocol.request(worker, "shout", "crypto", "hey")


async def test_progress_of_a_request(worker: Worker) -> None:
    """Reaches the callback, the last value too."""
    seen: list[int] = []

    def note(progress: Progress) -> None:
        seen.append(progress.value)

    assert await IPCProtocol().request(worker, "count", "custom", 10, on_progress=note) == 10
    assert seen[-1] == 10


async def test_the_total_clock(worker: Worker, tmp_path: Path) -> None:
    """It counts from the send, and is the protocol's where a request says nothing."""
    for protocol, timeout in ((IPCProtocol(default_timeout=0.1), None), (IPCProtocol(), 0.1)):
        with pytest.raises(RequestTimeoutError) as caught:
            await protocol.request(worker, "work", "custom", str(tmp_path / "x"), timeout=timeout)
        assert caught.value.clock == "total"
        assert protocol.statistics().pending_requests == 0


async def test_cancelling_requests(worker: Worker, tmp_path: Path) -> None:
    """By id, all at once, or by a flag; each ends as RequestCancelledError."""
    protocol = IPCProtocol()
    errors: list[RequestCancelledError] = []

    async def ask(name: str, flag: SharedCancellation | None = None) -> None:
        with pytest.raises(RequestCancelledError) as caught:
            await protocol.request(
                worker, "work", "custom", str(tmp_path / name), message_id=name, cancellation=flag
            )
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "one")
        await wait_for_file(tmp_path / "one")
        with pytest.raises(LocalProtocolError, match="'one' is already under way"):
            await protocol.request(worker, "double", "custom", 1, message_id="one")
        assert protocol.statistics().oldest_request_age > 0
        assert protocol.cancel_request("none") is False
        assert protocol.cancel_request("one") is True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "two")
        await wait_for_file(tmp_path / "two")
        nursery.start_soon(ask, "three")
        await wait_until(lambda: protocol.statistics().pending_requests == 2)
        assert protocol.cancel_all() == 2
    with SharedCancellation() as flag:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "four", flag)
            await wait_for_file(tmp_path / "four")
            flag.cancel("enough")
    assert [error.reason for error in errors] == [None, None, None, "enough"]
    assert protocol.statistics().pending_requests == 0


async def test_destroy_wakes_those_who_wait(worker: Worker, tmp_path: Path) -> None:
    """They get ClosedResourceError, when the worker has stopped."""
    protocol = IPCProtocol()

    async def ask() -> None:
        with pytest.raises(trio.ClosedResourceError, match="destroyed"):
            await protocol.request(worker, "work", "custom", str(tmp_path / "begun"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_for_file(tmp_path / "begun")
        protocol.destroy()
    with pytest.raises(trio.ClosedResourceError):
        await protocol.request(worker, "double", "custom", 1)
    assert await IPCProtocol().request(worker, "double", "custom", 1) == 2


async def test_answers_from_elsewhere(worker: Worker, tmp_path: Path) -> None:
    """`handle_message` answers, or informs, who waits for that id; the worker is told to stop."""
    protocol = IPCProtocol()
    results: list[object] = []
    seen: list[int] = []

    async def ask(name: str) -> None:
        try:
            results.append(
                await protocol.request(
                    worker,
                    "work",
                    "custom",
                    str(tmp_path / name),
                    message_id=name,
                    on_progress=lambda progress: seen.append(progress.value),
                )
            )
        except KeyError as error:
            results.append(error.args[0])

    for name, answer in (
        ("value", protocol.create_success_response("value", 3)),
        ("error", protocol.create_error_response("error", KeyError("k"))),
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, name)
            await wait_for_file(tmp_path / name)
            assert protocol.handle_message(protocol.create_progress_message(name, 5, 10))
            await wait_until(lambda: 5 in seen)
            assert protocol.handle_message(answer)
        seen.clear()
    assert results == [3, "k"]
    assert await protocol.request(worker, "double", "custom", 4) == 8


async def test_a_crashed_worker_is_replaced(worker: Worker, tmp_path: Path) -> None:
    """An idempotent operation is tried again, unless the protocol was told otherwise."""
    before = worker.pid
    value = await IPCProtocol().request(worker, "frail", "custom", str(tmp_path / "one"))
    assert value == "second try"
    assert worker.pid != before
    assert worker.restarts == 1
    with pytest.raises(WorkerCrashedError):
        await IPCProtocol(enable_retries=False).request(
            worker, "frail", "custom", str(tmp_path / "two")
        )


async def test_debug_logs_no_payload(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    """Ids, types and times are logged, and nothing that a message holds."""
    with caplog.at_level(logging.DEBUG, "trioipc.protocol"):
        await IPCProtocol(debug=True).request(worker, "shout", "file", "secret", message_id="m-1")
        await IPCProtocol().request(worker, "shout", "file", "secret", message_id="m-2")
    assert "m-1" in caplog.text
    assert "shout" in caplog.text
    assert "bytes" in caplog.text
    assert "m-2" not in caplog.text
    assert "secret" not in caplog.text.lower()


async def test_open_worker_says_what_is_wrong() -> None:
    """A module that is none is a TypeError, one that is missing a WorkerStartError."""
    with pytest.raises(TypeError, match="module must be the name of a module, not a int"):
        async with open_worker(3):  # type: ignore[arg-type]
            raise AssertionError
    with pytest.raises(WorkerStartError, match="no_such_module"):
        async with open_worker("no_such_module"):
            raise AssertionError


async def test_cancelling_a_request_at_each_step(worker: Worker) -> None:
    """Wherever it is cancelled, nobody is left waiting."""
    protocol = IPCProtocol()

    async def check() -> None:
        assert protocol.statistics().pending_requests == 0
        assert await protocol.request(worker, "double", "custom", 1) == 2

    assert await cancel_at_each_step(lambda: protocol.request(worker, "double", "custom", 2), check)


def test_messages_are_frozen() -> None:
    """What was said stays said."""
    message = IPCMessage(id="1", type="x")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        message.type = "y"  # type: ignore[misc]
