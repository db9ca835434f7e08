r"""What an encrypted file begins with, so that its password is all that one needs.

=====  =====  ==============================================
at     bytes  what, as big-endian unsigned numbers
=====  =====  ==============================================
0      8      ``b"trioipc\0"``
8      1      version of the format, 1
9      1      how the key is derived: 1 for Argon2id (RFC 9106, version 0x13)
10     4      its memory, in KiB
14     4      its iterations
18     4      its lanes
22     16     its salt
=====  =====  ==============================================

Then comes the ciphertext, a message of Cobblestone-256 (c2sp.org/chunked-encryption): a salt of 24
bytes, which is the nonce of the file; a commitment of 32; and chunks of 16 KiB with a tag of 16
each. Its key is what Argon2id makes of the password, in UTF-8 and in Unicode's form NFC; its
context is the header, so no byte of that can be changed without being found out.

Rule: a header is hostile. Its costs are taken only within the bounds of `trioipc.builtin._kdf`, at
most 1 GiB and some ten seconds.
"""

from __future__ import annotations

import struct
from typing import Final, final

import attrs

from trioipc._errors import DataError
from trioipc.builtin._kdf import Argon2idCost

_LAYOUT = struct.Struct(">8sBBIII16s")
_MAGIC = b"trioipc\0"
_VERSION = 1
_ARGON2ID = 1

HEADER_SIZE: Final = _LAYOUT.size
SALT_SIZE: Final = 16
# The second recommendation of RFC 9106, section 4, which suits all machines: 64 MiB, 3 passes and 4
# lanes. Three times what OWASP asks of a server that checks many passwords a second.
COST: Final = Argon2idCost(memory_cost=64 << 10, iterations=3, lanes=4)


@final
@attrs.frozen
class Header:
    """How a file's key comes from its password."""

    salt: bytes
    cost: Argon2idCost = COST

    def pack(self) -> bytes:
        """Return the bytes that the file begins with."""
        cost = self.cost
        return _LAYOUT.pack(
            _MAGIC,
            _VERSION,
            _ARGON2ID,
            cost.memory_cost,
            cost.iterations,
            cost.lanes,
            self.salt,
        )


def unpack(data: bytes) -> Header:
    """Return what the first `HEADER_SIZE` bytes of a file say.

    Raises:
      DataError: if it is no encrypted file, or one that asks for too much.
    """
    if not data.startswith(_MAGIC):
        raise DataError("this is no file that trioipc has encrypted")
    if len(data) < HEADER_SIZE:
        raise DataError(
            f"its header has {HEADER_SIZE} bytes, and here are only {len(data)}: is it cut off?"
        )
    _, version, kdf, memory_cost, iterations, lanes, salt = _LAYOUT.unpack(data[:HEADER_SIZE])
    if (version, kdf) != (_VERSION, _ARGON2ID):
        raise DataError(
            f"its format is {version}, its key derivation {kdf}, and this version of trioipc "
            f"knows {_VERSION} and {_ARGON2ID} only"
        )
    try:
        cost = Argon2idCost(memory_cost=memory_cost, iterations=iterations, lanes=lanes)
    except ValueError as error:
        raise DataError(f"its header is not to be trusted: {error}") from None
    return Header(salt, cost)
