"""Slots of the board, sampled into memory channels; and cancellations that somebody else sets.

One task per pool. It sleeps for good while nobody listens.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from trioipc._errors import SharedStateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioipc.memory.state import SharedCancellation
    from trioipc.pool._endpoint import Snapshot

# Another process sees a change of shared state within 10 ms: the contract.
CANCELLATION_INTERVAL = 0.01


@final
@attrs.frozen
class Progress:
    """How far a request had come at one moment."""

    value: int
    """How much is done."""

    total: int
    """What ``value`` will be when all is done; 0 counts as all done."""

    phase: str | None
    """What is going on, by `CurrentRequest.set_phase`."""

    elapsed: float
    """Seconds since the worker took the request up."""

    attempt: int
    """Which try this is, from 1."""

    @property
    def fraction(self) -> float:
        """How much is done, 0.0 to 1.0."""
        return min(1.0, self.value / self.total) if self.total else 1.0

    @property
    def percent(self) -> float:
        """How much is done, 0.0 to 100.0."""
        return 100.0 * self.fraction

    @property
    def rate(self) -> float:
        """How much was done in a second, on average; 0.0 at the very start."""
        return self.value / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """How many seconds are left at this rate; None if nothing is done yet."""
        rate = self.rate
        return max(0.0, self.total - self.value) / rate if rate else None


def progress_of(snapshot: Snapshot, attempt: int) -> Progress:
    """Make a `Progress` of what a slot holds."""
    return Progress(
        snapshot.value, snapshot.total, snapshot.phase, max(0.0, snapshot.seconds), attempt
    )


@final
class ProgressChannel:
    """A memory channel of size one, in which the newest value replaces one that waits."""

    __slots__ = ("_last", "_send", "receive")

    def __init__(self) -> None:
        self._send, self.receive = trio.open_memory_channel[Progress](1)
        self._last: tuple[object, ...] = ()

    def publish(self, snapshot: Snapshot, attempt: int) -> None:
        """Send what a slot holds, if it is new and the function has written it."""
        key = (snapshot.value, snapshot.total, snapshot.phase, attempt)
        if not snapshot.written or key == self._last:
            return
        self._last = key
        progress = progress_of(snapshot, attempt)
        try:
            try:
                self._send.send_nowait(progress)
            except trio.WouldBlock:
                self.receive.receive_nowait()
                self._send.send_nowait(progress)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the reader has closed it: it wants no more

    def close(self) -> None:
        """End the channel; the last value can still be received."""
        self._send.close()


@final
@attrs.define(eq=False)
class Sampler:
    """Looks at slots and cancellations for as long as somebody wants to know.

    Args:
      interval: Seconds between two progress values of a request.
    """

    interval: float
    _looks: dict[object, Callable[[], None]] = attrs.field(factory=dict, init=False)
    # {request: (flag, what to do when it is set)}
    _flags: dict[object, tuple[SharedCancellation, Callable[[], None]]] = attrs.field(
        factory=dict, init=False
    )
    _wanted: trio.Event = attrs.field(factory=trio.Event, init=False)
    _next_look: float = attrs.field(default=-math.inf, init=False)

    def listen(self, request: object, look: Callable[[], None]) -> None:
        """Call ``look`` every interval from now on."""
        self._looks[request] = look
        self._wanted.set()

    def watch(self, request: object, flag: SharedCancellation, cancel: Callable[[], None]) -> None:
        """Call ``cancel`` once when ``flag`` is set."""
        self._flags[request] = flag, cancel
        self._wanted.set()

    def forget(self, request: object) -> None:
        """Look no more for ``request``."""
        self._looks.pop(request, None)
        self._flags.pop(request, None)

    @enable_ki_protection
    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            if not self._looks and not self._flags:
                self._wanted = trio.Event()
                await self._wanted.wait()
            await trio.sleep(self._period())
            self._sample(trio.current_time())

    def _period(self) -> float:
        if self._flags:
            return min(self.interval, CANCELLATION_INTERVAL)
        return self.interval

    def _sample(self, now: float) -> None:
        for request, (flag, cancel) in list(self._flags.items()):
            try:
                is_cancelled = flag.is_cancelled()
            except SharedStateError:  # it was closed, and can no longer be set
                del self._flags[request]
                continue
            if is_cancelled:
                del self._flags[request]
                cancel()
        # With flags to watch we are here more often than progress is wanted.
        if now >= self._next_look:
            self._next_look = now + self.interval * 0.999
            for look in list(self._looks.values()):
                look()
