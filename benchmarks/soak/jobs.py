"""What the workers run. Light, since each worker imports it."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from trioipc import current_request

if TYPE_CHECKING:
    from trioipc import SharedCounter


def echo(value: object) -> object:
    """Return the argument."""
    return value


async def echo_later(value: object, seconds: float) -> object:
    """Return the argument after a while."""
    import trio

    await trio.sleep(seconds)
    return value


def count_to(total: int) -> int:
    """Report each step."""
    progress = current_request().progress
    progress.set_total(total)
    for value in range(1, total + 1):
        progress.set(value)
        time.sleep(0.0005)
    return total


def count_up(counter: SharedCounter, times: int) -> int:
    """Add to a counter that others add to as well."""
    for _ in range(times):
        counter.increment()
    return times


def cooperate() -> None:
    """Look every millisecond whether it is cancelled, for ever."""
    request = current_request()
    while True:
        request.checkpoint()
        time.sleep(0.001)


def never_look() -> None:
    """Sleep for much longer than anybody waits."""
    time.sleep(3600)


# ---- that break something


class _Deadly(Exception):
    def __reduce__(self) -> tuple[object, ...]:
        os._exit(5)


class _NoPickle:
    def __reduce__(self) -> tuple[object, ...]:
        raise ValueError("no pickling of me")


def _fail_to_load() -> None:
    raise ValueError("no unpickling of me")


class _NoUnpickle:
    def __reduce__(self) -> tuple[object, ...]:
        return _fail_to_load, ()


def give_what_cannot_leave() -> object:
    """Return what cannot be pickled: a lock, and something that refuses."""
    return [threading.Lock(), _NoPickle()]


def give_what_cannot_arrive() -> object:
    """Return what can be pickled, but not unpickled."""
    return _NoUnpickle()


def raise_what_kills() -> None:
    """Raise what ends the process that pickles it."""
    raise _Deadly


def leave(code: int) -> None:
    """End at once."""
    os._exit(code)


def exit_by_exception(code: int) -> None:
    """Raise SystemExit."""
    sys.exit(code)


def segfault() -> None:
    """Read address 0."""
    ctypes.string_at(0)


def write_garbage(data: bytes) -> None:
    """Write to every pipe there is, but for that of multiprocessing's resource tracker."""
    from multiprocessing.resource_tracker import _resource_tracker  # type: ignore[attr-defined]

    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) in (0, 1, 2, _resource_tracker._fd):
                continue
            if os.readlink(f"/proc/self/fd/{name}").startswith("pipe:"):
                os.set_blocking(int(name), False)
                os.write(int(name), data)
        except OSError:
            pass
    time.sleep(3600)
