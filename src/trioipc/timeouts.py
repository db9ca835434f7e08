"""Timeouts to choose from, in seconds, as in the library that trioipc took its idea from."""

__all__ = ["LONG", "NORMAL", "QUICK", "VERY_LONG"]

QUICK = 5.0
NORMAL = 30.0
LONG = 120.0
VERY_LONG = 300.0
