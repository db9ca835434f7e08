"""Strategies: which worker runs which request, if neither of the two built-in ones will do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, final, runtime_checkable

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
    from typing import Any, TypeAlias

    from trioipc.protocol._messages import Priority

    # (function or name of the operation, arguments) -> what a strategy wants to know of them
    Describe: TypeAlias = Callable[[Callable[..., object] | str, tuple[Any, ...]], object]


@final
@attrs.frozen(eq=False)
class RequestView:
    """A request, as a strategy sees it."""

    id: str
    """Its name, as in errors and logs."""

    priority: Priority
    """``"high"``, ``"normal"`` or ``"low"``."""

    label: Any
    """What `Strategy.label` said of it; None for a chunk of a `WorkerPool.map`."""


@final
@attrs.frozen(eq=False)
class WorkerView:
    """A worker, as a strategy sees it."""

    number: int
    """Of this worker in its pool; never used again for another."""

    pid: int | None
    """Its process."""

    free: int
    """How many requests it can be given now."""

    requests: tuple[RequestView, ...]
    """What it holds."""


@runtime_checkable
class Strategy(Protocol):
    """Decides which worker runs which request: requests and workers in, pairs out.

    Both methods are synchronous, and must be quick, for the event loop waits for them. One strategy
    serves one pool.
    """

    def label(self, function: Callable[..., object] | str, arguments: tuple[Any, ...]) -> object:
        """Say what `assign` needs to know of a request; called once, when it is made.

        What this raises comes out of the call that makes the request.

        Args:
          function: What `WorkerPool.run` was given; for messages, the operation's name.
          arguments: Its arguments. They are not kept: what matters of them goes into the label.
        """

    def assign(
        self, requests: Iterable[RequestView], workers: Sequence[WorkerView]
    ) -> Iterable[tuple[RequestView, WorkerView]]:
        """Say who runs what now.

        Called whenever a request waits and some worker has a free place, and again until it says
        nothing. What is given to none waits. But if no worker runs anything, something must be
        given. If this raises, or answers nonsense, all that wait fail with a
        `LocalProtocolError` that says so.

        Args:
          requests: Those that wait, in the order in which they would be served; made one by one,
            so who needs only the first few pays for no more.
          workers: All that may be given something, those that are full included.

        Returns:
          Pairs of what was passed in; each request once, each worker as often as it has places.
        """


@final
@attrs.define(eq=False)
class StickyStrategy:
    """Requests with the same key go to the same worker, for what it keeps from one to the next.

    A worker is found for each key by rendezvous hashing: nothing is remembered, and when a worker
    comes or goes, only the keys move that now belong elsewhere, about one in as many as there are
    workers. To have all workers from the beginning, await `WorkerPool.warm` first. A request waits
    for its worker though others may be idle.

    Args:
      key: Called with the function (or the name of an operation) and the arguments; returns a
        hashable key, or None for a request that may run anywhere.

    Source: D. Thaler, C. Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM
    Transactions on Networking 6(1), 1998.
    """

    _key: Callable[[Callable[..., object] | str, tuple[Any, ...]], Hashable]

    def label(self, function: Callable[..., object] | str, arguments: tuple[Any, ...]) -> object:
        """Return the request's key."""
        key = self._key(function, arguments)
        hash(key)
        return key

    def assign(
        self, requests: Iterable[RequestView], workers: Sequence[WorkerView]
    ) -> Iterator[tuple[RequestView, WorkerView]]:
        """Give each request to the worker of its key, if that has a place."""
        free = {worker: worker.free for worker in workers if worker.free}
        for request in requests:
            if request.label is None:
                worker = max(free, key=free.__getitem__)
            else:
                worker = max(workers, key=lambda one: hash((request.label, one.number)))
            if worker in free:
                yield request, worker
                free[worker] -= 1
                if not free[worker]:
                    del free[worker]
                if not free:
                    return


@final
@attrs.define(eq=False)
class CostWeightedStrategy:
    """Each request goes to the worker whose requests cost least together.

    For workers that run many at a time, as those of kind ``"io"``, where requests differ much in
    what they cost: memory, connections, or time.

    Args:
      cost: Called with the function (or the name of an operation) and the arguments; returns a
        number >= 0.
    """

    _cost: Callable[[Callable[..., object] | str, tuple[Any, ...]], float]

    def label(self, function: Callable[..., object] | str, arguments: tuple[Any, ...]) -> object:
        """Return the request's cost.

        Raises:
          ValueError: if it is negative or no number.
        """
        cost = self._cost(function, arguments)
        if not cost >= 0:
            raise ValueError(f"the cost of a request must be >= 0, not {cost!r}")
        return cost

    def assign(
        self, requests: Iterable[RequestView], workers: Sequence[WorkerView]
    ) -> Iterator[tuple[RequestView, WorkerView]]:
        """Give each request, in order, to whoever has the least cost and a place."""
        free = {worker: worker.free for worker in workers if worker.free}
        costs = {worker: sum(_cost_of(one) for one in worker.requests) for worker in free}
        for request in requests:
            worker = min(costs, key=lambda one: (costs[one], len(one.requests), one.number))
            yield request, worker
            costs[worker] += _cost_of(request)
            free[worker] -= 1
            if not free[worker]:
                del costs[worker]
            if not costs:
                return


def _cost_of(request: RequestView) -> float:
    """Return a request's cost; that of a chunk, of which nothing is known, is 1."""
    return 1.0 if request.label is None else float(request.label)
