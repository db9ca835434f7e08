"""``bridge.compression``: arguments, results, and gzip by all workers at once."""

from __future__ import annotations

import gzip
import math
import os
import random
import shutil
import sys
import zlib
from typing import TYPE_CHECKING, Any, Literal

import brotli
import pytest
import trio
import trio.testing

from helpers import wait_until
from test_bridge import sparse_file
from trioipc._errors import (
    DataError,
    MissingExtraError,
    OutputTooLargeError,
    RequestCancelledError,
    RequestTimeoutError,
    TrailingDataError,
    TruncatedDataError,
)
from trioipc.bridge import _parallel
from trioipc.bridge._arguments import WrittenFile
from trioipc.bridge.bridge import open_worker_bridge
from trioipc.bridge.compression import CompressionBridge
from trioipc.builtin import _files
from trioipc.memory.state import SharedCancellation
from trioipc.testing import cancel_at_each_step

if TYPE_CHECKING:
    from pathlib import Path

    from watched import Direct

TEXT = b"".join(b"%d green bottles\n" % (number * number) for number in range(100_000))

Kind = Literal["process", "thread"]
both_kinds = pytest.mark.parametrize("kind", ["process", "thread"])


@pytest.fixture
def bridge(direct: Direct) -> CompressionBridge:
    """Give a bridge over it."""
    return CompressionBridge(direct)


# ---- arguments


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"algorithm": "zip"}, ValueError, "one of gzip, deflate, brotli, zstd, not 'zip'"),
        ({"algorithm": None}, ValueError, "one of gzip"),
        ({"level": 10}, ValueError, "level must be 0 to 9 for gzip, not 10"),
        ({"level": -1}, ValueError, "level must be 0 to 9 for gzip, not -1"),
        ({"algorithm": "brotli", "level": 12}, ValueError, "0 to 11 for brotli, not 12"),
        ({"algorithm": "zstd", "level": 0}, ValueError, "1 to 19 for zstd, not 0"),
        ({"algorithm": "deflate", "level": 1.5}, TypeError, "an int or None, not float"),
        ({"level": True}, TypeError, "an int or None, not bool"),
        ({"algorithm": "brotli", "parallel": True}, ValueError, "for gzip, not for brotli"),
        ({"destination": b"out"}, TypeError, "destination must be a str"),
    ],
)
async def test_wrong_arguments_are_refused_here(
    bridge: CompressionBridge,
    direct: Direct,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    """The error says what was wrong and what would be right; no worker is asked."""
    with pytest.raises(error, match=message):
        await bridge.compress_data(b"", **options)
    assert direct.calls == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"algorithm": "lzma"}, ValueError, "one of gzip, deflate, brotli, zstd, not 'lzma'"),
        ({"max_output_size": -1}, ValueError, "max_output_size must be >= 0, not -1"),
        ({"max_output_size": 1.5}, TypeError, "an int or math.inf, not 1.5"),
        ({"max_output_size": None}, TypeError, "an int or math.inf, not None"),
    ],
)
async def test_wrong_arguments_of_the_other_way(
    bridge: CompressionBridge,
    direct: Direct,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    """Likewise."""
    with pytest.raises(error, match=message):
        await bridge.decompress_data(b"", **options)
    assert direct.calls == []


async def test_a_missing_extra_is_found_here(
    bridge: CompressionBridge, direct: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker is asked to do what it cannot."""
    for module in ("compression", "compression.zstd", "backports", "backports.zstd"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match="zstd"):
        await bridge.compress_data(b"", algorithm="zstd")
    with pytest.raises(MissingExtraError, match="zstd"):
        await bridge.decompress_data(b"", algorithm="zstd")
    assert direct.calls == []


@pytest.mark.parametrize("parallel", [False, True])
async def test_source_and_destination_must_differ(
    bridge: CompressionBridge, direct: Direct, tmp_path: Path, parallel: bool
) -> None:
    """A file is not replaced by its compressed self."""
    source = sparse_file(tmp_path / "source", 2 << 20)
    with pytest.raises(ValueError, match="same file"):
        await bridge.compress_data(source, destination=source, parallel=parallel)
    assert direct.calls == []


async def test_options_reach_the_pool(bridge: CompressionBridge, direct: Direct) -> None:
    """Both hand on what they were told about the request."""
    with SharedCancellation() as flag:
        options: dict[str, Any] = {
            "on_progress": print,
            "timeout": 1.0,
            "queue_timeout": 2.0,
            "cancellation": flag,
            "priority": "high",
        }
        await bridge.compress_data(b"", **options)
        await bridge.decompress_data(gzip.compress(b""), **options)
    assert direct.options == [options] * 2


# ---- with workers


@both_kinds
async def test_bytes_and_files(kind: Kind, tmp_path: Path) -> None:
    """Both ways, all formats, in memory and on disk; results are read-only."""
    source, packed, back = (tmp_path / name for name in ("source", "packed", "back"))
    source.write_bytes(TEXT)
    theirs: dict[Any, Any] = {
        "gzip": gzip.decompress,
        "deflate": zlib.decompress,
        "brotli": brotli.decompress,
    }
    async with open_worker_bridge(1, placement=kind) as bridge:
        for algorithm, decompress in theirs.items():
            view = await bridge.compression.compress_data(TEXT, algorithm=algorithm, level=4)
            assert view.readonly
            assert decompress(view) == TEXT
            unpacked = await bridge.compression.decompress_data(view, algorithm=algorithm)
            assert unpacked.readonly
            assert unpacked == TEXT
            written = await bridge.compression.compress_data(
                source, algorithm=algorithm, destination=packed
            )
            assert written == WrittenFile(packed, packed.stat().st_size)
            assert decompress(packed.read_bytes()) == TEXT
            again = await bridge.compression.decompress_data(
                packed, algorithm=algorithm, destination=back
            )
            assert again == WrittenFile(back, len(TEXT))
            assert back.read_bytes() == TEXT
    assert repr(bridge.compression) == "<CompressionBridge>"
    assert sorted(os.listdir(tmp_path)) == ["back", "packed", "source"]


@both_kinds
async def test_bad_data_is_an_error_of_the_call(kind: Kind, tmp_path: Path) -> None:
    """It comes home as itself, and the worker serves the next request."""
    packed = gzip.compress(TEXT)
    cases: list[tuple[bytes, dict[str, Any], type[DataError]]] = [
        (packed[:-1], {}, TruncatedDataError),
        (packed + b"!", {}, TrailingDataError),
        (packed, {"max_output_size": len(TEXT) - 1}, OutputTooLargeError),
        (b"something else", {}, DataError),
    ]
    async with open_worker_bridge(1, placement=kind) as bridge:
        for data, options, error in cases:
            with pytest.raises(error) as caught:
                await bridge.compression.decompress_data(data, **options)
            assert type(caught.value) is error
            with pytest.raises(error):
                await bridge.compression.decompress_data(
                    data, destination=tmp_path / "out", **options
                )
        unlimited = await bridge.compression.decompress_data(packed, max_output_size=math.inf)
        assert unlimited == TEXT
    assert os.listdir(tmp_path) == []


@both_kinds
@pytest.mark.parametrize("parallel", [False, True])
async def test_a_cancelled_call_leaves_nothing(kind: Kind, tmp_path: Path, parallel: bool) -> None:
    """Cancelled in the middle, there is no file, and the bridge goes on."""
    source = sparse_file(tmp_path / "source", 1 << 36)
    async with open_worker_bridge(2, placement=kind) as bridge:
        with trio.CancelScope() as scope:
            await bridge.compression.compress_data(
                source,
                destination=tmp_path / "out",
                parallel=parallel,
                on_progress=lambda progress: scope.cancel() if progress.value else None,
            )
        assert scope.cancelled_caught
        assert os.listdir(tmp_path) == ["source"]
        assert gzip.decompress(await bridge.compression.compress_data(b"abc")) == b"abc"


# ---- in parallel


def tuned(size: int) -> bytes:
    """Make something that shrinks by half, and refers back over the borders of blocks."""
    chance = random.Random(size)
    words = [chance.randbytes(9) for _ in range(500)]
    return b"".join(chance.choices(words, k=size // 9 + 1))[:size]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let a block be 100 kB."""
    monkeypatch.setattr(_parallel, "BLOCK", 100_000)
    return 100_000


@pytest.mark.parametrize("level", [None, 0, 1, 9])
@pytest.mark.parametrize("size", [0, 1, 99_999, 100_000, 100_001, 200_000, 1_234_567])
async def test_parallel_is_one_member(
    small_blocks: int, bridge: CompressionBridge, tmp_path: Path, size: int, level: int | None
) -> None:
    """From bytes and from a file, to bytes and to a file: the same member, which others read."""
    data = tuned(size)
    (tmp_path / "source").write_bytes(data)
    packed = await bridge.compress_data(data, level=level, parallel=True)
    assert packed.readonly
    reader = zlib.decompressobj(31)
    assert reader.decompress(packed) == data
    assert (reader.eof, reader.unused_data) == (True, b"")
    assert await bridge.compress_data(tmp_path / "source", level=level, parallel=True) == packed
    written = await bridge.compress_data(
        tmp_path / "source", level=level, parallel=True, destination=tmp_path / "out"
    )
    assert written == WrittenFile(tmp_path / "out", len(packed))
    assert (tmp_path / "out").read_bytes() == packed
    assert sorted(os.listdir(tmp_path)) == ["out", "source"]


async def test_parallel_is_as_small(bridge: CompressionBridge) -> None:
    """The blocks know what was before them: all of it is within half a percent of one stream."""
    data = tuned(5 << 20)
    alone = await bridge.compress_data(data)
    together = await bridge.compress_data(data, parallel=True)
    assert len(together) < 1.005 * len(alone)


@pytest.mark.parametrize("tool", ["gzip", "node"])
async def test_tools_read_what_is_made_in_parallel(
    small_blocks: int, bridge: CompressionBridge, tool: str
) -> None:
    """The tools that people have read it without a word."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    script = "process.stdin.pipe(require('zlib').createGunzip()).pipe(process.stdout)"
    command = {"gzip": ["gzip", "-dc"], "node": ["node", "-e", script]}[tool]
    data = tuned(1 << 20)
    packed = await bridge.compress_data(data, parallel=True)
    done = await trio.run_process(command, stdin=packed, capture_stdout=True, capture_stderr=True)
    assert (done.stdout == data, done.stderr) == (True, b"")


class Held:
    """Runs operations when it is told to, and notes how many wait."""

    def __init__(self) -> None:
        self.waiting: list[trio.Event] = []
        self.started = 0
        self.most = 0
        self.options: list[dict[str, Any]] = []

    async def __call__(self, function: Any, /, *arguments: Any, **options: Any) -> Any:
        self.options.append(options)
        self.started += 1
        gate = trio.Event()
        self.waiting.append(gate)
        self.most = max(self.most, len(self.waiting))
        try:
            await gate.wait()
        finally:
            self.waiting.remove(gate)
        return function(*arguments)


async def test_few_blocks_are_under_way(
    small_blocks: int, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as there are cores and two, whatever is done first; the order is that of the data."""
    monkeypatch.setattr(_parallel, "usable_cores", lambda: 3)
    held = Held()
    data = tuned(2_000_000)
    packed: list[memoryview] = []

    async def compress() -> None:
        packed.append(await CompressionBridge(held).compress_data(data, parallel=True))

    chance = random.Random(5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(compress)
        while not packed:
            await trio.testing.wait_all_tasks_blocked()
            if held.waiting:
                chance.choice(held.waiting).set()
    assert gzip.decompress(packed[0]) == data
    assert (held.most, held.started) == (5, 20)


async def test_only_the_first_block_waits_for_others(
    small_blocks: int, bridge: CompressionBridge, direct: Direct
) -> None:
    """The time in the queue is that of the whole; the others wait for the first block."""
    await bridge.compress_data(tuned(1_000_000), parallel=True, queue_timeout=2.0, priority="low")
    waits = sorted(options["queue_timeout"] for options in direct.options)
    assert waits == [2.0, *[math.inf] * 9]
    assert {options["priority"] for options in direct.options} == {"low"}
    assert {options["on_progress"] for options in direct.options} == {None}


async def test_the_time_is_that_of_the_whole(
    small_blocks: int, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block has what the ones before it have left."""
    monkeypatch.setattr(_parallel, "usable_cores", lambda: 1)
    timeouts: list[float] = []

    async def run(function: Any, /, *arguments: Any, **options: Any) -> Any:
        timeouts.append(options["timeout"])
        await trio.sleep(1)
        data, crc, _ = function(*arguments)
        return data, crc, 1.0

    await CompressionBridge(run).compress_data(tuned(600_000), parallel=True, timeout=2.5)
    assert timeouts == [2.5, 2.5, 2.5, 1.5, 1.5, 1.5]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_parallel_progress(
    small_blocks: int,
    bridge: CompressionBridge,
    monkeypatch: pytest.MonkeyPatch,
    asynchronous: bool,
) -> None:
    """It rises with the blocks, not too often, and ends at the total."""
    seen: list[tuple[int, int]] = []

    def note(progress: Any) -> None:
        seen.append((progress.value, progress.total))

    async def note_later(progress: Any) -> None:
        await trio.lowlevel.checkpoint()
        note(progress)

    callback = note_later if asynchronous else note
    await bridge.compress_data(tuned(1_000_000), parallel=True, on_progress=callback)
    assert seen[-1] == (1_000_000, 1_000_000)
    monkeypatch.setattr(_parallel, "_INTERVAL", 0)
    seen.clear()
    await bridge.compress_data(tuned(1_000_000), parallel=True, on_progress=callback)
    assert seen == [(done, 1_000_000) for done in range(100_000, 1_000_001, 100_000)]


async def test_an_error_comes_out_bare(small_blocks: int, tmp_path: Path) -> None:
    """Of a block, of the progress, of the disk: no group, no file, nothing that runs."""
    source = tmp_path / "source"
    source.write_bytes(tuned(1_000_000))
    held = Held()
    bridge = CompressionBridge(held)

    async def release() -> None:
        while True:
            await wait_until(lambda: held.waiting)
            held.waiting[0].set()
            await trio.lowlevel.checkpoint()

    def fail(progress: Any) -> None:
        raise KeyError("mine")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(release)
        with pytest.raises(KeyError, match="mine"):
            await bridge.compress_data(
                source, parallel=True, destination=tmp_path / "out", on_progress=fail
            )
        with pytest.raises(FileNotFoundError):
            await bridge.compress_data(source, parallel=True, destination=tmp_path / "no" / "out")
        held.waiting.clear()
        os.truncate(source, 1_000_000)
        task = held.started

        def shorten(progress: Any) -> None:
            os.truncate(source, 300_000)

        with pytest.raises(OSError, match="became shorter"):
            await bridge.compress_data(
                source, parallel=True, destination=tmp_path / "out", on_progress=shorten
            )
        assert held.started > task
        assert held.waiting == []
        nursery.cancel_scope.cancel()
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize("named", [False, True])
async def test_cancelled_at_each_step(
    small_blocks: int,
    bridge: CompressionBridge,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    named: bool,
) -> None:
    """Wherever it is cancelled, the destination is the old one or the new one, and nothing else."""
    if named:
        monkeypatch.setattr(_files, "open_nameless", lambda folder: None)
    data = tuned(350_000)
    target = tmp_path / "out"
    target.write_bytes(b"old")

    async def compress() -> None:
        await bridge.compress_data(data, parallel=True, destination=target)

    async def check() -> None:
        assert os.listdir(tmp_path) == ["out"]
        content = target.read_bytes()
        assert content == b"old" or gzip.decompress(content) == data
        target.write_bytes(b"old")

    assert await cancel_at_each_step(compress, check) > 5


@both_kinds
async def test_workers_in_parallel(kind: Kind, tmp_path: Path) -> None:
    """Two real workers make one member of bytes and of a file; each has done its part."""
    data = tuned(6 << 20)
    (tmp_path / "source").write_bytes(data)
    async with open_worker_bridge(2, placement=kind) as bridge:
        packed = await bridge.compression.compress_data(data, parallel=True)
        assert gzip.decompress(packed) == data
        assert bridge.pool.statistics().total_tasks_processed == 6
        written = await bridge.compression.compress_data(
            tmp_path / "source", parallel=True, destination=tmp_path / "out"
        )
        assert (tmp_path / "out").read_bytes() == packed
        assert written.size == len(packed)
        assert await bridge.compression.decompress_data(tmp_path / "out") == data


@both_kinds
async def test_parallel_requests_end_as_others_do(kind: Kind, tmp_path: Path) -> None:
    """A timeout and a cancellation are the errors that they are everywhere."""
    source = sparse_file(tmp_path / "source", 1 << 36)
    async with open_worker_bridge(2, placement=kind) as bridge:
        with pytest.raises(RequestTimeoutError) as timed_out:
            await bridge.compression.compress_data(source, parallel=True, timeout=0.2)
        assert timed_out.value.clock == "run"
        with SharedCancellation() as flag, pytest.raises(RequestCancelledError):
            await bridge.compression.compress_data(
                source,
                parallel=True,
                cancellation=flag,
                on_progress=lambda progress: flag.cancel(),
            )
        assert gzip.decompress(await bridge.compression.compress_data(b"abc")) == b"abc"
