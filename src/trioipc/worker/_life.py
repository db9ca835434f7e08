"""What a worker process is to the machine: its name, its rank, its limits, and what it leaves.

All of it is done once, before any function runs, and takes 0.2 ms. What the machine refuses is
left out, but for limits that somebody asked for.

Rules:

- A worker can be replaced and its parent cannot: where there is too little of something, it is the
  worker that goes without.
- Whatever a worker leaves behind when it dies, no keys are in it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trioipc.worker._wires import Ticket

# Where a worker shares a core with the event loop, the loop gets the larger part. One step: a busy
# machine sets us back behind all its other processes too, and five made an empty request a quarter
# slower there.
_NICE = 1

# The most there is: the kernel takes the largest of those that say so, before all others. Less
# would not do: it counts in thousandths of the memory, and the parent may hold most of that.
_OOM_SCORE = 1000

# What the kernel keeps of a process's name.
_TITLE_BYTES = 15

# What stays of the environment if it is scrubbed: what programs need to find their files, to speak
# the user's language and to know the time. And what tells Python and us how to run.
_KEPT = frozenset(
    (
        "HOME",
        "LANG",
        "LANGUAGE",
        "LD_LIBRARY_PATH",
        "LOGNAME",
        "PATH",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "TMPDIR",
        "TZ",
        "USER",
    )
)
_KEPT_PREFIXES = ("COVERAGE_", "DYLD_", "LC_", "PYTHON", "TRIOIPC_")


def settle(ticket: Ticket) -> None:
    """Become what a worker is.

    Raises:
      WorkerStartError: if the machine does not allow the memory limit.
    """
    _leave_no_core()
    if sys.platform == "linux":
        _write("/proc/self/oom_score_adj", str(_OOM_SCORE).encode())
        _write("/proc/self/comm", title(ticket.name, ticket.kind))
    if ticket.scrub_environment:
        scrub_environment()
    if ticket.memory_limit is not None:
        _limit_memory(ticket.memory_limit)


def give_way() -> None:
    """Let the event loop go first. Not before we are ready: a busy machine sets us back at once."""
    with contextlib.suppress(OSError):
        os.nice(_NICE)


def title(name: str, kind: str) -> bytes:
    """Return what ``ps`` and ``top`` shall show: the pool's name, cut if need be, and the kind."""
    tail = b":" + kind.encode()
    head = name.encode(errors="replace")[: _TITLE_BYTES - len(tail)]
    return head.decode(errors="ignore").encode() + tail


def _write(path: str, text: bytes) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text)
        finally:
            os.close(descriptor)


def _leave_no_core() -> None:
    """Have the kernel write no core file, which would hold every key that was in use.

    One byte, not none: where cores are piped to a program, the kernel does not look at the limit,
    but for this value (core(5); ``do_coredump`` in the kernel's fs/coredump.c). Not by
    PR_SET_DUMPABLE: debuggers, and descriptors through /proc, would be root's alone.
    """
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 1 if hard == resource.RLIM_INFINITY else min(1, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def _limit_memory(nbytes: int) -> None:
    """Let this process have no more private memory; what exceeds it gets a MemoryError.

    On Linux by RLIMIT_DATA: private memory that can be written. Shared memory, of which the pool
    keeps account, is not in it; nor is what was only reserved, as allocators and threads do.
    """
    import resource

    from trioipc._errors import WorkerStartError

    which = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    _, hard = resource.getrlimit(which)
    limit = nbytes if hard == resource.RLIM_INFINITY else min(nbytes, hard)
    try:
        resource.setrlimit(which, (limit, limit))
    except (OSError, ValueError) as error:
        raise WorkerStartError(f"memory_limit={nbytes} could not be set: {error}") from error


def scrub_environment() -> None:
    """Forget every variable that is not known to be harmless and useful.

    Also where /proc shows them, and where a read beyond the end of something would find them: the
    block on the stack that the process was started with.
    """
    kept = {name: value for name, value in os.environ.items() if is_kept(name)}
    os.environ.clear()
    os.environ.update(kept)  # copies, which do not lie in that block
    if sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError, IndexError):
            _wipe_block()


def is_kept(name: str) -> bool:
    """Say whether a variable stays when the environment is scrubbed."""
    return name in _KEPT or name.startswith(_KEPT_PREFIXES)


def _wipe_block() -> None:
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    # Fields 50 and 51 of proc(5); the name is the second, and the third is the first here.
    start, end = int(fields[47]), int(fields[48])
    if start < end:
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            memory.write(bytes(end - start))
