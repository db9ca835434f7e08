"""Run it, print what came of it, and fail if anything was wrong, lost or left.

python -m benchmarks.soak --seconds N --seed S [--requests N] [--json FILE] [--table FILE]
"""

from __future__ import annotations

if __name__ == "__main__":
    from benchmarks.soak.report import main

    main()
