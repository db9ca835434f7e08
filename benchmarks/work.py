"""What the workers run. Light, since each worker imports it."""

from __future__ import annotations

import os
import time


def nothing() -> None:
    """Return at once: what remains is the cost of the call."""


def pure_python(turns: int) -> int:
    """Compute: the same work however many compute beside it."""
    total = 0
    for number in range(turns):
        total += number * number % 7
    return total


def busy(seconds: float) -> None:
    """Keep a core busy."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def sleep_with_checks(seconds: float, interval: float) -> None:
    """Sleep, and look every ``interval`` whether it is cancelled."""
    from trioipc import current_request

    request = current_request()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        request.checkpoint()
        time.sleep(interval)


def advance(steps: int) -> int:
    """Report some progress."""
    from trioipc import current_request

    progress = current_request().progress
    progress.set_total(steps)
    for _ in range(steps):
        progress.increment()
    return steps


def seconds_per_increment(number: int) -> float:
    """Measure one progress increment, loop included."""
    from trioipc import current_request

    increment = current_request().progress.increment
    start = time.perf_counter()
    for _ in range(number):
        increment()
    return (time.perf_counter() - start) / number


def pid() -> int:
    """Say who works."""
    return os.getpid()


def encrypt(key: bytes, nonce: bytes, data: bytes) -> bytes:
    """Encrypt, as one would without a bridge."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key).encrypt(nonce, data, None)


def same(item: object) -> object:
    """Return the item."""
    return item


def sleep_and_return(seconds: float, value: int) -> int:
    """Take some time."""
    time.sleep(seconds)
    return value
