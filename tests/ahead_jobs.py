"""Functions that are short until they are told otherwise, for tests of what is sent ahead."""

from __future__ import annotations

import os
import struct
import time

from trioipc import current_request

_MARK = struct.Struct("<qq")


def gate(path: str) -> int:
    """Wait for a file, which takes no time if it is there; return who did."""
    request = current_request()
    while not os.path.exists(path):
        request.checkpoint()
        time.sleep(0.001)
    return os.getpid()


def deaf_gate(path: str) -> int:
    """Wait for a file, and never look whether it is cancelled."""
    while not os.path.exists(path):
        time.sleep(0.001)
    return os.getpid()


def mark(path: str, number: int, seconds: float = 0.0) -> int:
    """Write down that it runs, and when; then take a while."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, _MARK.pack(number, time.perf_counter_ns()))
    os.close(descriptor)
    end = time.perf_counter() + seconds
    request = current_request()
    while time.perf_counter() < end:
        request.checkpoint()
    return number


def marks(path: str) -> list[tuple[int, int]]:
    """Read what `mark` has written down: which, and when."""
    try:
        with open(path, "rb") as file:
            return list(_MARK.iter_unpack(file.read()))
    except FileNotFoundError:
        return []
