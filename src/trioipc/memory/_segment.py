"""One piece of memory that several processes can see, without a name that could outlive a crash.

Rule 1: nothing here has a name, so a crash at any moment leaves nothing behind but what living
    processes have mapped. (Where there is only ``shm_open``, it has one for two system calls.)
Rule 2: a segment never shrinks under its readers (that would be SIGBUS), so memfds are sealed and
    the other kind is allocated in full before it is mapped.
Rule 3: a map is never closed, only dropped: a view that somebody holds keeps it alive.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    from trioipc.memory._file import File

    Backend: TypeAlias = Literal["memfd", "shm", "plain"]

# Set to "memfd", "shm" or "plain" to force one; the tests run over all of them.
ENVIRONMENT_VARIABLE = "TRIOIPC_SEGMENT"

# How a machine says that it has no such kind. Sandboxes (seccomp, gVisor) lack or forbid
# memfd_create, as does sysctl vm.memfd_noexec=2; a chroot may have no /dev/shm, or a read-only one.
# That there is no room or no descriptor left is not among them: it is true of the next kind too.
_REFUSALS = {errno.ENOSYS, errno.EPERM, errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.EROFS}


class Segment:
    """Memory that can be handed to another process by its descriptor.

    Args:
      descriptor: An open descriptor of the memory, owned by the segment from now on, also if it
        cannot be mapped. None for plain memory, which only threads can share.
      size: In bytes, at least 1.
    """

    __slots__ = ("__weakref__", "descriptor", "file", "memory", "size")

    def __init__(self, descriptor: int | None, size: int) -> None:
        self.descriptor: int | None = None
        # Set where locks on the file are taken; it may have to keep it open for a while.
        self.file: File | None = None
        self.size = size
        self.memory: mmap.mmap | bytearray
        if descriptor is None:
            self.memory = bytearray(size)
            return
        try:
            self.memory = _map(descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise
        self.descriptor = descriptor

    def __repr__(self) -> str:
        return f"<Segment: {self.size} bytes, descriptor {self.descriptor}>"

    def cells(self) -> memoryview:
        """Return the memory as unsigned 64-bit cells.

        A cast view loads and stores an aligned cell in one move. Never use ``struct.pack_into``
        on shared memory: it writes zeros first, which other processes see.
        """
        return memoryview(self.memory).cast("Q")

    def reopen(self) -> bool:
        """Have an open file description of one's own; return whether that was possible.

        A descriptor that came from another process, or from before a fork, shares one with it.
        """
        if self.descriptor is None or sys.platform != "linux":
            return False
        try:
            fresh = os.open(f"/proc/self/fd/{self.descriptor}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # /proc is not mounted, or there is no descriptor left
            return False
        os.close(self.descriptor)
        self.descriptor = fresh
        return True

    def release(self) -> None:
        """Close the descriptor; the memory stays mapped for as long as somebody looks at it."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def __del__(self) -> None:
        if self.descriptor is not None and self.file is not None and not self.file.may_close:
            self.file.leaving.append((self.descriptor, self.memory))
            return
        self.release()


def create(size: int, backend: Backend | None = None, *, or_plain: bool = False) -> Segment:
    """Make a segment of ``size`` bytes, all zero.

    Args:
      size: In bytes; 0 is rounded up to 1.
      backend: Which kind; None takes what the environment variable ``TRIOIPC_SEGMENT`` says, or
        else the first that this machine does not refuse.
      or_plain: Whether memory that cannot leave the process will do where it refuses all others.

    Raises:
      OSError: if there is no memory or descriptor left for it, or this machine refuses.
      ValueError: if there is no such kind.
    """
    size = max(size, 1)
    forced = backend or os.environ.get(ENVIRONMENT_VARIABLE)
    if forced:
        return _create(forced, size)
    kinds = [*_SHARED, "plain"] if or_plain or not _SHARED else _SHARED
    for kind in kinds[:-1]:
        try:
            return _create(kind, size)
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
    return _create(kinds[-1], size)


def adopt(descriptor: int, size: int) -> Segment:
    """Map a segment that another process made.

    Args:
      descriptor: Owned by the segment from now on, and closed if that cannot be made.
      size: In bytes.

    Raises:
      ValueError: if the descriptor holds fewer than ``size`` bytes.
      OSError: if it cannot be mapped.
    """
    actual = os.fstat(descriptor).st_size
    if actual < size:
        os.close(descriptor)
        raise ValueError(f"a segment of {size} bytes was announced, but it has {actual}")
    return Segment(descriptor, size)


def is_steady(descriptor: int) -> bool:
    """Say whether a segment cannot shrink, so that reading it is safe whoever has made it."""
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        return bool(fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError:  # such files have no seals
        return False


def best_backend() -> Backend:
    """Say which kind of segment this machine offers; ``"plain"`` cannot leave the process."""
    for kind in _SHARED:
        try:
            _create(kind, 1)
        except OSError as error:
            if error.errno in _REFUSALS:
                continue
        return kind
    return "plain"


def _create(kind: str, size: int) -> Segment:
    if kind == "plain":
        return Segment(None, size)
    if kind not in _OPENERS:
        kinds = ", ".join(sorted([*_OPENERS, "plain"]))
        raise ValueError(f"{ENVIRONMENT_VARIABLE} must be one of {kinds}, not {kind!r}")
    try:
        return Segment(_OPENERS[kind](size), size)
    except OSError as error:
        text = f"no segment of {size} bytes ({kind}): {error.strerror}"
        raise OSError(error.errno, text) from error


def _map(descriptor: int, size: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):  # before, each map had a descriptor of its own, too
        return mmap.mmap(descriptor, size, trackfd=False)
    return mmap.mmap(descriptor, size)


def _open_memfd(size: int) -> int:
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, "only Linux has memfds")
    import fcntl

    descriptor = os.memfd_create("trioipc", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_shm(size: int) -> int:
    descriptor = _open_without_name()
    if descriptor is None:
        descriptor = _open_by_name()
    try:
        os.ftruncate(descriptor, size)
        if hasattr(os, "posix_fallocate"):  # a full /dev/shm is ENOSPC here, not SIGBUS later
            os.posix_fallocate(descriptor, 0, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open_without_name() -> int | None:
    """Open a file that no crash can leave; one in ten of those killed in `_open_by_name` did."""
    if sys.platform != "linux":
        return None
    try:
        return os.open("/dev/shm", os.O_RDWR | os.O_TMPFILE | os.O_EXCL, mode=0o600)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR):  # not in this file system
            return None
        raise


def _open_by_name() -> int:
    import _posixshmem
    import secrets  # 7 ms of OpenSSL, which a worker would pay for when it starts

    # 31 characters with the slash is all that macOS takes.
    name = f"/tipc-{secrets.token_hex(8)}"
    descriptor: int = _posixshmem.shm_open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode=0o600)
    try:
        _posixshmem.shm_unlink(name)
        os.set_inheritable(descriptor, False)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


_OPENERS = {"memfd": _open_memfd, "shm": _open_shm}
# What this platform can share between processes, the best first.
_SHARED: list[Backend] = []
if sys.platform == "linux":
    _SHARED = ["memfd", "shm"]
elif os.name == "posix":
    _SHARED = ["shm"]
