"""Every error of ours survives the trip between processes."""

from __future__ import annotations

import copy
import pickle
import signal

import pytest

import trioipc
from trioipc import _errors
from trioipc._errors import IPCError

ERRORS = sorted(
    (
        value
        for value in vars(_errors).values()
        if isinstance(value, type) and issubclass(value, IPCError)
    ),
    key=lambda error: error.__name__,
)


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("travel", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_they_travel(kind: type[IPCError], travel: object) -> None:
    """With their message, their attributes and their notes."""
    error = kind("a message", rung="kill", pid=3)
    error.add_note("a note")
    back = travel(error)  # type: ignore[operator]
    assert type(back) is kind
    assert str(back) == "a message"
    assert (back.rung, back.pid, back.__notes__) == ("kill", 3, ["a note"])


@pytest.mark.parametrize(
    ("error", "base"),
    [
        ("LocalProtocolError", "ProtocolError"),
        ("RemoteProtocolError", "ProtocolError"),
        ("WorkerStartError", "WorkerError"),
        ("WorkerCrashedError", "WorkerError"),
        ("PayloadError", "IPCError"),
        ("PoisonedRequestError", "IPCError"),
    ],
)
def test_the_tree(error: str, base: str) -> None:
    """Who catches a base catches its kinds."""
    assert issubclass(getattr(trioipc, error), getattr(trioipc, base))


def test_what_else_they_are() -> None:
    """Those that mean what a built-in means are that as well."""
    assert issubclass(trioipc.RequestTimeoutError, TimeoutError)
    assert issubclass(trioipc.DataError, ValueError)
    assert issubclass(trioipc.MissingExtraError, ImportError)
    assert issubclass(trioipc.FallbackWarning, RuntimeWarning)
    assert not issubclass(trioipc.RequestInterrupt, Exception)


@pytest.mark.parametrize(
    ("exitcode", "expected"),
    [(None, None), (0, None), (3, None), (-9, signal.SIGKILL), (-11, signal.SIGSEGV), (-99, None)],
)
def test_the_signal_of_a_crash(exitcode: int | None, expected: signal.Signals | None) -> None:
    """Negative exit codes are signals, if there is one of that number."""
    assert trioipc.WorkerCrashedError("x", exitcode=exitcode).signal is expected
