"""What the tests of a worker's life run in workers."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path


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
    import ctypes

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
