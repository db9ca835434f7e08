"""What the tests of payloads run in workers."""

from __future__ import annotations

import os
import resource
import threading
import time
from typing import Any

from trioipc import SharedCounter, current_request
from trioipc.memory._arena import SMALLEST


def make(nbytes: int, fill: int = 1) -> memoryview:
    """Return allocated memory, all of it ``fill``."""
    view = current_request().allocate(nbytes)
    view[:] = bytes([fill]) * nbytes
    return view


def count(*arguments: object) -> int:
    """Return how many there are."""
    return len(arguments)


def sums(*views: memoryview) -> list[int]:
    """Return the sum of the first three bytes of each."""
    return [sum(view[:3]) for view in views]


def use_up_descriptors(spare: int) -> int:
    """Open so many files that only ``spare`` more can be opened; return how many there are."""
    highest = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, highest + 64), hard))
    while True:
        try:
            _kept.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            break
    for _ in range(spare):
        os.close(_kept.pop())
    return len(_kept)


def free_descriptors() -> None:
    """Close what `use_up_descriptors` has opened."""
    while _kept:
        os.close(_kept.pop())


# What stays after a request, in the worker.
_kept: list[Any] = []


def counter() -> SharedCounter:
    """Return shared state."""
    return SharedCounter(7)


def wait_for(path: str) -> None:
    """Wait until a file is there."""
    while not os.path.exists(path):
        current_request().checkpoint()
        time.sleep(0.001)


def fork_and_come_back(view: memoryview, nbytes: int) -> tuple[bytes, memoryview] | None:
    """Fork; the child allocates and writes, and returns; then the parent looks what it has."""
    child = os.fork()
    if child == 0:
        current_request().allocate(nbytes)[:5] = b"child"
        return None
    os.waitpid(child, 0)
    allocated = current_request().allocate(nbytes)
    allocated[:6] = b"parent"
    return bytes(view), allocated


def leave_allocating_threads() -> memoryview:
    """Leave threads that allocate, write, look and drop until they are told to stop."""
    request = current_request()
    _stop.clear()

    def go_on(fill: int) -> None:
        while not _stop.is_set():
            view = request.allocate(SMALLEST)
            if any(view):
                _found.append("not blank")
            view[:] = bytes([fill]) * SMALLEST
            time.sleep(0.0001)
            if view.tobytes() != bytes([fill]) * SMALLEST:
                _found.append("not mine alone")

    for fill in (1, 2):
        _threads.append(threading.Thread(target=go_on, args=(10 + fill,), daemon=True))
        _threads[-1].start()
    return make(SMALLEST)


def make_several(view: memoryview, index: int) -> list[memoryview]:
    """Return some allocated memory, each with its own filling."""
    assert not any(view)
    return [make(SMALLEST, 100 + part) for part in range(1 + index % 3)]


def stop_threads() -> list[str]:
    """Stop the threads; return what they have found."""
    _stop.set()
    for thread in _threads:
        thread.join()
    return _found


_threads: list[threading.Thread] = []
_found: list[str] = []
_stop = threading.Event()


def types(*arguments: object) -> list[object]:
    """Return the type of each argument, and of what is in a tuple, list or dict."""
    found: list[object] = []
    for argument in arguments:
        inside = [*argument.values()] if isinstance(argument, dict) else argument
        if isinstance(inside, tuple | list):
            found.append((type(argument).__name__, [type(item).__name__ for item in inside]))
        else:
            found.append(type(argument).__name__)
    return found


def write_into(view: memoryview, text: bytes) -> None:
    """Write to the beginning of an argument."""
    view[: len(text)] = text


def echo(value: object) -> object:
    """Return the argument."""
    return value


def keep(*values: object) -> None:
    """Keep arguments for later."""
    _kept.extend(values)


def fillings() -> list[list[int]]:
    """Return which bytes there are in each view that was kept."""
    return [sorted(set(view)) for view in _kept]


def forget() -> None:
    """Keep nothing."""
    _kept.clear()


def make_and_keep(nbytes: int, fill: int) -> memoryview:
    """Return allocated memory, and keep it."""
    view = make(nbytes, fill)
    _kept.append(view)
    return view


def kept(index: int) -> object:
    """Return what was kept."""
    return _kept[index]


def is_blank(nbytes: int) -> bool:
    """Say whether allocated memory is all zero."""
    return not any(current_request().allocate(nbytes))


def open_and_mapped() -> tuple[int, int]:
    """Return how many descriptors are open, and how many maps there are."""
    with open("/proc/self/maps") as file:
        return len(os.listdir("/proc/self/fd")), len(file.readlines())


def die(argument: object) -> None:
    """End the worker, with an argument in shared memory."""
    os._exit(1)


def fail(argument: object) -> None:
    """Raise, with an argument in the frame."""
    raise LookupError("failed")


def sleep(argument: object) -> None:
    """Never end, and never look."""
    time.sleep(60)
