"""What each command does with its arguments. What is asked of people is asked before anything else.

Reference for the line of a check sum: GNU coreutils, "md5sum invocation".
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

from trioipc._errors import MissingExtraError
from trioipc.builtin._codecs import FORMATS
from trioipc.cli import _plan
from trioipc.cli._doctor import examine
from trioipc.cli._errors import UsageError
from trioipc.cli._password import password_from
from trioipc.cli._plan import STANDARD
from trioipc.cli._probe import probe
from trioipc.cli._sealed import Keys, new_header, seal, unseal
from trioipc.cli._stdio import is_terminal
from trioipc.cli._work import opened, said_of, source_of, work_on

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Iterator

    from trioipc.bridge.bridge import WorkerBridge
    from trioipc.cli._plan import Job
    from trioipc.pool.pool import Callback

    # What is left to do, within Trio; it returns the exit code.
    Task: TypeAlias = Callable[[], Awaitable[int]]
    JobFor: TypeAlias = Callable[[str, str | None], Job]
    Source: TypeAlias = str | memoryview
    # Writes a file, and returns how many bytes it has.
    Write: TypeAlias = Callable[[WorkerBridge, Job, Source, str, Callback | None], Awaitable[int]]


def task_of(options: argparse.Namespace) -> Task:
    """Return what a command has to do.

    Raises:
      UsageError: if it cannot be begun.
    """
    return _COMMANDS[options.command](options)


# ---- reading


def _hash(options: argparse.Namespace) -> Task:
    algorithm: Literal["SHA-256", "SHA-512"]
    algorithm = "SHA-256" if options.algorithm == "sha256" else "SHA-512"

    async def work(bridge: WorkerBridge, job: Job, on_progress: Callback | None) -> str:
        source = await source_of(job)
        found = await bridge.file.hash_file(source, algorithm, on_progress=on_progress)
        return sum_line(found.hash, job.source)

    return partial(work_on, _plan.plan(options.files, None, _plan.reading), options.workers, work)


def sum_line(hash: str, name: str) -> str:
    r"""Write a check sum as sha256sum does: a name with a line end or a backslash is escaped."""
    escaped = name.replace("\\", r"\\").replace("\n", r"\n").replace("\r", r"\r")
    mark = "\\" if escaped != name else ""
    return f"{mark}{hash}  {escaped}"


def _detect(options: argparse.Namespace) -> Task:
    async def work(bridge: WorkerBridge, job: Job, on_progress: Callback | None) -> str:
        found = await bridge.file.detect_type(job.source, on_progress=on_progress)
        by = "its content" if found.confidence == "high" else "its name"
        return f"{job.source}: {found.mime_type} ({found.type}, by {by})"

    return partial(work_on, _plan.plan(options.files, None, _plan.reading), options.workers, work)


# ---- writing


def _writing(options: argparse.Namespace, job_for: JobFor, write: Write) -> Task:
    """Return the task that writes a file for each."""

    async def work(bridge: WorkerBridge, job: Job, on_progress: Callback | None) -> str | None:
        async with opened(job, options.force) as (source, path):
            size = await write(bridge, job, source, path, on_progress)
        return said_of(job, size)

    jobs = _plan.plan(options.files, options.output, job_for)
    return partial(work_on, jobs, options.workers, work)


def _encrypt(options: argparse.Namespace) -> Task:
    keys = Keys(password_from(options.password_fd, twice=True))
    header = new_header()

    async def write(
        bridge: WorkerBridge, job: Job, source: Source, path: str, on_progress: Callback | None
    ) -> int:
        return await seal(bridge, keys, header, job.source, path, on_progress)

    return _writing(options, _plan.encrypting, write)


def _decrypt(options: argparse.Namespace) -> Task:
    keys = Keys(password_from(options.password_fd, twice=False))

    async def write(
        bridge: WorkerBridge, job: Job, source: Source, path: str, on_progress: Callback | None
    ) -> int:
        return await unseal(bridge, keys, job.source, path, on_progress)

    return _writing(options, _plan.decrypting, write)


def _compress(options: argparse.Namespace) -> Task:
    levels = _levels_of(options.algorithm or "gzip")
    level = options.level
    if level is not None and level not in levels:
        raise UsageError(f"--level must be {levels[0]} to {levels[-1]} here, not {level}")

    jobs_for = _plan.compressing(options.algorithm)
    if is_terminal(sys.stdout) and any(
        job.output == STANDARD for job in _plan.plan(options.files, options.output, jobs_for)
    ):
        raise UsageError("a terminal cannot show what is compressed: say -o FILE")

    async def write(
        bridge: WorkerBridge, job: Job, source: Source, path: str, on_progress: Callback | None
    ) -> int:
        with _mode_kept(job, path):
            written = await bridge.compression.compress_data(
                source,
                algorithm=job.algorithm,
                level=level,
                destination=path,
                parallel=job.algorithm == "gzip",
                on_progress=on_progress,
            )
        return written.size

    return _writing(options, jobs_for, write)


def _decompress(options: argparse.Namespace) -> Task:
    if options.algorithm is not None:
        _levels_of(options.algorithm)

    async def write(
        bridge: WorkerBridge, job: Job, source: Source, path: str, on_progress: Callback | None
    ) -> int:
        with _mode_kept(job, path):
            written = await bridge.compression.decompress_data(
                source,
                algorithm=job.algorithm,
                max_output_size=options.max_size,
                destination=path,
                on_progress=on_progress,
            )
        return written.size

    return _writing(options, _plan.decompressing(options.algorithm), write)


def _levels_of(algorithm: str) -> range:
    try:
        FORMATS[algorithm].load()
    except MissingExtraError as error:
        raise UsageError(str(error)) from None
    return FORMATS[algorithm].levels


@contextmanager
def _mode_kept(job: Job, path: str) -> Iterator[None]:
    """Give a new file the mode of its source, as other compressors do."""
    new = not os.path.lexists(path)
    yield
    if new and STANDARD not in (job.source, job.output):
        shutil.copymode(job.source, path)


_COMMANDS: dict[str, Callable[[argparse.Namespace], Task]] = {
    "hash": _hash,
    "detect": _detect,
    "encrypt": _encrypt,
    "decrypt": _decrypt,
    "compress": _compress,
    "decompress": _decompress,
    "probe": lambda options: partial(probe, options.urls, options.timeout),
    "doctor": lambda options: examine,
}
