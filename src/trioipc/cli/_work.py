"""Many files at a time, each by itself: one that fails is complained of, and the others go on."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias, final

import trio
from cryptography.exceptions import InvalidTag

from trioipc._errors import IPCError, OutputTooLargeError
from trioipc.bridge.bridge import _placement_of as placement_of
from trioipc.bridge.bridge import open_worker_bridge
from trioipc.cli import _stdio
from trioipc.cli._errors import FAILED, OK, UsageError
from trioipc.cli._plan import STANDARD
from trioipc.cli._screen import open_screen
from trioipc.sizing import usable_cores

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from trioipc.bridge.bridge import WorkerBridge
    from trioipc.cli._plan import Job
    from trioipc.cli._screen import Screen
    from trioipc.pool.pool import Callback

    # What is done with each file; it returns what is to be said of it.
    Work: TypeAlias = Callable[[WorkerBridge, Job, Callback | None], Awaitable[str | None]]

# What is the fault of a file, of an argument or of the machine, and not of ours. ValueError is what
# the bridge says to arguments that cannot be.
TROUBLE = (OSError, IPCError, ValueError, InvalidTag, MemoryError)


class FileProblemError(ValueError):
    """What cannot be done with a file; the text says why."""


async def work_on(jobs: Sequence[Job], workers: int | None, work: Work) -> int:
    """Do the work on all of them.

    Args:
      jobs: What to do, in the order in which results are said.
      workers: How many at a time; None for one on each core.
      work: Does one of them.

    Returns:
      The exit code.

    Raises:
      UsageError: if the environment says where to work, and there is no such place.
      OutputError: if a result cannot be said.
    """
    try:
        placement = placement_of(None)[0]
    except ValueError as error:  # of the environment
        raise UsageError(str(error)) from None
    at_a_time = min(workers or usable_cores(), len(jobs))
    with open_screen([_size_of(job) for job in jobs]) as screen:
        async with open_worker_bridge(workers, placement=placement) as bridge:
            return await _Crew(bridge, jobs, work, screen).work(at_a_time)


def _size_of(job: Job) -> int:
    try:
        return 0 if job.source == STANDARD else os.stat(job.source).st_size
    except OSError:  # it will be said when its turn comes
        return 0


@final
class _Crew:
    """Takes one job after the other, several at a time, and says the results in order."""

    def __init__(
        self, bridge: WorkerBridge, jobs: Sequence[Job], work: Work, screen: Screen
    ) -> None:
        self._bridge = bridge
        self._jobs = jobs
        self._work = work
        self._screen = screen
        self._left = iter(enumerate(jobs))
        self._code = OK
        # {index: what is to be said of it}, for those that are done before their turn.
        self._results: dict[int, str | None] = {}
        self._said = 0
        self._failure: Exception | None = None

    async def work(self, at_a_time: int) -> int:
        async with trio.open_nursery() as nursery:
            for _ in range(at_a_time):
                nursery.start_soon(self._take, nursery.cancel_scope)
        # Raised outside of the nursery, which would wrap it in a group.
        if self._failure is not None:
            raise self._failure
        return self._code

    async def _take(self, scope: trio.CancelScope) -> None:
        try:
            for index, job in self._left:
                self._say(index, await self._do(index, job))
        except Exception as error:
            self._failure = error
            scope.cancel()

    async def _do(self, index: int, job: Job) -> str | None:
        try:
            if job.problem is not None:
                raise FileProblemError(job.problem)
            with self._screen.task(index, job.source) as on_progress:
                return await self._work(self._bridge, job, on_progress)
        except BrokenPipeError:  # nobody reads what we write, so there is no more to do
            raise
        except TROUBLE as error:
            self._code = FAILED
            self._screen.complain(f"{job.source}: {reason_of(error, job.source)}")
            return None

    def _say(self, index: int, result: str | None) -> None:
        self._results[index] = result
        while self._said in self._results:
            text = self._results.pop(self._said)
            self._said += 1
            if text is not None:
                self._screen.line(text)


def reason_of(error: BaseException, source: str) -> str:
    """Say in a few words what went wrong."""
    if isinstance(error, InvalidTag):
        return "wrong password, or the file was damaged or changed"
    if isinstance(error, OutputTooLargeError):
        return "it would become larger than --max-size"
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError) and error.strerror:
        elsewhere = error.filename not in (None, source, os.path.join(os.getcwd(), source))
        return error.strerror + (f": {os.fsdecode(error.filename)}" if elsewhere else "")
    return str(error).partition("\n")[0] or type(error).__name__


async def source_of(job: Job) -> str | memoryview:
    """Return what to read.

    Raises:
      OSError: if the standard input cannot be read.
    """
    return await _stdio.read_all() if job.source == STANDARD else job.source


@asynccontextmanager
async def opened(job: Job, force: bool) -> AsyncIterator[tuple[str | memoryview, str]]:
    """Give what to read and the path to write; write that out at the end, if that is meant.

    Raises:
      FileProblemError: if there is something already that is not to be replaced.
      OSError: if the standard streams cannot be read or written.
    """
    if job.output == STANDARD:
        async with _stdio.written_out() as path:
            yield await source_of(job), path
        return
    assert job.output is not None
    if not force and os.path.lexists(job.output):  # noqa: ASYNC240 - microseconds
        raise FileProblemError(f"{job.output} is there already: --force replaces it")
    yield await source_of(job), job.output


def said_of(job: Job, size: int) -> str | None:
    """Say what was written; nothing if that went to where it would be said."""
    if job.output == STANDARD:
        return None
    return f"{job.source} -> {job.output} ({size} bytes)"
