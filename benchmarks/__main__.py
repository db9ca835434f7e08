"""Measure everything side by side, and say which figures were reached.

    python -m benchmarks [--rounds N] [--json FILE] [--table FILE] [--plots FOLDER]

Install trioipc as a wheel for it (``nox -s bench`` does): an editable install has no compiled
modules where PYTHONDONTWRITEBYTECODE is set, and each worker then compiles them anew.
"""

from __future__ import annotations

if __name__ == "__main__":  # workers import this again, and shall find nothing to import
    from benchmarks.report import main

    main()
