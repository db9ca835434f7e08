"""``bridge.file``: chunks, types and metadata; the hashes are with the rest of the bridge."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
import trio

from test_bridge import sparse_file
from trioipc._errors import ChunkError, DataError
from trioipc.bridge import file as bridge_module
from trioipc.bridge._arguments import WrittenFile
from trioipc.bridge.bridge import open_worker_bridge
from trioipc.bridge.file import ChunkedFile, ChunkMetadata, FileBridge, FileMetadata, FileType
from trioipc.builtin._detect import HEAD
from trioipc.memory.state import SharedCancellation
from trioipc.testing import cancel_at_each_step
from watched import Direct

DATA = random.Random(3).randbytes(950)
CHUNKS = [DATA[start : start + 100] for start in range(0, 950, 100)]

Kind = Literal["process", "thread"]
both_kinds = pytest.mark.parametrize("kind", ["process", "thread"])


def sha256(data: bytes) -> str:
    """Hash with somebody else's code."""
    return hashlib.sha256(data).hexdigest()


METADATA = ChunkMetadata("name", 950, 100, 10, [*map(sha256, CHUNKS)], sha256(DATA))


@pytest.fixture
def file(direct: Direct) -> FileBridge:
    """Give a file bridge over it."""
    return FileBridge(direct)


# ---- arguments


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((b"", 0), {}, ValueError, "chunk_size must be >= 1, not 0"),
        ((b"", -5), {}, ValueError, "chunk_size must be >= 1, not -5"),
        ((b"", 1.5), {}, TypeError, "chunk_size must be an int, not 1.5"),
        ((b"", True), {}, TypeError, "chunk_size must be an int, not True"),
        ((b"", float("inf")), {}, TypeError, "chunk_size must be an int"),
        ((bytes(1_000_001), 1), {}, ValueError, "at most 1000000"),
        ((7, 1), {}, TypeError, "source must be bytes-like, not int"),
        ((b"", 1, b"name"), {}, TypeError, "file_name must be a str or None, not bytes"),
        ((b"", 1), {"destination": b"out"}, TypeError, "destination must be a str or a path"),
        ((b"", 1), {"destination": __file__}, ValueError, "destination must be a folder"),
    ],
)
async def test_wrong_arguments_of_chunks(
    file: FileBridge,
    direct: Direct,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    """The error says what was wrong and what would be right; no worker is asked."""
    with pytest.raises(error, match=message):
        await file.chunk_file(*arguments, **options)
    assert direct.calls == []


@pytest.mark.parametrize(
    ("chunks", "metadata", "error", "message"),
    [
        (b"abc", None, TypeError, "chunks must be several sources, not bytes"),
        ("path", None, TypeError, "chunks must be several sources, not str"),
        (Path("path"), None, TypeError, "chunks must be several sources"),
        (7, None, TypeError, "chunks must be several sources, not int"),
        ([b"a", 7], None, TypeError, "source must be bytes-like, not int"),
        (CHUNKS, "metadata", TypeError, "metadata must be ChunkMetadata, not str"),
        (CHUNKS, attrs.evolve(METADATA, chunk_count=9), ValueError, "contradicts itself"),
        (CHUNKS, attrs.evolve(METADATA, total_size=1001), ValueError, "contradicts itself"),
        (CHUNKS, attrs.evolve(METADATA, chunk_hashes=()), ValueError, "contradicts itself"),
        (CHUNKS, attrs.evolve(METADATA, chunk_size=0), ValueError, "chunk_size must be >= 1"),
        (CHUNKS, attrs.evolve(METADATA, chunk_hashes=["x" * 64] * 10), ValueError, "hex digits"),
        (CHUNKS, attrs.evolve(METADATA, chunk_hashes=["00"] * 10), ValueError, "64 hex digits"),
        (CHUNKS, attrs.evolve(METADATA, chunk_hashes=[7] * 10), ValueError, "64 hex digits"),
    ],
)
async def test_wrong_arguments_of_merging(
    file: FileBridge,
    direct: Direct,
    chunks: Any,
    metadata: Any,
    error: type[Exception],
    message: str,
) -> None:
    """Likewise; metadata may come from anywhere."""
    with pytest.raises(error, match=message):
        await file.merge_chunks(chunks, metadata)
    assert direct.calls == []


@pytest.mark.parametrize("operation", ["detect_type", "read_metadata"])
async def test_wrong_arguments_of_types(file: FileBridge, direct: Direct, operation: str) -> None:
    """Likewise."""
    with pytest.raises(TypeError, match="source must be bytes-like"):
        await getattr(file, operation)(None)
    with pytest.raises(TypeError, match="file_name must be a str"):
        await getattr(file, operation)(b"", Path("name"))
    assert direct.calls == []


async def test_nothing_is_replaced_by_its_own_parts(
    file: FileBridge, direct: Direct, tmp_path: Path
) -> None:
    """A chunk is not merged into itself, a file not cut into itself, by whatever name."""
    (tmp_path / "chunk-000000").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="source is named as a chunk"):
        await file.chunk_file(tmp_path / "chunk-000000", 2, destination=tmp_path / "link")
    os.link(tmp_path / "chunk-000000", tmp_path / "other")
    with pytest.raises(ValueError, match="same file"):
        await file.merge_chunks([b"a", tmp_path / "other"], destination=tmp_path / "chunk-000000")
    assert direct.calls == []


async def test_options_reach_the_pool(file: FileBridge, direct: Direct) -> None:
    """Each operation hands on what it was told about the request."""
    with SharedCancellation() as flag:
        options: dict[str, Any] = {
            "on_progress": print,
            "timeout": 1.0,
            "queue_timeout": 2.0,
            "cancellation": flag,
            "priority": "high",
        }
        await file.chunk_file(b"", 1, **options)
        await file.merge_chunks([], **options)
        await file.detect_type(b"", **options)
        await file.read_metadata(b"", **options)
    assert direct.options == [options] * 4


# ---- results


async def test_chunks_of_bytes(file: FileBridge) -> None:
    """They are read-only slices of one piece of memory, with what is known of them."""
    chunked = await file.chunk_file(DATA, 100, "name")
    assert isinstance(chunked, ChunkedFile)
    assert list(chunked.chunks) == CHUNKS
    assert chunked.metadata == METADATA
    assert {chunk.readonly for chunk in chunked.chunks} == {True}
    assert len({id(chunk.obj) for chunk in chunked.chunks}) == 1
    assert "10 chunks" in repr(chunked)
    assert await file.merge_chunks(chunked.chunks, chunked.metadata) == DATA


async def test_chunks_of_nothing(file: FileBridge, tmp_path: Path) -> None:
    """An empty source has none, and none are an empty file."""
    expected = ChunkMetadata(None, 0, 5, 0, (), sha256(b""))
    assert await file.chunk_file(b"", 5) == ChunkedFile((), expected)
    assert await file.merge_chunks((), expected) == b""
    in_folder = await file.chunk_file(b"", 5, destination=tmp_path / "folder")
    assert in_folder == ChunkedFile((), expected)
    assert os.listdir(tmp_path / "folder") == []


async def test_metadata_travels_as_plain_values(file: FileBridge) -> None:
    """What was made a dict, and lists, is metadata again."""
    plain = {**attrs.asdict(METADATA), "chunk_hashes": list(METADATA.chunk_hashes)}
    again = ChunkMetadata(**plain)
    assert again == METADATA
    assert await file.merge_chunks(CHUNKS, again) == DATA
    shouted = attrs.evolve(METADATA, hash=METADATA.hash.upper())
    assert await file.merge_chunks(CHUNKS, shouted) == DATA


async def test_the_name_is_never_a_path(file: FileBridge, tmp_path: Path) -> None:
    """What the file is called has no part in where its chunks are."""
    hostile = "../../../x/\0evil"
    chunked = await file.chunk_file(DATA, 500, hostile, destination=tmp_path / "folder")
    assert chunked.metadata.file_name == hostile
    assert [chunk.path for chunk in chunked.chunks] == [
        tmp_path / "folder" / "chunk-000000",
        tmp_path / "folder" / "chunk-000001",
    ]
    assert os.listdir(tmp_path) == ["folder"]


async def test_merging_takes_all_kinds_of_sources(
    file: FileBridge, direct: Direct, tmp_path: Path
) -> None:
    """Bytes, paths and what `chunk_file` wrote, mixed, from any iterable."""
    chunked = await file.chunk_file(DATA, 100, "name", destination=tmp_path / "folder")
    mixed = [
        (chunk, chunk.path, str(chunk.path), CHUNKS[index], bytearray(CHUNKS[index]))[index % 5]
        for index, chunk in enumerate(chunked.chunks)
    ]
    assert await file.merge_chunks(iter(mixed), chunked.metadata) == DATA
    written = await file.merge_chunks(mixed, METADATA, destination=tmp_path / "merged")
    assert written == WrittenFile(tmp_path / "merged", 950)
    assert (tmp_path / "merged").read_bytes() == DATA


async def test_errors_name_the_index(file: FileBridge) -> None:
    """Whatever is wrong first."""
    for chunks, index in (
        (CHUNKS[:4] + CHUNKS[5:], 4),
        (CHUNKS[:-1], 9),
        ([*CHUNKS, b"x"], 10),
        ([CHUNKS[1], CHUNKS[0], *CHUNKS[2:]], 0),
    ):
        with pytest.raises(ChunkError) as caught:
            await file.merge_chunks(chunks, METADATA)
        assert caught.value.index == index
    with pytest.raises(DataError, match="the hash of everything"):
        await file.merge_chunks(CHUNKS, attrs.evolve(METADATA, hash=sha256(b"")))


async def test_many_chunks_are_packed(
    file: FileBridge, direct: Direct, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than have a place each travel together, and are verified one by one."""
    monkeypatch.setattr(bridge_module, "_MAX_PIECES", 4)
    (tmp_path / "five").write_bytes(CHUNKS[5])
    chunks = [*CHUNKS[:5], tmp_path / "five", *CHUNKS[6:]]
    assert await file.merge_chunks(chunks, METADATA) == DATA
    pieces, lengths = direct.calls[0][:2]
    assert len(pieces) == len(lengths) == 5
    assert lengths == ((100, 100, 100), (100, 100), None, (100, 100, 100), (50,))
    with pytest.raises(ChunkError) as caught:
        await file.merge_chunks([*chunks[:7], CHUNKS[8], CHUNKS[7], CHUNKS[9]], METADATA)
    assert caught.value.index == 7
    assert await file.merge_chunks([b""] * 9) == b""


async def test_types_and_metadata(file: FileBridge, direct: Direct, tmp_path: Path) -> None:
    """Of bytes and files; no more of the bytes is sent than is looked at."""
    pdf = b"%PDF-1.7" + bytes(3 * HEAD)
    assert await file.detect_type(pdf) == FileType("pdf", "application/pdf", "high")
    assert len(direct.calls[0][0]) == HEAD
    assert await file.detect_type(b"", "a.gif") == FileType("gif", "image/gif", "low")
    assert await file.read_metadata(pdf, "x/Report.PDF") == FileMetadata(
        "x/Report.PDF", "pdf", len(pdf), "pdf", "application/pdf", None
    )
    path = sparse_file(tmp_path / "image.iso", 1 << 30)
    os.utime(path, (7, 1.5))
    assert await file.read_metadata(path) == FileMetadata(
        "image.iso", "iso", 1 << 30, "iso", "application/x-iso9660-image", 1.5
    )
    assert (await file.read_metadata(path, "other")).name == "other"


# ---- with workers


@both_kinds
async def test_a_file_there_and_back(kind: Kind, tmp_path: Path) -> None:
    """Cut by a worker and put together by a worker, in memory and on disk."""
    data = random.Random(1).randbytes((3 << 20) + 5)
    (tmp_path / "source").write_bytes(data)
    (tmp_path / "folder").mkdir()
    async with open_worker_bridge(1, placement=kind) as bridge:
        in_memory = await bridge.file.chunk_file(data, 1 << 20, "source")
        on_disk = await bridge.file.chunk_file(
            tmp_path / "source", 1 << 20, destination=tmp_path / "folder"
        )
        assert in_memory.metadata == on_disk.metadata
        assert in_memory.metadata.chunk_count == 4
        assert [chunk.path.read_bytes() for chunk in on_disk.chunks] == list(in_memory.chunks)
        assert [chunk.size for chunk in on_disk.chunks] == [*[1 << 20] * 3, 5]
        for chunked in (in_memory, on_disk):
            assert await bridge.file.merge_chunks(chunked.chunks, chunked.metadata) == data
        with pytest.raises(ChunkError) as caught:
            await bridge.file.merge_chunks(
                in_memory.chunks[1:], in_memory.metadata, destination=tmp_path / "out"
            )
        assert caught.value.index == 0
        found = await bridge.file.detect_type(tmp_path / "source", "a.mp4")
        assert found == FileType("mp4", "video/mp4", "low")
        with pytest.raises(FileNotFoundError) as missing:
            await bridge.file.read_metadata(tmp_path / "missing")
        assert missing.value.filename == str(tmp_path / "missing")
    assert sorted(os.listdir(tmp_path)) == ["folder", "source"]


@both_kinds
async def test_thousands_of_chunks(kind: Kind) -> None:
    """More than travel side by side; small ones and ones of 10 kB."""
    data = random.Random(2).randbytes(20 << 20)
    async with open_worker_bridge(1, placement=kind) as bridge:
        for size in (10_000, 5_000):
            chunked = await bridge.file.chunk_file(data, size)
            assert len(chunked.chunks) > 2000
            assert await bridge.file.merge_chunks(chunked.chunks, chunked.metadata) == data


@both_kinds
@pytest.mark.parametrize("existed", [False, True])
async def test_a_cancelled_call_leaves_no_chunk(kind: Kind, tmp_path: Path, existed: bool) -> None:
    """Nor a folder that was not there."""
    source = sparse_file(tmp_path / "source", 1 << 36)
    folder = tmp_path / "folder"
    if existed:
        folder.mkdir()
        (folder / "chunk-000000").write_bytes(b"old")
    async with open_worker_bridge(1, placement=kind) as bridge:
        with trio.CancelScope() as scope:
            await bridge.file.chunk_file(
                source,
                1 << 20,
                destination=folder,
                on_progress=lambda progress: scope.cancel() if progress.value else None,
            )
        assert scope.cancelled_caught
    if existed:
        assert os.listdir(folder) == ["chunk-000000"]
        assert (folder / "chunk-000000").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == (["folder", "source"] if existed else ["source"])


async def test_what_a_killed_worker_left_is_removed(tmp_path: Path) -> None:
    """However the request ends, its spare folder goes."""

    def leave_something(*arguments: Any) -> None:
        os.makedirs(arguments[-1])
        Path(arguments[-1], "chunk-000000").write_bytes(b"half")
        raise OSError("killed")

    file = FileBridge(Direct(leave_something))
    with pytest.raises(OSError, match="killed"):
        await file.chunk_file(DATA, 100, destination=tmp_path / "folder")
    assert os.listdir(tmp_path) == []


async def test_cancelled_at_each_step(file: FileBridge, tmp_path: Path) -> None:
    """Wherever it is cancelled, there are all chunks or none, and nothing else."""

    async def chunk() -> None:
        await file.chunk_file(DATA, 300, destination=tmp_path / "folder")

    async def check() -> None:
        found = sorted(os.listdir(tmp_path / "folder")) if os.listdir(tmp_path) else []
        assert found in ([], [f"chunk-00000{index}" for index in range(4)])

    assert await cancel_at_each_step(chunk, check) > 0


async def test_the_event_loop_has_its_turn(file: FileBridge) -> None:
    """Many chunks do not hold it: other tasks run while they are counted, checked and packed."""
    data = bytes(30_000)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        chunked = await file.chunk_file(data, 1)
        assert turns >= 20  # one for each thousand chunks; a handful if it were held
        turns = 0
        assert await file.merge_chunks(chunked.chunks, chunked.metadata) == data
        assert turns >= 40
        nursery.cancel_scope.cancel()
