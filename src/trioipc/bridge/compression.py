"""``bridge.compression``: data compressed and decompressed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, final, get_args, overload

import attrs

from trioipc.bridge import _parallel
from trioipc.bridge._arguments import (
    Source,
    WrittenFile,
    destination_of,
    result_of,
    sent,
    size_of,
    source_of,
    spare_removed,
)
from trioipc.builtin import compression as builtin
from trioipc.builtin._codecs import FORMATS
from trioipc.pool._options import count, one_of

if TYPE_CHECKING:
    import os

    from trioipc.bridge._arguments import Options, Run
    from trioipc.memory.state import SharedCancellation
    from trioipc.pool.pool import Callback
    from trioipc.protocol._messages import Priority

Algorithm: TypeAlias = Literal["gzip", "deflate", "brotli", "zstd"]


@final
@attrs.define(eq=False, repr=False)
class CompressionBridge:
    """What workers compress and decompress; get it as ``WorkerBridge.compression``."""

    _run: Run

    def __repr__(self) -> str:
        return "<CompressionBridge>"

    @overload
    async def compress_data(
        self,
        source: Source,
        *,
        algorithm: Algorithm = "gzip",
        level: int | None = None,
        destination: None = None,
        parallel: bool = False,
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> memoryview: ...

    @overload
    async def compress_data(
        self,
        source: Source,
        *,
        algorithm: Algorithm = "gzip",
        level: int | None = None,
        destination: str | os.PathLike[str],
        parallel: bool = False,
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> WrittenFile: ...

    async def compress_data(
        self,
        source: Source,
        *,
        algorithm: Algorithm = "gzip",
        level: int | None = None,
        destination: str | os.PathLike[str] | None = None,
        parallel: bool = False,
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> memoryview | WrittenFile:
        """Compress ``source`` in a worker, or in all of them.

        A path is read by the worker, and a destination written by it, in memory that does not
        grow with the file.

        Args:
          source: Bytes-like or a path.
          algorithm: ``"gzip"``; ``"deflate"``, which is the web's word for the format of zlib;
            ``"brotli"``; or ``"zstd"``, which needs Python 3.14 or the extra ``zstd``.
          level: How hard to try: 0 to 9 for gzip and deflate (6 if None), 0 to 11 for brotli (5),
            1 to 19 for zstd (3). With the extra ``fast``, gzip and deflate take a third to a half
            of the time, and their output differs a little. Levels 10 and 11 of brotli look for a
            cancel only every second or two.
          destination: The file to write; None for the bytes as the result. One that exists is
            replaced when all is written, and keeps its mode; a new one is the owner's alone
            (0600). There is no fsync.
          parallel: Whether all workers compress, each a piece of a megabyte, where ``source`` is
            larger than that; for gzip only. The output is one member, about 0.1 % larger.
          on_progress: Called with the progress, in bytes of ``source``, in the caller's task.
          timeout: Seconds that the run may take, from its start; None for the bridge's value,
            which with ``parallel`` each piece may take.
          queue_timeout: Seconds that it may wait before that, likewise.
          cancellation: Cancels the request when it is set.
          priority: ``"low"``, ``"normal"`` or ``"high"``.

        Returns:
          The compressed bytes as a read-only view, or the file that holds them.

        Raises:
          TypeError: if an argument is of another type; no worker is asked.
          ValueError: if there is no such algorithm or level, if ``parallel`` is not for it, or if
            ``source`` and ``destination`` are the same file; no worker is asked.
          MissingExtraError: if the algorithm needs what is not installed, likewise.
          OSError: if a file cannot be read or written, or is no regular file; with ``parallel``,
            also if it was replaced or became shorter meanwhile.
          WorkerCrashedError: if a worker died. You don't get this if *you* cancelled.

        Cancellation: a checkpoint. If cancelled, the destination is what it was, unless the
        cancel came after it had been replaced as a whole.

        Source: RFC 1952 (gzip), 1950 (zlib), 1951 (deflate), 7932 (brotli), 8878 (zstd).
        """
        checked_level = _level_of(algorithm, level)
        if parallel and algorithm != "gzip":
            raise ValueError(f"parallel is for gzip, not for {algorithm}")
        FORMATS[algorithm].load()
        checked_source = source_of(source)
        target = destination_of(destination, checked_source)
        options: Options = {
            "on_progress": on_progress,
            "timeout": timeout,
            "queue_timeout": queue_timeout,
            "cancellation": cancellation,
            "priority": priority,
        }
        size = size_of(checked_source) or 0
        with spare_removed(target) as (path, spare):
            if parallel and size > _parallel.BLOCK:
                return await _parallel.compress(
                    self._run, checked_source, size, checked_level, target, options
                )
            result = await self._run(
                builtin.compress_data,
                sent(checked_source, slowly=True),
                algorithm,
                checked_level,
                path,
                spare,
                **options,
            )
        return result_of(result, target)

    @overload
    async def decompress_data(
        self,
        source: Source,
        *,
        algorithm: Algorithm = "gzip",
        max_output_size: float = builtin.DEFAULT_MAX_OUTPUT_SIZE,
        destination: None = None,
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> memoryview: ...

    @overload
    async def decompress_data(
        self,
        source: Source,
        *,
        algorithm: Algorithm = "gzip",
        max_output_size: float = builtin.DEFAULT_MAX_OUTPUT_SIZE,
        destination: str | os.PathLike[str],
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> WrittenFile: ...

    async def decompress_data(
        self,
        source: Source,
        *,
        algorithm: Algorithm = "gzip",
        max_output_size: float = builtin.DEFAULT_MAX_OUTPUT_SIZE,
        destination: str | os.PathLike[str] | None = None,
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> memoryview | WrittenFile:
        """Decompress ``source`` in a worker.

        It may be hostile: what it claims about itself is not believed, and what comes out is
        counted. Several members of gzip, or frames of zstd, are read as one.

        Args:
          source: Bytes-like or a path.
          algorithm: As for `compress_data`.
          max_output_size: How many bytes it may become; `math.inf` for as many as there are.
          destination: The file to write, as for `compress_data`; None for the bytes.
          on_progress: Called with the progress, in bytes of ``source``, in the caller's task.
          timeout: Seconds that the run may take, from its start; None for the bridge's value.
          queue_timeout: Seconds that it may wait before that, likewise.
          cancellation: Cancels the request when it is set.
          priority: ``"low"``, ``"normal"`` or ``"high"``.

        Returns:
          The decompressed bytes as a read-only view, or the file that holds them.

        Raises:
          TypeError: if an argument is of another type; no worker is asked.
          ValueError: if there is no such algorithm, ``max_output_size`` is negative, or
            ``source`` and ``destination`` are the same file; no worker is asked.
          MissingExtraError: if the algorithm needs what is not installed, likewise.
          TruncatedDataError: if ``source`` ends before the data is complete.
          TrailingDataError: if something else follows the data, zeros included.
          OutputTooLargeError: if it would become more than ``max_output_size`` bytes.
          DataError: if it is damaged, or of another format. The three above are kinds of it.
          OSError: if a file cannot be read or written, or is no regular file.
          WorkerCrashedError: if the worker died. You don't get this if *you* cancelled.

        Cancellation: a checkpoint. If cancelled, the destination is what it was, unless the
        cancel came after it had been replaced as a whole.

        Source: as for `compress_data`.
        """
        one_of("algorithm", algorithm, get_args(Algorithm))
        limit = count("max_output_size", max_output_size, 0)
        FORMATS[algorithm].load()
        checked_source = source_of(source)
        target = destination_of(destination, checked_source)
        with spare_removed(target) as (path, spare):
            result = await self._run(
                builtin.decompress_data,
                # Brotli does not say where data has ended, so bad data is read a second time.
                checked_source if algorithm == "brotli" else sent(checked_source, slowly=True),
                algorithm,
                limit,
                path,
                spare,
                on_progress=on_progress,
                timeout=timeout,
                queue_timeout=queue_timeout,
                cancellation=cancellation,
                priority=priority,
            )
        return result_of(result, target)


def _level_of(algorithm: Algorithm, level: object) -> int:
    """Return the level to compress with."""
    one_of("algorithm", algorithm, get_args(Algorithm))
    kind = FORMATS[algorithm]
    if level is None:
        return kind.default_level
    if isinstance(level, bool) or not isinstance(level, int):
        raise TypeError(f"level must be an int or None, not {type(level).__name__}")
    if level not in kind.levels:
        least, most = kind.levels[0], kind.levels[-1]
        raise ValueError(f"level must be {least} to {most} for {algorithm}, not {level}")
    return level
