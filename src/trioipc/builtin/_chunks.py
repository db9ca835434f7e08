"""Files cut into chunks, and where the chunks go.

Guarantees:

- Chunks that become files are written into a spare folder, inside of the one that they are meant
  for, and moved out of it when the last one is complete. The caller chose its name, and removes it
  however the request ends.
- What a file is called has no part in what its chunks are called.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from typing import TYPE_CHECKING, final

from trioipc.builtin._files import NEW_FILE_MODE, move_into_place

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trioipc.builtin._files import Output

# So many have names that sort as they count; and a list of more is no longer a small thing.
MAX_CHUNKS = 1_000_000

# What SHA-256 gives, in bytes.
DIGEST_SIZE = 32

# Like that of new files: its owner's alone.
_NEW_FOLDER_MODE = 0o700
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def chunk_name(index: int) -> str:
    """Return what the file of a chunk is called; the names sort as the chunks do."""
    return f"chunk-{index:06}"


def count_chunks(size: int, chunk_size: int) -> int:
    """Return how many chunks there are of ``size`` bytes; none of none.

    Raises:
      ValueError: if that is too many.
    """
    chunks = -(-size // chunk_size)
    if chunks > MAX_CHUNKS:
        raise ValueError(
            f"chunk_size {chunk_size} makes {chunks} chunks of {size} bytes; at most {MAX_CHUNKS}"
        )
    return chunks


def cut(steps: Iterable[memoryview], chunk_size: int) -> Iterator[tuple[int, memoryview]]:
    """Cut steps where chunks end; with each piece comes the index of its chunk."""
    position = 0
    for step in steps:
        while step:
            length = chunk_size - position % chunk_size
            piece, step = step[:length], step[length:]
            yield position // chunk_size, piece
            position += len(piece)


@final
class ChunkHasher:
    """SHA-256 of each chunk, and of all of them together."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()
        self._chunk = hashlib.sha256()
        self._index = 0
        self._digests: list[bytes] = []

    def update(self, index: int, piece: memoryview) -> None:
        """Take a piece of the chunk of that index; chunks come in order, and none is empty."""
        if index != self._index:
            self._digests.append(self._chunk.digest())
            self._chunk = hashlib.sha256()
            self._index = index
        self._chunk.update(piece)
        self._whole.update(piece)

    def digests(self, count: int) -> bytes:
        """Return the hashes of all ``count`` chunks, one behind the other."""
        if count:
            self._digests.append(self._chunk.digest())
        return b"".join(self._digests)

    def whole(self) -> str:
        """Return the hash of everything, in hex."""
        return self._whole.hexdigest()


@final
class ChunkFolder:
    """Chunks that become files in the folder ``path``, all of them at the end.

    Args:
      path: Absolute. It is made if it does not exist, but not what is above it.
      spare: An absolute path inside of it that nobody else uses.

    Raises:
      OSError: if nothing can be written there.
    """

    def __init__(self, path: str, spare: str) -> None:
        self._path = path
        self._spare = spare
        self._descriptor: int | None = None
        self._count = 0
        self._size = 0
        if not os.path.isdir(path):
            os.mkdir(path, _NEW_FOLDER_MODE)
        # What a worker left that died with this request before us: only it knew the name.
        shutil.rmtree(spare, ignore_errors=True)
        os.mkdir(spare, _NEW_FOLDER_MODE)

    def write(self, index: int, piece: memoryview) -> None:
        """Append to the chunk of that index; chunks come in order."""
        if index == self._count:
            self._close()
            path = os.path.join(self._spare, chunk_name(index))
            self._descriptor = os.open(path, _WRITE_FLAGS, NEW_FILE_MODE)
            self._count += 1
        assert self._descriptor is not None
        self._size += len(piece)
        while piece:  # a signal or a disk that gets full may cut a write short
            piece = piece[os.write(self._descriptor, piece) :]

    def publish(self) -> int:
        """Put the chunks in their places; return how many bytes they have."""
        self._close()
        for name in map(chunk_name, range(self._count)):
            move_into_place(os.path.join(self._spare, name), os.path.join(self._path, name))
        return self._size

    def discard(self) -> None:
        """Remove what has not been put in its place."""
        try:
            self._close()
        finally:
            shutil.rmtree(self._spare, ignore_errors=True)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


@final
class ChunkMemory:
    """Chunks that stay in memory, one behind the other in one piece."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def write(self, index: int, piece: memoryview) -> None:
        """Append."""
        self._output.room(len(piece))[:] = piece
        self._output.commit(len(piece))
