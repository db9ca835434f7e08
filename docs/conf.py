"""How the docs are built: ``nox -s docs``."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from _diagrams import Floors, LifeCycle

project = "trioipc"
author = "The trioipc authors"
copyright = "2026, " + author
version = release = version_of("trioipc")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.intersphinx"]
extensions += ["sphinxcontrib_trio"]
html_theme = "furo"
exclude_patterns = ["_build"]
default_role = "py:obj"
nitpicky = True
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # they stand in the signatures
napoleon_use_ivar = True

# The build must work without the net, so what belongs to others is not looked up.
intersphinx_mapping: dict[str, Any] = {}
nitpick_ignore_regex = [
    (r"py:.*", r"(trio|trio_parallel|attrs|collections|os|math|time|cryptography)\..*"),
    (r"py:.*", r"(ValueError|TypeError|OSError|Exception|BaseException|RuntimeError|TimeoutError)"),
    (r"py:.*", r"(ImportError|RuntimeWarning|SystemExit|bytes|str|int|float|bool|memoryview|dict)"),
    (r"py:obj", r"faulthandler"),
    (r"py:.*", r"(contextlib|concurrent|multiprocessing|asyncio|anyio|loky|contextvars)\..*"),
    (r"py:.*", r"distributed\..*"),
]


def setup(app: Any) -> None:
    """Add the directives."""
    app.add_directive("lifecycle", LifeCycle)
    app.add_directive("floors", Floors)
