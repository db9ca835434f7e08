"""What developers and CI both call: ``nox``, or ``nox -s tests-3.13 -- -k cancel``."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from pathlib import Path

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
    """Check the types, for each system that there are branches for, and as users see them."""
    lint_group = nox.project.dependency_groups(PYPROJECT, "lint")
    session.install(".[network,cli,dask]", *lint_group, *TEST_GROUP)
    for platform in ("linux", "darwin"):
        session.run("mypy", "--platform", platform)
    examples = sorted(str(path) for path in Path("examples").rglob("*.py"))
    session.run("mypy", "tests/typing/api.py", *examples)
    session.run("basedpyright", "-p", "tests/typing")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests on the installed package."""
    session.install(".", *TEST_GROUP)
    session.run(*PYTEST, *session.posargs)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Run the tests on the oldest versions that trioipc says it works with."""
    session.install(
        ".[network,fast,filetype,zstd,cli,opentelemetry,dask]", *TEST_GROUP, *_floors(session)
    )
    session.run(*PYTEST, *session.posargs)


def _floors(session: nox.Session) -> list[str]:
    """Write down, for pip, that nothing may be newer than its lower bound."""
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(name for extra in extras for name in extra)]
    pinned = [re.sub(r">=\s*([\w.]+)(,\s*<[\w.]+)?", r"==\1.*", name) for name in wanted]
    path = os.path.join(session.create_tmp(), "lowest.txt")
    with open(path, "w") as file:
        file.write("\n".join(pinned))
    return ["--constraint", path]


@nox.session
def package(session: nox.Session) -> None:
    """Build the release twice, see that both are the same, and use what was built."""
    session.install("build", "twine")
    built = []
    for name in ("first", "second"):
        folder = os.path.join(session.create_tmp(), name)
        shutil.rmtree(folder, ignore_errors=True)
        session.run("python", "-m", "build", "--outdir", folder, env={"SOURCE_DATE_EPOCH": "1"})
        built.append({path.name: path.read_bytes() for path in Path(folder).iterdir()})
    if built[0] != built[1]:
        session.error("two builds of the same files differ")
    session.run("twine", "check", "--strict", *(os.path.join(folder, name) for name in built[1]))
    (wheel,) = (name for name in built[1] if name.endswith(".whl"))
    (sdist,) = (name for name in built[1] if name.endswith(".tar.gz"))
    # The tests that the release holds, on the wheel that it is.
    session.install(os.path.join(folder, wheel), *TEST_GROUP)
    with tarfile.open(os.path.join(folder, sdist)) as archive:
        archive.extractall(folder, filter="data")
    with session.chdir(os.path.join(folder, sdist.removesuffix(".tar.gz"))):
        session.run(*PYTEST, *(session.posargs or ("tests/test_docs.py", "tests/test_exports.py")))


@nox.session
def changelog(session: nox.Session) -> None:
    """Show what the next release brings."""
    session.install("towncrier>=25")
    session.run("towncrier", "build", "--draft", "--version", "next")


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
    session.install(".[opentelemetry,dask]", *nox.project.dependency_groups(PYPROJECT, "docs"))
    shutil.rmtree("docs/_build", ignore_errors=True)
    session.run("sphinx-build", "-q", "-W", "-n", "--keep-going", "docs", "docs/_build")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure trioipc beside its peers, and write the page of the docs."""
    session.install(".[dask]", *nox.project.dependency_groups(PYPROJECT, "bench"))
    if shutil.which("npm"):  # for the peer in Node
        session.run("npm", "install", "--prefix", "benchmarks/piscina", external=True)
    os.makedirs("build", exist_ok=True)
    written = (
        "--table",
        "docs/benchmarks.md",
        "--plots",
        "docs/plots",
        "--json",
        "build/bench.json",
    )
    arguments = session.posargs or written
    session.run("python", "-m", "benchmarks", *arguments)
