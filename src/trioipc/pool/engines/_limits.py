"""What a worker process may take from the machine, and what is left of it: set by the parent.

It is done when the handshake has named the process, which is still loading itself then. On Linux
only: elsewhere, one process cannot set the limits of another.

Rules:

- A worker can be replaced and its parent cannot: where there is too little memory, it is the worker
  that goes without.
- Whatever a worker leaves behind when it dies, no keys are in it.
"""

from __future__ import annotations

import contextlib
import math
import resource
import sys

from trioipc._errors import WorkerStartError

# The most there is: the kernel takes the largest of those that say so, before all others. Less
# would not do: it counts in thousandths of the memory, and the parent may hold most of that.
_OOM_SCORE = b"1000"


def set_limits(pid: int, memory_limit: float) -> None:
    """Set the limits of a worker.

    Args:
      pid: A child of ours that is not reaped.
      memory_limit: How many bytes of private memory it may have, or `math.inf`.

    Raises:
      WorkerStartError: if the memory limit cannot be set here.
    """
    if sys.platform != "linux":
        if memory_limit != math.inf:
            raise WorkerStartError("memory_limit can be set on Linux only")
        return
    with contextlib.suppress(OSError):
        _leave_no_core(pid)
    with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "wb", 0) as file:
        file.write(_OOM_SCORE)
    if memory_limit != math.inf:
        try:
            _limit_memory(pid, int(memory_limit))
        except (OSError, ValueError) as error:
            text = f"memory_limit={memory_limit} could not be set: {error}"
            raise WorkerStartError(text) from error


def _leave_no_core(pid: int) -> None:
    """Have the kernel write no core file, which would hold every key that was in use.

    One byte, not none: where cores are piped to a program, the kernel does not look at the limit,
    but for this value (``do_coredump`` in the kernel's fs/coredump.c). Not by PR_SET_DUMPABLE:
    debuggers, and descriptors through /proc, would be root's alone.
    """
    _lower(pid, resource.RLIMIT_CORE, 1)


def _limit_memory(pid: int, nbytes: int) -> None:
    """Let a process have no more private memory that it can write to, by RLIMIT_DATA.

    Shared memory, of which the pool keeps account, is not in that; nor is what was only reserved,
    as allocators and threads do.
    """
    _lower(pid, resource.RLIMIT_DATA, nbytes)


def _lower(pid: int, which: int, limit: int) -> None:
    if sys.platform == "linux":
        _, hard = resource.prlimit(pid, which)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.prlimit(pid, which, (limit, limit))
