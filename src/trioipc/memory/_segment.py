"""One piece of memory that several processes can see, without a name that could outlive a crash.

Rule 1: nothing here has a name for longer than one function call. A crash at any moment leaves
    nothing behind but what living processes have mapped.
Rule 2: a segment never shrinks under its readers (that would be SIGBUS), so memfds are sealed and
    the other kind is allocated in full before it is mapped.
Rule 3: a map is never closed, only dropped: a view that somebody holds keeps it alive.
"""

from __future__ import annotations

import mmap
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    Backend: TypeAlias = Literal["memfd", "shm", "plain"]

# Set to "memfd", "shm" or "plain" to force one; the tests run over all of them.
ENVIRONMENT_VARIABLE = "TRIOIPC_SEGMENT"


class Segment:
    """Memory that can be handed to another process by its descriptor.

    Args:
      descriptor: An open descriptor of the memory, owned by the segment from now on, also if it
        cannot be mapped. None for plain memory, which only threads can share.
      size: In bytes, at least 1.
    """

    __slots__ = ("__weakref__", "descriptor", "memory", "size")

    def __init__(self, descriptor: int | None, size: int) -> None:
        self.descriptor: int | None = None
        self.size = size
        self.memory: mmap.mmap | bytearray
        if descriptor is None:
            self.memory = bytearray(size)
            return
        try:
            self.memory = mmap.mmap(descriptor, size)
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
        self.release()


def create(size: int, backend: Backend | None = None) -> Segment:
    """Make a segment of ``size`` bytes, all zero.

    Args:
      size: In bytes; 0 is rounded up to 1.
      backend: Which kind; None takes the best of this platform, or what the environment variable
        ``TRIOIPC_SEGMENT`` says.

    Raises:
      OSError: if there is no memory or descriptor left for it.
    """
    size = max(size, 1)
    chosen = backend or os.environ.get(ENVIRONMENT_VARIABLE) or best_backend()
    if chosen == "plain":
        return Segment(None, size)
    if chosen not in _OPENERS:
        kinds = ", ".join(sorted([*_OPENERS, "plain"]))
        raise ValueError(f"{ENVIRONMENT_VARIABLE} must be one of {kinds}, not {chosen!r}")
    return Segment(_OPENERS[chosen](size), size)


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


def best_backend() -> Backend:
    """Say which kind of segment this platform offers; ``"plain"`` cannot leave the process."""
    if sys.platform == "linux":
        return "memfd"
    return "shm" if os.name == "posix" else "plain"


def _open_memfd(size: int) -> int:
    if sys.platform != "linux":
        raise OSError("only Linux has memfds")
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
    import _posixshmem
    import secrets  # 7 ms of OpenSSL, which a worker would pay for when it starts

    # 31 characters with the slash is all that macOS takes.
    name = f"/tipc-{secrets.token_hex(8)}"
    descriptor: int = _posixshmem.shm_open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode=0o600)
    try:
        _posixshmem.shm_unlink(name)
        os.set_inheritable(descriptor, False)
        os.ftruncate(descriptor, size)
        if hasattr(os, "posix_fallocate"):  # a full /dev/shm is ENOSPC here, not SIGBUS later
            os.posix_fallocate(descriptor, 0, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


_OPENERS = {"memfd": _open_memfd, "shm": _open_shm}
