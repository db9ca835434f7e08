"""Compressing and decompressing buffers and files of any size.

Guarantees:

- The memory for it does not grow with a file, nor with what the data claims about itself.
- Between two looks at the cancel word there is one step of input or one block of output.
- Data that ends too early, or does not end where it should, is an error; none of it is published.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

from trioipc._errors import DataError, OutputTooLargeError, TrailingDataError, TruncatedDataError
from trioipc.builtin._codecs import FORMATS, RAW, Decoder, load_zlib
from trioipc.builtin._files import FileSource, Meter, open_output, open_source
from trioipc.builtin._gzip import WINDOW
from trioipc.worker.registry import operation
from trioipc.worker.request import current_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trioipc.builtin._files import Output, Source
    from trioipc.memory._ring import RingReader

# A step of input is a progress value and a cancel point: the slowest levels of zlib and zstd take
# up to 70 ms for it, but brotli's levels 10 and 11 collect a megabyte first, and then take 2 s.
STEP = 64 << 10
# How much to decompress at a time. A step may hold gigabytes, so it is a cancel point as well.
BLOCK = 256 << 10

# What to expect of the unknown: text becomes a third or a fourth. Memory that is too small grows.
_SHRINKS, _GROWS = 2, 4
_AT_LEAST = 1 << 10

DEFAULT_MAX_OUTPUT_SIZE = 1 << 30


@operation(channel="compression", idempotent=True)
def compress_data(
    source: memoryview | RingReader | str,
    algorithm: str = "gzip",
    level: int | None = None,
    destination: str | None = None,
    spare: str | None = None,
) -> memoryview | int:
    """Compress a buffer or a file.

    Args:
      source: Bytes, or an absolute path.
      algorithm: ``"gzip"``, ``"deflate"``, ``"brotli"`` or ``"zstd"``.
      level: How hard to try, as the algorithm counts; None for its default.
      destination: The absolute path of the file to write; None for a result in memory.
      spare: A free name in the folder of ``destination``; the caller removes it at the end.

    Returns:
      The compressed bytes, or how many were written.

    Raises:
      MissingExtraError: if the algorithm needs what is not installed.
      OSError: if the files cannot be read or written.
    """
    request = current_request()
    kind = FORMATS[algorithm]
    encoder = kind.encoder(kind.default_level if level is None else level)
    with open_source(source) as opened:
        expected = opened.size // _SHRINKS + _AT_LEAST
        with open_output(request, expected, destination, spare) as output:
            meter = Meter(request, opened.size)
            for step in meter.each(opened.steps(STEP)):
                _write(output, encoder.compress(step))
            _write(output, encoder.flush())
            meter.end()
            return output.publish()


@operation(channel="compression", idempotent=True)
def decompress_data(
    source: memoryview | RingReader | str,
    algorithm: str = "gzip",
    max_output_size: float = DEFAULT_MAX_OUTPUT_SIZE,
    destination: str | None = None,
    spare: str | None = None,
) -> memoryview | int:
    """Decompress a buffer or a file.

    Args:
      source: Bytes, or an absolute path; nothing may follow the compressed data, but for more of
        it where the format has that (gzip's members, the frames of zstd).
      algorithm: ``"gzip"``, ``"deflate"``, ``"brotli"`` or ``"zstd"``.
      max_output_size: How many bytes it may become.
      destination: The absolute path of the file to write; None for a result in memory.
      spare: A free name in the folder of ``destination``; the caller removes it at the end.

    Returns:
      The bytes, or how many were written.

    Raises:
      TruncatedDataError: if the source ends before the data does.
      TrailingDataError: if the data ends before the source does.
      OutputTooLargeError: if it becomes more than ``max_output_size`` bytes.
      DataError: if it is damaged, or not of this format.
      MissingExtraError: if the algorithm needs what is not installed.
      OSError: if the files cannot be read or written.
    """
    request = current_request()
    decoder = Decoder(algorithm)
    with open_source(source) as opened:
        expected = min(opened.size * _GROWS + _AT_LEAST, max_output_size)
        with open_output(request, int(expected), destination, spare) as output:
            meter = Meter(request, opened.size)
            done = total = 0
            for step in meter.each(opened.steps(STEP)):
                try:
                    for block in _blocks(decoder, step):
                        total += len(block)
                        _refuse_too_large(total, max_output_size)
                        _write(output, block)
                        request.checkpoint()
                except DataError as error:
                    if type(error) is DataError and _ends_within(opened, done, algorithm):
                        raise TrailingDataError(
                            f"the {algorithm} data has ended, and something else follows it"
                        ) from None
                    raise
                done += len(step)
            if not decoder.complete:
                raise TruncatedDataError(
                    f"the {algorithm} data is not complete: it ends after {done} bytes"
                )
            meter.end()
            return output.publish()


def _blocks(decoder: Decoder, data: memoryview) -> Iterator[bytes]:
    """Decompress some data, one block at a time."""
    yield decoder.decompress(data, BLOCK)
    while not decoder.hungry:
        yield decoder.decompress(b"", BLOCK)


def _refuse_too_large(size: int, max_output_size: float) -> None:
    if size > max_output_size:
        raise OutputTooLargeError(
            f"decompressed, this is more than {max_output_size} bytes, which is max_output_size"
        )


def _ends_within(source: Source, good: int, algorithm: str) -> bool:
    """Say whether data that a library calls damaged just ends before its source does.

    For a library that does not say where in what it was given the data has ended: read it again,
    and from where the error is, byte by byte.

    Args:
      source: What was read.
      good: How many bytes of it were read without an error.
      algorithm: What it is thought to be.
    """
    if FORMATS[algorithm].tells_end:
        return False
    request = current_request()
    decoder = Decoder(algorithm)
    done = 0
    for step in source.steps(STEP):
        length = len(step) if done + len(step) <= good else 1
        for start in range(0, len(step), length):
            try:
                for _ in _blocks(decoder, step[start : start + length]):
                    request.checkpoint()
            except DataError:
                return False
            if decoder.complete:
                return True
        done += len(step)
    return False  # it was another file the first time


def _write(output: Output, data: bytes) -> None:
    if data:
        output.room(len(data))[:] = data
        output.commit(len(data))


@operation(channel="compression", idempotent=True)
def compress_block(
    source: memoryview | str,
    start: int,
    length: int,
    level: int,
    last: bool,
    identity: tuple[int, int] | None = None,
) -> tuple[memoryview, int, float]:
    """Compress one block of what will be a gzip member.

    Args:
      source: Bytes, or an absolute path.
      start: Where in the source the block begins; up to 32 KiB before it prime the compressor.
      length: How many bytes it has.
      level: 0 to 9.
      last: Whether it ends the member.
      identity: The device and number of the file, if the source is one.

    Returns:
      Raw deflate, the block's CRC-32, and how many seconds it took.

    Raises:
      OSError: if the file cannot be read, is another one by now, or has become shorter.
    """
    began = time.perf_counter()
    request = current_request()
    zlib = load_zlib()
    before = min(start, WINDOW)
    part = _read_part(source, start - before, before + length, identity)
    dictionary, block = part[:before], part[before:]
    encoder = zlib.compressobj(
        level, zlib.DEFLATED, RAW, zlib.DEF_MEM_LEVEL, zlib.Z_DEFAULT_STRATEGY,
        *((dictionary,) if before else ()),
    )  # fmt: skip # the names of its arguments differ between the two libraries
    meter = Meter(request, length)
    crc = 0
    out = []
    for step in meter.each(block[at : at + STEP] for at in range(0, length, STEP)):
        crc = zlib.crc32(step, crc)
        out.append(encoder.compress(step))
    out.append(encoder.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH))
    meter.end()
    return memoryview(b"".join(out)), crc, time.perf_counter() - began


def _read_part(
    source: memoryview | str, start: int, length: int, identity: tuple[int, int] | None
) -> memoryview:
    if not isinstance(source, str):
        return memoryview(source)[start : start + length]
    with open_source(source) as opened:
        assert isinstance(opened, FileSource)
        if opened.identity() != identity:
            raise OSError(errno.ESTALE, "replaced by another file while it was read", source)
        part = opened.part(start, length)
    if len(part) < length:
        raise OSError(errno.EIO, "became shorter while it was read", source)
    return part
