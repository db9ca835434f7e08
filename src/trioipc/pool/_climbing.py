"""What each rung of the cancel ladder does to a request and its worker; `Ladder` says which is due.

Synchronous: each step says when the next one is due.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs

from trioipc.pool._ladder import INTERRUPT_INTERVAL, Ladder

if TYPE_CHECKING:
    from typing import TypeAlias

    from trioipc.pool._endpoint import Engine
    from trioipc.pool._request import PoolRequest
    from trioipc.pool.team._team import Team

    Request: TypeAlias = PoolRequest[object]


@final
@attrs.define(eq=False)
class Climber:
    """Sends requests that workers have down their ladders.

    Args:
      engine: Of the pool.
      team: Its workers.
    """

    _engine: Engine
    _team: Team

    def begin(self, request: Request, now: float) -> float:
        """Take the first step; return when to `climb`."""
        request._step("cancel")
        request._ladder = Ladder.begin(request._terms.grace, now)
        if request._ladder.due <= now:  # no grace: nobody is asked
            return self.climb(request, now)
        _set_word(request)
        return request._ladder.due

    def climb(self, request: Request, now: float) -> float:
        """Take the next step, if it is due; return when to climb again."""
        worker, ladder = request._worker, request._ladder
        request._take_stack()
        assert worker is not None
        assert ladder is not None
        snapshot = worker.endpoint.look(request._slot, request._generation)
        if request._is_behind() and not snapshot.started:
            return _wait_at_the_foot(request, now)
        step = ladder.climb(now, looked=snapshot.ticks > 0)
        if step == "interrupt":
            request._step("interrupt")
            if not worker.endpoint.interrupt() and self._engine.places > 1:
                # Others on it have until it is killed to finish.
                self._team.retire(worker, "killed")
        elif step == "kill":
            request._step("kill")
            worker.reason = "killed"
            if not worker.endpoint.kill():  # the word is its only rung
                ladder.stay()
                _set_word(request)
        return ladder.due


def _set_word(request: Request) -> None:
    assert request._worker is not None
    reason = getattr(request._cause, "reason", None)
    request._worker.endpoint.cancel(request._slot, request._generation, reason)


def _wait_at_the_foot(request: Request, now: float) -> float:
    """Let none suffer who runs where this one only waits: it will be skipped."""
    _set_word(request)
    request._ladder = Ladder.begin(request._terms.grace, now)
    return max(request._ladder.due, now + INTERRUPT_INTERVAL)
