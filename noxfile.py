"""What developers and CI both call: ``nox``, or ``nox -s tests-3.13 -- -k cancel``."""

from __future__ import annotations

import os
import shutil

import nox

nox.needs_version = ">=2025.5"  # dependency groups
nox.options.sessions = ["lint", "typing", "docs", "tests"]
nox.options.error_on_external_run = True
nox.options.default_venv_backend = "venv"

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
TEST_GROUP = nox.project.dependency_groups(PYPROJECT, "test")

# -X dev and -W error reach the workers too, which inherit them.
PYTEST = ("python", "-X", "dev", "-W", "error", "-m", "pytest")


@nox.session
def lint(session: nox.Session) -> None:
    """Look for what is wrong or unformatted."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types, for each system that there are branches for."""
    session.install(".[network]", *nox.project.dependency_groups(PYPROJECT, "lint"))
    for platform in ("linux", "darwin"):
        session.run("mypy", "--platform", platform)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests on the installed package."""
    session.install(".", *TEST_GROUP)
    session.run(*PYTEST, *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure which branches the tests reach, workers included."""
    session.install("-e", ".", *TEST_GROUP)
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the docs; a reference that leads nowhere is an error."""
    session.install(".", *nox.project.dependency_groups(PYPROJECT, "docs"))
    shutil.rmtree("docs/_build", ignore_errors=True)
    session.run("sphinx-build", "-q", "-W", "-n", "--keep-going", "docs", "docs/_build")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure trioipc beside its peers, and write the page of the docs."""
    session.install(".", *nox.project.dependency_groups(PYPROJECT, "bench"))
    os.makedirs("build", exist_ok=True)
    arguments = session.posargs or ("--table", "docs/benchmarks.md", "--json", "build/bench.json")
    session.run("python", "-m", "benchmarks", *arguments)
