"""What the tests of payloads run in workers."""

from __future__ import annotations

from trioipc import current_request


def make(nbytes: int, fill: int = 1) -> memoryview:
    """Return allocated memory, all of it ``fill``."""
    view = current_request().allocate(nbytes)
    view[:] = bytes([fill]) * nbytes
    return view


def count(*arguments: object) -> int:
    """Return how many there are."""
    return len(arguments)
