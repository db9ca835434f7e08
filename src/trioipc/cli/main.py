"""From options to an exit code: whatever happens to a user, one comes out, and no traceback."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from outcome import acapture

from trioipc._errors import FallbackWarning, IPCError
from trioipc.cli import _stdio
from trioipc.cli._commands import task_of
from trioipc.cli._errors import FAILED, SIGNALLED, USAGE, OutputError, UsageError
from trioipc.cli._screen import complain

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator

    from trioipc.cli._commands import Task

# What ends a program and lets it clean up; not everywhere are there all of them.
_ENDING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


def run(options: argparse.Namespace) -> int:
    """Do what was asked for; return the exit code of `trioipc.cli._errors`."""
    _complain_of_fallbacks()
    try:
        code = trio.run(partial(_until_signal, task_of(options)))
        _stdio.flush()
    except UsageError as error:
        complain(str(error))
        return USAGE
    except KeyboardInterrupt:
        complain("interrupted")
        return SIGNALLED + signal.SIGINT
    except BrokenPipeError:
        _forget_output()
        return SIGNALLED + getattr(signal, "SIGPIPE", 13)
    except OutputError as error:
        _forget_output()
        complain(f"the output cannot be written: {error}")
        return FAILED
    except (OSError, IPCError) as error:  # of the machine: no descriptors left, say
        complain(str(error))
        return FAILED
    if code > SIGNALLED:
        complain("interrupted")
    return code


def _complain_of_fallbacks() -> None:
    """Say in the words of a program, once, that there are no worker processes."""
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *details: Any, **more: Any) -> None:
        if issubclass(category, FallbackWarning):
            complain(str(message))
        else:
            others(message, category, *details, **more)

    warnings.simplefilter("always", FallbackWarning)
    warnings.showwarning = show


async def _until_signal(task: Task) -> int:
    """Do the task; a signal cancels it, so that what is under way is cleaned up."""
    # Who has them ignored (nohup, a shell's background) shall be left alone.
    ending = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    if not ending:
        return await task()
    with trio.open_signal_receiver(*ending) as signals:
        async with trio.open_nursery() as nursery:
            watch = _Watch(nursery.cancel_scope)
            nursery.start_soon(watch.over, signals)
            outcome = await acapture(task)
            nursery.cancel_scope.cancel()
    return SIGNALLED + watch.caught if watch.caught else outcome.unwrap()


class _Watch:
    """Waits for a signal, to cancel a scope.

    Args:
      scope: What to cancel.
    """

    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        self.caught = 0

    async def over(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            self.caught = number
            self._scope.cancel()


def _forget_output() -> None:
    """Let what could not be written go, which Python would try once more at its end."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
