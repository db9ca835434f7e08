"""Hashes of buffers and files."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from trioipc.builtin._files import Meter, open_source
from trioipc.worker.registry import operation
from trioipc.worker.request import current_request

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from trioipc.memory._ring import RingReader

# hashlib lets go of the GIL for each call from 2 KiB on. A step is also a progress value and a
# cancel point: 256 KiB take 0.15 ms of SHA-256, and fit into the second level of cache.
STEP = 256 << 10

# {what WebCrypto calls it: how it is made}
ALGORITHMS: dict[str, Callable[[], Any]] = {"SHA-256": hashlib.sha256, "SHA-512": hashlib.sha512}


@operation(channel="file", idempotent=True)
def hash_file(source: memoryview | RingReader | str, algorithm: str = "SHA-256") -> str:
    """Hash a buffer or the file of that absolute path.

    Args:
      source: Bytes, or a path.
      algorithm: ``"SHA-256"`` or ``"SHA-512"``.

    Returns:
      The hash, in hex.

    Raises:
      OSError: if the file cannot be read.
    """
    hasher = ALGORITHMS[algorithm]()
    with open_source(source) as opened:
        meter = Meter(current_request(), opened.size)
        for step in meter.each(opened.steps(STEP)):
            hasher.update(step)
        meter.end()
    return str(hasher.hexdigest())
