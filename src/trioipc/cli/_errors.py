"""What ends a command, and with which exit code.

====  ======================================================================
code  when
====  ======================================================================
0     all went well
1     a file, a host or a check has failed; the others were done all the same
2     the command was not understood, or there was no password; nothing was done
130   Ctrl-C; in general 128 and the number of the signal that ended it: 143 for SIGTERM, and 141
      for SIGPIPE, when nobody reads the output any more
====  ======================================================================
"""

from __future__ import annotations

from typing import Final

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
SIGNALLED: Final = 128


class OutputError(Exception):
    """Results cannot be written; the text says why.

    You don't get this when nobody reads them any more; that is a BrokenPipeError, as always.
    """


class UsageError(Exception):
    """What was asked for cannot be; the text says why, and what would be right."""
