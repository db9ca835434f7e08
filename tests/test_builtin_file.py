"""The built-in hashes, chunks and types, called as the plain functions they are."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import pickle
import plistlib
import random
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
import wave
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cryptography_vectors
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioipc._errors import ChunkError, DataError, RequestInterrupt
from trioipc.builtin import _chunks, _detect, crypto, file
from trioipc.builtin._detect import HEAD, detect, extension_of
from trioipc.builtin._kinds import KINDS, SIGNATURES, TYPE_OF_EXTENSION, TYPE_OF_MIME
from trioipc.memory._board import TICK
from watched import WatchedCells, call_as_request

if TYPE_CHECKING:
    from collections.abc import Iterator

VECTORS = Path(cryptography_vectors.__file__).parent / "hashes" / "SHA2"


def read_vectors(name: str) -> Iterator[tuple[bytes, str]]:
    """Yield message and hash of each vector; a length of 0 has a dummy message of one byte."""
    length = 0
    message = b""
    for line in (VECTORS / name).read_text().splitlines():
        key, _, value = line.partition(" = ")
        if key == "Len":
            length = int(value) // 8
        elif key == "Msg":
            message = bytes.fromhex(value)[:length]
        elif key == "MD":
            yield message, value


@pytest.mark.parametrize(
    ("name", "algorithm", "count"),
    [
        ("SHA256ShortMsg.rsp", "SHA-256", 65),
        ("SHA256LongMsg.rsp", "SHA-256", 64),
        ("SHA512ShortMsg.rsp", "SHA-512", 129),
        ("SHA512LongMsg.rsp", "SHA-512", 128),
    ],
)
def test_hashes_are_those_of_the_vectors(name: str, algorithm: str, count: int) -> None:
    """NIST's vectors come out, all of them."""
    vectors = list(read_vectors(name))
    got = [file.hash_file(memoryview(message), algorithm) for message, _ in vectors]
    assert got == [expected for _, expected in vectors]
    assert len(got) == count


def test_crypto_hash_is_sha256() -> None:
    """The hash of the crypto channel is SHA-256."""
    assert crypto.hash_file(memoryview(b"abc")) == hashlib.sha256(b"abc").hexdigest()


@given(data=st.binary(max_size=200), step=st.integers(1, 80))
def test_steps_do_not_show(data: bytes, step: int) -> None:
    """Whatever the step, the hash is that of all the bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file, "STEP", step)
        assert file.hash_file(memoryview(data)) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", [0, 1, file.STEP - 1, file.STEP, file.STEP + 1, 3 * file.STEP])
def test_a_file_hashes_like_its_bytes(tmp_path: Path, size: int) -> None:
    """A path gives the hash of the file's content, and the progress ends at its size."""
    data = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    cells = WatchedCells()
    got = call_as_request(cells, file.hash_file, str(path), "SHA-512")
    assert got == hashlib.sha512(data).hexdigest()
    assert cells.progress() == (size, size)


def test_progress_and_a_cancel_point_after_each_step() -> None:
    """Each step of 256 KiB is a progress value and a checkpoint."""
    cells = WatchedCells()
    size = 2 * file.STEP + 5
    call_as_request(cells, file.hash_file, memoryview(bytes(size)))
    steps = [0, file.STEP, 2 * file.STEP, size]
    assert cells.seen == [(done, size) for done in steps]


def test_a_cancelled_hash_stops_at_the_next_step() -> None:
    """The cancel word ends it with an interrupt, one step later at most."""
    cells = WatchedCells().cancel_at(2)
    with pytest.raises(RequestInterrupt):
        call_as_request(cells, file.hash_file, memoryview(bytes(5 * file.STEP)))
    assert cells.progress() == (file.STEP, 5 * file.STEP)


@pytest.mark.parametrize("length", [0, file.STEP, 3 * file.STEP])
def test_a_file_that_changes_its_size_is_hashed_to_its_end(tmp_path: Path, length: int) -> None:
    """A file that shrinks or grows while it is read ends the progress at what was read."""
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * file.STEP))

    class ChangingCells(WatchedCells):
        def __setitem__(self, index: int, value: int) -> None:
            super().__setitem__(index, value)
            if index == TICK and value == 1:
                os.truncate(path, length)

    cells = ChangingCells()
    got = call_as_request(cells, file.hash_file, str(path))
    assert got == hashlib.sha256(bytes(length)).hexdigest()
    assert cells.progress() == (length, length)


def test_a_folder_is_no_source(tmp_path: Path) -> None:
    """A folder is an IsADirectoryError that names it."""
    with pytest.raises(IsADirectoryError) as caught:
        file.hash_file(str(tmp_path))
    assert caught.value.filename == str(tmp_path)


def test_a_pipe_is_no_source(tmp_path: Path) -> None:
    """A named pipe is refused, and not waited for."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="regular file"):
        file.hash_file(str(path))


def test_a_missing_file_is_no_source(tmp_path: Path) -> None:
    """A missing file is a FileNotFoundError that names it."""
    with pytest.raises(FileNotFoundError) as caught:
        file.hash_file(str(tmp_path / "missing"))
    assert caught.value.filename == str(tmp_path / "missing")


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    """The file is closed after a hash, after an error and after a cancel."""
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * file.STEP))
    before = os.listdir("/dev/fd")
    file.hash_file(str(path))
    with pytest.raises(IsADirectoryError):
        file.hash_file(str(tmp_path))
    with pytest.raises(RequestInterrupt):
        call_as_request(WatchedCells().cancel_at(2), file.hash_file, str(path))
    assert os.listdir("/dev/fd") == before


# ---- chunks


def split(data: bytes, size: int) -> list[bytes]:
    """Cut as anybody would."""
    return [data[start : start + size] for start in range(0, len(data), size)]


def known_of(data: bytes, size: int) -> tuple[int, int, bytes, str]:
    """Say what is known of the chunks of some data, by hashlib."""
    digests = b"".join(hashlib.sha256(chunk).digest() for chunk in split(data, size))
    return len(data), size, digests, hashlib.sha256(data).hexdigest()


def merge(chunks: list[Any], known: Any = None, *more: Any) -> Any:
    """Put chunks together."""
    pieces = tuple(memoryview(each) if isinstance(each, bytes) else each for each in chunks)
    return file.merge_chunks(pieces, (None,) * len(pieces), known, *more)


@given(data=st.binary(max_size=300), size=st.integers(1, 310), step=st.integers(1, 40))
def test_chunks_round_trip(data: bytes, size: int, step: int) -> None:
    """Whatever the sizes, the chunks are what slicing gives, and so are their hashes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file, "STEP", step)
        got, digests, whole = file.chunk_file(memoryview(data), size)
        assert isinstance(got, memoryview)
        assert (len(data), size, digests, whole) == known_of(data, size)
        assert bytes(got) == data
        assert merge(split(data, size), (len(data), size, digests, whole)) == data
        lengths = tuple(map(len, split(data, size)))
        assert file.merge_chunks((got,), (lengths,), (len(data), size, digests, whole)) == data


@pytest.mark.parametrize(
    "size", [0, 1, 999, 1000, 1001, 3000, file.STEP - 1, file.STEP, file.STEP + 1, 3 * file.STEP]
)
def test_chunks_in_a_folder(tmp_path: Path, size: int) -> None:
    """The files are the chunks, of their owner alone; nothing else is left in the folder."""
    data = random.Random(size).randbytes(size)
    (tmp_path / "source").write_bytes(data)
    folder = tmp_path / "folder"
    got = file.chunk_file(str(tmp_path / "source"), 1000, str(folder), str(folder / ".spare"))
    assert got == (size, *known_of(data, 1000)[2:])
    names = sorted(os.listdir(folder))
    assert [(folder / name).read_bytes() for name in names] == split(data, 1000)
    assert {(folder / name).stat().st_mode & 0o777 for name in names} <= {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    merged = merge(
        [str(folder / name) for name in names],
        known_of(data, 1000),
        str(tmp_path / "merged"),
        str(tmp_path / "spare"),
    )
    assert merged == size
    assert (tmp_path / "merged").read_bytes() == data
    assert sorted(os.listdir(tmp_path)) == ["folder", "merged", "source"]


def test_chunks_replace_files_and_keep_their_mode(tmp_path: Path) -> None:
    """What is there of that name is replaced; a link is not followed."""
    (tmp_path / "chunk-000000").write_bytes(b"old")
    (tmp_path / "chunk-000000").chmod(0o644)
    (tmp_path / "else").write_bytes(b"else")
    (tmp_path / "chunk-000001").symlink_to(tmp_path / "else")
    file.chunk_file(memoryview(b"abcd"), 2, str(tmp_path), str(tmp_path / ".spare"))
    assert (tmp_path / "chunk-000000").read_bytes() == b"ab"
    assert (tmp_path / "chunk-000000").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "chunk-000001").read_bytes() == b"cd"
    assert (tmp_path / "else").read_bytes() == b"else"


@pytest.mark.parametrize("checkpoint", [1, 2, 3])
def test_cancelled_chunks_are_none(tmp_path: Path, checkpoint: int) -> None:
    """Chunks that are complete are not visible either before all are."""
    (tmp_path / "chunk-000000").write_bytes(b"old")
    cells = WatchedCells().cancel_at(checkpoint)
    arguments = (memoryview(bytes(1 << 20)), 100_000, str(tmp_path), str(tmp_path / ".spare"))
    before = os.listdir("/dev/fd")
    with pytest.raises(RequestInterrupt):
        call_as_request(cells, file.chunk_file, *arguments)
    assert os.listdir(tmp_path) == ["chunk-000000"]
    assert (tmp_path / "chunk-000000").read_bytes() == b"old"
    assert os.listdir("/dev/fd") == before


def test_what_a_dead_worker_left_is_replaced(tmp_path: Path) -> None:
    """A second try, after a crash, begins with an empty spare folder."""
    (tmp_path / ".spare").mkdir()
    (tmp_path / ".spare" / "chunk-000000").write_bytes(b"half")
    file.chunk_file(memoryview(b"abcd"), 2, str(tmp_path), str(tmp_path / ".spare"))
    assert sorted(os.listdir(tmp_path)) == ["chunk-000000", "chunk-000001"]
    assert (tmp_path / "chunk-000000").read_bytes() == b"ab"


def test_small_chunks_have_many_cancel_points() -> None:
    """However small the chunks, a step has no more than 64 of them."""
    cells = WatchedCells()
    call_as_request(cells, file.chunk_file, memoryview(bytes(1000)), 1)
    assert [done for done, _ in cells.seen] == [0, *range(64, 1000, 64), 1000]


def test_too_many_chunks_are_refused(tmp_path: Path) -> None:
    """A million is the limit, also for a file that is larger than it looked."""
    with pytest.raises(ValueError, match="1000001 chunks"):
        file.chunk_file(memoryview(bytes(1_000_001)), 1)
    assert _chunks.count_chunks(1_000_000, 1) == 1_000_000


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_source_that_grows_is_cut_to_its_end(tmp_path: Path, in_memory: bool) -> None:
    """The chunks and hashes are those of what was read."""
    path = tmp_path / "file"
    path.write_bytes(bytes(file.STEP))
    more = b"x" * 100

    class GrowingCells(WatchedCells):
        def __setitem__(self, index: int, value: int) -> None:
            super().__setitem__(index, value)
            if index == TICK and value == 2:
                with path.open("ab") as opened:
                    opened.write(more)

    folder = (None, None) if in_memory else (str(tmp_path / "to"), str(tmp_path / "to" / ".spare"))
    cells = GrowingCells()
    got, digests, whole = call_as_request(cells, file.chunk_file, str(path), 100_000, *folder)
    data = bytes(file.STEP) + more
    assert got == (data if in_memory else len(data))
    assert (digests, whole) == known_of(data, 100_000)[2:]
    assert cells.progress() == (len(data), len(data))


DATA = random.Random(7).randbytes(950)
CHUNKS = split(DATA, 100)
KNOWN = known_of(DATA, 100)


@pytest.mark.parametrize("index", range(10))
@pytest.mark.parametrize("as_files", [False, True])
def test_errors_name_the_chunk(tmp_path: Path, index: int, as_files: bool) -> None:
    """Missing, altered, swapped, doubled, longer, shorter: the first wrong index is named."""
    altered = CHUNKS[index][:-1] + bytes([CHUNKS[index][-1] ^ 1])
    other = (index + 1) % 10
    swapped = list(CHUNKS)
    swapped[index], swapped[other] = swapped[other], swapped[index]
    cases = {
        "missing": CHUNKS[:index] + CHUNKS[index + 1 :],
        "altered": [*CHUNKS[:index], altered, *CHUNKS[index + 1 :]],
        "swapped": swapped,
        "doubled": CHUNKS[: index + 1] + CHUNKS[index:],
        "longer": [*CHUNKS[:index], CHUNKS[index] + b"x", *CHUNKS[index + 1 :]],
        "shorter": [*CHUNKS[:index], CHUNKS[index][:-1], *CHUNKS[index + 1 :]],
        "cut off": CHUNKS[:index],
        "empty": [*CHUNKS[:index], b"", *CHUNKS[index + 1 :]],
    }
    expected = {"doubled": index + 1, "swapped": min(index, other)}
    for case, chunks in cases.items():
        given: list[Any] = chunks
        if as_files:
            given = [str(tmp_path / str(number)) for number in range(len(chunks))]
            for path, chunk in zip(given, chunks, strict=True):
                Path(path).write_bytes(chunk)
        with pytest.raises(ChunkError) as caught:
            merge(given, KNOWN)
        assert (case, caught.value.index) == (case, expected.get(case, index))
        assert str(expected.get(case, index)) in str(caught.value) or "more chunks" in str(
            caught.value
        )


@given(order=st.permutations(range(10)))
def test_only_the_right_order_is_right(order: list[int]) -> None:
    """Any other is an error at the first place where it differs."""
    chunks = [CHUNKS[index] for index in order]
    wrong = [place for place, index in enumerate(order) if place != index]
    if not wrong:
        assert merge(chunks, KNOWN) == DATA
        return
    with pytest.raises(ChunkError) as caught:
        merge(chunks, KNOWN)
    assert caught.value.index == wrong[0]
    assert merge(chunks) == b"".join(chunks)  # nobody asked to verify it


def test_a_wrong_hash_of_everything_is_an_error() -> None:
    """If each chunk is right, it is the metadata that is not."""
    with pytest.raises(DataError, match="each chunk is right") as caught:
        merge(CHUNKS, (*KNOWN[:3], "0" * 64))
    assert not isinstance(caught.value, ChunkError)


def test_what_is_not_verified_is_not_written(tmp_path: Path) -> None:
    """After an error the destination is what it was."""
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(ChunkError):
        merge(CHUNKS[:-1], KNOWN, str(tmp_path / "out"), str(tmp_path / "spare"))
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == b"old"


def test_a_huge_chunk_is_not_read(tmp_path: Path) -> None:
    """One that is larger than it may be is refused by its size."""
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 1 << 40)
    pieces = [*CHUNKS[:3], str(tmp_path / "huge")]
    with pytest.raises(ChunkError, match="1099511627776 bytes instead of 100"):
        merge(pieces, KNOWN, str(tmp_path / "out"), str(tmp_path / "spare"))


def test_a_chunk_error_travels() -> None:
    """It is what it was behind a pickle, its index as well."""
    error = pickle.loads(pickle.dumps(ChunkError("message", index=7)))
    assert (type(error), str(error), error.index) == (ChunkError, "message", 7)


# ---- types


def archive(*names: str, **contents: str) -> bytes:
    """Make a ZIP by the standard library."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as writer:
        for name in names:
            stored = zipfile.ZIP_STORED if name == "mimetype" else zipfile.ZIP_DEFLATED
            writer.writestr(name, contents.get(name, "content"), stored)
    return made.getvalue()


def tape(format: int) -> bytes:
    """Make a tar by the standard library."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=format) as writer:
        writer.addfile(tarfile.TarInfo("name"), io.BytesIO())
    return made.getvalue()


def old_tape() -> bytes:
    """Make the header that tar had before it had a signature."""
    head = bytearray(tape(tarfile.USTAR_FORMAT))
    head[257:265] = bytes(8)
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head[:512])
    return bytes(head)


def sound() -> bytes:
    """Make a WAV by the standard library."""
    made = io.BytesIO()
    with wave.open(made, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(8000)
        writer.writeframes(bytes(100))
    return made.getvalue()


def database(folder: Path) -> bytes:
    """Make a database by SQLite."""
    with sqlite3.connect(folder / "database") as connection:
        connection.execute("create table t (c)")
    connection.close()
    return (folder / "database").read_bytes()


ODT = "application/vnd.oasis.opendocument.text"
MADE: list[tuple[str, bytes]] = [
    ("gz", gzip.compress(b"data")),
    ("bz2", bz2.compress(b"data")),
    ("bz2", bz2.compress(b"")),
    ("xz", lzma.compress(b"data")),
    ("zip", archive("a", "b")),
    ("zip", archive()),
    ("docx", archive("[Content_Types].xml", "_rels/.rels", "word/document.xml")),
    ("xlsx", archive("_rels/.rels", "xl/workbook.xml")),
    ("pptx", archive("docProps/app.xml", "ppt/presentation.xml", "[Content_Types].xml")),
    ("zip", archive("word/document.xml", "xl/workbook.xml")),
    ("odt", archive("mimetype", "content.xml", mimetype=ODT)),
    ("epub", archive("mimetype", "OEBPS/a", mimetype="application/epub+zip")),
    ("zip", archive("mimetype", mimetype="application/x-what")),
    ("jar", archive("META-INF/MANIFEST.MF", "A.class")),
    ("apk", archive("AndroidManifest.xml", "classes.dex", "META-INF/MANIFEST.MF")),
    ("tar", tape(tarfile.USTAR_FORMAT)),
    ("tar", tape(tarfile.GNU_FORMAT)),
    ("tar", tape(tarfile.PAX_FORMAT)),
    ("tar", old_tape()),
    ("wav", sound()),
    ("plist", plistlib.dumps({"a": 1}, fmt=plistlib.FMT_BINARY)),
    ("plist", plistlib.dumps({"a": 1})),
    # and some heads from the specifications
    ("png", bytes.fromhex("89504e470d0a1a0a0000000d49484452")),
    ("jpg", bytes.fromhex("ffd8ffe000104a46494600")),
    ("gif", b"GIF89a\1\0\1\0"),
    ("webp", b"RIFF\x24\0\0\0WEBPVP8 "),
    ("avi", b"RIFF\x24\0\0\0AVI LIST"),
    ("avif", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf"),
    ("avif", b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf"),
    ("heic", b"\0\0\0\x1cftypheic\0\0\0\0mif1heic"),
    ("mp4", b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41"),
    ("mov", b"\0\0\0\x14ftypqt  \0\0\2\0qt  "),
    ("m4a", b"\0\0\0\x1cftypM4A \0\0\0\0M4A mp42isom"),
    ("mkv", bytes.fromhex("1a45dfa3a34286810142f7810142f2810442f381084282886d6174726f736b61")),
    ("webm", bytes.fromhex("1a45dfa39f4286810142f7810142f2810442f381084282847765626d")),
    ("pdf", b"%PDF-1.7\n"),
    ("svg", b'<?xml version="1.0"?>\n<!-- a > b --><svg xmlns="http://www.w3.org/2000/svg"/>'),
    ("svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
    ("html", b"\n<!DOCTYPE HTML>\n<html>"),
    ("xml", b'\xef\xbb\xbf<?xml version="1.0"?><!DOCTYPE a><b:a/>'),
    ("atom", b'<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"/>'),
    ("class", bytes.fromhex("cafebabe00000034")),
    ("macho", bytes.fromhex("cafebabe00000002")),
    ("elf", b"\x7fELF\2\1\1"),
    ("wasm", b"\0asm\1\0\0\0"),
    ("mp3", b"ID3\3\0\0\0\0\0\x0a" + bytes(10)),
    ("mp3", (bytes.fromhex("fffb9000") + bytes(413)) * 4),
    ("flac", b"fLaC\0\0\0\x22"),
    ("ogg", b"OggS\0\2" + bytes(20) + b"\1\x1e\1vorbis" + bytes(20)),
    ("opus", b"OggS\0\2" + bytes(20) + b"\1\x13OpusHead" + bytes(20)),
    ("ts", (b"G" + bytes(187)) * 6),
    ("bmp", b"BM" + bytes.fromhex("3a000000000000003600000028000000") + bytes(8) + b"\1\0\x18\0"),
    ("ico", bytes.fromhex("00000100010010100000010020006804000016000000")),
    ("sh", b"#!/bin/sh\necho\n"),
    ("py", b"#!/usr/bin/env python3\nprint()\n"),
    ("pnm", b"P6\n# made by hand\n2 2\n255\n"),
    ("zst", bytes.fromhex("502a4d1803000000616263") + bytes.fromhex("28b52ffd")),
]


@pytest.fixture(params=["alone", "with the extra"])
def either_detection(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Be where the extra ``filetype`` is installed, and where it is not."""
    if request.param == "alone":
        monkeypatch.setitem(sys.modules, "pure_magic_rs", None)
    else:
        pytest.importorskip("pure_magic_rs", reason="the extra filetype is not installed")
    return str(request.param)


@pytest.mark.usefixtures("either_detection")
@pytest.mark.parametrize(("kind", "data"), MADE)
def test_types_by_content(kind: str, data: bytes) -> None:
    """The content says what it is, whatever the name says, and that is sure."""
    for name in (None, "name", "lie.py", "lie.pdf"):
        assert file.detect_type(memoryview(data), name) == (kind, KINDS[kind][0], "high")


def test_a_database_is_one(tmp_path: Path) -> None:
    """What SQLite makes is known."""
    assert file.detect_type(memoryview(database(tmp_path)))[0] == "sqlite"


@pytest.mark.parametrize(("offset", "signature", "kind"), SIGNATURES)
def test_each_signature_is_enough(offset: int, signature: bytes, kind: str) -> None:
    """None is hidden by one before it; a cut-off one gives another answer or none."""
    head = bytes(offset) + signature
    assert _detect.by_content(head) == kind
    assert _detect.by_content(head[:-1]) != kind or kind in ("tif", "a", "pem")


@pytest.mark.parametrize(
    ("data", "name", "expected"),
    [
        (b"", None, ("unknown", "application/octet-stream", "low")),
        (b"", "a.png", ("png", "image/png", "low")),
        (b"", "a.what-is-this", ("unknown", "application/octet-stream", "low")),
        (b"\0\1\2", None, ("unknown", "application/octet-stream", "low")),
        (b"just a text\n", None, ("txt", "text/plain", "low")),
        ("Grüße\n".encode(), "greetings", ("txt", "text/plain", "low")),
        (b"a,b\n1,2\n", "table.CSV", ("csv", "text/csv", "low")),
        (b"a", "../../x/photo.JPEG", ("jpg", "image/jpeg", "low")),
        (b"a", r"C:\x\y.tar.gz", ("gz", "application/gzip", "low")),
        (b"BM, a text that begins so", "a.txt", ("txt", "text/plain", "low")),
        (b"MZ, and another", None, ("txt", "text/plain", "low")),
        (b"\xff\xfe", "a.mp3", ("mp3", "audio/mpeg", "low")),
        (b"\0\1", "film.xbm", ("xbm", "image/x-xbitmap", "low")),  # only mimetypes knows it
        (b"a", "dir.png/", ("txt", "text/plain", "low")),
        (b"a", ".bashrc", ("txt", "text/plain", "low")),
    ],
)
def test_types_by_name(
    monkeypatch: pytest.MonkeyPatch, data: bytes, name: str | None, expected: tuple[str, ...]
) -> None:
    """If the content does not tell, the name does, and that is not sure."""
    monkeypatch.setitem(sys.modules, "pure_magic_rs", None)
    assert file.detect_type(memoryview(data), name) == expected


def test_a_cut_off_character_is_text() -> None:
    """A text does not stop being one where the head ends."""
    for extra in range(4):
        data = b"x" * (HEAD - extra) + "\N{GRINNING FACE}".encode()
        assert detect(data[:HEAD], None)[0] == "txt"
    assert detect(b"text \xf0\x9f", None)[0] == "unknown"


def test_the_extra_knows_more() -> None:
    """A type that is not in our table is sure as well; languages are guessed, and so not sure."""
    pytest.importorskip("pure_magic_rs", reason="the extra filetype is not installed")
    xpm = b'/* XPM */\nstatic char *a[] = {\n"1 1 1 1",\n"a c #000000",\n"a"\n};\n'
    assert detect(xpm, None)[2] == "high"
    source = b"import os\n\ndef f(self):\n    return os.getcwd()\n"
    assert detect(source, None)[2] == "low"
    assert detect(source, "a.js")[:1] == ("js",)


def test_the_tables_agree() -> None:
    """Each type has one media type, no two have the same, and every ending leads to one type."""
    assert len(TYPE_OF_MIME) == len(KINDS)
    endings = [ending for kind, (_, more) in KINDS.items() for ending in (kind, *more)]
    assert len(endings) == len(set(endings)) == len(TYPE_OF_EXTENSION)
    assert {kind for _, _, kind in SIGNATURES} <= {*KINDS}
    assert all(offset + len(signature) <= HEAD for offset, signature, _ in SIGNATURES)


def test_the_file_command_agrees(tmp_path: Path) -> None:
    """libmagic, where it has an opinion, says the same of what other programs made."""
    if shutil.which("file") is None:
        pytest.skip("file is not installed")
    same = {"gz", "bz2", "xz", "zip", "docx", "odt", "epub", "tar", "sqlite", "class", "pdf"}
    samples = [(kind, data) for kind, data in MADE if kind in same and len(data) > 30]
    # Files that could be of Office, without what says so, convince it and not us.
    samples = [each for each in samples if each[0] != "zip" or b"word/" not in each[1]]
    samples.append(("sqlite", database(tmp_path)))
    checked = set()
    for kind, data in samples:
        (tmp_path / "sample").write_bytes(data)
        command = ["file", "--brief", "--mime-type", str(tmp_path / "sample")]
        theirs = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if theirs in TYPE_OF_MIME:
            assert (TYPE_OF_MIME[theirs], kind) == (kind, kind)
            checked.add(kind)
    assert checked >= {"zip", "docx", "tar", "bz2", "sqlite"}


def test_only_the_head_is_read(tmp_path: Path) -> None:
    """Of a file, 64 KiB and no more, and no other file is opened, least of all the named one."""
    (tmp_path / "source").write_bytes(bytes(10 * HEAD))
    (tmp_path / "named.png").write_bytes(b"%PDF-1.7")
    detect(b"", "a.unknown")  # loads what it needs
    opened: list[Any] = []

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event in ("open", "os.stat", "os.listdir", "sqlite3.connect"):
            opened.append(arguments[0])

    watching = False
    sys.addaudithook(audit)
    watching = True
    try:
        got = file.detect_type(str(tmp_path / "source"), str(tmp_path / "named.png"))
    finally:
        watching = False
    assert got == ("png", "image/png", "low")
    assert [path for path in opened if not isinstance(path, int)] == [str(tmp_path / "source")]
    cells = WatchedCells()
    call_as_request(cells, file.detect_type, str(tmp_path / "source"))
    assert cells.progress() == (HEAD, HEAD)


@pytest.mark.usefixtures("either_detection")
@given(data=st.binary(max_size=600), name=st.none() | st.text())
def test_any_bytes_have_a_type(data: bytes, name: str | None) -> None:
    """Whatever the bytes and the name, there is an answer of three words."""
    kind, mime, confidence = detect(data, name)
    assert kind
    assert "/" in mime
    assert confidence in ("high", "low")


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a\0.png", "\u202egnp.exe", "x" * 65536, "\udc80.gif"]
)
def test_hostile_names_are_names(name: str) -> None:
    """No name is anything but a name."""
    assert detect(b"", name)[2] == "low"
    assert file.read_metadata(memoryview(b"%PDF-1.7"), name) == (8, None, "pdf", "application/pdf")


def mutants(count: int, seed: int) -> Iterator[bytes]:
    """Change what others made, here and there, and cut it off anywhere."""
    chance = random.Random(seed)
    originals = [data for _, data in MADE]
    originals += [bytes(offset) + signature for offset, signature, _ in SIGNATURES if offset < 600]
    for _ in range(count):
        changed = bytearray(chance.choice(originals))
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(changed) + 1)
            changed[at : at + chance.randint(0, 4)] = chance.randbytes(chance.randint(0, 8))
        yield bytes(changed[: chance.choice((len(changed), chance.randrange(len(changed) + 1)))])


@pytest.mark.slow
@pytest.mark.usefixtures("either_detection")
def test_damaged_heads_have_a_type() -> None:
    """Nothing is raised by anything. TRIOIPC_MUTANTS says how many; 100,000 have been tried."""
    for data in mutants(int(os.environ.get("TRIOIPC_MUTANTS", "3000")), 1):
        assert detect(data, None)[0]


@pytest.mark.parametrize(
    "head",
    [
        b"PK\3\4" * (HEAD // 4),
        b"<?xml ?>" + b"<!--" * (HEAD // 4),
        b"<?xml ?>" + b"<!a>" * (HEAD // 4),
        b"<?xml ?>" + b"<" * HEAD,
        b"P1" + b"#\n" * HEAD,
        b"P1 " + b" " * HEAD,
        b"#! " + b" " * HEAD,
        b"ID3\4" + b"\x7f" * HEAD,
        b"\xff\xfb\x90\0" * (HEAD // 4),
        b" " * HEAD,
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\xff" * HEAD,
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(HEAD),
        b"\0\0\xff\xffftyp" + b"isom" * HEAD,
    ],
)
def test_no_head_takes_long(head: bytes) -> None:
    """Time grows with the head and not with its square: a second would be far too long."""
    before = time.process_time()
    detect(head[:HEAD], None)
    assert time.process_time() - before < 1.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, ""), ("", ""), ("a", ""), (".profile", ""), ("a.", ""), ("a.B", "b"),
        ("a.tar.gz", "gz"), ("a.b/c", ""), (r"a.b\c", ""), ("..", ""), ("a..b", "b"),
    ],
)  # fmt: skip
def test_extensions(name: str | None, expected: str) -> None:
    """The last part behind a dot, of the last part of a path."""
    assert extension_of(name) == expected


def test_metadata_of_a_file(tmp_path: Path) -> None:
    """Size and time are those of the file, the name counts if the content does not tell."""
    path = tmp_path / "notes.md"
    path.write_bytes(b"# Notes\n")
    os.utime(path, (1_000_000_000.5, 1_000_000_000.5))
    assert file.read_metadata(str(path)) == (8, 1_000_000_000.5, "md", "text/markdown")
    assert file.read_metadata(str(path), "a.toml")[2:] == ("toml", "application/toml")
    with pytest.raises(IsADirectoryError):
        file.read_metadata(str(tmp_path))
