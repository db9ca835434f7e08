"""Files encrypted with a password: a header, and what the bridge encrypts.

Rule: one key is derived in a run, and one for each salt that is read. A key for each file would
take a tenth of a second each, and make nothing safer: whoever guesses the password of one file has
that of all, and each file has a salt of its own in its ciphertext, from which its keys are derived.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, final

import attrs
import trio

from trioipc.bridge._arguments import destination_of, source_of, spare_removed
from trioipc.builtin import crypto
from trioipc.builtin._ciphers import KEY_SIZE
from trioipc.builtin._files import FileSource, open_source
from trioipc.cli._header import HEADER_SIZE, SALT_SIZE, Header, unpack
from trioipc.memory._secret import revealed

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioipc.bridge._arguments import Options
    from trioipc.bridge.bridge import WorkerBridge
    from trioipc.pool.pool import Callback


@final
class Keys:
    """The keys of a password, each derived once.

    Args:
      password: In the form of `trioipc.cli._password`.
    """

    def __init__(self, password: str) -> None:
        self._password = password
        self._known: dict[Header, bytes] = {}
        # One at a time: each may take as much memory as its header says.
        self._deriving = trio.Lock()

    def __repr__(self) -> str:
        return f"<Keys: {len(self._known)}>"

    async def key_of(self, bridge: WorkerBridge, header: Header) -> bytes:
        """Return the key of the files with that header."""
        async with self._deriving:
            if header not in self._known:
                self._known[header] = await bridge.crypto.derive_key(
                    self._password, header.salt, length=KEY_SIZE, **attrs.asdict(header.cost)
                )
            return self._known[header]


def new_header() -> Header:
    """Return a header for files that are encrypted now."""
    return Header(secrets.token_bytes(SALT_SIZE))


async def seal(
    bridge: WorkerBridge,
    keys: Keys,
    header: Header,
    source: str,
    path: str,
    on_progress: Callback | None,
) -> int:
    """Encrypt a file; return how many bytes the other one has.

    Raises:
      ValueError: if both are the same file.
      OSError: if they cannot be read or written.
    """
    key = await keys.key_of(bridge, header)
    packed = header.pack()
    checked = source_of(source)
    return await _run(bridge, crypto.encrypt_file, checked, path, key, packed, packed, on_progress)


async def unseal(
    bridge: WorkerBridge, keys: Keys, source: str, path: str, on_progress: Callback | None
) -> int:
    """Decrypt a file; return how many bytes the other one has, which appears once it has verified.

    Raises:
      InvalidTag: if it is another password, or the file is not what was encrypted.
      DataError: if it is no encrypted file.
      ValueError: if both are the same file.
      OSError: if they cannot be read or written.
    """
    checked = source_of(source)
    packed = await trio.to_thread.run_sync(_head_of, checked)
    key = await keys.key_of(bridge, unpack(packed))
    return await _run(
        bridge, crypto.decrypt_file, checked, path, key, packed, HEADER_SIZE, on_progress
    )


async def _run(
    bridge: WorkerBridge,
    operation: Callable[..., object],
    source: memoryview | str,
    path: str,
    key: bytes,
    packed: bytes,
    header: bytes | int,
    on_progress: Callback | None,
) -> int:
    """Encrypt or decrypt a file under its header; return how many bytes the other one has.

    Args:
      bridge: What runs it.
      operation: Either of the two.
      source: The file, checked.
      path: The other one.
      key: By which.
      packed: The header, which is verified with the rest.
      header: What ``operation`` wants to know of it: what to write, or how much to skip.
      on_progress: Told how far it is.
    """
    target = destination_of(path, source)
    with spare_removed(target) as (destination, spare), revealed(memoryview(key)) as copied_key:
        size = await bridge.crypto._run(
            operation,
            source,
            copied_key,
            b"",
            memoryview(packed),
            "chunked",
            destination,
            spare,
            header,
            **_options(on_progress),
        )
    assert isinstance(size, int)
    return size


def _head_of(path: memoryview | str) -> bytes:
    with open_source(path) as source:
        assert isinstance(source, FileSource)
        return bytes(source.part(0, HEADER_SIZE))


def _options(on_progress: Callback | None) -> Options:
    return {
        "on_progress": on_progress,
        "timeout": None,
        "queue_timeout": None,
        "cancellation": None,
        "priority": "normal",
    }
