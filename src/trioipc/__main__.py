"""``python -m trioipc``, or ``trioipc``: the command line, whose rooms are in ``trioipc.cli``.

Each worker process loads this module again, as it does any program's; so nothing is loaded here.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Do what the arguments say; return the exit code."""
    try:
        from trioipc.cli._arguments import parse

        options = parse(sys.argv[1:])  # which is all that help needs
        from trioipc.cli.main import run

        return run(options)
    except KeyboardInterrupt:  # before there was anything to clean up
        return 130


if __name__ == "__main__":
    sys.exit(main())
