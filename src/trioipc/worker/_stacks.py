"""Where this process is in its code, told to the parent: when it crashes, and when it is asked.

The interpreter's own faulthandler does it, from within a signal handler: so it works while C code
holds the GIL, and after that code has destroyed what it holds. It writes to a pipe that never
blocks; who reads it is `trioipc.pool.engines._stacks`.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys

# Asks for the stacks of all threads. One of the real-time signals, which mean nothing by
# themselves; the first few are the C library's.
STACKS_SIGNAL: int | None = None
if sys.platform == "linux":
    STACKS_SIGNAL = signal.SIGRTMIN + 7


def tell_stacks(descriptor: int) -> None:
    """Write stacks to ``descriptor`` from now on; it stays open while this process lives."""
    faulthandler.enable(descriptor)
    if STACKS_SIGNAL is not None:
        faulthandler.register(STACKS_SIGNAL, descriptor)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_be_silent)


def _be_silent() -> None:
    """In a fork of ours, whose descriptor of that number may soon be anything."""
    faulthandler.disable()
    if STACKS_SIGNAL is not None:
        faulthandler.unregister(STACKS_SIGNAL)
