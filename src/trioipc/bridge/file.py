"""``bridge.file``: hashes of files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final, get_args

import attrs

from trioipc.bridge._arguments import Source, sent, source_of
from trioipc.builtin import file as builtin

if TYPE_CHECKING:
    from trioipc.bridge._arguments import Run
    from trioipc.memory.state import SharedCancellation
    from trioipc.pool.pool import Callback
    from trioipc.protocol._messages import Priority

HashAlgorithm = Literal["SHA-256", "SHA-512"]


@attrs.frozen
class FileHash:
    """The hash of a file."""

    hash: str
    """In hex."""

    algorithm: HashAlgorithm
    """What made it."""


@final
@attrs.define(eq=False, repr=False)
class FileBridge:
    """What workers do with files; get it as ``WorkerBridge.file``."""

    _run: Run

    def __repr__(self) -> str:
        return "<FileBridge>"

    async def hash_file(
        self,
        source: Source,
        algorithm: HashAlgorithm = "SHA-256",
        *,
        on_progress: Callback | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> FileHash:
        """Hash ``source`` in a worker.

        Args:
          source: Bytes-like or a path.
          algorithm: ``"SHA-256"`` or ``"SHA-512"``.
          on_progress: Called with the progress, in bytes, in the caller's task.
          timeout: Seconds that the run may take, from its start; None for the bridge's value.
          queue_timeout: Seconds that it may wait before that, likewise.
          cancellation: Cancels the request when it is set.
          priority: ``"low"``, ``"normal"`` or ``"high"``.

        Returns:
          The hash in hex, and what made it.

        Raises:
          TypeError: if ``source`` is neither bytes-like nor a path; no worker is asked.
          ValueError: if there is no such algorithm, likewise.
          OSError: if the file cannot be read, or is no regular file.

        Cancellation: a checkpoint.

        Source: FIPS 180-4.
        """
        if algorithm not in get_args(HashAlgorithm):
            names = ", ".join(get_args(HashAlgorithm))
            raise ValueError(f"algorithm must be one of {names}, not {algorithm!r}")
        digest = await self._run(
            builtin.hash_file,
            sent(source_of(source), slowly=True),
            algorithm,
            on_progress=on_progress,
            timeout=timeout,
            queue_timeout=queue_timeout,
            cancellation=cancellation,
            priority=priority,
        )
        return FileHash(digest, algorithm)
