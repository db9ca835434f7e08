"""Chunk sizes to choose from, in bytes, as in the library that trioipc took its idea from."""

__all__ = ["DEFAULT", "FINE", "HIGH_THROUGHPUT"]

FINE = 1 << 20  # 1 MiB: smooth progress, prompt cancellation
DEFAULT = 4 << 20  # 4 MiB
HIGH_THROUGHPUT = 16 << 20  # 16 MiB: fewest steps
