"""The two formats in which files are encrypted, over steps of any length.

Both have the same face: made for one message, used once for each pass over it. What comes out goes
to an `Output`, which asks for exactly as much room as there will be bytes.

- `Gcm`: the whole file under one AES-256-GCM tag, as in WebCrypto. Not the one-shot ``AESGCM``: it
  stops at 2**31 - 1 bytes, cannot be cancelled and shows no progress.
- `Chunked`: Cobblestone-256 of C2SP's chunked encryption, where each 16 KiB have a tag of their
  own, so that one who reads the file elsewhere can use it while it comes in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from trioipc._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Protocol

    from cryptography.hazmat.primitives.ciphers import AEADCipherContext, AEADDecryptionContext

    from trioipc.builtin._files import Output
    from trioipc.protocol._codec import Buffer

Format = Literal["gcm", "chunked"]

KEY_SIZE = 32
# Other lengths are hashed into one of this size, which weakens them (NIST SP 800-38D, 5.2.1.1).
NONCE_SIZE = 12
# The longest there is; shorter ones are easier to forge.
TAG_SIZE = 16
# Then the 32-bit block counter is used up (NIST SP 800-38D, 5.2.1.1).
MAX_PLAINTEXT = 2**36 - 32

# Chunked encryption: a salt of 24 bytes and a commitment of 32, then chunks with a tag each. The
# last chunk is always shorter than the others, which is how the end is known, and may be empty.
CHUNK_HEADER = 24 + 32
CHUNK = 16 << 10
MAX_CHUNKED_PLAINTEXT = 2**38 * CHUNK

# How much associated data goes into one call.
_ASSOCIATED_STEP = 1 << 20


if TYPE_CHECKING:

    class FileCipher(Protocol):
        """A format with its key, for one message."""

        def ciphertext_size(self, plaintext_size: int) -> int:
            """Return how many bytes a plaintext becomes."""

        def plaintext_size(self, ciphertext_size: int) -> int:
            """Return how many bytes a ciphertext becomes; 0 for what is none."""

        def encrypt(self, steps: Iterable[memoryview], output: Output) -> None:
            """Encrypt all steps into ``output``."""

        def decrypt(self, steps: Iterable[memoryview], output: Output) -> None:
            """Decrypt all steps into ``output``, and verify them.

            Raises:
              InvalidTag: if they are not what was encrypted; the output holds bytes all the same.
              DataError: if they are too few for any ciphertext.
            """


def cipher_of(
    format: str, key: Buffer, nonce: bytes, associated_data: memoryview | None
) -> FileCipher:
    """Return the cipher of a format."""
    if format == "chunked":
        return Chunked(key, associated_data)
    return Gcm(key, nonce, associated_data)


def refuse_too_long(format: str, plaintext_size: int) -> None:
    """Raise the ValueError for what one message cannot hold."""
    if format == "chunked" and plaintext_size >= MAX_CHUNKED_PLAINTEXT:
        raise ValueError(f"a chunked message has less than 2**52 bytes, not {plaintext_size}")
    if format == "gcm" and plaintext_size > MAX_PLAINTEXT:
        raise ValueError(
            f"AES-GCM takes at most 2**36 - 32 bytes with one nonce, not {plaintext_size}"
        )


def refuse_too_short(format: str, ciphertext_size: int) -> None:
    """Raise the DataError for what cannot even hold a tag."""
    if format == "chunked" and ciphertext_size < CHUNK_HEADER + TAG_SIZE:
        raise DataError(
            f"a chunked ciphertext has a header of {CHUNK_HEADER} bytes and a tag of {TAG_SIZE}, "
            f"but this one has only {ciphertext_size} bytes: is it cut off?"
        )
    if ciphertext_size < TAG_SIZE:
        raise DataError(
            f"a ciphertext ends with a tag of {TAG_SIZE} bytes, but this one has only "
            f"{ciphertext_size} bytes: is it cut off?"
        )


def _append(output: Output, tail: bytes) -> None:
    output.room(len(tail))[:] = tail
    output.commit(len(tail))


# ---- the whole file under one tag


@final
class Gcm:
    """AES-256-GCM; the tag ends the ciphertext."""

    def __init__(self, key: Buffer, nonce: bytes, associated_data: memoryview | None) -> None:
        self._cipher = Cipher(algorithms.AES(key), modes.GCM(nonce))
        self._associated_data = associated_data

    def ciphertext_size(self, plaintext_size: int) -> int:
        """Return how many bytes a plaintext becomes."""
        return plaintext_size + TAG_SIZE

    def plaintext_size(self, ciphertext_size: int) -> int:
        """Return how many bytes a ciphertext becomes; 0 for what is none."""
        return max(ciphertext_size - TAG_SIZE, 0)

    def encrypt(self, steps: Iterable[memoryview], output: Output) -> None:
        """Encrypt; see `FileCipher.encrypt`."""
        encryptor = self._cipher.encryptor()
        self._authenticate(encryptor)
        self._update(encryptor, steps, output)
        encryptor.finalize()
        _append(output, encryptor.tag)

    def decrypt(self, steps: Iterable[memoryview], output: Output) -> None:
        """Decrypt; see `FileCipher.decrypt`."""
        decryptor: AEADDecryptionContext = self._cipher.decryptor()
        self._authenticate(decryptor)
        body = TagLast(steps)
        self._update(decryptor, body, output)
        refuse_too_short("gcm", len(body.tag))
        decryptor.finalize_with_tag(body.tag)

    def _authenticate(self, context: AEADCipherContext) -> None:
        data = self._associated_data
        if data is None:
            return
        for start in range(0, len(data), _ASSOCIATED_STEP):
            context.authenticate_additional_data(data[start : start + _ASSOCIATED_STEP])

    @staticmethod
    def _update(context: AEADCipherContext, steps: Iterable[memoryview], output: Output) -> None:
        for step in steps:
            output.commit(context.update_into(step, output.room(len(step))))


@final
class TagLast:
    """The steps of a ciphertext without its last 16 bytes, wherever it turns out to end.

    Where a file ends is known only at its end, so the end of each step is held back until there
    is another one. All lengths stay multiples of 16, the block of AES, while the reads are whole.
    """

    def __init__(self, steps: Iterable[memoryview]) -> None:
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


# ---- each 16 KiB under a tag of their own


@final
class Chunked:
    """Cobblestone-256: SHA-512 derives a key for this message, AES-256-GCM encrypts its chunks.

    The associated data is its context: it goes into that key, so a wrong one is found in the
    header. Source: c2sp.org/chunked-encryption.
    """

    def __init__(self, key: Buffer, associated_data: memoryview | None) -> None:
        self._key = key
        self._context = b"" if associated_data is None else associated_data

    def ciphertext_size(self, plaintext_size: int) -> int:
        """Return how many bytes a plaintext becomes."""
        return _encrypted(plaintext_size) + plaintext_size % CHUNK + TAG_SIZE

    def plaintext_size(self, ciphertext_size: int) -> int:
        """Return how many bytes a ciphertext becomes; 0 for what is none."""
        last = max(ciphertext_size - CHUNK_HEADER, 0) % (CHUNK + TAG_SIZE)
        return _decrypted(ciphertext_size) + max(last - TAG_SIZE, 0)

    def encrypt(self, steps: Iterable[memoryview], output: Output) -> None:
        """Encrypt; see `FileCipher.encrypt`."""
        from cryptography.cobblestone import Cobblestone256Encryptor

        encryptor = Cobblestone256Encryptor(self._key, self._context)
        read = written = 0
        for step in steps:
            read += len(step)
            count = _encrypted(read) - written
            output.commit(encryptor.update_into(step, output.room(count)))
            written += count
        _append(output, encryptor.finalize())

    def decrypt(self, steps: Iterable[memoryview], output: Output) -> None:
        """Decrypt; see `FileCipher.decrypt`."""
        from cryptography.cobblestone import Cobblestone256Decryptor

        decryptor = Cobblestone256Decryptor(self._key, self._context)
        read = written = 0
        for step in steps:
            read += len(step)
            count = _decrypted(read) - written
            output.commit(decryptor.update_into(step, output.room(count)))
            written += count
        refuse_too_short("chunked", read)
        _append(output, decryptor.finalize())


def _encrypted(read: int) -> int:
    """Return how much of the ciphertext there is before the end of the plaintext is known."""
    return CHUNK_HEADER + read // CHUNK * (CHUNK + TAG_SIZE)


def _decrypted(read: int) -> int:
    """Return how much of the plaintext there is before the end of the ciphertext is known."""
    return max(read - CHUNK_HEADER, 0) // (CHUNK + TAG_SIZE) * CHUNK
