"""Look for a secret in the memory of processes, without leaving copies of it. Light."""

from __future__ import annotations

import os

_MASK = 0x5A

kept: list[bytes] = []


def keep(secret: bytes) -> int:
    """Hold on to it; return the process id."""
    kept.append(secret)
    return os.getpid()


def new_secret(size: int) -> tuple[bytearray, bytes]:
    """Return a secret of which there is no copy, and what `count` shall look for."""
    secret = bytearray(size)
    with open("/dev/urandom", "rb", buffering=0) as file:
        file.readinto(secret)
    return secret, bytes([byte ^ _MASK for byte in secret[:32]])


def count(pid: int, masked: bytes) -> tuple[int, int]:
    """Say how often a secret is in a process: in all of its memory, and in shared memory."""
    needle = bytearray(len(masked))
    for index, byte in enumerate(masked):
        needle[index] = byte ^ _MASK
    with open(f"/proc/{pid}/maps") as file:
        lines = file.read().splitlines()
    found = shared = 0
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in lines:
            places, rights, *_ = line.split()
            if "r" not in rights or "[v" in line:
                continue
            start, end = (int(place, 16) for place in places.split("-"))
            data = bytearray(end - start)
            try:
                memory.seek(start)
                memory.readinto(data)
            except OSError:  # a device's
                continue
            times = data.count(needle)
            found += times
            shared += times if "/memfd:" in line else 0
            data[:] = bytes(len(data))
    needle[:] = bytes(len(needle))
    return found, shared
