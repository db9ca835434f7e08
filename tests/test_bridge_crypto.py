"""``bridge.crypto``: keys from passwords, and the choice of a format."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.exceptions import InvalidTag

from trioipc._errors import DataError
from trioipc.bridge.bridge import open_worker_bridge
from trioipc.bridge.crypto import CryptoBridge

if TYPE_CHECKING:
    from watched import Direct

KEY = bytes(range(32))
SALT = bytes(range(16))
PASSWORD = "pässword-nobody-should-see"

# Cheap, so that tests are quick.
CHEAP = {"algorithm": "pbkdf2-sha256", "iterations": 1}


@pytest.fixture
def crypto(direct: Direct) -> CryptoBridge:
    """Give a crypto bridge over it."""
    return CryptoBridge(direct)


# ---- keys


async def test_keys_come_from_workers() -> None:
    """Argon2id by default; each algorithm gives its own bytes."""
    async with open_worker_bridge(1) as bridge:
        derive = bridge.crypto.derive_key
        seen: list[tuple[int, int]] = []
        key = await derive(
            PASSWORD,
            SALT,
            on_progress=lambda progress: seen.append((progress.value, progress.total)),
        )
        assert seen[-1] == (1, 1)
        assert type(key) is bytes
        assert len(key) == 32
        assert await derive(PASSWORD.encode(), bytearray(SALT), algorithm="argon2id") == key
        assert await derive("", SALT, **CHEAP) == hashlib.pbkdf2_hmac("sha256", b"", SALT, 1)  # type: ignore[arg-type]
        pbkdf2 = await derive(PASSWORD, SALT, algorithm="pbkdf2-sha256", length=64, iterations=3)
        assert pbkdf2 == hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), SALT, 3, 64)
        scrypt = await derive(PASSWORD, SALT, algorithm="scrypt", n=16, r=2, p=3)
        assert scrypt == hashlib.scrypt(PASSWORD.encode(), salt=SALT, n=16, r=2, p=3, dklen=32)


async def test_passwords_are_not_normalised(crypto: CryptoBridge) -> None:
    """The same letters, composed and decomposed, are two passwords; the docs say so."""
    composed = await crypto.derive_key("p\u00e4ss", SALT, **CHEAP)  # type: ignore[arg-type]
    decomposed = await crypto.derive_key("pa\u0308ss", SALT, **CHEAP)  # type: ignore[arg-type]
    assert composed != decomposed


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((PASSWORD, SALT[:15]), {}, ValueError, "salt must be 16 to 1048576 bytes long, not 15"),
        ((PASSWORD, b""), {}, ValueError, "salt must be 16 to 1048576 bytes long, not 0"),
        ((PASSWORD, "s" * 16), {}, TypeError, "salt must be bytes-like, not str"),
        ((None, SALT), {}, TypeError, "password must be bytes-like, not NoneType"),
        ((bytes(2**20 + 1), SALT), {}, ValueError, "password must be 0 to 1048576 bytes long"),
        ((PASSWORD + "\udc80", SALT), {}, ValueError, "password must be text, and this has half"),
        ((PASSWORD, SALT), {"length": 15}, ValueError, "length must be 16 to 128 bytes, not 15"),
        ((PASSWORD, SALT), {"length": 129}, ValueError, "length must be 16 to 128 bytes, not 129"),
        ((PASSWORD, SALT), {"length": 32.0}, TypeError, "length must be an int, not float"),
        ((PASSWORD, SALT), {"length": True}, TypeError, "length must be an int, not bool"),
        ((PASSWORD, SALT), {"algorithm": "bcrypt"}, ValueError, "algorithm must be one of"),
        ((PASSWORD, SALT), {"lanes": 99}, ValueError, "lanes must be 1 to 16, not 99"),
        ((PASSWORD, SALT), {"n": 16}, TypeError, "argon2id takes memory_cost, iterations, lanes"),
    ],
)
async def test_wrong_arguments_are_refused_here(
    crypto: CryptoBridge,
    direct: Direct,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    """The error names the argument, never the password, nor what was raised below it."""
    with pytest.raises(error, match=message) as caught:
        await crypto.derive_key(*arguments, **options)
    shown = f"{caught.value!r} {caught.value.__cause__!r}"
    assert "nobody" not in shown
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert direct.calls == []


async def test_an_empty_password_is_one(crypto: CryptoBridge) -> None:
    """Whether it may be empty is for the application to say."""
    key = await crypto.derive_key("", SALT, **CHEAP)  # type: ignore[arg-type]
    assert key == hashlib.pbkdf2_hmac("sha256", b"", SALT, 1, 32)


# ---- formats


@pytest.mark.parametrize("nonce", [b"", None])
async def test_the_chunked_format(tmp_path: Path, nonce: bytes | None) -> None:
    """There and back in a worker; its nonce is empty, and None is as good."""
    async with open_worker_bridge(1) as bridge:
        crypto = bridge.crypto
        options: Any = {"associated_data": b"context", "format": "chunked"}
        encrypted = await crypto.encrypt_file(b"secret" * 9999, KEY, **options)
        assert encrypted.nonce == b""
        assert len(encrypted.ciphertext) == 6 * 9999 + 72 + 3 * 16
        plaintext = await crypto.decrypt_file(encrypted.ciphertext, KEY, nonce, **options)
        assert plaintext == b"secret" * 9999
        with pytest.raises(InvalidTag):
            await crypto.decrypt_file(encrypted.ciphertext, KEY, nonce, format="chunked")
        source = tmp_path / "source"
        source.write_bytes(encrypted.ciphertext)
        written = await crypto.decrypt_file(
            source, KEY, nonce, destination=tmp_path / "out", **options
        )
        assert written.size == 6 * 9999
        assert (tmp_path / "out").read_bytes() == b"secret" * 9999


async def test_formats_do_not_mix(crypto: CryptoBridge) -> None:
    """A ciphertext of one is none of the other."""
    gcm = await crypto.encrypt_file(bytes(100), KEY)
    chunked = await crypto.encrypt_file(bytes(100), KEY, format="chunked")
    with pytest.raises(InvalidTag):
        await crypto.decrypt_file(gcm.ciphertext, KEY, b"", format="chunked")
    with pytest.raises(InvalidTag):
        await crypto.decrypt_file(chunked.ciphertext, KEY, gcm.nonce)


async def test_a_wrong_format_or_nonce_is_refused_here(
    crypto: CryptoBridge, direct: Direct
) -> None:
    """No worker is asked."""
    with pytest.raises(ValueError, match="format must be one of gcm, chunked, not 'zip'"):
        await crypto.encrypt_file(b"", KEY, format="zip")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="format must be one of gcm, chunked, not 'zip'"):
        await crypto.decrypt_file(b"", KEY, b"", format="zip")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="nonce must be None for format 'chunked'"):
        await crypto.encrypt_file(b"", KEY, bytes(12), format="chunked")
    with pytest.raises(ValueError, match="nonce must be empty or None for format 'chunked'"):
        await crypto.decrypt_file(b"", KEY, bytes(12), format="chunked")
    with pytest.raises(TypeError, match="nonce must be bytes-like, not str"):
        await crypto.decrypt_file(b"", KEY, "", format="chunked")  # type: ignore[call-overload]
    with pytest.raises(DataError, match="only 71 bytes"):
        await crypto.decrypt_file(bytes(71), KEY, b"", format="chunked")
    assert direct.calls == []


# ---- what is left of a secret

# Not in this process, nor in development mode: that overwrites whatever memory is freed.
PROGRAM = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})

if __name__ == "__main__":
    import os, signal, trio, trioipc
    from cryptography.exceptions import InvalidTag
    from search_memory import count, keep, new_secret

    async def encrypt(bridge, secret):
        await bridge.crypto.encrypt_file(bytes(1 << 20), secret)

    async def encrypt_little(bridge, secret):
        await bridge.crypto.encrypt_file(b"", secret, format="chunked")

    async def decrypt_other(bridge, secret):
        try:
            await bridge.crypto.decrypt_file(bytes(1 << 20), secret, bytes(12))
        except InvalidTag:
            pass

    async def derive(bridge, secret, algorithm="argon2id", **cost):
        await bridge.crypto.derive_key(secret, bytes(16), algorithm=algorithm, **cost)

    async def derive_with_scrypt(bridge, secret):
        await derive(bridge, secret, "scrypt", n=1024)

    async def derive_for_nobody(bridge, secret):
        with trio.move_on_after(0.05):
            await derive(bridge, secret, "pbkdf2-sha256", iterations=1 << 24)

    async def derive_and_die(bridge, secret):
        async def kill():
            while bridge.pool.workers[0].state != "busy":
                await trio.sleep(0.001)
            os.kill(bridge.pool.workers[0].pid, signal.SIGKILL)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill)
            try:
                await derive(bridge, secret, "pbkdf2-sha256", iterations=1 << 24)
            except trioipc.WorkerCrashedError:
                pass

    async def give_away(bridge, secret):
        await bridge.pool.run(keep, bytes(secret))

    async def allocate(bridge, secret):
        held = bridge.pool.allocate(len(secret))
        held[:] = secret
        await bridge.pool.run(len, held)
        globals()["held"] = held

    async def main(call, size):
        async with trioipc.open_worker_bridge(1, grace=0.1, max_retries=0) as bridge:
            await bridge.crypto.hash_file(bytes(10_000))
            secret, masked = new_secret(size)
            await call(bridge, secret)
            secret[:] = bytes(size)
            await bridge.pool.warm()
            await bridge.crypto.hash_file(b"")
            with trio.move_on_after(5):  # what a dead worker had is wiped when there is time
                while count(os.getpid(), masked)[1] and call is not allocate:
                    await trio.sleep(0.01)
            in_worker, shared_in_worker = count(bridge.pool.workers[0].pid, masked)
            here, shared_here = count(os.getpid(), masked)
            print(in_worker, shared_in_worker, here - 1, shared_here)  # without what it looks for

    trio.run(main, globals()[sys.argv[1]], int(sys.argv[2]))
"""


def left_of_a_secret(call: str, size: int) -> list[int]:
    """Return how often it is in the worker, its shared memory, the parent and its shared memory."""
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTHONDEV", "PYTHONM"))
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, call, str(size)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert done.stderr == ""
    return [int(number) for number in done.stdout.split()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "size"),
    [
        ("encrypt", 32),
        ("encrypt_little", 32),
        ("decrypt_other", 32),
        ("derive_with_scrypt", 40),
        ("derive_with_scrypt", 100_000),
        ("derive_for_nobody", 40),
        ("derive_and_die", 40),
    ],
)
def test_nothing_is_left_of_a_secret(call: str, size: int) -> None:
    """However the call ends, its key or password is nowhere in the worker, nor here."""
    assert left_of_a_secret(call, size) == [0, 0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("size", [40, 100_000])
def test_what_openssl_keeps_is_not_shared(size: int) -> None:
    """Its Argon2id leaves copies of a password in the memory that it has freed."""
    assert left_of_a_secret("derive", size)[1:] == [0, 0, 0]


@pytest.mark.slow
def test_what_is_left_would_be_found() -> None:
    """What a function holds in the worker, and what is still in shared memory."""
    in_worker, *_ = left_of_a_secret("give_away", 32)
    assert in_worker > 0
    _, shared_in_worker, _, shared_here = left_of_a_secret("allocate", 100_000)
    assert shared_in_worker == shared_here == 1
