"""Calls that functions ask their pool for while they run.

Each is a request like any other, in the nursery of the one that asks, and a part of that:

Rule 1: it ends before that does, however that ends. When that is cancelled, crashes or has
    returned, this is cancelled, and the outcome of that waits until this has ended.
Rule 2: its failure is raised where it was asked for. What it raises though it was cancelled is not
    lost, but becomes an error of the one that asked.
Rule 3: it goes before all that wait, to any worker, and does not wait for room in the queue or in
    the store, nor in front of a gate: somebody waits for it who may have what it would wait for.
Rule 4: who waits lends its place: the pool may have another worker for as long as that, see
    `Team.lend`. So there is always one that can run what is waited for, and never more at work than
    the pool has places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import attrs
import trio
from outcome import Error, Outcome, Value
from trio.lowlevel import enable_ki_protection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trioipc.pool._dispatch import Dispatcher
    from trioipc.pool._endpoint import Ask
    from trioipc.pool._request import PoolRequest
    from trioipc.pool.team._team import Team
    from trioipc.pool.team._worker import Worker

# How often one that was asked for may ask in turn. Each time takes one more worker process, for as
# long as the one below waits; Python's own limit, 1000, would be 1000 of them. Pulled out of the
# air: a recursion that halves its work 16 times has made 65,536 pieces of it.
DEEPEST = 16


@final
@attrs.define(eq=False)
class Child:
    """A call that was asked for, while it runs.

    Args:
      asker: The request whose function asks for it.
      ask: What that asks for.
      team: Whose places are lent.
    """

    asker: PoolRequest[Any]
    ask: Ask
    _team: Team
    # What the asker's scopes say reaches it by `stop`, which the dispatcher calls.
    _scope: trio.CancelScope = attrs.field(
        factory=lambda: trio.CancelScope(shield=True), init=False
    )
    _stopped: bool = attrs.field(default=False, init=False)
    _borrows: bool = attrs.field(default=False, init=False)

    def borrow(self) -> None:
        """Have the asker's place."""
        self._borrows = True
        self._team.lend(self.asker)

    def give_back(self) -> None:
        """Have it no longer; to be called before anybody else can be given it."""
        if self._borrows:
            self._borrows = False
            self._team.take_back(self.asker)

    def stop(self) -> None:
        """Cancel it, and tell the asker at once not to wait."""
        self._stopped = True
        self.give_back()
        self.ask.stop()
        self._scope.cancel()

    def withdraw(self) -> None:
        """Cancel it, and tell the asker when it has ended."""
        self._scope.cancel()

    @enable_ki_protection
    async def live(self, perform: Callable[[Child], Awaitable[Any]]) -> None:
        """Perform it, and tell the asker how it ended. Raises nothing."""
        with self._scope:
            outcome: Outcome[Any]
            try:
                outcome = Value(await perform(self))
            except Exception as error:
                if self._stopped:
                    self.asker._stray = error
                outcome = Error(error)
            try:
                await self.ask.reply(outcome)
            finally:
                del outcome  # its traceback holds this frame
        self.ask.stop()  # if it was cancelled: else it has its reply
        del self.ask.on_withdrawal  # which knows who knows it


@final
@attrs.define(eq=False)
class Nesting:
    """Performs what is asked for.

    Args:
      dispatcher: Of the pool.
      perform: Performs a call as a part of a request, to its end.
    """

    _dispatcher: Dispatcher
    _perform: Callable[[Child, Callable[..., Any], tuple[Any, ...]], Awaitable[Any]]

    def asked(self, worker: Worker[PoolRequest[object]], generation: int, ask: Ask) -> None:
        """Take in that a function of a worker asks for something."""
        asker = worker.held.get(generation)
        if asker is None or asker._state != "sent":  # it has ended, or is about to
            ask.stop()
            return
        if not worker.endpoint.may_ask(asker._slot):
            worker.endpoint.kill()
            return
        self._dispatcher.keep_clear(worker, asker)
        child = Child(asker, ask, self._dispatcher.team)
        ask.on_withdrawal = child.withdraw
        if asker._children is None:
            asker._children = {}
        asker._children[child] = None
        assert asker._nursery is not None
        asker._nursery.start_soon(self._live, child)

    @enable_ki_protection
    async def _live(self, child: Child) -> None:
        try:
            await child.live(self._unpack_and_perform)
        finally:
            child.give_back()
            child.asker._lose(child)

    async def _unpack_and_perform(self, child: Child) -> Any:
        function, arguments = child.ask.unpack()
        asker = child.asker
        if asker._depth >= DEEPEST:
            raise RecursionError(
                f"{asker.id} was asked for by another request, and so on for {DEEPEST} times, "
                "which is the most: each takes a worker of its own"
            )
        return await self._perform(child, function, arguments)
