"""Reading sources and writing results, step by step, in memory that does not grow with a file.

Guarantees:

- A source that is a path is read through one buffer of one step, until its end, wherever that is:
  a file may grow or shrink while it is read.
- A destination is untouched until its new content is complete; then it is replaced in one move.
- Until then the content has no name, where the file system can do that. Elsewhere its name is
  `spare`, which the caller chose and removes however the request ends, since a worker that is
  killed cannot.
- A result in memory that was not published is zero again before an error leaves.

There is no fsync: after a power failure the file may be lost. One who needs it to be safe calls
``os.fsync`` on the file and on its folder, and pays for it.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol, final

from trioipc.memory._ring import RingReader, Streamed
from trioipc.worker.request import current_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trioipc.worker.request import CurrentRequest

# What a new file may be for others: nothing. Only its owner knows whom else it is meant for.
NEW_FILE_MODE = 0o600

# How much is set to zero at a time; pulled out of the air, small beside what is zeroed.
_ZEROS = bytes(1 << 20)

# Opening a pipe must not wait for somebody to write into it: no cancel would end that on a thread.
# Neither flag exists everywhere, nor means anything for regular files.
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_WRITE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)

# How a kernel or a file system says that it has no files without a name (open(2), O_TMPFILE); old
# kernels see a folder opened for writing.
_NO_NAMELESS_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS)


# ---- sources


class Source(Protocol):
    """Where bytes come from."""

    size: int
    """How many there are; of a file, when it was opened."""

    def expect(self, passes: int) -> None:
        """Say, before the first step, how often all steps will be asked for; once if not said."""

    def steps(self, length: int) -> Iterator[memoryview]:
        """Read from the start, at most ``length`` bytes at a time.

        A step is valid until the next one is asked for.
        """


@final
class BufferSource:
    """Bytes in memory."""

    def __init__(self, buffer: memoryview) -> None:
        self._buffer = buffer
        self.size = len(buffer)

    def expect(self, passes: int) -> None:
        """Do nothing: they stay."""

    def steps(self, length: int) -> Iterator[memoryview]:
        """Slice; nothing is copied."""
        for start in range(0, self.size, length):
            yield self._buffer[start : start + length]


@final
class FileSource:
    """A regular file, by its open descriptor."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self.size = size

    def expect(self, passes: int) -> None:
        """Do nothing: a file can be read again."""

    def steps(self, length: int) -> Iterator[memoryview]:
        """Read until the end of the file, into one buffer."""
        buffer = memoryview(bytearray(length))
        with open(self._descriptor, "rb", buffering=0, closefd=False) as file:
            file.seek(0)
            while count := file.readinto(buffer):
                yield buffer[:count]

    def part(self, start: int, length: int) -> memoryview:
        """Read ``length`` bytes from ``start`` on, fewer if the file ends before.

        A pass over the steps must not be under way: there is one position for both.
        """
        buffer = memoryview(bytearray(length))
        filled = 0
        with open(self._descriptor, "rb", buffering=0, closefd=False) as file:
            file.seek(start)
            while count := file.readinto(buffer[filled:]):
                filled += count
        return buffer[:filled]

    def identity(self) -> tuple[int, int]:
        """Return what tells this file from all others, whatever it is called."""
        status = os.fstat(self._descriptor)
        return status.st_dev, status.st_ino


@contextmanager
def open_source(source: memoryview | RingReader | Streamed | str) -> Iterator[Source]:
    """Open a buffer, a ring or, by its path, a regular file.

    What would have gone through a ring to another process is a buffer in this one.

    Raises:
      OSError: if the file cannot be opened, or is a folder, a pipe or a device.
    """
    if isinstance(source, RingReader):
        source.checkpoint = current_request().checkpoint
        yield source
        return
    if isinstance(source, Streamed):
        yield BufferSource(source.source)
        return
    if not isinstance(source, str):
        # A message may bring bytes, since only calls of the bridge are sure to be a view.
        yield BufferSource(memoryview(source))
        return
    descriptor = os.open(source, _READ_FLAGS)
    try:
        status = os.fstat(descriptor)
        _refuse_special(source, status.st_mode)
        yield FileSource(descriptor, status.st_size)
    finally:
        os.close(descriptor)


def _refuse_special(path: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "neither a regular file nor a link to one", path)


# ---- progress and cancelling


@final
class Meter:
    """The progress of one operation, and the points at which it can be cancelled.

    Args:
      total: How many bytes will be read, as far as one can know before.
    """

    def __init__(self, request: CurrentRequest, total: int) -> None:
        self._request = request
        self._progress = request.progress
        self._progress.set_total(total)
        self._progress.set(0)
        request.checkpoint()

    def each(self, steps: Iterable[memoryview]) -> Iterator[memoryview]:
        """Pass the steps through; each counts when the next one is asked for."""
        for step in steps:
            yield step
            self._progress.increment(len(step))
            self._request.checkpoint()

    def end(self) -> None:
        """Make value and total equal, also if the source was no longer what it was when opened."""
        self._progress.set_total(self._progress.get())


# ---- results


class Output(Protocol):
    """Where a result goes."""

    visible: bool
    """Whether others can find what is written, before it is published."""

    def room(self, count: int) -> memoryview:
        """Return writable memory for the next ``count`` bytes; say with `commit` that they are."""

    def commit(self, count: int) -> None:
        """Take ``count`` bytes that were written to what `room` returned."""


class PublishedOutput(Output, Protocol):
    """Where a result goes that somebody will see."""

    def publish(self) -> memoryview | int:
        """Show what was written, all at once: the bytes, or how many there are in the file."""

    def discard(self) -> None:
        """Leave nothing of what was written, unless it was published."""


def _scratch(scratch: memoryview, count: int) -> memoryview:
    """Return ``scratch`` if it has room for ``count`` bytes, else something that has."""
    return scratch if len(scratch) >= count else memoryview(bytearray(count))


@final
class Nowhere:
    """Forgets what is written; for a pass that only verifies."""

    visible = False

    def __init__(self) -> None:
        self._scratch = memoryview(bytearray())

    def room(self, count: int) -> memoryview:
        """Return the same memory each time."""
        self._scratch = _scratch(self._scratch, count)
        return self._scratch[:count]

    def commit(self, count: int) -> None:
        """Forget them."""


@final
class MemoryOutput:
    """A result in memory that can travel home without a copy.

    Args:
      size: How many bytes to expect; more are taken as well, at the price of a copy.
    """

    visible = False

    def __init__(self, request: CurrentRequest, size: int) -> None:
        self._request = request
        # All of it is written before it is shown, so it need not be blank.
        self._view = request._allocate(size, blank=False)
        self._end = 0

    def room(self, count: int) -> memoryview:
        """Return the memory behind what was committed."""
        end = self._end + count
        if end > len(self._view):
            self._grow(max(end, 2 * len(self._view)))
        return self._view[self._end : end]

    def _grow(self, size: int) -> None:
        smaller, self._view = self._view, self._request._allocate(size, blank=False)
        self._view[: self._end] = smaller[: self._end]
        self._wipe(smaller)

    def commit(self, count: int) -> None:
        """Move on."""
        self._end += count

    def publish(self) -> memoryview:
        """Return the bytes."""
        view, self._view = self._view, memoryview(bytearray())
        return view[: self._end]

    def discard(self) -> None:
        """Zero the memory: it may hold plaintext that did not verify, and others can map it."""
        self._wipe(self._view)

    def _wipe(self, view: memoryview) -> None:
        # A result that an interrupt stops is never sent, so one that comes before this line does
        # no harm; it would only leave less clean memory in a worker that ends.
        with self._request.uninterruptible():
            for start in range(0, len(view), len(_ZEROS)):
                part = view[start : start + len(_ZEROS)]
                part[:] = _ZEROS[: len(part)]


@final
class FileOutput:
    """A result that becomes the file ``path`` in one move.

    Args:
      path: Absolute, and no symbolic link: the move would replace the link.
      spare: A name in the same folder that nobody else uses.

    Raises:
      OSError: if nothing can be written there, or something is there that is no regular file.
    """

    def __init__(self, path: str, spare: str) -> None:
        self._path = path
        self._spare = spare
        self._scratch = memoryview(bytearray())
        self._size = 0
        _mode_for(path)
        # What a worker left that died with this request before us: only it knew the name.
        remove_spare(spare)
        nameless = open_nameless(os.path.dirname(path))
        self.visible = nameless is None
        self._descriptor: int | None
        if nameless is None:
            self._descriptor = os.open(spare, _WRITE_FLAGS, NEW_FILE_MODE)
        else:
            self._descriptor = nameless

    def room(self, count: int) -> memoryview:
        """Return the same memory each time."""
        self._scratch = _scratch(self._scratch, count)
        return self._scratch[:count]

    def commit(self, count: int) -> None:
        """Write them."""
        assert self._descriptor is not None
        left = self._scratch[:count]
        while left:  # a signal or a disk that gets full may cut a write short
            left = left[os.write(self._descriptor, left) :]
        self._size += count

    def publish(self) -> int:
        """Put the file in its place, with the mode of the file that was there."""
        assert self._descriptor is not None
        _set_mode(self._descriptor, _mode_for(self._path))
        if not self.visible:
            _link_nameless(self._descriptor, self._spare)
        # Network file systems report a full disk here and not before.
        self._close()
        os.replace(self._spare, self._path)
        return self._size

    def discard(self) -> None:
        """Remove what still has its spare name."""
        try:
            self._close()
        finally:
            remove_spare(self._spare)

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def open_output(
    request: CurrentRequest, size: int, destination: str | None, spare: str | None
) -> Iterator[PublishedOutput]:
    """Open the destination, or memory for ``size`` bytes; discard what the block did not publish.

    Raises:
      OSError: if there is no memory, or nothing can be written there.
    """
    output: PublishedOutput
    if destination is None or spare is None:
        output = MemoryOutput(request, size)
    else:
        output = FileOutput(destination, spare)
    try:
        yield output
    finally:
        output.discard()


def _mode_for(path: str) -> int:
    """Say which mode the file gets: that of the file which it replaces, if there is one."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return NEW_FILE_MODE
    _refuse_special(path, mode)  # replacing /dev/null by a file would be a surprise
    # Without setuid and the like: those were given to the old content, by the old owner.
    return mode & 0o777


def _set_mode(descriptor: int, mode: int) -> None:
    if sys.platform != "win32":  # where a mode means little
        os.fchmod(descriptor, mode)


def move_into_place(spare: str, path: str) -> None:
    """Make the complete file ``spare`` the file ``path``, with the mode of the one that was there.

    Raises:
      OSError: if that cannot be, or something is there that is no regular file.
    """
    mode = _mode_for(path)
    if mode != NEW_FILE_MODE:
        os.chmod(spare, mode)
    os.replace(spare, path)


def remove_spare(spare: str) -> None:
    """Remove the file of that name, if there is one."""
    with suppress(FileNotFoundError):
        os.unlink(spare)


if sys.platform == "linux":

    def open_nameless(folder: str) -> int | None:
        """Open a new file in ``folder`` that has no name yet; None if there are none there.

        Raises:
          OSError: if one cannot write there at all.
        """
        if not os.path.isdir("/proc/self/fd"):  # without it, it could never get a name
            return None
        try:
            return os.open(folder, os.O_WRONLY | os.O_TMPFILE, NEW_FILE_MODE)
        except OSError as error:
            if error.errno in _NO_NAMELESS_FILES:
                return None
            raise

    def _link_nameless(descriptor: int, name: str) -> None:
        # Python calls linkat(2), which can follow the link that /proc shows, only if it is given
        # a folder; that of an absolute path is never looked at.
        os.link(f"/proc/self/fd/{descriptor}", name, src_dir_fd=descriptor, follow_symlinks=True)

else:

    def open_nameless(folder: str) -> int | None:
        """Return None: only Linux has files without a name."""
        return None

    def _link_nameless(descriptor: int, name: str) -> None:
        raise NotImplementedError
