"""Keys from passwords: three algorithms, what they cost at least, and what they may cost at most.

The least are the defaults, those of OWASP's Password Storage Cheat Sheet (2023 and later). The most
are ours: one call takes at most 1 GiB of memory and, on a core of today, some ten seconds, so that
a number that came from elsewhere cannot take the machine down. A derivation cannot be interrupted,
only killed with its process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from attrs import Attribute

    from trioipc.protocol._codec import Buffer

Algorithm = Literal["argon2id", "scrypt", "pbkdf2-sha256"]

# 128 bits that nobody has chosen (NIST SP 800-132, 5.1).
MIN_SALT_SIZE = 16
# What is longer is no password or salt. Pulled out of the air.
MAX_INPUT_SIZE = 1 << 20
# A shorter key can be guessed; longer ones are made by HKDF, from this one. PBKDF2 takes its time
# once more for every 32 bytes, so this is a bound on cost as well.
KEY_SIZES = (16, 128)

MAX_MEMORY_KIB = 1 << 20


def _within(least: int, most: int) -> Any:
    """Validate a field: an int of that range."""

    def check(instance: object, field: Attribute[int], value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{field.name} must be an int, not {type(value).__name__}")
        if not least <= value <= most:
            raise ValueError(f"{field.name} must be {least} to {most}, not {value}")

    return check


@final
@attrs.frozen(kw_only=True)
class Argon2idCost:
    """RFC 9106; the first choice of OWASP, with 19 MiB, 2 passes and 1 lane at least."""

    # RFC 9106, 3.1: at least 8 KiB for each lane.
    memory_cost: int = attrs.field(default=19 << 10, validator=_within(8, MAX_MEMORY_KIB))
    # A pass over 1 GiB takes about half a second: this many over the smallest memory are nothing,
    # and over a bigger one the product below is the bound.
    iterations: int = attrs.field(default=2, validator=_within(1, 1 << 21))
    # Each is a thread inside of the call.
    lanes: int = attrs.field(default=1, validator=_within(1, 16))

    def __attrs_post_init__(self) -> None:
        if self.memory_cost < 8 * self.lanes:
            raise ValueError(
                f"memory_cost must be >= 8 * lanes, {8 * self.lanes} KiB, not {self.memory_cost}"
            )
        if self.memory_cost * self.iterations > 1 << 24:
            raise ValueError(
                "memory_cost * iterations must be at most 2**24 KiB, "
                f"not {self.memory_cost} * {self.iterations}"
            )

    def derive(self, password: Buffer, salt: bytes, length: int) -> bytes:
        """Return the key."""
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

        return Argon2id(
            salt=salt,
            length=length,
            iterations=self.iterations,
            lanes=self.lanes,
            memory_cost=self.memory_cost,
        ).derive(password)  # type: ignore[arg-type] # any buffer will do


@final
@attrs.frozen(kw_only=True)
class ScryptCost:
    """RFC 7914; OWASP's second choice, with n = 2**17, r = 8 and p = 1 at least."""

    n: int = attrs.field(default=1 << 17, validator=_within(2, 1 << 22))
    r: int = attrs.field(default=8, validator=_within(1, 32))
    p: int = attrs.field(default=1, validator=_within(1, 64))

    def __attrs_post_init__(self) -> None:
        if self.n & (self.n - 1):
            raise ValueError(f"n must be a power of 2, not {self.n}")
        if self.n >= 1 << 16 * self.r:  # RFC 7914, section 2
            raise ValueError(f"n must be less than 2**(16 * r), 2**{16 * self.r}, not {self.n}")
        if self.n * self.r > MAX_MEMORY_KIB << 3:  # of 128 bytes each
            raise ValueError(f"n * r must be at most 2**23, which is 1 GiB, not {self.n * self.r}")
        if self.n * self.r * self.p > 1 << 25:
            raise ValueError(f"n * r * p must be at most 2**25, not {self.n} * {self.r} * {self.p}")

    def derive(self, password: Buffer, salt: bytes, length: int) -> bytes:
        """Return the key."""
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        return Scrypt(salt=salt, length=length, n=self.n, r=self.r, p=self.p).derive(password)


@final
@attrs.frozen(kw_only=True)
class Pbkdf2Cost:
    """RFC 8018 with HMAC-SHA-256; what OWASP advises for FIPS 140, with 600,000 iterations."""

    iterations: int = attrs.field(default=600_000, validator=_within(1, 1 << 24))

    def derive(self, password: Buffer, salt: bytes, length: int) -> bytes:
        """Return the key."""
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

        kdf = PBKDF2HMAC(algorithm=SHA256(), length=length, salt=salt, iterations=self.iterations)
        return kdf.derive(password)


# {algorithm: what it costs}
COSTS: dict[str, type[Argon2idCost | ScryptCost | Pbkdf2Cost]] = {
    "argon2id": Argon2idCost,
    "scrypt": ScryptCost,
    "pbkdf2-sha256": Pbkdf2Cost,
}


def cost_of(algorithm: str, cost: Mapping[str, object]) -> Argon2idCost | ScryptCost | Pbkdf2Cost:
    """Return the cost, checked.

    Raises:
      TypeError: if a parameter is none of this algorithm, or no int.
      ValueError: if there is no such algorithm, or a parameter is out of its bounds.
    """
    if algorithm not in COSTS:
        raise ValueError(f"algorithm must be one of {', '.join(COSTS)}, not {algorithm!r}")
    kind = COSTS[algorithm]
    known = [field.name for field in attrs.fields(kind)]
    for name in cost:
        if name not in known:
            raise TypeError(f"{algorithm} takes {', '.join(known)}, but no {name!r}")
    return kind(**cost)  # type: ignore[arg-type] # which its validators see to
