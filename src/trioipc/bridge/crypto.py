"""``bridge.crypto``: files encrypted, decrypted and hashed, keys derived from passwords."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Generic, TypeVar, cast, final, get_args, overload

import attrs

from trioipc.bridge._arguments import (
    Source,
    WrittenFile,
    destination_of,
    result_of,
    sent,
    size_of,
    source_of,
    spare_removed,
    view_of,
    view_of_size,
)
from trioipc.builtin import crypto as builtin
from trioipc.builtin._ciphers import (
    KEY_SIZE,
    NONCE_SIZE,
    TAG_SIZE,
    Format,
    refuse_too_long,
    refuse_too_short,
)
from trioipc.builtin._kdf import KEY_SIZES, MAX_INPUT_SIZE, MIN_SALT_SIZE, Algorithm, cost_of
from trioipc.memory._secret import revealed
from trioipc.pool._options import one_of

if TYPE_CHECKING:
    import os

    from typing_extensions import Buffer

    from trioipc.bridge._arguments import Run
    from trioipc.memory.state import SharedCancellation
    from trioipc.pool.pool import Callback
    from trioipc.protocol._messages import Priority

Ciphertext = TypeVar("Ciphertext", memoryview, WrittenFile)


def _show(value: object) -> str:
    """Show how long bytes are, and not what they are."""
    return f"<{len(value)} bytes>" if isinstance(value, bytes | memoryview) else repr(value)


@attrs.frozen
class Encrypted(Generic[Ciphertext]):
    """What ``CryptoBridge.encrypt_file`` made."""

    ciphertext: Ciphertext = attrs.field(repr=_show)
    """The encrypted bytes, or the file that holds them."""

    nonce: bytes = attrs.field(repr=_show)
    """12 bytes, no secret, and needed to decrypt; ``b""`` for ``"chunked"``, which needs none."""


@final
@attrs.define(eq=False, repr=False)
class CryptoBridge:
    """What workers encrypt, decrypt, hash and derive; get it as ``WorkerBridge.crypto``."""

    _run: Run

    def __repr__(self) -> str:
        return "<CryptoBridge>"

    @overload
    async def encrypt_file(
        self,
        source: Source,
        key: Buffer,
        nonce: Buffer | None = None,
        *,
        associated_data: Buffer | None = None,
        format: Format = "gcm",
        destination: None = None,
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> Encrypted[memoryview]: ...

    @overload
    async def encrypt_file(
        self,
        source: Source,
        key: Buffer,
        nonce: Buffer | None = None,
        *,
        associated_data: Buffer | None = None,
        format: Format = "gcm",
        destination: str | os.PathLike[str],
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> Encrypted[WrittenFile]: ...

    async def encrypt_file(
        self,
        source: Source,
        key: Buffer,
        nonce: Buffer | None = None,
        *,
        associated_data: Buffer | None = None,
        format: Format = "gcm",
        destination: str | os.PathLike[str] | None = None,
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> Encrypted[memoryview] | Encrypted[WrittenFile]:
        """Encrypt ``source`` with AES-256-GCM in a worker.

        A path is read by the worker, and a destination written by it, in memory that does not
        grow with the file.

        Args:
          source: Bytes-like or a path; 0 to 2**36 - 32 bytes, or less than 2**52 if chunked.
          key: 32 random bytes, no password: see `derive_key`.
          nonce: 12 bytes, never used twice with one key. Random if None. For ``"chunked"``
            always None: that derives a key for each message from a random salt of 24 bytes,
            which begins the ciphertext.
          associated_data: What is authenticated as well, but not encrypted.
          format: ``"gcm"`` is that of WebCrypto: one tag over all, so nothing of it can be used
            before all of it has come. ``"chunked"`` is Cobblestone-256: each 16 KiB have a tag,
            so that others can decrypt it as a stream.
          destination: The file to write; None for the bytes as the result. One that exists is
            replaced when all is written, and keeps its mode; a new one is the owner's alone
            (0600). There is no fsync.
          on_progress: Called with the progress, in bytes, in the caller's task.
          timeout: Seconds that the run may take, from its start; None for the bridge's value.
          queue_timeout: Seconds that it may wait before that, likewise.
          cancellation: Cancels the request when it is set.
          priority: ``"low"``, ``"normal"`` or ``"high"``.

        Returns:
          ``ciphertext`` and ``nonce``. With ``"gcm"``, ``len(source) + 16`` bytes with the tag
          last, and 12 bytes. With ``"chunked"``, ``len(source) + 72`` bytes and 16 more for each
          16 KiB, and ``b""``.

        Raises:
          TypeError: if an argument is of another type; no worker is asked.
          ValueError: if ``key``, ``nonce`` or ``source`` has another length, there is no such
            format, or ``source`` and ``destination`` are the same file; no worker is asked.
          OSError: if a file cannot be read or written, or is no regular file.
          WorkerCrashedError: if the worker died. You don't get this if *you* cancelled.

        Cancellation: a checkpoint. If cancelled, the destination is what it was, unless the
        cancel came after it had been replaced as a whole.

        Source: NIST SP 800-38D, section 8 (unique nonces); c2sp.org/chunked-encryption.
        """
        one_of("format", format, get_args(Format))
        checked_key = view_of_size(key, "key", KEY_SIZE)
        checked_nonce = _new_nonce(nonce, format)
        checked_source = source_of(source)
        refuse_too_long(format, size_of(checked_source) or 0)
        target = destination_of(destination, checked_source)
        with spare_removed(target) as (path, spare), revealed(checked_key) as copied_key:
            result = await self._run(
                builtin.encrypt_file,
                sent(checked_source),
                copied_key,
                checked_nonce,
                _associated(associated_data),
                format,
                path,
                spare,
                on_progress=on_progress,
                timeout=timeout,
                queue_timeout=queue_timeout,
                cancellation=cancellation,
                priority=priority,
            )
        # Which of the two it is, the overloads say; a checker cannot follow.
        return Encrypted(cast("memoryview", result_of(result, target)), checked_nonce)

    @overload
    async def decrypt_file(
        self,
        source: Source,
        key: Buffer,
        nonce: Buffer | None,
        *,
        associated_data: Buffer | None = None,
        format: Format = "gcm",
        destination: None = None,
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> memoryview: ...

    @overload
    async def decrypt_file(
        self,
        source: Source,
        key: Buffer,
        nonce: Buffer | None,
        *,
        associated_data: Buffer | None = None,
        format: Format = "gcm",
        destination: str | os.PathLike[str],
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> WrittenFile: ...

    async def decrypt_file(
        self,
        source: Source,
        key: Buffer,
        nonce: Buffer | None,
        *,
        associated_data: Buffer | None = None,
        format: Format = "gcm",
        destination: str | os.PathLike[str] | None = None,
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> memoryview | WrittenFile:
        """Decrypt in a worker what `encrypt_file` or WebCrypto encrypted, and verify it.

        No byte of plaintext is visible, in memory or on disk, before all of it has verified,
        whatever the format.

        Args:
          source: Bytes-like or a path.
          key: 32 bytes.
          nonce: 12 bytes, those of the encryption. For ``"chunked"`` ``b""`` or None.
          associated_data: That of the encryption.
          format: That of the encryption.
          destination: The file to write, as for `encrypt_file`; None for the bytes.
          on_progress: Called with the progress, in bytes, in the caller's task. Where files must
            have a name, the source is read twice, and the total is twice its size.
          timeout: Seconds that the run may take, from its start; None for the bridge's value.
          queue_timeout: Seconds that it may wait before that, likewise.
          cancellation: Cancels the request when it is set.
          priority: ``"low"``, ``"normal"`` or ``"high"``.

        Returns:
          The plaintext as a read-only view, or the file that holds it.

        Raises:
          cryptography.exceptions.InvalidTag: if key, nonce, associated data or ciphertext are not
            those of the encryption.
          DataError: if ``source`` is shorter than any ciphertext: 16 bytes, or 72 if chunked.
          TypeError: if an argument is of another type; no worker is asked.
          ValueError: if ``key``, ``nonce`` or ``source`` has another length, there is no such
            format, or ``source`` and ``destination`` are the same file; no worker is asked.
          OSError: if a file cannot be read or written, or is no regular file.
          WorkerCrashedError: if the worker died. You don't get this if *you* cancelled.

        Cancellation: a checkpoint. If cancelled, the destination is what it was, unless the
        cancel came after it had been replaced as a whole.

        Source: NIST SP 800-38D, section 7.2; c2sp.org/chunked-encryption.
        """
        one_of("format", format, get_args(Format))
        checked_key = view_of_size(key, "key", KEY_SIZE)
        checked_nonce = _known_nonce(nonce, format)
        checked_source = source_of(source)
        _refuse_ciphertext_size(checked_source, format)
        target = destination_of(destination, checked_source)
        with spare_removed(target) as (path, spare), revealed(checked_key) as copied_key:
            result = await self._run(
                builtin.decrypt_file,
                sent(checked_source),
                copied_key,
                checked_nonce,
                _associated(associated_data),
                format,
                path,
                spare,
                on_progress=on_progress,
                timeout=timeout,
                queue_timeout=queue_timeout,
                cancellation=cancellation,
                priority=priority,
            )
        return result_of(result, target)

    async def hash_file(
        self,
        source: Source,
        *,
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> str:
        """Hash ``source`` with SHA-256 in a worker.

        Args:
          source: Bytes-like or a path.
          on_progress: Called with the progress, in bytes, in the caller's task.
          timeout: Seconds that the run may take, from its start; None for the bridge's value.
          queue_timeout: Seconds that it may wait before that, likewise.
          cancellation: Cancels the request when it is set.
          priority: ``"low"``, ``"normal"`` or ``"high"``.

        Returns:
          The hash, in hex.

        Raises:
          TypeError: if ``source`` is neither bytes-like nor a path; no worker is asked.
          OSError: if the file cannot be read, or is no regular file.

        Cancellation: a checkpoint.

        Source: FIPS 180-4.
        """
        return await self._run(
            builtin.hash_file,
            sent(source_of(source), slowly=True),
            on_progress=on_progress,
            timeout=timeout,
            queue_timeout=queue_timeout,
            cancellation=cancellation,
            priority=priority,
        )

    async def derive_key(
        self,
        password: str | Buffer,
        salt: Buffer,
        *,
        algorithm: Algorithm = "argon2id",
        length: int = 32,
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
        **cost: int,
    ) -> bytes:
        """Derive a key from a password in a worker.

        The defaults are the least that OWASP advises. Lower values are for keys that others
        have made; keep the cost with what the key encrypts, for the defaults will rise.

        Args:
          password: A ``str`` is taken as UTF-8, as it is: normalise it before (NFC, say) if people
            type it on several systems. At most 1 MiB.
          salt: 16 bytes or more, random, kept with what the key encrypts; no secret.
          algorithm: ``"argon2id"``, ``"scrypt"`` or ``"pbkdf2-sha256"``, which WebCrypto has too.
          length: Of the key, 16 to 128 bytes.
          on_progress: Called with the progress in the caller's task: 0 and 1 of 1, no more.
          timeout: Seconds that the run may take, from its start; None for the bridge's value.
          queue_timeout: Seconds that it may wait before that, likewise.
          cancellation: Cancels the request when it is set.
          priority: ``"low"``, ``"normal"`` or ``"high"``.
          **cost: For argon2id ``memory_cost`` (19456 KiB; 8 for each lane to 2**20), ``iterations``
            (2; with ``memory_cost`` at most 2**24 KiB in all) and ``lanes`` (1; threads, to 16).
            For scrypt ``n`` (2**17, a power of 2), ``r`` (8, to 32) and ``p`` (1, to 64), where
            ``n * r`` is at most 2**23 and ``n * r * p`` 2**25. For pbkdf2-sha256 ``iterations``
            (600,000, to 2**24). So no call takes more than 1 GiB or about ten seconds.

        Returns:
          The key.

        Raises:
          TypeError: if an argument is of another type, or ``cost`` is of another algorithm; no
            worker is asked.
          ValueError: if an argument is out of its bounds; no worker is asked.
          MemoryError: if the worker does not get as much memory.
          WorkerCrashedError: if the worker died. You don't get this if *you* cancelled.

        Cancellation: a checkpoint. What computes cannot be interrupted: its worker is killed, and
        on threads the call returns when the key is there.

        Source: OWASP Password Storage Cheat Sheet; RFC 9106 (Argon2), RFC 7914 (scrypt), RFC 8018
        (PBKDF2); NIST SP 800-132, 5.1 (the salt).
        """
        checked_password = _password_of(password)
        checked_salt = bytes(_within_size(salt, "salt", MIN_SALT_SIZE))
        cost_of(algorithm, cost)
        checked_length = _key_size(length)
        with revealed(checked_password) as copied_password:
            return await self._run(
                builtin.derive_key,
                copied_password,
                checked_salt,
                checked_length,
                algorithm,
                cost,
                on_progress=on_progress,
                timeout=timeout,
                queue_timeout=queue_timeout,
                cancellation=cancellation,
                priority=priority,
            )


def _new_nonce(nonce: Buffer | None, format: Format) -> bytes:
    if format == "chunked":
        if nonce is not None:
            raise ValueError("nonce must be None for format 'chunked', which makes its own salt")
        return b""
    if nonce is None:
        return secrets.token_bytes(NONCE_SIZE)
    return bytes(view_of_size(nonce, "nonce", NONCE_SIZE))


def _known_nonce(nonce: Buffer | None, format: Format) -> bytes:
    if format == "gcm":
        return bytes(view_of_size(nonce, "nonce", NONCE_SIZE))
    if nonce is not None and len(view_of(nonce, "nonce")):
        raise ValueError("nonce must be empty or None for format 'chunked', which needs none")
    return b""


def _associated(data: Buffer | None) -> memoryview | None:
    return None if data is None else view_of(data, "associated_data")


def _refuse_ciphertext_size(source: memoryview | str, format: Format) -> None:
    size = size_of(source)
    if size is not None:
        refuse_too_long(format, size - TAG_SIZE)
    if isinstance(source, memoryview):  # a file may still grow until the worker reads it
        refuse_too_short(format, len(source))


def _password_of(password: str | Buffer) -> memoryview:
    if not isinstance(password, str):
        return _within_size(password, "password", 0)
    try:
        encoded = password.encode()
    except UnicodeEncodeError:
        # Not from it: it holds the password.
        raise ValueError("password must be text, and this has half a surrogate pair") from None
    return _within_size(encoded, "password", 0)


def _within_size(value: object, name: str, least: int) -> memoryview:
    view = view_of(value, name)
    if not least <= len(view) <= MAX_INPUT_SIZE:
        raise ValueError(f"{name} must be {least} to {MAX_INPUT_SIZE} bytes long, not {len(view)}")
    return view


def _key_size(length: object) -> int:
    least, most = KEY_SIZES
    if isinstance(length, bool) or not isinstance(length, int):
        raise TypeError(f"length must be an int, not {type(length).__name__}")
    if not least <= length <= most:
        raise ValueError(f"length must be {least} to {most} bytes, not {length}")
    return length
