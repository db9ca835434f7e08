"""What a worker process makes of itself before any function runs: its name, and what it forgets.

Its limits are set by the parent, in `trioipc.pool.engines._limits`, which costs the first answer
nothing.
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
    """Become what a worker is."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError), open("/proc/self/comm", "wb", buffering=0) as file:
            file.write(title(ticket.name, ticket.kind))
    if ticket.scrub_environment:
        scrub_environment()


def give_way() -> None:
    """Let the event loop go first. Not before we are ready: a busy machine sets us back at once."""
    with contextlib.suppress(OSError):
        os.nice(_NICE)


def title(name: str, kind: str) -> bytes:
    """Return what ``ps`` and ``top`` shall show: the pool's name, cut if need be, and the kind."""
    tail = b":" + kind.encode()
    head = name.encode(errors="replace")[: _TITLE_BYTES - len(tail)]
    return head.decode(errors="ignore").encode() + tail


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
