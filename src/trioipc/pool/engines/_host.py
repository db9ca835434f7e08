"""The one trio-parallel call that a worker process lives in, and how it ends.

trio-parallel gives life and death; its waits are trusted for reaping only, since some of them hang,
shielded, on grandchildren or closed descriptors. So:

Rule 1: as soon as the handshake names the process, a pidfd watches it. It is killed through that,
    and found dead by that, before the hosting call is cancelled.
Rule 2: what the hosting call raises means one thing: the process is gone.
Rule 3: what a worker answers to it is a pickle. It is read while the worker starts, and may say why
    it could not; once it has worked, which may have turned it against us, it is not.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import multiprocessing
import os
import pickle
import signal
import sys
import types
import weakref
from contextlib import nullcontext
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, final

import trio
import trio_parallel
from outcome import Value
from trio.lowlevel import enable_ki_protection

from trioipc.worker._main import retire, serve

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess

    from trioipc.worker._wires import Ticket

# How long a worker that has nothing left to do may take to end its interpreter.
EXIT_SECONDS = 2.0

# No token of Trio's thread limiter in this time: its threads may all be waiting for this pool.
_THREAD_SECONDS = 0.1

_processes: weakref.WeakSet[BaseProcess] = weakref.WeakSet()


@atexit.register
def _kill_all() -> None:
    """End the workers of pools that were never left.

    Before multiprocessing does, which sends them a SIGTERM, and waits: they do not end by that.
    """
    for process in _processes:
        with contextlib.suppress(ValueError):  # closed: it is gone
            process.kill()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_processes.clear)  # they are not the child's


@final
class Host:
    """One worker process, as something that lives and dies.

    Args:
      on_death: Called when the process is gone, or turns out never to have been there.
    """

    def __init__(self, on_death: Callable[[], None]) -> None:
        self._on_death = on_death
        self._began = False
        self._scope = trio.CancelScope(shield=True)
        self._returned = trio.Event()
        self.dead = trio.Event()
        # Whether it is ready, and has worked, for all we know.
        self.ready = False
        # What the hosting call raised.
        self.error: Exception | None = None
        # These are known from the handshake on, on Linux.
        self._pidfd: int | None = None
        self._process: BaseProcess | None = None
        self._sentinel_writer: int | None = None

    def begin(self, ticket: Ticket, nursery: trio.Nursery) -> None:
        """Start the process."""
        self._began = True
        nursery.start_soon(self._run, ticket)

    @enable_ki_protection
    async def _run(self, ticket: Ticket) -> None:
        """Be the call."""
        try:
            with self._scope:
                async with trio_parallel.open_worker_context(
                    idle_timeout=math.inf, retire=retire, grace_period=EXIT_SECONDS
                ) as context:
                    _read_by(self._load, context)
                    await context.run_sync(
                        serve, ticket, kill_on_cancel=True, limiter=nullcontext()
                    )
        except Exception as error:
            # Without its traceback and context: they would hold trio-parallel's pipes open.
            self.error = error.with_traceback(None)
            error.__context__ = None
        finally:
            self._returned.set()
            if self._pidfd is None:  # trio-parallel has waited for it
                self._die()
            else:  # it may have said why it could not start, and be about to end
                self._on_death()

    def _load(self, answer: bytes) -> Any:
        """Read what the process answers to the hosting call."""
        return Value(None) if self.ready else pickle.loads(answer)

    def watch(self, pid: int, nursery: trio.Nursery) -> None:
        """Watch the process, whose pid the handshake has shown."""
        if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
            return
        self._pidfd = os.pidfd_open(pid)
        children = multiprocessing.active_children()
        self._process = next((child for child in children if child.pid == pid), None)
        if self._process is not None:
            _processes.add(self._process)
            # While somebody can write to its sentinel, trio-parallel does not take a process for
            # dead that has merely closed its descriptors, and block in join() on it.
            path = f"/proc/self/fd/{self._process.sentinel}"
            with contextlib.suppress(OSError):
                self._sentinel_writer = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        nursery.start_soon(self._mourn, self._pidfd)

    @enable_ki_protection
    async def _mourn(self, pidfd: int) -> None:
        """Wait for the death of the process, by whatever it dies."""
        await trio.lowlevel.wait_readable(pidfd)
        self.exitcode()  # reaps, so that trio-parallel has nothing to wait for
        self._close_sentinel_writer()
        self._die()

    def _die(self) -> None:
        self.dead.set()
        self._on_death()

    def signal(self, number: int | None) -> bool:
        """Send a signal; return False where that cannot be done safely.

        By the pidfd: after a reap, a pid may belong to a stranger.
        """
        if self._pidfd is None or number is None or sys.platform != "linux":
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)
        return True

    def kill(self) -> None:
        """Kill the process; also one that is still starting, or never began to."""
        if not self._began:
            self._returned.set()
            self._die()
        elif not self.signal(getattr(signal, "SIGKILL", None)):
            self._scope.cancel()

    async def reap(self, *, at_once: bool) -> None:
        """End the hosting call, which has nothing to wait for since the process is dead.

        Args:
          at_once: Whether it has nothing to say that could be of interest.
        """
        if at_once:
            self._scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lend_thread, self._returned)
            with trio.move_on_after(EXIT_SECONDS):
                await self._returned.wait()
            self._scope.cancel()
            while not self._returned.is_set():
                # A grandchild holds the sentinel, and trio-parallel waits for it, shielded.
                if self._process is not None:
                    trio.lowlevel.notify_closing(self._process.sentinel)
                with trio.move_on_after(_THREAD_SECONDS):
                    await self._returned.wait()
            nursery.cancel_scope.cancel()

    def exitcode(self) -> int | None:
        """Return how the process ended, reaping it; None if it lives, or if nobody can say."""
        if self._process is not None:
            with contextlib.suppress(ValueError):  # closed by trio-parallel
                return self._process.exitcode
        if isinstance(self.error, trio_parallel.BrokenWorkerError):
            code: int | None = getattr(self.error.args[-1], "exitcode", None)
            return code
        return None

    def release(self) -> None:
        """Close what watched the process, and forget what the call raised."""
        self.error = None
        self._close_sentinel_writer()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None
        if self._process is not None:
            # Reaped, but multiprocessing keeps it, with two descriptors, until it looks again.
            with contextlib.suppress(ValueError):
                self._process.close()
            self._process = None
        else:  # one that never reported; multiprocessing looks for the dead when it is asked
            multiprocessing.active_children()

    def _close_sentinel_writer(self) -> None:
        if self._sentinel_writer is not None:
            os.close(self._sentinel_writer)
            self._sentinel_writer = None


def _read_by(loads: Callable[[bytes], Any], context: trio_parallel.WorkerContext) -> None:
    """Have the answers to this context's calls read by ``loads``.

    trio-parallel has no option for that. So its own code for a call is given another name space.
    """
    kind = context._worker_class
    theirs = kind.run_sync
    ours = types.FunctionType(theirs.__code__, {**theirs.__globals__, "loads": loads})
    methods = {"run_sync": ours, "__init__": _init_of(kind)}
    context.__dict__["_worker_class"] = type(kind.__name__, (kind,), methods)


def _init_of(kind: type) -> Callable[..., None]:
    """Return how a worker of trio-parallel's is made whose process starts without Ctrl-C.

    Until it ignores that, an interpreter that is starting would answer with a traceback.
    """

    def init(self: Any, *args: object) -> None:
        kind.__init__(self, *args)  # type: ignore[misc]
        if hasattr(signal, "pthread_sigmask"):
            self.proc._Popen = _popen

    return init


def _popen(process: Any) -> Any:
    """Start a process in which Ctrl-C is blocked; it unblocks that when it is ready."""
    del process._Popen  # it would travel to the process
    resource_tracker.ensure_running()  # which unblocks it when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return process._Popen(process)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@enable_ki_protection
async def lend_thread(until: trio.Event) -> None:
    """Let trio-parallel have a thread, though all of Trio's may be waiting for this pool."""
    with trio.move_on_after(_THREAD_SECONDS):
        await until.wait()
        return
    limiter = trio.to_thread.current_default_thread_limiter()
    if limiter.available_tokens > 0:
        return
    limiter.total_tokens += 1
    try:
        await until.wait()
    finally:
        limiter.total_tokens -= 1
