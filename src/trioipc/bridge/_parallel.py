"""One gzip member, compressed by all workers at once.

The source is cut into blocks, each of which is a request of its own; what comes back is put one
behind the other in the caller's task.

Rules:

- So many blocks are under way that no worker waits, and no more: memory does not grow with a file.
- However it ends, no request is left, and what is raised is not wrapped in a group.
- The clocks are those of the whole: the wait is that of the first block, and the run begins with
  it.
"""

from __future__ import annotations

import inspect
import io
import math
import os
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, final

import attrs
import trio
from outcome import Outcome, acapture

from trioipc.bridge._arguments import WrittenFile
from trioipc.builtin import _gzip, compression
from trioipc.builtin._files import FileOutput
from trioipc.pool._progress import Progress
from trioipc.sizing import usable_cores

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import Protocol, TypeAlias

    from trioipc.bridge._arguments import Destination, Options, Run

    # What `compression.compress_block` returns.
    Compressed: TypeAlias = tuple[memoryview, int, float]

    class Sink(Protocol):
        """Where the member is put together."""

        async def write(self, data: memoryview | bytes) -> None:
            """Append some bytes."""

        async def publish(self) -> memoryview | WrittenFile:
            """Return what has become of them."""


# Large enough that the 5 bytes at its end and a new set of codes do not matter, small enough for
# smooth progress: 30 ms of work.
BLOCK = 1 << 20
# How many blocks are under way besides one for each core: so that none waits for the parent.
_AHEAD = 2
# Seconds between two progress values; as in a pool that was not told otherwise.
_INTERVAL = 0.05


async def compress(
    run: Run,
    source: memoryview | str,
    size: int,
    level: int,
    destination: Destination | None,
    options: Options,
) -> memoryview | WrittenFile:
    """Compress ``size`` bytes of ``source``; the rest is as for the one operation."""
    outcome: Outcome[memoryview | WrittenFile]
    identity = None if isinstance(source, memoryview) else _identity_of(source)
    async with trio.open_nursery() as nursery:
        blocks = _Blocks(run, source, identity, size, level, options, nursery)
        outcome = await acapture(_put_together, blocks, level, destination, options)
        nursery.cancel_scope.cancel()
    return outcome.unwrap()


async def _put_together(
    blocks: _Blocks, level: int, destination: Destination | None, options: Options
) -> memoryview | WrittenFile:
    crc = done = 0
    reporter = _Reporter(options, blocks)
    async with _open_sink(destination) as sink:
        await sink.write(_gzip.header(level))
        while (block := await blocks.next()) is not None:
            length, (data, block_crc, _) = block
            await sink.write(data)
            crc = _gzip.combine(crc, block_crc, length)
            done += length
            await reporter.report(done)
        await sink.write(_gzip.trailer(crc, blocks.size))
        return await sink.publish()


@final
@attrs.define(eq=False)
class _Block:
    """A block that is under way."""

    length: int
    done: trio.Event = attrs.field(factory=trio.Event)
    outcome: Outcome[Compressed] | None = None


@final
class _Blocks:
    """Compresses blocks ahead, and gives them away in order."""

    def __init__(
        self,
        run: Run,
        source: memoryview | str,
        identity: tuple[int, int] | None,
        size: int,
        level: int,
        options: Options,
        nursery: trio.Nursery,
    ) -> None:
        self.size = size
        self._run = run
        self._source = source
        self._level = level
        self._options = options
        self._nursery = nursery
        self._identity = identity
        self._starts: Iterator[int] = iter(range(0, size, BLOCK))
        self._ahead: deque[_Block] = deque()
        self._asked = False
        # When the first block began.
        self.began: float | None = None
        for _ in range(usable_cores() + _AHEAD):
            self._start()

    def _start(self) -> None:
        start = next(self._starts, None)
        if start is not None:
            block = _Block(min(BLOCK, self.size - start))
            self._ahead.append(block)
            self._nursery.start_soon(self._compress, block, start)

    async def next(self) -> tuple[int, Compressed] | None:
        """Return the length of the next block and what has become of it; None after the last."""
        if not self._ahead:
            return None
        block = self._ahead.popleft()
        await block.done.wait()
        self._start()
        assert block.outcome is not None
        return block.length, block.outcome.unwrap()

    async def _compress(self, block: _Block, start: int) -> None:
        block.outcome = await acapture(self._ask, start, block.length)
        if self.began is None and hasattr(block.outcome, "value"):
            self.began = trio.current_time() - block.outcome.value[2]
        block.done.set()

    async def _ask(self, start: int, length: int) -> Compressed:
        source = self._source
        before = min(start, _gzip.WINDOW)
        at = start
        if isinstance(source, memoryview):  # no more of it than the block needs
            source = source[start - before : start + length]
            at = before
        last = start + length == self.size
        return await self._run(
            compression.compress_block,
            source,
            at,
            length,
            self._level,
            last,
            self._identity,
            **self._options_now(),
        )

    def _options_now(self) -> Options:
        """Return the options of the request that is sent now."""
        options = self._options.copy()
        options["on_progress"] = None
        if self._asked:  # the others wait for the first one, and not for somebody else's work
            options["queue_timeout"] = math.inf
        self._asked = True
        if options["timeout"] is not None and self.began is not None:
            gone = trio.current_time() - self.began
            options["timeout"] = max(0.0, options["timeout"] - gone)
        return options


def _identity_of(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


@final
class _Reporter:
    """Tells ``on_progress`` how far the whole has come."""

    def __init__(self, options: Options, blocks: _Blocks) -> None:
        self._callback = options["on_progress"]
        self._blocks = blocks
        self._last = -math.inf

    async def report(self, done: int) -> None:
        now = trio.current_time()
        total = self._blocks.size
        if self._callback is None or (now < self._last + _INTERVAL and done < total):
            return
        self._last = now
        began = self._blocks.began
        progress = Progress(done, total, None, 0.0 if began is None else now - began, 1)
        result = self._callback(progress)
        if inspect.isawaitable(result):
            await result


# ---- where it goes


@asynccontextmanager
async def _open_sink(destination: Destination | None) -> AsyncIterator[Sink]:
    if destination is None:
        yield _MemorySink()
        return
    output = await trio.to_thread.run_sync(FileOutput, destination.path, destination.spare)
    try:
        yield _FileSink(output, destination)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(output.discard)


@final
class _MemorySink:
    def __init__(self) -> None:
        self._made = io.BytesIO()

    async def write(self, data: memoryview | bytes) -> None:
        self._made.write(data)

    async def publish(self) -> memoryview:
        return self._made.getbuffer().toreadonly()


@final
@attrs.define(eq=False)
class _FileSink:
    """Writes in threads, since a disk may take its time."""

    _output: FileOutput
    _destination: Destination

    async def write(self, data: memoryview | bytes) -> None:
        await trio.to_thread.run_sync(self._append, data)

    def _append(self, data: memoryview | bytes) -> None:
        self._output.room(len(data))[:] = data
        self._output.commit(len(data))

    async def publish(self) -> WrittenFile:
        size = await trio.to_thread.run_sync(self._output.publish)
        return WrittenFile(self._destination.named, size)
