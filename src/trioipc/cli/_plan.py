"""What is to be done with which file, and where results go; decided before anything is done."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, final

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trioipc.bridge.compression import Algorithm

# The standard input, or the standard output.
STANDARD: Final = "-"
# {algorithm: how its files end}; there is no custom for zlib's format, and pigz has this one.
SUFFIXES: Final[dict[Algorithm, str]] = {
    "gzip": ".gz",
    "deflate": ".zz",
    "brotli": ".br",
    "zstd": ".zst",
}
ENCRYPTED: Final = ".trioipc"


@final
@attrs.frozen
class Job:
    """One file to work on."""

    source: str
    """Its path as it was given; ``"-"`` for the standard input."""

    output: str | None = None
    """The path to write; ``"-"`` for the standard output, None if nothing is written."""

    algorithm: Algorithm = "gzip"
    """How it is compressed, if it is."""

    problem: str | None = None
    """Why nothing can be done with it."""


def plan(
    files: Iterable[str], output: str | None, job_for: Callable[[str, str | None], Job]
) -> list[Job]:
    """Return a job for each file; one that would write what another one writes has a problem.

    Args:
      files: As they were given.
      output: Where the result goes; None for where the name of the file says.
      job_for: Plans one of them.
    """
    jobs: list[Job] = []
    taken: set[str] = set()
    for file in files:
        job = job_for(file, output)
        if job.output is not None and job.output != STANDARD:
            written = os.path.realpath(job.output)
            if written in taken:
                job = attrs.evolve(job, problem=f"{job.output} would be written twice")
            taken.add(written)
        jobs.append(job)
    return jobs


def reading(file: str, output: str | None = None) -> Job:
    """Plan to read a file, and write none."""
    return Job(file)


def encrypting(file: str, output: str | None) -> Job:
    """Plan to write FILE.trioipc."""
    return Job(file, output or file + ENCRYPTED)


def decrypting(file: str, output: str | None) -> Job:
    """Plan to write FILE for FILE.trioipc."""
    output = output or _without(file, ENCRYPTED)
    if output is None:
        return Job(file, problem=f"its name does not end in {ENCRYPTED}: say --output")
    return Job(file, output)


def compressing(algorithm: Algorithm | None) -> Callable[[str, str | None], Job]:
    """Plan to write FILE.gz, or what suits the algorithm."""
    chosen: Algorithm = algorithm or "gzip"

    def job_for(file: str, output: str | None) -> Job:
        usual = STANDARD if file == STANDARD else file + SUFFIXES[chosen]
        return Job(file, output or usual, chosen)

    return job_for


def decompressing(algorithm: Algorithm | None) -> Callable[[str, str | None], Job]:
    """Plan to write FILE for FILE.gz and the like; the name also says how it is compressed."""

    def job_for(file: str, output: str | None) -> Job:
        if file == STANDARD:
            return Job(file, output or STANDARD, algorithm or "gzip")
        known, usual = _compressed(file)
        chosen = algorithm or known
        if chosen is None:
            ends = ", ".join(SUFFIXES.values())
            return Job(file, problem=f"its name does not end in {ends}: say --algorithm")
        if output or usual:
            return Job(file, output or usual, chosen)
        return Job(file, problem=f"its name does not end in {SUFFIXES[chosen]}: say --output")

    return job_for


def _compressed(file: str) -> tuple[Algorithm, str] | tuple[None, None]:
    """Return how a file is compressed and what it is called without that, as its name says."""
    for algorithm, suffix in SUFFIXES.items():
        name = _without(file, suffix)
        if name is not None:
            return algorithm, name
    return None, None


def _without(file: str, suffix: str) -> str | None:
    """Return the name without its end; None if it ends otherwise, or nothing would be left."""
    if file.endswith(suffix) and os.path.basename(file) != suffix:
        return file.removesuffix(suffix)
    return None
