"""What the callers of built-in operations may pass, checked before any worker is asked.

Rules:

- What is wrong is a TypeError or a ValueError that names the argument, its type or length, and
  what would be right; never the value, which may be a key.
- ``str`` and `os.PathLike` are paths, always; everything else is data, always.
- Relative paths mean the caller's directory now, not that of a worker later.

`os.stat` of source and destination happens here, on the event loop: microseconds, and the only way
to see a mistake before a worker is asked. Whether the files can be read is the worker's to say.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import attrs
import trio

from trioipc.builtin._files import remove_spare
from trioipc.memory._arena import is_lendable
from trioipc.memory._ring import WIDE_ROOM, WIDE_STEP, WORTH_A_RING, Streamed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from typing import Protocol, TypedDict, TypeVar, TypeVarTuple, Unpack

    from typing_extensions import Buffer  # of collections.abc from 3.12 on

    from trioipc.memory._ring import RingReader
    from trioipc.memory.state import SharedCancellation
    from trioipc.pool.pool import Callback
    from trioipc.protocol._messages import Priority

    T = TypeVar("T")
    Ts = TypeVarTuple("Ts")

    class Options(TypedDict):
        """What every operation takes, and hands on to the pool."""

        on_progress: Callback | None
        timeout: float | None
        queue_timeout: float | None
        cancellation: SharedCancellation | None
        priority: Priority

    class Run(Protocol):
        """`WorkerPool.run`, or something that finds a pool first."""

        async def __call__(
            self, function: Callable[[*Ts], T], /, *args: *Ts, **options: Unpack[Options]
        ) -> T: ...


Source: TypeAlias = "Buffer | str | os.PathLike[str]"
"""Bytes-like objects are data, ``str`` and path objects are paths."""

# A name has at most 255 bytes almost everywhere, and a character up to 4 of them: this many leave
# room for what a spare name has besides.
_NAME_PART = 50


@attrs.frozen
class WrittenFile:
    """A file that a worker has written."""

    path: Path
    """Where, as the caller named it, but absolute."""

    size: int
    """How many bytes."""


def source_of(source: Source) -> memoryview | str:
    """Return the bytes to work on, or the absolute path of the file."""
    if isinstance(source, str | os.PathLike):
        return _absolute(source, "source")
    return view_of(source, "source")


def sent(source: memoryview | str, *, slowly: bool = False) -> memoryview | RingReader | str:
    """Return a source as it is sent: large bytes go through a ring, as they are read.

    Args:
      source: From `source_of`.
      slowly: Whether its reader takes longer than a copy does.
    """
    if isinstance(source, str) or len(source) < WORTH_A_RING or is_lendable(source):
        return source
    ring = Streamed(source, WIDE_STEP, WIDE_ROOM) if slowly else Streamed(source)
    return cast("RingReader", ring)  # which it becomes where it arrives


def view_of(value: object, name: str) -> memoryview:
    """Return bytes-like ``value`` as a flat view of its bytes; nothing is copied."""
    try:
        view = memoryview(value)  # type: ignore[arg-type] # that is the question
    except TypeError:
        raise TypeError(f"{name} must be bytes-like, not {type(value).__name__}") from None
    if not view.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous, and this {type(value).__name__} is not")
    # A view without bytes but with dimensions cannot be cast.
    return view.cast("B") if view.nbytes else memoryview(b"")


def view_of_size(value: object, name: str, size: int) -> memoryview:
    """Return bytes-like ``value``, which must be ``size`` bytes long, as a view; see `view_of`."""
    view = view_of(value, name)
    if len(view) != size:
        raise ValueError(f"{name} must be {size} bytes long, not {len(view)}")
    return view


def _absolute(path: object, name: str) -> str:
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a str or a path object, not {type(path).__name__}")
    if not text or "\0" in text:
        raise ValueError(f"{name} is an empty path" if not text else f"{name} has a NUL in it")
    # Not os.path.abspath: it takes "link/.." for nothing, where the kernel follows the link.
    return text if os.path.isabs(text) else os.path.join(os.getcwd(), text)


def size_of(source: memoryview | str) -> int | None:
    """Return how many bytes a source has; None for a file that cannot be looked at."""
    if isinstance(source, memoryview):
        return len(source)
    status = _status(source)
    return None if status is None else status.st_size


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:  # the worker will say so, if it cannot do without
        return None


@attrs.frozen
class Destination:
    """Where a worker shall write a file."""

    path: str
    """Absolute, and no symbolic link: one that the caller named stays, and its target changes."""

    spare: str
    """The name that the file may have while it is written; nobody else knows it."""

    named: Path
    """Where, as the caller named it, but absolute."""


def destination_of(value: object, source: memoryview | str) -> Destination | None:
    """Return where to write; None if the caller wants the bytes."""
    if value is None:
        return None
    named = _absolute(value, "destination")
    if named.endswith(os.sep):
        raise ValueError(f"destination must name a file, and this names a folder: {named!r}")
    if isinstance(source, str):
        refuse_same(source, named)
    path = os.path.realpath(named)
    folder, name = os.path.split(path)
    spare = f".{name[:_NAME_PART]}.{secrets.token_hex(8)}.trioipc"
    return Destination(path, os.path.join(folder, spare), Path(named))


def refuse_same(source: str, destination: str) -> None:
    """Compare what the paths lead to: other names, links and hard links are the same file."""
    first, second = _status(source), _status(destination)
    if first is not None and second is not None and os.path.samestat(first, second):
        raise ValueError(f"source and destination are the same file: {destination!r}")


@attrs.frozen
class Folder:
    """Where a worker shall write several files."""

    path: str
    """Absolute, and no symbolic link."""

    spare: str
    """The name, inside of it, of what they may be in until they are complete."""

    named: Path
    """Where, as the caller named it, but absolute."""

    existed: bool
    """Whether it is there already."""


def folder_of(value: object) -> Folder | None:
    """Return the folder to write into; None if the caller wants the bytes."""
    if value is None:
        return None
    named = _absolute(value, "destination")
    path = os.path.realpath(named)
    existed = os.path.lexists(path)
    if existed and not os.path.isdir(path):
        raise ValueError(f"destination must be a folder, and this is none: {named!r}")
    spare = os.path.join(path, f".{secrets.token_hex(8)}.trioipc")
    return Folder(path, spare, Path(named), existed)


@asynccontextmanager
async def spare_folder_removed(
    folder: Folder | None,
) -> AsyncIterator[tuple[str | None, str | None]]:
    """Remove at the end what a worker may have left; a killed one cannot do so itself.

    Yields:
      The path and the spare name, as the built-in operations take them.
    """
    if folder is None:
        yield None, None
        return
    try:
        yield folder.path, folder.spare
    except BaseException:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_remove_folder, folder)
        raise


def _remove_folder(folder: Folder) -> None:
    shutil.rmtree(folder.spare, ignore_errors=True)
    if not folder.existed:
        with suppress(OSError):  # there is something in it, or it was never made
            os.rmdir(folder.path)


@contextmanager
def spare_removed(destination: Destination | None) -> Iterator[tuple[str | None, str | None]]:
    """Remove at the end what a worker may have left; a killed one cannot do so itself.

    Yields:
      The path and the spare name, as the built-in operations take them.
    """
    if destination is None:
        yield None, None
        return
    try:
        yield destination.path, destination.spare
    finally:
        # No such folder, say: then nothing was left in it, and the worker has said so.
        with suppress(OSError):
            remove_spare(destination.spare)


def result_of(
    result: memoryview | int, destination: Destination | None
) -> memoryview | WrittenFile:
    """Turn what a built-in operation returned into what its caller gets."""
    if isinstance(result, int):
        assert destination is not None
        return WrittenFile(destination.named, result)
    return result.toreadonly()
