"""The clocks of requests, and the one timer that watches over all of them.

Rule: the timer knows only the earliest alarm of all. To arm one costs a comparison, and nothing is
    left behind by requests that end before theirs; when it rings, all are looked at.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from trioipc._errors import RequestTimeoutError
from trioipc.pool._stall import StallClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeAlias

    from trioipc.pool._endpoint import Snapshot
    from trioipc.pool._request import PoolRequest

    Request: TypeAlias = PoolRequest[object]


@final
@attrs.define(eq=False)
class Clocks:
    """Says when something is to be decided about a request again.

    Args:
      requests: Gives all that have not ended.
      climb: Sends one a rung further down the ladder.
      try_again: Lets one that has rested wait for a worker.
      expire: Ends one whose clock has run out.
      balance: Looks whether workers can help others; called when `arm_balance` has said.
    """

    _requests: Callable[[], Iterable[Request]]
    _climb: Callable[[Request, float], None]
    _try_again: Callable[[Request], None]
    _expire: Callable[[Request, RequestTimeoutError], None]
    _balance: Callable[[], None]
    # When that is to be called.
    balances_at: float = attrs.field(default=math.inf, init=False)
    # The earliest alarm of all; a timer sleeps in this scope until then.
    _earliest: float = attrs.field(default=math.inf, init=False)
    _timer: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    def arm(self, request: Request, at: float) -> None:
        """Have a request looked at, at ``at`` on Trio's clock."""
        request._alarm = at
        if at < self._earliest:
            self._earliest = at
            self._timer.deadline = min(at, self.balances_at)

    def arm_balance(self, seconds: float) -> None:
        """Have it looked at in so many seconds whether workers can help others."""
        self.balances_at = trio.current_time() + seconds
        self._timer.deadline = min(self._earliest, self.balances_at)

    def arm_waiting(self, request: Request) -> None:
        """Have it looked at when it may have waited too long, or long enough."""
        until = min(request._queue_expires, request._expires, request._rests_until)
        self.arm(request, until)

    def posted(self, request: Request) -> None:
        """Let those clocks run that run from when it was sent."""
        request._posted_at = trio.current_time()
        if request._terms.stall_timeout != math.inf:
            request._stall = StallClock(request._terms.stall_timeout)
        self._arm_posted(request)

    def _arm_posted(self, request: Request) -> None:
        """Have it looked at when one of its clocks may have run out since it was sent."""
        at = request._posted_at + request._terms.timeout
        if request._stall is not None:
            at = min(at, trio.current_time() + request._stall.period)
        self.arm(request, min(at, request._queue_expires, request._expires))

    @enable_ki_protection
    async def run(self) -> None:
        """Ring the alarms, until cancelled."""
        while True:
            deadline = min(self._earliest, self.balances_at)
            with trio.CancelScope(deadline=deadline) as self._timer:
                await trio.sleep_forever()
            now = trio.current_time()
            if self._earliest <= now:
                self._ring_all(now)
            if self.balances_at <= now:
                self.balances_at = math.inf
                self._balance()

    def _ring_all(self, now: float) -> None:
        # Not in the task itself: that would hold the last request, and its arguments, as it sleeps.
        self._earliest = math.inf
        for request in [*self._requests()]:
            if request._alarm <= now:
                request._alarm = math.inf
                self._ring(request, now)
        self._earliest = min((r._alarm for r in self._requests()), default=math.inf)

    def _ring(self, request: Request, now: float) -> None:
        if request._ladder is not None:
            self._climb(request, now)
        elif now >= request._expires:
            self._ran_out(request, "total", request._terms.total_timeout)
        elif request._state in ("waiting", "loading"):
            if now >= request._queue_expires:
                self._ran_out(request, "queue", request._terms.queue_timeout)
            elif now >= request._rests_until:
                self._try_again(request)
            else:
                self.arm_waiting(request)
        else:
            self._ring_running(request, now)

    def _ring_running(self, request: Request, now: float) -> None:
        timeout = request._terms.timeout
        snapshot = request._look()
        assert snapshot is not None
        if not snapshot.started:
            # Its worker does not take it up, and may have been stopped: it still waits, but not
            # for ever, whichever clock it has.
            if now >= request._queue_expires:
                self._ran_out(request, "queue", request._terms.queue_timeout)
            elif request._was_ahead or _queues(request):  # what runs there has its own clocks
                request._was_ahead = request._was_ahead and request._is_behind()
                self.posted(request)
            elif now >= request._posted_at + timeout:
                self._ran_out(request, "run", timeout)
            else:
                self._arm_posted(request)
            return
        left = timeout - snapshot.seconds
        if left <= 0:
            self._ran_out(request, "run", timeout)
        elif request._stall is not None:
            self._ring_stall(request, request._stall, snapshot, now + left)
        else:
            self.arm(request, min(now + left, request._expires))

    def _ring_stall(
        self, request: Request, clock: StallClock, snapshot: Snapshot, run_expires: float
    ) -> None:
        """Find out whether a function that runs has moved since it was last looked at."""
        now = trio.current_time()
        mark: object = (snapshot.value, snapshot.total, snapshot.phase, snapshot.ticks)
        if request._children:  # it waits for others, which have clocks of their own
            mark = now
        if not clock.is_up(now, mark):
            self.arm(request, min(run_expires, request._expires, now + clock.period))
            return
        assert request._worker is not None
        request._read_stack = request._worker.endpoint.dump_stack()
        limit = request._terms.stall_timeout
        self._ran_out(request, "stall", limit, f"{request.id} has not moved for {limit} s")

    def _ran_out(self, request: Request, clock: str, seconds: float, what: str = "") -> None:
        what = what or f"{request.id} took longer than {seconds} s"
        self._expire(request, RequestTimeoutError(f"{what} (the {clock} clock)", clock=clock))


def _queues(request: Request) -> bool:
    return request._worker is not None and request._worker.endpoint.queues
