"""Hashes, chunks and types of buffers and files."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from trioipc._errors import ChunkError, DataError
from trioipc.builtin._chunks import (
    DIGEST_SIZE,
    ChunkFolder,
    ChunkHasher,
    ChunkMemory,
    count_chunks,
    cut,
)
from trioipc.builtin._detect import HEAD, detect
from trioipc.builtin._files import FileSource, Meter, open_output, open_source
from trioipc.worker.registry import operation
from trioipc.worker.request import current_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from trioipc.builtin._detect import Answer
    from trioipc.builtin._files import PublishedOutput, Source
    from trioipc.memory._ring import RingReader

# hashlib lets go of the GIL for each call from 2 KiB on. A step is also a progress value and a
# cancel point: 256 KiB take 0.15 ms of SHA-256, and fit into the second level of cache.
STEP = 256 << 10
# How many chunks a step may have: a file for each of them takes a few milliseconds.
_STEP_CHUNKS = 64

# {what WebCrypto calls it: how it is made}
ALGORITHMS: dict[str, Callable[[], Any]] = {"SHA-256": hashlib.sha256, "SHA-512": hashlib.sha512}


@operation(channel="file", idempotent=True)
def hash_file(source: memoryview | RingReader | str, algorithm: str = "SHA-256") -> str:
    """Hash a buffer or the file of that absolute path.

    Args:
      source: Bytes, or a path.
      algorithm: ``"SHA-256"`` or ``"SHA-512"``.

    Returns:
      The hash, in hex.

    Raises:
      OSError: if the file cannot be read.
    """
    hasher = ALGORITHMS[algorithm]()
    with open_source(source) as opened:
        meter = Meter(current_request(), opened.size)
        for step in meter.each(opened.steps(STEP)):
            hasher.update(step)
        meter.end()
    return str(hasher.hexdigest())


# ---- chunks


@operation(channel="file", idempotent=True)
def chunk_file(
    source: memoryview | RingReader | str,
    chunk_size: int,
    destination: str | None = None,
    spare: str | None = None,
) -> tuple[memoryview | int, bytes, str]:
    """Cut a buffer or a file into chunks, and hash each of them.

    Args:
      source: Bytes, or an absolute path.
      chunk_size: How many bytes a chunk has; the last one may have fewer.
      destination: The absolute path of a folder for the chunks; None for a result in memory.
      spare: A free name inside of it; the caller removes what is there at the end.

    Returns:
      All chunks in one piece or how many bytes were written, the SHA-256 of each of them, one
      behind the other, and that of everything, in hex.

    Raises:
      ValueError: if that would be more than a million chunks.
      OSError: if the files cannot be read or written.
    """
    with open_source(source) as opened:
        count_chunks(opened.size, chunk_size)
        if destination is not None and spare is not None:
            folder = ChunkFolder(destination, spare)
            try:
                digests, whole = _cut_into(opened, chunk_size, folder)
                return folder.publish(), digests, whole
            finally:
                folder.discard()
        with open_output(current_request(), opened.size, None, None) as output:
            digests, whole = _cut_into(opened, chunk_size, ChunkMemory(output))
            return output.publish(), digests, whole


def _cut_into(
    source: Source, chunk_size: int, chunks: ChunkFolder | ChunkMemory
) -> tuple[bytes, str]:
    """Write all chunks; return the hash of each, and of everything."""
    hasher = ChunkHasher()
    meter = Meter(current_request(), source.size)
    steps = meter.each(source.steps(min(STEP, _STEP_CHUNKS * chunk_size)))
    size = 0
    for index, piece in cut(steps, chunk_size):
        size += len(piece)
        chunks.write(index, piece)
        hasher.update(index, piece)
    meter.end()
    # A file may have grown meanwhile.
    return hasher.digests(count_chunks(size, chunk_size)), hasher.whole()


@operation(channel="file", idempotent=True)
def merge_chunks(
    pieces: tuple[memoryview | str, ...],
    lengths: tuple[tuple[int, ...] | None, ...],
    expected: tuple[int, int, bytes, str] | None = None,
    destination: str | None = None,
    spare: str | None = None,
) -> memoryview | int:
    """Put chunks together, and verify them.

    Args:
      pieces: Bytes or absolute paths: chunks in their order.
      lengths: Of each piece, how many bytes the chunks have that are in it, one behind the other;
        None if it is one.
      expected: What is known of them: the size of all together, that of one, the SHA-256 of each,
        one behind the other, and that of everything, in hex. None if nothing shall be verified.
      destination: The absolute path of the file to write; None for a result in memory.
      spare: A free name in the folder of ``destination``; the caller removes it at the end.

    Returns:
      The bytes, or how many were written.

    Raises:
      ChunkError: if a chunk is missing, not where it belongs, or not what it was.
      DataError: if every chunk is right, and the hash of everything is not.
      OSError: if the files cannot be read or written.
    """
    size = sum(os.stat(each).st_size if isinstance(each, str) else len(each) for each in pieces)
    with open_output(current_request(), size, destination, spare) as output:
        meter = Meter(current_request(), size)
        whole = hashlib.sha256()
        count = 0
        for count, chunk in enumerate(_chunks_of(pieces, lengths), 1):
            with open_source(chunk) as opened:
                if expected is None:
                    _append(opened, meter, output)
                else:
                    check = _Check(count - 1, *expected)
                    check.size(opened.size)
                    check.digest(_append(opened, meter, output, whole))
        if expected is not None:
            _Check(count, *expected).end(whole.hexdigest())
        meter.end()
        return output.publish()


def _chunks_of(
    pieces: tuple[memoryview | str, ...], lengths: tuple[tuple[int, ...] | None, ...]
) -> Iterator[memoryview | str]:
    for piece, inside in zip(pieces, lengths, strict=True):
        if inside is None or isinstance(piece, str):
            yield piece
            continue
        start = 0
        for length in inside:
            yield piece[start : start + length]
            start += length


def _append(source: Source, meter: Meter, output: PublishedOutput, whole: Any = None) -> bytes:
    """Copy a chunk; return its hash if there is one to go on with."""
    hasher = hashlib.sha256()
    for step in meter.each(source.steps(STEP)):
        output.room(len(step))[:] = step
        output.commit(len(step))
        if whole is not None:
            hasher.update(step)
            whole.update(step)
    return hasher.digest()


class _Check:
    """What the chunk of an index must be."""

    def __init__(
        self, index: int, total_size: int, chunk_size: int, digests: bytes, whole: str
    ) -> None:
        self._index = index
        self._count = len(digests) // DIGEST_SIZE
        self._expected = min(chunk_size, total_size - index * chunk_size)
        self._digests = digests
        self._whole = whole

    def size(self, size: int) -> None:
        """Refuse a chunk of another size before it is read: it may be anything."""
        if self._index >= self._count:
            raise self._error(f"there are more chunks than the {self._count} of the metadata")
        if size != self._expected:
            raise self._error(
                f"chunk {self._index} has {size} bytes instead of {self._expected}: it is not the "
                "chunk that belongs here, or it was altered"
            )

    def digest(self, digest: bytes) -> None:
        """Refuse a chunk of another hash."""
        start = self._index * DIGEST_SIZE
        if digest == self._digests[start : start + DIGEST_SIZE]:
            return
        others = range(0, len(self._digests), DIGEST_SIZE)
        other = next((i for i in others if self._digests.startswith(digest, i)), None)
        if other is None:
            raise self._error(f"chunk {self._index} was altered: its hash is another")
        raise self._error(
            f"instead of chunk {self._index} there is chunk {other // DIGEST_SIZE}: it is missing, "
            "or they are not in order"
        )

    def end(self, whole: str) -> None:
        """Refuse too few chunks, and a hash of everything that is not theirs."""
        if self._index < self._count:
            raise self._error(
                f"chunk {self._index} is missing: there are {self._count} in the metadata"
            )
        if whole != self._whole:
            raise DataError("each chunk is right, but the hash of everything in the metadata not")

    def _error(self, message: str) -> ChunkError:
        return ChunkError(message, index=self._index)


# ---- types


@operation(channel="file", idempotent=True)
def detect_type(source: memoryview | str, file_name: str | None = None) -> Answer:
    """Say what kind of file this is, by its first 64 KiB or, if they do not tell, its name.

    Args:
      source: Bytes, or an absolute path; no more than the first 64 KiB are read.
      file_name: What it is called; that of the path if None. No file of that name is opened.

    Returns:
      The type as file names end with it, its media type, and ``"high"`` or ``"low"``: whether the
      content says so.

    Raises:
      OSError: if the file cannot be read.
    """
    with open_source(source) as opened:
        return _detect(opened, source, file_name)


@operation(channel="file", idempotent=True)
def read_metadata(
    source: memoryview | str, file_name: str | None = None
) -> tuple[int, float | None, str, str]:
    """Return size, time of the last change in seconds since 1970, type and media type.

    Args:
      source: Bytes, or an absolute path; no more than the first 64 KiB are read.
      file_name: As for `detect_type`.

    Raises:
      OSError: if the file cannot be read.
    """
    with open_source(source) as opened:
        modified = os.stat(source).st_mtime if isinstance(source, str) else None
        kind, mime, _ = _detect(opened, source, file_name)
        return opened.size, modified, kind, mime


def _detect(opened: Source, source: memoryview | str, file_name: str | None) -> Answer:
    if file_name is None and isinstance(source, str):
        file_name = os.path.basename(source)
    head = _head_of(opened)
    meter = Meter(current_request(), len(head))
    for step in meter.each([memoryview(head)]):
        found = detect(bytes(step), file_name)
    return found


def _head_of(source: Source) -> bytes:
    if isinstance(source, FileSource):
        return bytes(source.part(0, HEAD))
    head = b""
    for step in source.steps(HEAD):
        head += step[: HEAD - len(head)]
        if len(head) == HEAD:
            break
    return head
