"""What a worker that was taken over does, in the place of the built-in operations."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trioipc.worker._serve
from trioipc.builtin import crypto
from trioipc.memory import _segment
from trioipc.protocol._codec import Encoded

if TYPE_CHECKING:
    from collections.abc import Callable


class Touch:
    """Pickled, it is a call of `Path.touch` where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (Path(self.path),)


def answer_always(kind: int, body: bytes) -> int:
    """Answer every later call to this process with such a frame; return its pid."""

    def encode(_: int, __: Any) -> tuple[int, Encoded]:
        return kind, Encoded(body)

    trioipc.worker._serve.encode_plain_answer = encode
    return os.getpid()


def answer_the_host(body: bytes) -> None:
    """Answer the call that this process lives in, of which our own frames know nothing."""
    import _trio_parallel_workers

    def dumps(_: object, **__: object) -> bytes:
        return body

    _trio_parallel_workers.dumps = dumps


def return_a_set() -> None:
    """Have a built-in operation return what it never does."""
    crypto.hash_file.__code__ = (lambda source: {len(source)}).__code__


def make_shaky_memory() -> bytes:
    """Return something big in memory that could be made shorter."""

    def open_unsealed(size: int) -> int:
        descriptor = os.memfd_create("trioipc")
        os.ftruncate(descriptor, size)
        return descriptor

    _segment._OPENERS["memfd"] = open_unsealed
    return bytes(1 << 20)
