"""Keys and passwords on their way to a worker.

A pickle of one would be left behind as immutable bytes that nobody can wipe: in the call that
waits, in what the worker reads from its pipe, in what it unpickles. So a secret of any size travels
beside the frame, in a slab that is set to zero before anybody else gets it, and what arrives is a
view of that slab. The copy on this side is wiped by who has made it.
"""

from __future__ import annotations

import pickle
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from collections.abc import Iterator


@final
class Secret(bytearray):
    """A secret; see `revealed`. Pickled, it is a view of its bytes."""

    def __repr__(self) -> str:
        return f"<Secret: {len(self)} bytes>"

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return memoryview, (pickle.PickleBuffer(self),)


@contextmanager
def revealed(secret: memoryview) -> Iterator[Secret]:
    """Copy a secret for the length of the block, after which the copy is all zero."""
    copy = Secret(secret)
    try:
        yield copy
    finally:
        copy[:] = bytes(len(copy))
