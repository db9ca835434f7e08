"""A worker does not outlive its parent, nor end before; its descriptors end with it.

Not by ``PR_SET_PDEATHSIG``: that follows the *thread* which started the process, and Trio's
threads end when they have been idle for ten seconds.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypeAlias

    _File: TypeAlias = tuple[int, int]  # what tells it from all others
    from types import FrameType

# High enough to survive a function that closes "all" descriptors up to 255.
_OUT_OF_THE_WAY = 500


def die_with_parent() -> None:
    """Arrange that this process ends as soon as its parent is gone."""
    parent = multiprocessing.parent_process()
    if parent is None:  # somebody called `serve` in their own process
        return
    if sys.platform == "linux":
        _die_by_signal(parent.sentinel)
    else:
        threading.Thread(target=_die_by_watching, args=(parent.sentinel,), daemon=True).start()


def _die_by_signal(sentinel: int) -> None:
    """Let the kernel kill us when the pipe from the parent closes, whatever we are doing then.

    5 ms, also while C code holds the GIL; a watching thread took 4.7 s there.
    """
    if sys.platform != "linux":
        raise OSError("F_SETSIG is Linux's own")
    import fcntl

    try:
        watched = fcntl.fcntl(sentinel, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY)
    except OSError:  # so many descriptors are not allowed here
        watched = fcntl.fcntl(sentinel, fcntl.F_DUPFD_CLOEXEC, sentinel)
    fcntl.fcntl(watched, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(watched, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(watched, fcntl.F_GETFL)
    fcntl.fcntl(watched, fcntl.F_SETFL, flags | os.O_ASYNC)
    if multiprocessing.connection.wait([watched], 0):  # it went before we looked
        os.kill(os.getpid(), signal.SIGKILL)


def _die_by_watching(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def leave_the_end_to_the_parent() -> None:
    """Do not end by a SIGTERM.

    A service manager sends it to all processes of a service at once. The parent may then finish
    what is under way, for which it needs us; if it ends, so do we. Where it does not see to that
    itself (`trioipc.pool.engines._host`), SIGTERM is how multiprocessing ends us at its exit, and
    must.
    """
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return
    # Not SIG_IGN: programs that a function starts would inherit it.
    signal.signal(signal.SIGTERM, _do_nothing)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_hold_sigterm, after_in_parent=_let_go, after_in_child=_end_by_sigterm
        )


def unblock_ctrl_c() -> None:
    """Take back that the parent has started us with Ctrl-C blocked.

    trio-parallel has it ignored by now. What a function starts would inherit the block.
    """
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass


# The signals that a thread had blocked before it began to fork.
_held = threading.local()


def _hold_sigterm() -> None:
    """Let a SIGTERM wait until a fork knows that it ends by it; Python forgets earlier ones."""
    _held.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _let_go() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _held.mask)


def _end_by_sigterm() -> None:
    if signal.getsignal(signal.SIGTERM) is _do_nothing:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _let_go()


def keep_descriptors_private() -> None:
    """Keep what is open above stderr now away from programs and forks started later.

    Otherwise a grandchild that lives on would hold the pipes that tell the parent of our death.
    """
    private = _open_descriptors()
    for descriptor in private:
        with contextlib.suppress(OSError):
            os.set_inheritable(descriptor, False)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: _close(private))


def _close(descriptors: dict[int, _File]) -> None:
    for descriptor, file in descriptors.items():
        # We may have closed it, and a function have opened something else of that number.
        if _file_of(descriptor) == file:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _open_descriptors() -> dict[int, _File]:
    """Return what is open, by number; but for that by which it was found out, gone by now."""
    try:
        names = os.listdir("/dev/fd")
    except OSError:
        return {}
    numbers = [int(name) for name in names if name.isdigit() and int(name) > 2]
    found = {number: _file_of(number) for number in numbers}
    return {number: file for number, file in found.items() if file is not None}


def _file_of(descriptor: int) -> _File | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
