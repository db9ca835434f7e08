"""``bridge.file``: files hashed, cut into chunks and put together, and what kind they are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, cast, final, get_args, overload

import attrs
import trio

from trioipc.bridge._arguments import (
    Source,
    WrittenFile,
    destination_of,
    folder_of,
    refuse_same,
    result_of,
    sent,
    size_of,
    source_of,
    spare_folder_removed,
    spare_removed,
)
from trioipc.builtin import file as builtin
from trioipc.builtin._chunks import DIGEST_SIZE, MAX_CHUNKS, chunk_name, count_chunks
from trioipc.builtin._detect import HEAD, extension_of
from trioipc.pool._options import count

if TYPE_CHECKING:
    from trioipc.bridge._arguments import Folder, Run
    from trioipc.builtin._detect import Confidence
    from trioipc.memory.state import SharedCancellation
    from trioipc.pool.pool import Callback
    from trioipc.protocol._messages import Priority

HashAlgorithm = Literal["SHA-256", "SHA-512"]


@attrs.frozen
class FileHash:
    """The hash of a file."""

    hash: str
    """In hex."""

    algorithm: HashAlgorithm
    """What made it."""


Chunk = TypeVar("Chunk", memoryview, WrittenFile)


def _tuple(hashes: Iterable[str]) -> tuple[str, ...]:
    return tuple(hashes)


@attrs.frozen
class ChunkMetadata:
    """What there is to know of the chunks of a file, for ``FileBridge.merge_chunks`` to verify.

    All hashes are SHA-256, in hex.
    """

    file_name: str | None
    """What the file was called, if anybody said so."""

    total_size: int
    """How many bytes it has."""

    chunk_size: int
    """How many bytes a chunk has; the last one may have fewer."""

    chunk_count: int
    """How many chunks there are; none of an empty file."""

    chunk_hashes: tuple[str, ...] = attrs.field(converter=_tuple, repr=False)
    """The hash of each of them."""

    hash: str
    """The hash of the whole file."""


@attrs.frozen
class ChunkedFile(Generic[Chunk]):
    """What ``FileBridge.chunk_file`` made."""

    chunks: tuple[Chunk, ...] = attrs.field(repr=lambda chunks: f"<{len(chunks)} chunks>")
    """The chunks in their order, read-only views into one piece of memory, or files."""

    metadata: ChunkMetadata
    """What ``FileBridge.merge_chunks`` needs to verify them."""


@attrs.frozen
class FileType:
    """What kind of file something is."""

    type: str
    """What names of such files mostly end with, as ``"png"``; ``"unknown"`` if nothing told."""

    mime_type: str
    """The media type; ``"application/octet-stream"`` if nothing told."""

    confidence: Confidence
    """``"high"`` if the content says so; ``"low"`` if it was the name, a guess, or nothing."""


@attrs.frozen
class FileMetadata:
    """What can be said of a file without reading all of it."""

    name: str | None
    """As it was given, or the last part of the path; None for bytes without one."""

    extension: str
    """What the name ends with behind its last dot, in lower case; empty if nothing."""

    size: int
    """How many bytes."""

    type: str
    """As in `FileType`."""

    mime_type: str
    """As in `FileType`."""

    modified: float | None
    """When its content last changed, in seconds since 1970; None for bytes."""


@final
@attrs.define(eq=False, repr=False)
class FileBridge:
    """What workers do with files; get it as ``WorkerBridge.file``."""

    _run: Run

    def __repr__(self) -> str:
        return "<FileBridge>"

    async def hash_file(
        self,
        source: Source,
        algorithm: HashAlgorithm = "SHA-256",
        *,
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> FileHash:
        """Hash ``source`` in a worker.

        Args:
          source: Bytes-like or a path.
          algorithm: ``"SHA-256"`` or ``"SHA-512"``.
          on_progress: Called with the progress, in bytes, in the caller's task.
          timeout: Seconds that the run may take, from its start; None for the bridge's value.
          queue_timeout: Seconds that it may wait before that, likewise.
          cancellation: Cancels the request when it is set.
          priority: ``"low"``, ``"normal"`` or ``"high"``.

        Returns:
          The hash in hex, and what made it.

        Raises:
          TypeError: if ``source`` is neither bytes-like nor a path; no worker is asked.
          ValueError: if there is no such algorithm, likewise.
          OSError: if the file cannot be read, or is no regular file.

        Cancellation: a checkpoint.

        Source: FIPS 180-4.
        """
        if algorithm not in get_args(HashAlgorithm):
            names = ", ".join(get_args(HashAlgorithm))
            raise ValueError(f"algorithm must be one of {names}, not {algorithm!r}")
        digest = await self._run(
            builtin.hash_file,
            sent(source_of(source), slowly=True),
            algorithm,
            on_progress=on_progress,
            timeout=timeout,
            queue_timeout=queue_timeout,
            cancellation=cancellation,
            priority=priority,
        )
        return FileHash(digest, algorithm)

    @overload
    async def chunk_file(
        self,
        source: Source,
        chunk_size: int,
        file_name: str | None = None,
        *,
        destination: None = None,
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> ChunkedFile[memoryview]: ...

    @overload
    async def chunk_file(
        self,
        source: Source,
        chunk_size: int,
        file_name: str | None = None,
        *,
        destination: str | os.PathLike[str],
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> ChunkedFile[WrittenFile]: ...

    async def chunk_file(
        self,
        source: Source,
        chunk_size: int,
        file_name: str | None = None,
        *,
        destination: str | os.PathLike[str] | None = None,
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> ChunkedFile[memoryview] | ChunkedFile[WrittenFile]:
        """Cut ``source`` into chunks of one size in a worker, and hash each of them.

        Args:
          source: Bytes-like or a path.
          chunk_size: How many bytes a chunk has, 1 or more; the last one has what is left. At most
            a million chunks. ``trioipc.chunks`` has sizes to choose from.
          file_name: What the metadata shall call the file; the last part of the path if None. No
            file of that name is opened or written.
          destination: A folder for the chunks, which become ``chunk-000000`` and so on, in memory
            that does not grow with the file; None for views as the result. It is made if it does
            not exist. Files of these names are replaced, when all chunks are complete, and keep
            their mode; new ones are the owner's alone (0600). There is no fsync.
          on_progress: Called with the progress, in bytes, in the caller's task.
          timeout: Seconds that the run may take, from its start; None for the bridge's value.
          queue_timeout: Seconds that it may wait before that, likewise.
          cancellation: Cancels the request when it is set.
          priority: ``"low"``, ``"normal"`` or ``"high"``.

        Returns:
          The chunks, and what is needed to verify them.

        Raises:
          TypeError: if an argument is of another type; no worker is asked.
          ValueError: if ``chunk_size`` is less than 1 or makes too many chunks, ``destination`` is
            no folder, or ``source`` would be replaced by a chunk; no worker is asked.
          OSError: if a file cannot be read or written, or is no regular file.
          WorkerCrashedError: if the worker died. You don't get this if *you* cancelled.

        Cancellation: a checkpoint. If cancelled, no chunk is in the folder, unless the cancel came
        while they were moved there.

        Source: FIPS 180-4.
        """
        count("chunk_size", chunk_size, 1, finite=True)
        checked_source = source_of(source)
        name = _name_of(checked_source, file_name)
        count_chunks(size_of(checked_source) or 0, chunk_size)
        folder = folder_of(destination)
        _refuse_chunk(checked_source, folder)
        async with spare_folder_removed(folder) as (path, spare):
            result, digests, whole = await self._run(
                builtin.chunk_file,
                sent(checked_source, slowly=True),
                chunk_size,
                path,
                spare,
                on_progress=on_progress,
                timeout=timeout,
                queue_timeout=queue_timeout,
                cancellation=cancellation,
                priority=priority,
            )
        size = result if isinstance(result, int) else len(result)
        hashes = _split(digests.hex(), 2 * DIGEST_SIZE)
        metadata = ChunkMetadata(name, size, chunk_size, len(hashes), hashes, whole)
        chunks = await _chunks_of(result, metadata, folder)
        # Which of the two it is, the overloads say; a checker cannot follow.
        return ChunkedFile(cast("tuple[memoryview, ...]", tuple(chunks)), metadata)

    @overload
    async def merge_chunks(
        self,
        chunks: Iterable[Source | WrittenFile],
        metadata: ChunkMetadata | None = None,
        *,
        destination: None = None,
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> memoryview: ...

    @overload
    async def merge_chunks(
        self,
        chunks: Iterable[Source | WrittenFile],
        metadata: ChunkMetadata | None = None,
        *,
        destination: str | os.PathLike[str],
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> WrittenFile: ...

    async def merge_chunks(
        self,
        chunks: Iterable[Source | WrittenFile],
        metadata: ChunkMetadata | None = None,
        *,
        destination: str | os.PathLike[str] | None = None,
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> memoryview | WrittenFile:
        """Put chunks together in a worker, and verify them.

        Args:
          chunks: In their order: bytes-like, paths, or what `chunk_file` wrote. At most a million.
          metadata: What `chunk_file` said of them; None to verify nothing.
          destination: The file to write; None for the bytes as the result. One that exists is
            replaced when all is written and verified, and keeps its mode; a new one is the owner's
            alone (0600). There is no fsync.
          on_progress: Called with the progress, in bytes, in the caller's task.
          timeout: Seconds that the run may take, from its start; None for the bridge's value.
          queue_timeout: Seconds that it may wait before that, likewise.
          cancellation: Cancels the request when it is set.
          priority: ``"low"``, ``"normal"`` or ``"high"``.

        Returns:
          The bytes as a read-only view, or the file that holds them.

        Raises:
          TypeError: if an argument is of another type; no worker is asked.
          ValueError: if ``metadata`` contradicts itself, or ``destination`` is one of the chunks;
            no worker is asked.
          ChunkError: if a chunk is missing, not where it belongs, or not what it was; ``index``
            says where.
          DataError: if every chunk is right, and the hash of the whole file is not.
          OSError: if a file cannot be read or written, or is no regular file.
          WorkerCrashedError: if the worker died. You don't get this if *you* cancelled.

        Cancellation: a checkpoint. If cancelled, the destination is what it was, unless the
        cancel came after it had been replaced as a whole.

        Source: FIPS 180-4.
        """
        expected = _expected_of(metadata)
        sources = await _sources_of(chunks)
        target = destination_of(destination, memoryview(b""))
        if target is not None:
            await _refuse_same_as_any(sources, target.path)
        pieces, lengths = await _pack(sources)
        with spare_removed(target) as (path, spare):
            result = await self._run(
                builtin.merge_chunks,
                pieces,
                lengths,
                expected,
                path,
                spare,
                on_progress=on_progress,
                timeout=timeout,
                queue_timeout=queue_timeout,
                cancellation=cancellation,
                priority=priority,
            )
        return result_of(result, target)

    async def detect_type(
        self,
        source: Source,
        file_name: str | None = None,
        *,
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> FileType:
        """Say what kind of file ``source`` is, by its content or else by its name.

        The first 64 KiB are looked at, and no more is read or sent to the worker; no archive is
        opened. About a hundred types are known by content, and with the extra ``filetype`` many
        more. Whatever the bytes are, there is an answer.

        Args:
          source: Bytes-like or a path.
          file_name: What the file is called, which counts only if the content does not tell; the
            path if None. No file of that name is opened.
          on_progress: Called with the progress, in bytes, in the caller's task.
          timeout: Seconds that the run may take, from its start; None for the bridge's value.
          queue_timeout: Seconds that it may wait before that, likewise.
          cancellation: Cancels the request when it is set.
          priority: ``"low"``, ``"normal"`` or ``"high"``.

        Returns:
          The type, and how sure it is.

        Raises:
          TypeError: if an argument is of another type; no worker is asked.
          OSError: if the file cannot be read, or is no regular file.

        Cancellation: a checkpoint.
        """
        checked_source = source_of(source)
        name = _name_of(checked_source, file_name)
        found = await self._run(
            builtin.detect_type,
            _head_of(checked_source),
            name,
            on_progress=on_progress,
            timeout=timeout,
            queue_timeout=queue_timeout,
            cancellation=cancellation,
            priority=priority,
        )
        return FileType(*found)

    async def read_metadata(
        self,
        source: Source,
        file_name: str | None = None,
        *,
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> FileMetadata:
        """Say what can be said of ``source`` without reading all of it.

        Args:
          source: Bytes-like or a path.
          file_name: What the file is called; the last part of the path if None. No file of that
            name is opened.
          on_progress: Called with the progress, in bytes, in the caller's task.
          timeout: Seconds that the run may take, from its start; None for the bridge's value.
          queue_timeout: Seconds that it may wait before that, likewise.
          cancellation: Cancels the request when it is set.
          priority: ``"low"``, ``"normal"`` or ``"high"``.

        Returns:
          Its name, size, type, and when it was changed.

        Raises:
          TypeError: if an argument is of another type; no worker is asked.
          OSError: if the file cannot be read, or is no regular file.

        Cancellation: a checkpoint.
        """
        checked_source = source_of(source)
        name = _name_of(checked_source, file_name)
        size, modified, kind, mime = await self._run(
            builtin.read_metadata,
            _head_of(checked_source),
            name,
            on_progress=on_progress,
            timeout=timeout,
            queue_timeout=queue_timeout,
            cancellation=cancellation,
            priority=priority,
        )
        if isinstance(checked_source, memoryview):
            size = len(checked_source)
        return FileMetadata(name, extension_of(name), size, kind, mime, modified)


def _name_of(source: memoryview | str, file_name: object) -> str | None:
    """Return what the file is called; nothing is looked up under that name."""
    if file_name is None:
        return os.path.basename(source) if isinstance(source, str) else None
    if not isinstance(file_name, str):
        raise TypeError(f"file_name must be a str or None, not {type(file_name).__name__}")
    return file_name


def _head_of(source: memoryview | str) -> memoryview | str:
    """Return no more of bytes than is looked at."""
    return source if isinstance(source, str) else source[:HEAD]


# ---- chunks

# How many turns of a loop there are between two checkpoints: about a millisecond.
_TURNS = 1000
# How many buffers are sent as they are; each travels at a place of its own.
_MAX_PIECES = 500
# How much is copied between two checkpoints; as elsewhere.
_COPY_STEP = 512 << 10


def _split(text: str, length: int) -> tuple[str, ...]:
    return tuple([text[start : start + length] for start in range(0, len(text), length)])


def _refuse_chunk(source: memoryview | str, folder: Folder | None) -> None:
    """Refuse a source that would be replaced by one of its own chunks."""
    if folder is None or isinstance(source, memoryview):
        return
    above, name = os.path.split(os.path.realpath(source))
    if above == folder.path and re.fullmatch(r"chunk-\d{6}", name):
        raise ValueError(f"source is named as a chunk in the destination would be: {source!r}")


async def _chunks_of(
    result: memoryview | int, metadata: ChunkMetadata, folder: Folder | None
) -> list[memoryview] | list[WrittenFile]:
    """Return the chunks as slices of one piece, or as the files that they have become."""
    slices: list[memoryview] = []
    files: list[WrittenFile] = []
    view = None if isinstance(result, int) else result.toreadonly()
    for index in range(metadata.chunk_count):
        start = index * metadata.chunk_size
        size = min(metadata.chunk_size, metadata.total_size - start)
        if view is not None:
            slices.append(view[start : start + size])
        else:
            assert folder is not None
            files.append(WrittenFile(folder.named / chunk_name(index), size))
        await _breathe(index)
    return files if view is None else slices


async def _breathe(turn: int) -> None:
    """Let the event loop have its turn now and then."""
    if turn % _TURNS == _TURNS - 1:
        await trio.lowlevel.checkpoint()


def _expected_of(metadata: ChunkMetadata | None) -> tuple[int, int, bytes, str] | None:
    """Return what a worker shall verify.

    Raises:
      ValueError: if the metadata cannot be that of any file.
    """
    if metadata is None:
        return None
    if not isinstance(metadata, ChunkMetadata):
        raise TypeError(f"metadata must be ChunkMetadata, not {type(metadata).__name__}")
    total = int(count("metadata.total_size", metadata.total_size, 0, finite=True))
    size = int(count("metadata.chunk_size", metadata.chunk_size, 1, finite=True))
    chunks = count_chunks(total, size)
    if not chunks == metadata.chunk_count == len(metadata.chunk_hashes):
        raise ValueError(
            f"metadata contradicts itself: {total} bytes are {chunks} chunks of {size}, but "
            f"chunk_count is {metadata.chunk_count} and there are {len(metadata.chunk_hashes)} "
            "chunk_hashes"
        )
    try:
        digests = bytes.fromhex("".join(metadata.chunk_hashes))
    except (TypeError, ValueError):
        digests = b""
    if len(digests) != DIGEST_SIZE * chunks:
        raise ValueError(f"metadata.chunk_hashes must have {2 * DIGEST_SIZE} hex digits each")
    return total, size, digests, str(metadata.hash).lower()


async def _sources_of(chunks: object) -> list[memoryview | str]:
    """Return the chunks, checked."""
    if isinstance(chunks, str | os.PathLike | bytes | bytearray | memoryview) or not isinstance(
        chunks, Iterable
    ):
        raise TypeError(f"chunks must be several sources, not {type(chunks).__name__}")
    sources: list[memoryview | str] = []
    for index, chunk in enumerate(chunks):
        if index >= MAX_CHUNKS:
            raise ValueError(f"at most {MAX_CHUNKS} chunks are put together")
        sources.append(source_of(chunk.path if isinstance(chunk, WrittenFile) else chunk))
        await _breathe(index)
    return sources


async def _refuse_same_as_any(sources: list[memoryview | str], path: str) -> None:
    if size_of(path) is None:  # nothing is there
        return
    for index, source in enumerate(sources):
        if isinstance(source, str):
            refuse_same(source, path)
        await _breathe(index)


async def _pack(
    sources: list[memoryview | str],
) -> tuple[tuple[memoryview | str, ...], tuple[tuple[int, ...] | None, ...]]:
    """Join chunks in memory, if there are so many that they would not all have a place.

    Returns:
      The pieces, and of each the lengths of the chunks in it, or None if it is one.
    """
    sizes = [len(source) for source in sources if isinstance(source, memoryview)]
    if len(sizes) <= _MAX_PIECES:
        return tuple(sources), (None,) * len(sources)
    enough = sum(sizes) // _MAX_PIECES + 1
    packs = [_Pack()]
    for index, source in enumerate(sources):
        if isinstance(source, str):
            packs += [_Pack(source), _Pack()]
        else:
            await packs[-1].append(source)
            if len(packs[-1].joined) >= enough:
                packs.append(_Pack())
        await _breathe(index)
    used = [pack for pack in packs if pack.path is not None or pack.lengths]
    return tuple([pack.piece() for pack in used]), tuple([pack.inside() for pack in used])


@attrs.define(eq=False)
class _Pack:
    """Chunks one behind the other, or one that is a file."""

    path: str | None = None
    joined: bytearray = attrs.Factory(bytearray)
    lengths: list[int] = attrs.Factory(list)

    async def append(self, chunk: memoryview) -> None:
        self.lengths.append(len(chunk))
        for start in range(0, len(chunk), _COPY_STEP):
            self.joined += chunk[start : start + _COPY_STEP]
            if start:
                await trio.lowlevel.checkpoint()

    def piece(self) -> memoryview | str:
        return memoryview(self.joined) if self.path is None else self.path

    def inside(self) -> tuple[int, ...] | None:
        return tuple(self.lengths) if self.path is None else None
