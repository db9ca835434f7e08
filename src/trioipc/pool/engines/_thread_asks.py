"""What functions on a worker thread ask for: nothing travels, but the event loop must be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from trioipc._errors import RequestInterrupt

if TYPE_CHECKING:
    from collections.abc import Callable

    import trio
    from outcome import Outcome

    from trioipc.pool._endpoint import Ask
    from trioipc.worker._nesting import Reply
    from trioipc.worker.request import CurrentRequest


@final
class ThreadAsker:
    """Asks, for the requests of one thread.

    Args:
      token: Of the event loop.
      asked: See `Endpoint.asked`.
    """

    def __init__(self, token: trio.lowlevel.TrioToken, asked: Callable[[int, Ask], None]) -> None:
        self._token = token
        self._asked = asked

    def ask(
        self,
        request: CurrentRequest,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        deliver: Callable[[Reply], object],
    ) -> Callable[[], None]:
        """Have a function called; see `trioipc.worker._nesting.Asker.ask`."""
        ask = ThreadAsk(function, arguments, deliver)
        self._token.run_sync_soon(self._asked, request._generation, ask)
        return lambda: self._token.run_sync_soon(ask.withdraw)


@final
class ThreadAsk:
    """One thing that was asked for; see `Ask`."""

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        deliver: Callable[[Reply], object],
    ) -> None:
        self._call = function, arguments
        self._deliver: Callable[[Reply], object] | None = deliver
        self.on_withdrawal: Callable[[], object]

    def unpack(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return it; see `Ask.unpack`."""
        return self._call

    async def reply(self, outcome: Outcome[Any]) -> None:
        """Hand it over; see `Ask.reply`."""
        self._send(outcome.unwrap)

    def stop(self) -> None:
        """Have it raise in the thread; see `Ask.stop`."""
        self._send(_interrupt)

    def _send(self, reply: Reply) -> None:
        deliver, self._deliver = self._deliver, None
        if deliver is not None:
            deliver(reply)

    def withdraw(self) -> None:
        """Do what is to be done when nobody waits for it any more, unless it has its reply."""
        if self._deliver is not None:
            self.on_withdrawal()


def _interrupt() -> Any:
    raise RequestInterrupt
