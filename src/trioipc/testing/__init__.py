"""For the tests of applications: a pool without processes, faults on demand, sweeps, leak checks.

Nothing here needs a test framework: all are context managers and functions.
"""

from trioipc.testing._faults import Crash as Crash
from trioipc.testing._faults import Delay as Delay
from trioipc.testing._faults import Hang as Hang
from trioipc.testing._faults import Stop as Stop
from trioipc.testing._leaks import check_leaks as check_leaks
from trioipc.testing._pool import open_test_pool as open_test_pool
from trioipc.testing._steps import cancel_at_each_step as cancel_at_each_step

__all__ = [
    "Crash",
    "Delay",
    "Hang",
    "Stop",
    "cancel_at_each_step",
    "check_leaks",
    "open_test_pool",
]
