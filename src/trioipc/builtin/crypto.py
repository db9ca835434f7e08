"""Files encrypted, decrypted and hashed, and keys derived: what the bridge's ``crypto`` runs.

Guarantee: no byte of plaintext is visible, in memory or on disk, before all of it has verified. In
memory it is seen only when it is returned, and zero again after an error. On disk it has no name
before; where the file system needs one, a first pass over the source verifies, and the second one,
which writes, verifies again, since a file may have changed between the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trioipc.builtin import file
from trioipc.builtin._ciphers import cipher_of, refuse_too_long, refuse_too_short
from trioipc.builtin._files import Meter, Nowhere, open_output, open_source
from trioipc.builtin._kdf import cost_of
from trioipc.worker.registry import operation
from trioipc.worker.request import current_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trioipc.builtin._ciphers import Format
    from trioipc.builtin._kdf import Algorithm
    from trioipc.memory._ring import RingReader
    from trioipc.protocol._codec import Buffer

# Calls of 2 KiB and more let go of the GIL. A step is also a progress value and a cancel point:
# 1 MiB takes about 0.06 ms, and smaller steps were slower.
STEP = 1 << 20


@operation(channel="crypto", idempotent=True)
def hash_file(source: memoryview | RingReader | str) -> str:
    """Hash a buffer or the file of that absolute path with SHA-256; return it in hex."""
    return file.hash_file(source, "SHA-256")


@operation(channel="crypto", idempotent=True)
def encrypt_file(
    source: memoryview | RingReader | str,
    key: Buffer,
    nonce: bytes,
    associated_data: memoryview | None = None,
    format: Format = "gcm",
    destination: str | None = None,
    spare: str | None = None,
    header: bytes = b"",
) -> memoryview | int:
    """Encrypt a buffer or a file.

    Args:
      source: Bytes, or an absolute path.
      key: 32 bytes.
      nonce: 12 bytes; for ``"chunked"`` none, since that makes and writes its own salt.
      associated_data: What is authenticated as well, but not encrypted.
      format: ``"gcm"`` or ``"chunked"``.
      destination: The absolute path of the file to write; None for a result in memory.
      spare: A free name in the folder of ``destination``; the caller removes it at the end.
      header: What the result begins with, as it is; to authenticate it is the caller's business.

    Returns:
      The ciphertext behind its header, or how many bytes were written.

    Raises:
      OSError: if the files cannot be read or written.
      ValueError: if the source has more bytes than one message of the format.
    """
    request = current_request()
    cipher = cipher_of(format, key, nonce, associated_data)
    with open_source(source) as opened:
        refuse_too_long(format, opened.size)
        size = len(header) + cipher.ciphertext_size(opened.size)
        with open_output(request, size, destination, spare) as output:
            meter = Meter(request, opened.size)
            output.room(len(header))[:] = header
            output.commit(len(header))
            cipher.encrypt(meter.each(opened.steps(STEP)), output)
            meter.end()
            return output.publish()


@operation(channel="crypto", idempotent=True)
def decrypt_file(
    source: memoryview | RingReader | str,
    key: Buffer,
    nonce: bytes,
    associated_data: memoryview | None = None,
    format: Format = "gcm",
    destination: str | None = None,
    spare: str | None = None,
    header_size: int = 0,
) -> memoryview | int:
    """Decrypt what `encrypt_file` gave, and verify it.

    Args:
      source: Bytes, or an absolute path.
      key: 32 bytes.
      nonce: 12 bytes, those of the encryption; for ``"chunked"`` none.
      associated_data: What it was encrypted with.
      format: ``"gcm"`` or ``"chunked"``.
      destination: The absolute path of the file to write; None for a result in memory.
      spare: A free name in the folder of ``destination``; the caller removes it at the end.
      header_size: How many bytes of the source come before the ciphertext.

    Returns:
      The plaintext, or how many bytes were written.

    Raises:
      InvalidTag: if key, nonce, associated data or ciphertext are not those of the encryption.
      DataError: if the source is shorter than any ciphertext.
      OSError: if the files cannot be read or written.
      ValueError: if the source is longer than any ciphertext.
    """
    request = current_request()
    cipher = cipher_of(format, key, nonce, associated_data)
    with open_source(source) as opened:
        refuse_too_short(format, opened.size - header_size)
        size = cipher.plaintext_size(opened.size - header_size)
        refuse_too_long(format, size)
        with open_output(request, size, destination, spare) as output:
            outputs = [Nowhere(), output] if output.visible else [output]
            opened.expect(len(outputs))
            meter = Meter(request, opened.size * len(outputs))
            for each in outputs:
                cipher.decrypt(_after(header_size, meter.each(opened.steps(STEP))), each)
            meter.end()
            return output.publish()


def _after(size: int, steps: Iterator[memoryview]) -> Iterator[memoryview]:
    """Leave out the first ``size`` bytes."""
    for step in steps:
        yield step[size:]
        size = max(0, size - len(step))


@operation(channel="crypto", idempotent=True)
def derive_key(
    password: Buffer, salt: bytes, length: int, algorithm: Algorithm, cost: dict[str, int]
) -> bytes:
    """Derive a key from a password.

    Its progress is 0 and then 1 of 1: no algorithm can say more, nor be interrupted.

    Args:
      password: What somebody knows.
      salt: What makes the same password another key elsewhere.
      length: How many bytes.
      algorithm: ``"argon2id"``, ``"scrypt"`` or ``"pbkdf2-sha256"``.
      cost: Its parameters; defaults for those that are missing.

    Returns:
      The key.

    Raises:
      TypeError: if ``cost`` has a parameter that the algorithm has not, or one that is no int.
      ValueError: if a parameter is out of its bounds.
      MemoryError: if there is not as much memory.
    """
    request = current_request()
    checked = cost_of(algorithm, cost)
    request.progress.set_total(1)
    request.progress.set(0)
    request.checkpoint()
    key = checked.derive(password, salt, length)
    request.progress.set(1)
    return key
