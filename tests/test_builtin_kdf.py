"""Keys from passwords: published vectors, other implementations, and bounds on the cost."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import cryptography_vectors
import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from trioipc._errors import RequestInterrupt
from trioipc.builtin._kdf import cost_of
from trioipc.builtin.crypto import derive_key
from watched import WatchedCells, call_watched

VECTORS = Path(cryptography_vectors.__file__).parent / "KDF"

PASSWORD = b"correct horse battery staple"
SALT = bytes(range(16))


def read_vectors(name: str) -> list[dict[str, str]]:
    """Read a file of ``name = value`` lines, where each vector begins with COUNT."""
    found: list[dict[str, str]] = []
    for line in (VECTORS / name).read_text().splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "COUNT":
            found.append({})
        elif found and not line.startswith("#"):
            found[-1][key.strip()] = value.strip()
    return found


# ---- vectors


def test_argon2id_is_that_of_the_vectors() -> None:
    """Those of OpenSSL and of the argon2 command come out; ours takes no secret, which one has."""
    vectors = [vector for vector in read_vectors("argon2id.txt") if "secret" not in vector]
    for vector in vectors:
        cost = {
            "memory_cost": int(vector["memcost"]),
            "iterations": int(vector["iter"]),
            "lanes": int(vector["lanes"]),
        }
        password, salt = bytes.fromhex(vector["pass"]), bytes.fromhex(vector["salt"])
        key = derive_key(password, salt, int(vector["length"]), "argon2id", cost)
        assert key.hex() == vector["output"]
    assert len(vectors) == 5


def test_what_argon2id_is_built_on_is_that_of_rfc_9106() -> None:
    """Section 5.3, with a secret and associated data, by the class that we call without them."""
    (vector,) = [vector for vector in read_vectors("argon2id.txt") if "secret" in vector]
    key = Argon2id(
        salt=bytes([2] * 16),
        length=32,
        iterations=3,
        lanes=4,
        memory_cost=32,
        secret=bytes([3] * 8),
        ad=bytes([4] * 12),
    ).derive(bytes([1] * 32))
    assert key.hex() == "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"
    assert key.hex() == vector["output"]


@pytest.mark.parametrize(
    ("iterations", "memory", "lanes", "password", "salt", "expected"),
    [
        (
            *(2, 16, 1, b"password", b"somesalt"),
            "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7",
        ),
        (
            *(2, 8, 1, b"password", b"somesalt"),
            "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe",
        ),
        (
            *(2, 8, 2, b"password", b"somesalt"),
            "6d093c501fd5999645e0ea3bf620d7b8be7fd2db59c20d9fff9539da2bf57037",
        ),
        (
            *(1, 16, 1, b"password", b"somesalt"),
            "f6a5adc1ba723dddef9b5ac1d464e180fcd9dffc9d1cbf76cca2fed795d9ca98",
        ),
        (
            *(4, 16, 1, b"password", b"somesalt"),
            "9025d48e68ef7395cca9079da4c4ec3affb3c8911fe4f86d1a2520856f63172c",
        ),
        (
            *(2, 16, 1, b"differentpassword", b"somesalt"),
            "0b84d652cf6b0c4beaef0dfe278ba6a80df6696281d7e0d2891b817d8c458fde",
        ),
        (
            *(2, 16, 1, b"password", b"diffsalt"),
            "bdf32b05ccc42eb15d58fd19b1f856b113da1e9a5874fdcc544308565aa8141c",
        ),
    ],
)
def test_argon2id_is_that_of_the_reference(
    iterations: int, memory: int, lanes: int, password: bytes, salt: bytes, expected: str
) -> None:
    """The tests of the algorithm's authors for version 0x13, but for the one of 256 MiB."""
    cost = {"memory_cost": 1 << memory, "iterations": iterations, "lanes": lanes}
    assert derive_key(password, salt, 32, "argon2id", cost).hex() == expected


def test_scrypt_is_that_of_rfc_7914() -> None:
    """Section 12 comes out, also what takes 1 GiB."""
    vectors = read_vectors("scrypt.txt")
    for vector in vectors:
        cost = {name.lower(): int(vector[name]) for name in ("N", "r", "p")}
        password, salt = vector["PASSWORD"].encode(), vector["SALT"].encode()
        key = derive_key(password, salt, int(vector["LENGTH"]), "scrypt", cost)
        assert key.hex() == vector["DERIVED_KEY"]
    assert len(vectors) == 4


@pytest.mark.parametrize(
    ("password", "salt", "iterations", "expected"),
    [
        (
            b"passwd",
            b"salt",
            1,
            "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"
            "49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783",
        ),
        (
            b"Password",
            b"NaCl",
            80000,
            "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56"
            "a1d425a1225833549adb841b51c9b3176a272bdebba1d078478f62b397f33c8d",
        ),
    ],
)
def test_pbkdf2_is_that_of_rfc_7914(
    password: bytes, salt: bytes, iterations: int, expected: str
) -> None:
    """Section 11, which has the vectors of PBKDF2 with HMAC-SHA-256."""
    key = derive_key(password, salt, 64, "pbkdf2-sha256", {"iterations": iterations})
    assert key.hex() == expected


# ---- the defaults, by other implementations


def test_the_defaults_are_those_of_owasp() -> None:
    """And so what every key that is derived without a word costs."""
    assert cost_of("argon2id", {}) == cost_of(
        "argon2id", {"memory_cost": 19456, "iterations": 2, "lanes": 1}
    )
    assert cost_of("scrypt", {}) == cost_of("scrypt", {"n": 2**17, "r": 8, "p": 1})
    assert cost_of("pbkdf2-sha256", {}) == cost_of("pbkdf2-sha256", {"iterations": 600_000})


def test_the_defaults_by_hashlib() -> None:
    """The standard library gives the same keys."""
    scrypt = hashlib.scrypt(PASSWORD, salt=SALT, n=2**17, r=8, p=1, maxmem=1 << 28, dklen=32)
    assert derive_key(PASSWORD, SALT, 32, "scrypt", {}) == scrypt
    pbkdf2 = hashlib.pbkdf2_hmac("sha256", PASSWORD, SALT, 600_000, 32)
    assert derive_key(PASSWORD, SALT, 32, "pbkdf2-sha256", {}) == pbkdf2


# ---- bounds


@pytest.mark.parametrize(
    ("algorithm", "cost", "message"),
    [
        ("md5", {}, "algorithm must be one of argon2id, scrypt, pbkdf2-sha256, not 'md5'"),
        ("argon2id", {"memory_cost": 7}, "memory_cost must be 8 to 1048576, not 7"),
        ("argon2id", {"memory_cost": 2**20 + 1}, "memory_cost must be 8 to 1048576, not 1048577"),
        ("argon2id", {"memory_cost": 2**64}, "memory_cost must be 8 to 1048576"),
        ("argon2id", {"memory_cost": 15, "lanes": 2}, r"memory_cost must be >= 8 \* lanes, 16 KiB"),
        ("argon2id", {"iterations": 0}, "iterations must be 1 to"),
        ("argon2id", {"iterations": 2**32}, "iterations must be 1 to"),
        ("argon2id", {"iterations": 863}, r"memory_cost \* iterations must be at most 2\*\*24 KiB"),
        ("argon2id", {"lanes": 0}, "lanes must be 1 to 16, not 0"),
        ("argon2id", {"lanes": 17}, "lanes must be 1 to 16, not 17"),
        ("scrypt", {"n": 1}, "n must be 2 to"),
        ("scrypt", {"n": 3}, "n must be a power of 2, not 3"),
        ("scrypt", {"n": 2**63}, "n must be 2 to"),
        (
            "scrypt",
            {"n": 2**16, "r": 1},
            r"n must be less than 2\*\*\(16 \* r\), 2\*\*16, not 65536",
        ),
        ("scrypt", {"n": 2**21}, r"n \* r must be at most 2\*\*23, which is 1 GiB"),
        ("scrypt", {"r": 0}, "r must be 1 to 32, not 0"),
        ("scrypt", {"r": 33}, "r must be 1 to 32, not 33"),
        ("scrypt", {"p": 0}, "p must be 1 to 64, not 0"),
        ("scrypt", {"p": 33}, r"n \* r \* p must be at most 2\*\*25, not 131072 \* 8 \* 33"),
        ("scrypt", {"p": 2**30}, "p must be 1 to 64"),
        ("pbkdf2-sha256", {"iterations": 0}, "iterations must be 1 to 16777216, not 0"),
        ("pbkdf2-sha256", {"iterations": 2**24 + 1}, "iterations must be 1 to 16777216"),
        ("pbkdf2-sha256", {"iterations": -1}, "iterations must be 1 to 16777216, not -1"),
    ],
)
def test_what_is_out_of_bounds(algorithm: str, cost: dict[str, Any], message: str) -> None:
    """A ValueError that says what would be right, before anything is computed."""
    with pytest.raises(ValueError, match=message):
        cost_of(algorithm, cost)


@pytest.mark.parametrize(
    ("algorithm", "cost"),
    [
        ("argon2id", {"memory_cost": 2**20, "iterations": 16}),
        ("argon2id", {"memory_cost": 8, "iterations": 2**21}),
        ("argon2id", {"memory_cost": 128, "lanes": 16}),
        ("argon2id", {"memory_cost": 65536, "iterations": 3, "lanes": 4}),  # RFC 9106's second
        ("scrypt", {"n": 2**20, "p": 4}),
        ("scrypt", {"n": 2**15, "r": 1}),
        ("scrypt", {"n": 2, "r": 32, "p": 64}),
        ("pbkdf2-sha256", {"iterations": 2**24}),
    ],
)
def test_what_is_just_within(algorithm: str, cost: dict[str, Any]) -> None:
    """It is taken."""
    assert cost_of(algorithm, cost) == cost_of(algorithm, dict(cost))


@pytest.mark.parametrize("value", [2.0, "2", None, True, float("nan")])
def test_numbers_are_ints(value: Any) -> None:
    """A TypeError names the parameter."""
    with pytest.raises(TypeError, match="iterations must be an int, not"):
        cost_of("argon2id", {"iterations": value})


def test_parameters_of_another_algorithm() -> None:
    """A TypeError says which this one takes."""
    with pytest.raises(TypeError, match="scrypt takes n, r, p, but no 'iterations'"):
        cost_of("scrypt", {"iterations": 2})


# ---- progress


def test_progress_is_0_and_1() -> None:
    """Of 1, and it can be cancelled before it begins."""
    cells = WatchedCells()
    call_watched(cells, derive_key, PASSWORD, SALT, 32, "argon2id", {})
    assert (cells.seen, cells.progress()) == ([(0, 1)], (1, 1))
    result, _ = call_watched(
        WatchedCells().cancel_at(1), derive_key, PASSWORD, SALT, 32, "argon2id", {}
    )
    assert type(result) is RequestInterrupt
