"""What the tests of a worker's life run in workers."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import threading
import time
from pathlib import Path

from trioipc import current_request


def describe() -> dict[str, object]:
    """Return what the kernel knows of this process."""
    return {
        "title": Path("/proc/self/comm").read_text().rstrip("\n"),
        "nice": os.nice(0),
        "oom": int(Path("/proc/self/oom_score_adj").read_text()),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
    }


async def describe_async() -> dict[str, object]:
    """Return the same of an io worker."""
    return describe()


def environment() -> tuple[dict[str, str], bytes]:
    """Return what Python knows of the environment, and what the kernel does."""
    return dict(os.environ), Path("/proc/self/environ").read_bytes()


def value_in_libc(name: str) -> bytes | None:
    """Return what a C library sees of a variable."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    value: bytes | None = getenv(name.encode())
    return value


def fill(nbytes: int) -> int:
    """Have so many bytes, and write to each page of them."""
    return len(bytearray(nbytes))


def dumps_core(folder: str) -> bool:
    """Say whether a child that aborts there, with the limits of this process, leaves its core."""
    pid = os.fork()
    if not pid:
        os.chdir(folder)
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGABRT)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGABRT
    return os.WCOREDUMP(status)


def crash_deep(depth: int) -> None:
    """Read address 0, so many calls further down."""
    if depth:
        crash_deep(depth - 1)
    ctypes.string_at(0)


def crash_in_a_fork(path: str) -> int:
    """Fork; the child opens a file, which may get any number, and crashes."""
    pid = os.fork()
    if not pid:
        for _ in range(1000):
            os.open(path, os.O_WRONLY | os.O_CREAT)
        ctypes.string_at(0)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status)


def stay_with_a_thread(path: str) -> None:
    """Hold the GIL in C for a second, while another thread waits."""
    thread = threading.Thread(target=wait_for_ever, daemon=True)
    thread.start()
    Path(path).touch()
    ctypes.PyDLL(None).sleep(1)


def wait_for_ever() -> None:
    """Wait for ever."""
    threading.Event().wait()


def deep(depth: int, path: str) -> None:
    """Wait for ever, so many calls further down."""
    if depth:
        deep(depth - 1, path)
    Path(path).touch()
    while True:
        current_request().checkpoint()
        time.sleep(0.001)


def look_busy(path: str) -> None:
    """Run for ever."""
    deep(0, path)
