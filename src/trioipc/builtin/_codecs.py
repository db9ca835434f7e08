"""The compression formats: how each is written and read, step by step.

Rules:

- A library is loaded when its format is first asked for; a worker that only hashes has none.
- What comes out of a decoder is bounded at each call, and it is the caller who counts.
- Whatever a library calls its errors, here they are a `DataError` or one of its kinds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs

from trioipc._errors import DataError, MissingExtraError, TrailingDataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class Encoder(Protocol):
        """Writes one stream."""

        def compress(self, data: Any, /) -> bytes:
            """Take some data; return what is ready."""

        def flush(self) -> bytes:
            """Return the rest, and end the stream."""

    class Stream(Protocol):
        """Reads one stream."""

        @property
        def hungry(self) -> bool:
            """Whether it wants more data; otherwise it has more to give, for no data."""

        @property
        def eof(self) -> bool:
            """Whether it has come to the end of the stream."""

        @property
        def unused(self) -> bytes:
            """What of the data was behind that end."""

        def decompress(self, data: Any, limit: int) -> bytes:
            """Take some data; return about ``limit`` bytes at most."""


# Parameters of zlib (its manual, deflateInit2): a window of 32 KiB in the wrapping of each format.
GZIP, ZLIB, RAW = 31, 15, -15


def load_zlib() -> Any:
    """Return the faster library if it is installed, else the standard one; the calls are the same.

    It is the extra ``fast``.
    """
    try:
        from zlib_ng import zlib_ng
    except ImportError:
        import zlib

        return zlib
    return zlib_ng


def _load_brotli() -> Any:
    import brotli

    return brotli


def _load_zstd() -> Any:
    try:
        from compression import zstd  # Python 3.14
    except ImportError:
        try:
            from backports import zstd
        except ImportError:
            raise MissingExtraError(
                "zstd needs Python 3.14 or the extra zstd: pip install 'trioipc[zstd]'"
            ) from None
    return zstd


# ---- writing


@final
class _BrotliEncoder:
    def __init__(self, level: int) -> None:
        encoder = _load_brotli().Compressor(quality=level)
        self.compress = encoder.process
        self.flush = encoder.finish


def _zlib_encoder(window: int) -> Callable[[int], Encoder]:
    return lambda level: load_zlib().compressobj(level, 8, window)


def _zstd_encoder(level: int) -> Encoder:
    return _load_zstd().ZstdCompressor(level)  # type: ignore[no-any-return]


# ---- reading


@final
class _ZlibStream:
    def __init__(self, window: int) -> None:
        self._stream = load_zlib().decompressobj(window)
        self.hungry = True

    @property
    def eof(self) -> bool:
        return bool(self._stream.eof)

    @property
    def unused(self) -> bytes:
        return bytes(self._stream.unused_data)

    def decompress(self, data: Any, limit: int) -> bytes:
        out: bytes = self._stream.decompress(data or self._stream.unconsumed_tail, limit)
        # All data may have been taken and some of it not yet given: only a call that gives less
        # than it might have says that there is no more.
        self.hungry = len(out) < limit
        return out


@final
class _BrotliStream:
    unused = b""  # it has no way to tell; whoever must know reads again, byte by byte

    def __init__(self) -> None:
        self._stream = _load_brotli().Decompressor()
        self.hungry = True
        self.eof = False

    def decompress(self, data: Any, limit: int) -> bytes:
        out: bytes = self._stream.process(data, output_buffer_limit=limit)
        # That it can accept more does not mean that it has no more to give, as with zlib.
        self.hungry = self._stream.can_accept_more_data() and len(out) < limit
        self.eof = self._stream.is_finished()
        return out


@final
class _ZstdStream:
    def __init__(self) -> None:
        self._stream = _load_zstd().ZstdDecompressor()

    @property
    def hungry(self) -> bool:
        return bool(self._stream.needs_input)

    @property
    def eof(self) -> bool:
        return bool(self._stream.eof)

    @property
    def unused(self) -> bytes:
        return bytes(self._stream.unused_data)

    def decompress(self, data: Any, limit: int) -> bytes:
        return bytes(self._stream.decompress(data, limit))


# ---- the formats

# RFC 1952, 2.3.1.
_GZIP_MAGICS = (b"\x1f\x8b",)
# RFC 8878, 3.1.1 and 3.1.2: a frame with data, or one of the 16 kinds that are to be skipped.
_ZSTD_MAGICS = (
    b"\x28\xb5\x2f\xfd",
    *(bytes([kind, 0x2A, 0x4D, 0x18]) for kind in range(0x50, 0x60)),
)


@final
@attrs.frozen
class Format:
    """One way to compress."""

    load: Callable[[], Any]
    """Returns the library, or raises `MissingExtraError`."""
    levels: range
    default_level: int
    encoder: Callable[[int], Encoder]
    stream: Callable[[], Stream]
    error: str
    """What the library calls its error."""
    magics: tuple[bytes, ...] = ()
    """How a stream begins, if one may follow the other; all are equally long."""
    tells_end: bool = True
    """Whether the library says where in the data a stream has ended."""


FORMATS = {
    "gzip": Format(
        load_zlib,
        range(10),
        6,  # zlib's own
        _zlib_encoder(GZIP),
        lambda: _ZlibStream(GZIP),
        "error",
        _GZIP_MAGICS,
    ),
    "deflate": Format(
        load_zlib, range(10), 6, _zlib_encoder(ZLIB), lambda: _ZlibStream(ZLIB), "error"
    ),
    "brotli": Format(
        _load_brotli,
        range(12),
        5,  # the library's own is 11, which takes a minute where this takes a second
        _BrotliEncoder,
        _BrotliStream,
        "error",
        tells_end=False,
    ),
    "zstd": Format(
        _load_zstd,
        range(1, 20),  # above, one call takes seconds, and reading needs much memory
        3,  # the library's own
        _zstd_encoder,
        _ZstdStream,
        "ZstdError",
        _ZSTD_MAGICS,
    ),
}


@final
class Decoder:
    """Reads a whole source: one stream or, where the format has that, several in a row."""

    def __init__(self, algorithm: str) -> None:
        self._algorithm = algorithm
        self._format = FORMATS[algorithm]
        self._error = getattr(self._format.load(), self._format.error)
        self._stream = self._format.stream()
        # Behind the end of a stream, and not yet known what it is.
        self._rest = b""
        self.hungry = True

    @property
    def complete(self) -> bool:
        """Whether the data may end here."""
        return self._stream.eof and not self._rest

    def decompress(self, data: memoryview | bytes, limit: int) -> bytes:
        """Take some data, none if it is not ``hungry``; return about ``limit`` bytes at most.

        Raises:
          TrailingDataError: if something follows that is no other stream.
          DataError: if it is damaged, or of another format.
        """
        if self._stream.eof:
            data, self._rest = self._rest + data, b""
            if not self._begins(data):
                return b""
        failure = None
        try:
            out = self._stream.decompress(data, limit)
        except self._error as error:
            failure = str(error)
        if failure is not None:
            # Not in the clause above: it would carry the other error along as its context, and
            # that of zlib-ng cannot be pickled.
            raise DataError(f"this is not {self._algorithm} data, or it is damaged: {failure}")
        if self._stream.eof:
            self._rest = self._stream.unused
            self.hungry = not self._rest
        else:
            self.hungry = self._stream.hungry
        return out

    def _begins(self, data: bytes) -> bool:
        """Say whether another stream begins; if it is too early to say, keep the data."""
        magics = self._format.magics
        if not any(magic.startswith(data[: len(magic)]) for magic in magics):
            raise TrailingDataError(
                f"the {self._algorithm} data has ended, and something else follows it"
            )
        if len(data) < len(magics[0]):
            self._rest, self.hungry = data, True
            return False
        self._stream = self._format.stream()
        return True
