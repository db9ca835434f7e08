"""A gzip member put together from blocks that were compressed apart.

Each block is raw deflate that was primed with the 32 KiB before it, and ends at a byte's border;
so the blocks of a file, one behind the other, are one stream. That is how pigz does it.

Source: RFC 1951 (deflate), RFC 1952 (gzip).
"""

from __future__ import annotations

import struct

# How far back deflate can refer.
WINDOW = 32 << 10

# The polynomial of CRC-32 with its bits reversed (RFC 1952, 8), and the 1 of that notation.
_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31


def header(level: int) -> bytes:
    """Return what begins a member, as zlib writes it: no name, no time, and made on Unix."""
    extra_flags = {9: 2, 1: 4}.get(level, 0)
    return struct.pack("<4sIBB", b"\x1f\x8b\x08\x00", 0, extra_flags, 3)


def trailer(crc: int, size: int) -> bytes:
    """Return what ends a member."""
    return struct.pack("<II", crc, size & 0xFFFFFFFF)


def combine(first: int, second: int, length: int) -> int:
    """Return the CRC-32 of two pieces from that of each, and the length of the second in bytes.

    The first one's is moved over the zeros that the second would be: multiplied by ``x`` to the
    power of its bits, modulo the polynomial. From Python 3.15 on zlib can do it.
    """
    power, square = _ONE, _ONE >> 8  # 1, and x to the 8
    while length:
        if length & 1:
            power = _multiply(power, square)
        square = _multiply(square, square)
        length >>= 1
    return _multiply(power, first) ^ second


def _multiply(a: int, b: int) -> int:
    """Multiply two polynomials over GF(2), modulo that of CRC-32."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = (a << 1) & 0xFFFFFFFF
        b = (b >> 1) ^ (_POLYNOMIAL if b & 1 else 0)
    return product
