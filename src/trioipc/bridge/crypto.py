"""``bridge.crypto``: files encrypted, decrypted and hashed."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Generic, TypeVar, cast, final, overload

import attrs

from trioipc.bridge._arguments import (
    Source,
    WrittenFile,
    bytes_of,
    destination_of,
    result_of,
    sent,
    size_of,
    source_of,
    spare_removed,
    view_of,
)
from trioipc.builtin import crypto as builtin

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
    """The encrypted bytes with the 16-byte tag last, or the file that holds them."""

    nonce: bytes = attrs.field(repr=_show)
    """12 bytes, no secret, and needed to decrypt."""


@final
@attrs.define(eq=False, repr=False)
class CryptoBridge:
    """What workers encrypt, decrypt and hash; get it as ``WorkerBridge.crypto``."""

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
        destination: str | os.PathLike[str] | None = None,
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> Encrypted[memoryview] | Encrypted[WrittenFile]:
        """Encrypt ``source`` with AES-256-GCM in a worker.

        A path is read by the worker, and a destination written by it, in memory that does not
        grow with the file. The format is that of WebCrypto.

        Args:
          source: Bytes-like or a path, 0 to 2**36 - 32 bytes.
          key: 32 bytes.
          nonce: 12 bytes, never used twice with one key. Random if None.
          associated_data: What is authenticated as well, but not encrypted.
          destination: The file to write; None for the bytes as the result. One that exists is
            replaced when all is written, and keeps its mode; a new one is the owner's alone
            (0600). There is no fsync.
          on_progress: Called with the progress, in bytes, in the caller's task.
          timeout: Seconds that the run may take, from its start; None for the bridge's value.
          queue_timeout: Seconds that it may wait before that, likewise.
          cancellation: Cancels the request when it is set.
          priority: ``"low"``, ``"normal"`` or ``"high"``.

        Returns:
          ``ciphertext``, ``len(source) + 16`` bytes with the tag last, and the 12-byte ``nonce``.

        Raises:
          TypeError: if an argument is of another type; no worker is asked.
          ValueError: if ``key``, ``nonce`` or ``source`` has another length, or ``source`` and
            ``destination`` are the same file; no worker is asked.
          OSError: if a file cannot be read or written, or is no regular file.
          WorkerCrashedError: if the worker died. You don't get this if *you* cancelled.

        Cancellation: a checkpoint. If cancelled, the destination is what it was, unless the
        cancel came after it had been replaced as a whole.

        Source: NIST SP 800-38D, section 8 (unique nonces).
        """
        checked_key = bytes_of(key, "key", builtin.KEY_SIZE)
        checked_nonce = _nonce_of(nonce)
        checked_source = source_of(source)
        builtin.refuse_too_long(size_of(checked_source) or 0)
        target = destination_of(destination, checked_source)
        with spare_removed(target) as (path, spare):
            result = await self._run(
                builtin.encrypt_file,
                sent(checked_source),
                checked_key,
                checked_nonce,
                _associated(associated_data),
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
        nonce: Buffer,
        *,
        associated_data: Buffer | None = None,
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
        nonce: Buffer,
        *,
        associated_data: Buffer | None = None,
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
        nonce: Buffer,
        *,
        associated_data: Buffer | None = None,
        destination: str | os.PathLike[str] | None = None,
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> memoryview | WrittenFile:
        """Decrypt in a worker what `encrypt_file` or WebCrypto encrypted, and verify it.

        No byte of plaintext is visible, in memory or on disk, before the tag has verified.

        Args:
          source: Bytes-like or a path; the tag ends it.
          key: 32 bytes.
          nonce: 12 bytes, those of the encryption.
          associated_data: That of the encryption.
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
          DataError: if ``source`` is shorter than a tag.
          TypeError: if an argument is of another type; no worker is asked.
          ValueError: if ``key``, ``nonce`` or ``source`` has another length, or ``source`` and
            ``destination`` are the same file; no worker is asked.
          OSError: if a file cannot be read or written, or is no regular file.
          WorkerCrashedError: if the worker died. You don't get this if *you* cancelled.

        Cancellation: a checkpoint. If cancelled, the destination is what it was, unless the
        cancel came after it had been replaced as a whole.

        Source: NIST SP 800-38D, section 7.2.
        """
        checked_key = bytes_of(key, "key", builtin.KEY_SIZE)
        checked_nonce = bytes_of(nonce, "nonce", builtin.NONCE_SIZE)
        checked_source = source_of(source)
        _refuse_ciphertext_size(checked_source)
        target = destination_of(destination, checked_source)
        with spare_removed(target) as (path, spare):
            result = await self._run(
                builtin.decrypt_file,
                sent(checked_source),
                checked_key,
                checked_nonce,
                _associated(associated_data),
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


def _nonce_of(nonce: Buffer | None) -> bytes:
    if nonce is None:
        return secrets.token_bytes(builtin.NONCE_SIZE)
    return bytes_of(nonce, "nonce", builtin.NONCE_SIZE)


def _associated(data: Buffer | None) -> memoryview | None:
    return None if data is None else view_of(data, "associated_data")


def _refuse_ciphertext_size(source: memoryview | str) -> None:
    size = size_of(source)
    if size is not None:
        builtin.refuse_too_long(size - builtin.TAG_SIZE)
    if isinstance(source, memoryview):  # a file may still grow until the worker reads it
        builtin.refuse_too_short(len(source))
