"""Who asked what: which ids wait for an answer, since when, and how long answers take.

Rule: no clock; the time is an argument, in seconds on any clock that does not go back.
"""

from __future__ import annotations

from typing import Generic, TypeVar, final

import attrs

from trioipc._errors import LocalProtocolError

T = TypeVar("T")


@attrs.frozen
class ProtocolStatistics:
    """A snapshot of an `IPCProtocol`."""

    pending_requests: int
    """Requests that wait for an answer."""

    average_response_time: float
    """Seconds from send to answer, over all that were answered; 0.0 before the first."""

    oldest_request_age: float
    """Seconds since the oldest that still waits was sent; 0.0 if none waits."""


@attrs.define(eq=False)
class _Pending(Generic[T]):
    who: T
    since: float


@final
@attrs.define(eq=False, repr=False)
class Correlator(Generic[T]):
    """Matches answers to whoever waits for them. Each id is answered at most once."""

    _pending: dict[str, _Pending[T]] = attrs.field(factory=dict, init=False)  # {id: who waits}
    _answered: int = attrs.field(default=0, init=False)
    _answer_seconds: float = attrs.field(default=0.0, init=False)

    def __repr__(self) -> str:
        return f"<Correlator: {len(self._pending)} pending, {self._answered} answered>"

    def expect(self, id: str, who: T, now: float) -> None:
        """Remember that ``who`` waits for the answer to ``id``.

        Raises:
          LocalProtocolError: if somebody waits for that id already.
        """
        if id in self._pending:
            raise LocalProtocolError(f"a request with the id {id!r} is already under way")
        self._pending[id] = _Pending(who, now)

    def answer(self, id: str | None, now: float) -> T | None:
        """Return who waited for ``id``, who then waits no longer; None if nobody did."""
        pending = None if id is None else self._pending.pop(id, None)
        if pending is None:
            return None
        self._answered += 1
        self._answer_seconds += now - pending.since
        return pending.who

    def find(self, id: str | None) -> T | None:
        """Return who waits for ``id``, who goes on waiting; None if nobody does."""
        pending = None if id is None else self._pending.get(id)
        return None if pending is None else pending.who

    def forget(self, id: str) -> None:
        """Let nobody wait for ``id`` any more; not counted as an answer."""
        self._pending.pop(id, None)

    def waiting(self) -> list[T]:
        """Return everybody who waits, oldest first."""
        return [pending.who for pending in self._pending.values()]

    def statistics(self, now: float) -> ProtocolStatistics:
        """Return how many wait and how long answers take."""
        return ProtocolStatistics(
            pending_requests=len(self._pending),
            average_response_time=self._answer_seconds / max(self._answered, 1),
            oldest_request_age=max((now - p.since for p in self._pending.values()), default=0.0),
        )
