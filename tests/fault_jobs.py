"""Objects and functions that go wrong in odd places. Light: workers load it."""

from __future__ import annotations

import sys
import threading
from typing import Any


class NoText(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise ValueError("no text")


class NoRepr:
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class OddCode(int):
    """An exit code that cannot travel."""

    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle")


class OddBase(BaseException):
    """No Exception, and has no text."""

    def __str__(self) -> str:
        raise ValueError("no text")


class Raises:
    """Raises when it is pickled."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


class ExitsAsError(Exception):
    """An exception that exits when it is pickled."""

    def __reduce__(self) -> Any:
        raise SystemExit(4)


def give(name: str) -> Any:
    """Return something that cannot travel."""
    return {
        "NoText": lambda: Raises(NoText()),
        "SystemExit": lambda: Raises(SystemExit(3)),
        "KeyboardInterrupt": lambda: Raises(KeyboardInterrupt()),
    }[name]()


def throw(name: str) -> None:
    """Raise something that cannot travel."""
    raise {
        "ExitsAsError": ExitsAsError,
        "NoText": NoText,
        "OddBase": OddBase,
        "OddCode": lambda: SystemExit(OddCode(3)),
        "NoRepr": lambda: SystemExit(NoRepr()),
    }[name]()


def add_path(path: str) -> None:
    """Look for modules there too."""
    sys.path.insert(0, path)


def fail_with(view: memoryview) -> None:
    """Raise, while an argument is in shared memory."""
    raise LookupError(len(view))


def many_views(number: int) -> list[memoryview]:
    """Return many pieces of allocated memory."""
    from trioipc import current_request

    views = []
    for index in range(number):
        view = current_request().allocate(9000)
        view[0] = index % 256
        views.append(view)
    return views


def sleep_in_thread(seconds: float) -> str:
    """Block, without ever looking."""
    threading.Event().wait(seconds)
    return "slept"
