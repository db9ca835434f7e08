"""What the machine says about a process: whether it runs, and how much it takes.

All that is particular to a platform is here: without ``/proc``, nothing is known.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from trioipc.pool._endpoint import Vitals

if TYPE_CHECKING:
    from typing import Final

    from trioipc.pool._endpoint import VitalState

# The letters of proc(5). A process that a debugger holds is not "stopped"; one that waits for a
# disk does what it can. What is not here is dead, or about to be.
_STATES: Final[dict[str, VitalState]] = {
    "R": "running",
    "D": "running",
    "S": "sleeping",
    "I": "sleeping",
    "T": "stopped",
    "t": "traced",
}


def read_vitals(pid: int) -> Vitals | None:
    """Say how a process is; None if it is gone, or nobody can say."""
    text = _read(pid, "stat")
    # The name is in parentheses and may hold some itself.
    fields = text.rpartition(")")[2].split()
    if len(fields) < 13 or fields[0] not in _STATES:
        return None
    return Vitals(_STATES[fields[0]], int(fields[11]) + int(fields[12]))


def read_private_bytes(pid: int) -> int | None:
    """Say how much memory a process holds that is not shared; None if nobody can say."""
    fields = _read(pid, "statm").split()
    if len(fields) < 3:
        return None
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGESIZE")


def _read(pid: int, name: str) -> str:
    if sys.platform != "linux":
        return ""
    try:
        with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:  # it is gone, or hidden from us
        return ""
