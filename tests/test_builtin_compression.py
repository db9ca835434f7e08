"""The built-in compression, called as the plain functions they are."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import random
import shutil
import subprocess
import sys
import tracemalloc
import typing
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import brotli
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trioipc._errors import (
    DataError,
    MissingExtraError,
    OutputTooLargeError,
    RequestInterrupt,
    TrailingDataError,
    TruncatedDataError,
)
from trioipc.builtin import _codecs, _gzip, compression
from trioipc.builtin.compression import BLOCK, STEP, compress_block, compress_data, decompress_data
from watched import WatchedCells, call_as_request, damaged

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = b"".join(b"%d bottles of beer on the wall\n" % number for number in range(20_000))

# {algorithm: somebody else's way to compress}
THEIRS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "deflate": zlib.compress,
    "brotli": lambda data: brotli.compress(data, quality=5),
}
# {algorithm: somebody else's way to decompress}
BACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "brotli": brotli.decompress,
}
try:
    zstd = _codecs.FORMATS["zstd"].load()
except MissingExtraError:
    zstd = None
else:
    THEIRS["zstd"], BACK["zstd"] = zstd.compress, zstd.decompress

needs_zstd = pytest.mark.skipif(zstd is None, reason="neither Python 3.14 nor the extra zstd")
each = pytest.mark.parametrize("algorithm", [*THEIRS])


def pack(data: bytes, algorithm: str, level: int | None = None) -> bytes:
    """Compress with ours."""
    return bytes(compress_data(memoryview(data), algorithm, level))


def unpack(data: bytes, algorithm: str, limit: float = 1 << 30) -> bytes:
    """Decompress with ours."""
    return bytes(decompress_data(memoryview(data), algorithm, limit))


@pytest.fixture(params=["standard", "fast"])
def either_zlib(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Be where the extra ``fast`` is installed, and where it is not."""
    if request.param == "fast":
        pytest.importorskip("zlib_ng", reason="the extra fast is not installed")
    else:
        monkeypatch.setitem(sys.modules, "zlib_ng", None)
    return str(request.param)


# ---- round trips, and others


@each
@given(data=st.binary(max_size=5000) | st.binary(max_size=9).map(lambda each: each * 5000))
def test_round_trips(algorithm: str, data: bytes) -> None:
    """What we write others read, what others write we read, and so do we."""
    assert BACK[algorithm](pack(data, algorithm)) == data
    assert unpack(THEIRS[algorithm](data), algorithm) == data
    assert unpack(pack(data, algorithm), algorithm) == data


@each
@pytest.mark.parametrize("size", [0, 1, STEP - 1, STEP, STEP + 1, BLOCK, 3 * BLOCK + 7])
def test_sizes_around_the_steps(algorithm: str, size: int) -> None:
    """Random bytes, which do not shrink, and zeros, which do, at every border."""
    for data in (random.Random(size).randbytes(size), bytes(size)):
        assert unpack(pack(data, algorithm), algorithm) == data
        assert BACK[algorithm](pack(data, algorithm)) == data


@pytest.mark.parametrize(
    ("algorithm", "level"),
    [(name, level) for name in THEIRS for level in _codecs.FORMATS[name].levels],
)
def test_each_level(algorithm: str, level: int) -> None:
    """Every level can be read by others."""
    assert BACK[algorithm](pack(TEXT[:50_000], algorithm, level)) == TEXT[:50_000]


@each
def test_levels_mean_something(algorithm: str) -> None:
    """The highest level makes it smaller than the lowest, and the default is between."""
    levels = _codecs.FORMATS[algorithm].levels
    text = Path(typing.__file__).read_bytes()
    sizes = [len(pack(text, algorithm, level)) for level in (levels[0], None, levels[-1])]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < sizes[0]


def test_gzip_says_nothing_about_the_time() -> None:
    """The same data gives the same bytes."""
    assert pack(TEXT, "gzip")[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"


@pytest.mark.usefixtures("either_zlib")
@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_either_library(algorithm: str) -> None:
    """With the extra ``fast`` or without, the format is the same."""
    packed = pack(TEXT, algorithm)
    assert BACK[algorithm](packed) == TEXT
    assert unpack(THEIRS[algorithm](TEXT), algorithm) == TEXT
    with pytest.raises(DataError, match="damaged") as caught:
        unpack(b"x" * 100, algorithm)
    assert caught.value.__context__ is None  # it could not be pickled
    with pytest.raises(TruncatedDataError):
        unpack(packed[:-1], algorithm)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without zstd, the error says what to install."""
    for module in ("compression", "compression.zstd", "backports", "backports.zstd"):
        monkeypatch.setitem(sys.modules, module, None)
    for call in (pack, unpack):
        with pytest.raises(MissingExtraError, match=r"trioipc\[zstd\]"):
            call(b"", "zstd")


# {algorithm: (command that compresses, command that decompresses), both from stdin to stdout}
NODE = "process.stdin.pipe(require('zlib').{}()).pipe(process.stdout)"
COMMANDS = [
    ("gzip", ["gzip", "-c"], ["gzip", "-dc"]),
    (
        "gzip",
        ["node", "-e", NODE.format("createGzip")],
        ["node", "-e", NODE.format("createGunzip")],
    ),
    (
        "deflate",
        ["node", "-e", NODE.format("createDeflate")],
        ["node", "-e", NODE.format("createInflate")],
    ),
    (
        "brotli",
        ["node", "-e", NODE.format("createBrotliCompress")],
        ["node", "-e", NODE.format("createBrotliDecompress")],
    ),
    ("brotli", ["brotli", "-c"], ["brotli", "-dc"]),
    ("deflate", ["openssl", "zlib"], ["openssl", "zlib", "-d"]),
    ("zstd", ["zstd", "-c"], ["zstd", "-dc"]),
]


@pytest.mark.parametrize(("algorithm", "write", "read"), COMMANDS)
def test_commands_read_ours_and_we_read_theirs(
    algorithm: str, write: list[str], read: list[str]
) -> None:
    """The tools that people have understand us, and we them."""
    if shutil.which(write[0]) is None:
        pytest.skip(f"{write[0]} is not installed")
    if write[0] == "openssl" and subprocess.run(write, input=b"", capture_output=True).returncode:
        pytest.skip("this openssl was built without zlib")
    if algorithm not in THEIRS:
        pytest.skip(f"{algorithm} is not installed")
    theirs = subprocess.run(write, input=TEXT, stdout=subprocess.PIPE, check=True).stdout
    assert unpack(theirs, algorithm) == TEXT
    ours = subprocess.run(read, input=pack(TEXT, algorithm), stdout=subprocess.PIPE, check=True)
    assert ours.stdout == TEXT


# ---- data that is not what it should be


@each
def test_truncated_at_every_offset(algorithm: str) -> None:
    """Whatever is missing at the end, it is said so; nothing comes out."""
    packed = THEIRS[algorithm](TEXT[:700])
    for length in range(len(packed)):
        with pytest.raises(TruncatedDataError, match=f"ends after {length} bytes"):
            unpack(packed[:length], algorithm)


@pytest.mark.parametrize("algorithm", [name for name in THEIRS if name in ("gzip", "zstd")])
def test_members_one_after_the_other(algorithm: str) -> None:
    """Several streams are one; cut off within any of them, they are not complete."""
    parts = [b"one", b"", b"three" * 1000, b"four"]
    members = [THEIRS[algorithm](part) for part in parts]
    packed = b"".join(members)
    assert unpack(packed, algorithm) == b"".join(parts)
    ends = [sum(map(len, members[:count])) for count in range(len(members) + 1)]
    for length in range(len(packed)):
        if length in ends[1:]:
            whole = b"".join(parts[: ends.index(length)])
            assert unpack(packed[:length], algorithm) == whole
        else:
            with pytest.raises(TruncatedDataError):
                unpack(packed[:length], algorithm)


@pytest.mark.parametrize("step", [1, 2, 3, 7])
@pytest.mark.parametrize("algorithm", [*THEIRS])
def test_steps_do_not_show(algorithm: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members, their borders and what follows are found wherever the steps end."""
    monkeypatch.setattr(compression, "STEP", step)
    monkeypatch.setattr(compression, "BLOCK", 100)
    packed = THEIRS[algorithm](TEXT[:3000])
    assert unpack(packed, algorithm) == TEXT[:3000]
    with pytest.raises(TrailingDataError):
        unpack(packed + b"!?", algorithm)
    with pytest.raises(TruncatedDataError):
        unpack(packed[:-1], algorithm)
    if algorithm in ("gzip", "zstd"):
        assert unpack(packed + packed, algorithm) == TEXT[:3000] * 2


@each
@pytest.mark.parametrize(
    "junk",
    [b"\0", b"\0" * 512, b"x", b"junk" * 50_000, b"\x1f\x00", b"PK\x03\x04", b"\x28\xb5\x00"],
)
@pytest.mark.parametrize("data", [b"", b"abc", TEXT, bytes(3 * BLOCK)])
def test_what_follows_is_refused(algorithm: str, junk: bytes, data: bytes) -> None:
    """One byte too many is enough, also a zero."""
    with pytest.raises(TrailingDataError, match=f"the {algorithm} data has ended"):
        unpack(THEIRS[algorithm](data) + junk, algorithm)


# Those of brotli 1.2.0, MIT, that have up to 12 kB, and a text; with the sums of what they hold.
BROTLI = Path(__file__).parent / "data" / "brotli"
SUMS = {
    name: hexed for hexed, name in map(str.split, (BROTLI / "SHA256SUMS").read_text().splitlines())
}


@pytest.mark.parametrize("name", sorted(path.name for path in BROTLI.glob("*.compressed*")))
def test_the_data_of_brotli(name: str) -> None:
    """What its own tests decompress, we do; cut short or longer, we refuse it."""
    packed = (BROTLI / name).read_bytes()
    data = unpack(packed, "brotli")
    assert hashlib.sha256(data).hexdigest() == SUMS[name.partition(".compressed")[0]]
    with pytest.raises(TruncatedDataError):
        unpack(packed[:-1], "brotli")
    with pytest.raises(TrailingDataError):
        unpack(packed + b"\0", "brotli")


@pytest.mark.parametrize("algorithm", ["deflate", "brotli"])
def test_only_some_formats_have_members(algorithm: str) -> None:
    """Where the format has no second stream, it is something that follows."""
    with pytest.raises(TrailingDataError):
        unpack(THEIRS[algorithm](b"abc") * 2, algorithm)


@needs_zstd
def test_frames_to_be_skipped() -> None:
    """A zstd frame that holds something for others is no data."""
    skipped = b"\x5a\x2a\x4d\x18\x03\x00\x00\x00abc"
    frame = THEIRS["zstd"](b"data")
    assert unpack(skipped + frame + skipped + frame, "zstd") == b"datadata"
    assert unpack(skipped, "zstd") == b""


@each
def test_a_changed_byte_never_gives_other_data(algorithm: str) -> None:
    """Formats with a check sum find every change; all raise nothing but a DataError."""
    data = TEXT[:500]
    packed = bytearray(THEIRS[algorithm](data))
    for at in range(len(packed)):
        packed[at] ^= 0x55
        try:
            got = unpack(bytes(packed), algorithm, 100_000)
        except DataError:
            pass
        else:
            # The head of gzip has a time and a system that nothing depends on; brotli and, by
            # default, zstd have no check sum.
            assert got == data or algorithm in ("brotli", "zstd")
        packed[at] ^= 0x55


@each
def test_another_format_is_refused(algorithm: str) -> None:
    """The error names the format that was expected, and holds nothing of the data."""
    for other in THEIRS:
        if other != algorithm:
            with pytest.raises(DataError) as caught:
                unpack(THEIRS[other](b"hunter2" * 9), algorithm)
            assert algorithm in str(caught.value)
            assert "hunter2" not in str(caught.value)


def mutants(count: int, seed: int) -> list[tuple[str, bytes]]:
    """Make compressed data that somebody has damaged."""
    chance = random.Random(seed)
    originals = [
        (name, make(data))
        for name, make in THEIRS.items()
        for data in (b"", TEXT[:2000], bytes(9999))
    ]
    made = []
    for _ in range(count):
        name, data = chance.choice(originals)
        made.append((name, damaged(chance, data)))
    return made


@pytest.mark.slow
def test_damaged_data_is_a_data_error() -> None:
    """Whatever is damaged, nothing but a DataError is raised, and never more comes than allowed.

    TRIOIPC_MUTANTS says how many; 100,000 have been tried.
    """
    for name, data in mutants(int(os.environ.get("TRIOIPC_MUTANTS", "3000")), 1):
        try:
            assert len(unpack(data, name, 50_000)) <= 50_000
        except DataError:
            pass


# ---- bombs


@each
def test_output_is_counted(algorithm: str) -> None:
    """Exactly as much as is allowed is fine; one byte more is not."""
    packed = THEIRS[algorithm](bytes(100_000))
    assert unpack(packed, algorithm, 100_000) == bytes(100_000)
    with pytest.raises(OutputTooLargeError, match="more than 99999 bytes"):
        unpack(packed, algorithm, 99_999)
    assert unpack(THEIRS[algorithm](b""), algorithm, 0) == b""
    with pytest.raises(OutputTooLargeError):
        unpack(THEIRS[algorithm](b"x"), algorithm, 0)
    assert unpack(packed, algorithm, float("inf")) == bytes(100_000)


@pytest.mark.slow
@each
def test_a_bomb_costs_little_memory(algorithm: str) -> None:
    """A gigabyte of zeros in little data stops at the limit, and no more is held than a block."""
    if algorithm == "brotli":
        encoder = brotli.Compressor(quality=3, lgwin=24)
        bomb = b"".join(encoder.process(bytes(1 << 20)) for _ in range(1024)) + encoder.finish()
    else:
        bomb = pack(bytes(1 << 28), algorithm)
    tracemalloc.start()
    try:
        with pytest.raises(OutputTooLargeError):
            unpack(bomb, algorithm, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_many_small_members_can_be_cancelled() -> None:
    """A step of nothing but members looks at the cancel word for each of them."""
    packed = gzip.compress(b"", mtime=0) * 3000
    cells = WatchedCells()
    assert bytes(call_as_request(cells, decompress_data, memoryview(packed))) == b""
    assert len(cells.seen) > 3000


# ---- sources and destinations


@each
def test_files(tmp_path: Path, algorithm: str) -> None:
    """A path is read and a destination written, with the same bytes as in memory."""
    source, target = tmp_path / "source", tmp_path / "target"
    data = TEXT * 3
    source.write_bytes(data)
    spare = str(tmp_path / "spare")
    size = compress_data(str(source), algorithm, None, str(target), spare)
    assert size == target.stat().st_size
    assert BACK[algorithm](target.read_bytes()) == data
    assert target.stat().st_mode & 0o777 == 0o600
    back = decompress_data(str(target), algorithm, 1 << 30, str(tmp_path / "back"), spare)
    assert back == len(data)
    assert (tmp_path / "back").read_bytes() == data
    assert sorted(os.listdir(tmp_path)) == ["back", "source", "target"]


@each
@pytest.mark.parametrize("error", ["truncated", "trailing", "large", "damaged"])
def test_after_an_error_the_destination_is_what_it_was(
    tmp_path: Path, algorithm: str, error: str
) -> None:
    """Nothing of what came out is published."""
    packed = THEIRS[algorithm](TEXT)
    bad = {
        "truncated": packed[:-5],
        "trailing": packed + b"!",
        "large": packed,
        "damaged": packed[: len(packed) // 2] + bytes(50) + packed[len(packed) // 2 :],
    }[error]
    (tmp_path / "out").write_bytes(b"old")
    limit = 1000 if error == "large" else 1 << 30
    with pytest.raises(DataError):
        decompress_data(
            memoryview(bad), algorithm, limit, str(tmp_path / "out"), str(tmp_path / "spare")
        )
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == b"old"


@each
@pytest.mark.parametrize("data", [b"", TEXT])
def test_progress_ends_at_the_total(algorithm: str, data: bytes) -> None:
    """The last progress is the size of the source, in both directions."""
    for function, source in ((compress_data, data), (decompress_data, THEIRS[algorithm](data))):
        cells = WatchedCells()
        call_as_request(cells, function, memoryview(source), algorithm)
        assert cells.progress() == (len(source), len(source))


@each
def test_a_cancel_ends_it_between_two_steps(algorithm: str) -> None:
    """Compressing, and decompressing a step that holds much."""
    noise = random.Random(1).randbytes(4 * STEP)
    cells = WatchedCells().cancel_at(3)
    with pytest.raises(RequestInterrupt):
        call_as_request(cells, compress_data, memoryview(noise), algorithm)
    assert cells.progress() == (2 * STEP, 4 * STEP)
    cells = WatchedCells().cancel_at(3)
    bomb = THEIRS[algorithm](bytes(20 * BLOCK))
    with pytest.raises(RequestInterrupt):
        call_as_request(cells, decompress_data, memoryview(bomb), algorithm)
    assert cells.progress() == (0, len(bomb))


# ---- blocks


@given(first=st.binary(max_size=200), second=st.binary(max_size=200))
@settings(max_examples=200)
def test_check_sums_are_combined(first: bytes, second: bytes) -> None:
    """The sum of two pieces comes from the sums of each."""
    got = _gzip.combine(zlib.crc32(first), zlib.crc32(second), len(second))
    assert got == zlib.crc32(first + second)


def in_blocks(source: memoryview | str, size: int, block: int, level: int = 6) -> bytes:
    """Put a member together."""
    identity = None
    if isinstance(source, str):
        status = os.stat(source)
        identity = status.st_dev, status.st_ino
    crc = 0
    out = [_gzip.header(level)]
    for start in range(0, size, block):
        length = min(block, size - start)
        data, block_crc, seconds = compress_block(
            source, start, length, level, start + length == size, identity
        )
        assert seconds > 0
        out.append(bytes(data))
        crc = _gzip.combine(crc, block_crc, length)
    return b"".join([*out, _gzip.trailer(crc, size)])


@pytest.mark.usefixtures("either_zlib")
@pytest.mark.parametrize("block", [1, 100, 40_000, 100_000, len(TEXT)])
def test_blocks_are_one_member(tmp_path: Path, block: int) -> None:
    """Compressed apart, they are read as one, from bytes and from a file."""
    data = TEXT[: 300 * block]
    (tmp_path / "file").write_bytes(data)
    for source in (memoryview(data), str(tmp_path / "file")):
        packed = in_blocks(source, len(data), block)
        reader = zlib.decompressobj(31)
        assert reader.decompress(packed) == data
        assert (reader.eof, reader.unused_data) == (True, b"")


@pytest.mark.parametrize("level", range(10))
def test_blocks_of_each_level(level: int) -> None:
    """The head says what zlib's would."""
    packed = in_blocks(memoryview(TEXT), len(TEXT), 100_000, level)
    assert gzip.decompress(packed) == TEXT
    assert packed[:10] == zlib.compressobj(level, 8, 31).compress(b"")[:10] or level == 0


def test_a_file_that_changes_is_no_source_of_blocks(tmp_path: Path) -> None:
    """Another file of that name, or one that became shorter, is an OSError that says so."""
    path = tmp_path / "file"
    path.write_bytes(TEXT)
    status = path.stat()
    identity = status.st_dev, status.st_ino
    os.truncate(path, 100)
    with pytest.raises(OSError, match="became shorter") as caught:
        compress_block(str(path), 50, 100, 6, True, identity)
    assert caught.value.filename == str(path)
    (tmp_path / "other").write_bytes(TEXT)
    os.replace(tmp_path / "other", path)
    with pytest.raises(OSError, match="replaced by another file"):
        compress_block(str(path), 50, 100, 6, True, identity)


def test_a_block_can_be_cancelled() -> None:
    """It has cancel points of its own."""
    cells = WatchedCells().cancel_at(2)
    with pytest.raises(RequestInterrupt):
        call_as_request(cells, compress_block, memoryview(bytes(4 * STEP)), 0, 4 * STEP, 6, True)
    assert cells.progress() == (STEP, 4 * STEP)


@pytest.mark.parametrize("kind", [TruncatedDataError, TrailingDataError, OutputTooLargeError])
def test_errors_travel(kind: Any) -> None:
    """They are what they were behind a pickle."""
    error = pickle.loads(pickle.dumps(kind("message")))
    assert (type(error), str(error)) == (kind, "message")
    assert isinstance(error, DataError)
