"""AES-256-GCM, and SHA-256 beside it, over buffers and files of any size.

Not the one-shot ``AESGCM``: it stops at 2**31 - 1 bytes, cannot be cancelled and shows no progress.

Guarantee: no byte of plaintext is visible, in memory or on disk, before the tag has verified. In
memory it is seen only when it is returned, and zero again after an error. On disk it has no name
before; where the file system needs one, a first pass over the source verifies, and the second one,
which writes, verifies again, since a file may have changed between the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from trioipc._errors import DataError
from trioipc.builtin import file
from trioipc.builtin._files import Meter, Nowhere, open_output, open_source
from trioipc.worker.registry import operation
from trioipc.worker.request import current_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.ciphers import (
        AEADCipherContext,
        AEADDecryptionContext,
    )

    from trioipc.builtin._files import Output, Source
    from trioipc.memory._ring import RingReader

# Calls of 2 KiB and more let go of the GIL. A step is also a progress value and a cancel point:
# 1 MiB takes about 0.06 ms, and smaller steps were slower.
STEP = 1 << 20

KEY_SIZE = 32
# Other lengths are hashed into one of this size, which weakens them (NIST SP 800-38D, 5.2.1.1).
NONCE_SIZE = 12
# The longest there is; shorter ones are easier to forge.
TAG_SIZE = 16
# Then the 32-bit block counter is used up (NIST SP 800-38D, 5.2.1.1).
MAX_PLAINTEXT = 2**36 - 32


@operation(channel="crypto", idempotent=True)
def hash_file(source: memoryview | RingReader | str) -> str:
    """Hash a buffer or the file of that absolute path with SHA-256; return it in hex."""
    return file.hash_file(source, "SHA-256")


@operation(channel="crypto", idempotent=True)
def encrypt_file(
    source: memoryview | RingReader | str,
    key: bytes,
    nonce: bytes,
    associated_data: memoryview | None = None,
    destination: str | None = None,
    spare: str | None = None,
) -> memoryview | int:
    """Encrypt with AES-256-GCM; the tag ends the ciphertext.

    Args:
      source: Bytes, or an absolute path.
      key: 32 bytes.
      nonce: 12 bytes.
      associated_data: What is authenticated as well, but not encrypted.
      destination: The absolute path of the file to write; None for a result in memory.
      spare: A free name in the folder of ``destination``; the caller removes it at the end.

    Returns:
      The ciphertext, or how many bytes were written.

    Raises:
      OSError: if the files cannot be read or written.
      ValueError: if the source has more than 2**36 - 32 bytes.
    """
    request = current_request()
    encryptor = Cipher(algorithms.AES(key), modes.GCM(nonce)).encryptor()
    with open_source(source) as opened:
        refuse_too_long(opened.size)
        with open_output(request, opened.size + TAG_SIZE, destination, spare) as output:
            meter = Meter(request, opened.size)
            _authenticate(encryptor, associated_data)
            _update(encryptor, meter.each(opened.steps(STEP)), output)
            encryptor.finalize()
            _append(output, encryptor.tag)
            meter.end()
            return output.publish()


@operation(channel="crypto", idempotent=True)
def decrypt_file(
    source: memoryview | RingReader | str,
    key: bytes,
    nonce: bytes,
    associated_data: memoryview | None = None,
    destination: str | None = None,
    spare: str | None = None,
) -> memoryview | int:
    """Decrypt what `encrypt_file` gave, and verify it.

    Args:
      source: Bytes, or an absolute path; the tag ends it.
      key: 32 bytes.
      nonce: 12 bytes.
      associated_data: What it was encrypted with.
      destination: The absolute path of the file to write; None for a result in memory.
      spare: A free name in the folder of ``destination``; the caller removes it at the end.

    Returns:
      The plaintext, or how many bytes were written.

    Raises:
      InvalidTag: if key, nonce, associated data or ciphertext are not those of the encryption.
      DataError: if the source is shorter than a tag.
      OSError: if the files cannot be read or written.
      ValueError: if the source is longer than any ciphertext.
    """
    request = current_request()
    with open_source(source) as opened:
        size = max(opened.size - TAG_SIZE, 0)
        refuse_too_long(size)
        with open_output(request, size, destination, spare) as output:
            outputs = [Nowhere(), output] if output.visible else [output]
            opened.expect(len(outputs))
            meter = Meter(request, opened.size * len(outputs))
            for each in outputs:
                _decrypt(opened, meter, key, nonce, associated_data, each)
            meter.end()
            return output.publish()


def _decrypt(
    source: Source,
    meter: Meter,
    key: bytes,
    nonce: bytes,
    associated_data: memoryview | None,
    output: Output,
) -> None:
    """Decrypt all of ``source`` into ``output`` and verify it."""
    decryptor: AEADDecryptionContext = Cipher(algorithms.AES(key), modes.GCM(nonce)).decryptor()
    _authenticate(decryptor, associated_data)
    body = TagLast(meter.each(source.steps(STEP)))
    _update(decryptor, iter(body), output)
    refuse_too_short(len(body.tag))
    decryptor.finalize_with_tag(body.tag)


def _authenticate(context: AEADCipherContext, associated_data: memoryview | None) -> None:
    if associated_data is None:
        return
    for start in range(0, len(associated_data), STEP):
        context.authenticate_additional_data(associated_data[start : start + STEP])


def _update(context: AEADCipherContext, steps: Iterator[memoryview], output: Output) -> None:
    for step in steps:
        output.commit(context.update_into(step, output.room(len(step))))


def _append(output: Output, tail: bytes) -> None:
    output.room(len(tail))[:] = tail
    output.commit(len(tail))


def refuse_too_long(plaintext_size: int) -> None:
    """Raise the ValueError for what one nonce cannot encrypt."""
    if plaintext_size > MAX_PLAINTEXT:
        raise ValueError(
            f"AES-GCM takes at most 2**36 - 32 bytes with one nonce, not {plaintext_size}"
        )


def refuse_too_short(ciphertext_size: int) -> None:
    """Raise the DataError for what cannot even hold a tag."""
    if ciphertext_size < TAG_SIZE:
        raise DataError(
            f"a ciphertext ends with a tag of {TAG_SIZE} bytes, but this one has only "
            f"{ciphertext_size} bytes: is it cut off?"
        )


class TagLast:
    """The steps of a ciphertext without its last 16 bytes, wherever it turns out to end.

    Where a file ends is known only at its end, so the end of each step is held back until there
    is another one. All lengths stay multiples of 16, the block of AES, while the reads are whole.
    """

    def __init__(self, steps: Iterator[memoryview]) -> None:
        self._steps = steps
        # What was held back last: when the steps have ended, the tag.
        self.tag = b""

    def __iter__(self) -> Iterator[memoryview]:
        for step in self._steps:
            if len(step) < TAG_SIZE:
                step = memoryview(self.tag + step)
            elif self.tag:
                yield memoryview(self.tag)
            held = max(len(step) - TAG_SIZE, 0)
            self.tag = bytes(step[held:])
            if held:
                yield step[:held]
