"""Asking a `Strategy`, and believing nothing that it says before it was looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, final

import attrs

from trioipc._errors import LocalProtocolError
from trioipc.pool.scheduling._strategy import RequestView, WorkerView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from trioipc.pool.scheduling._strategy import Strategy

R = TypeVar("R")  # a request
W = TypeVar("W")  # a worker
H_co = TypeVar("H_co", covariant=True)


class Desk(Protocol[H_co]):
    """What a planner must know of a worker."""

    @property
    def number(self) -> int:
        """Its number."""

    @property
    def places(self) -> int:
        """How many requests it may hold."""

    @property
    def held(self) -> Iterable[H_co]:
        """What it holds."""


@final
@attrs.define(eq=False)
class Planner(Generic[R, W]):
    """Asks a strategy of the user's.

    Args:
      strategy: Whom to ask.
      view: Shows it a request.
      pid: Says which process a worker is.
    """

    _strategy: Strategy
    _view: Callable[[R], RequestView]
    _pid: Callable[[W], int | None]

    def plan(self, requests: Iterable[R], desks: Mapping[W, Desk[R]]) -> list[tuple[W, R]]:
        """Ask who runs what now.

        Raises:
          LocalProtocolError: if the strategy raises, or answers nonsense.
        """
        shown: dict[RequestView, R] = {}
        workers = {self._worker(worker, desk): worker for worker, desk in desks.items()}
        try:
            answer = [*self._strategy.assign(self._show(requests, shown), [*workers])]
        except Exception as error:
            what = f"{self.name} raised {type(error).__name__}: {error}"
            raise LocalProtocolError(what) from error
        pairs: list[tuple[W, R]] = []
        free = {view: view.free for view in workers}
        for pair in answer:
            if not (isinstance(pair, tuple) and len(pair) == 2):
                raise self._nonsense(f"a {type(pair).__name__}, no pair of a request and a worker")
            request, worker = pair
            if not (isinstance(request, RequestView) and request in shown):
                raise self._nonsense(f"{_name(request)}, which is no request that waits")
            if not (isinstance(worker, WorkerView) and worker in workers):
                raise self._nonsense(f"{_name(worker)} for {request.id}, which is no worker here")
            if not free[worker]:
                raise self._nonsense(f"{request.id} to worker {worker.number}, which is full")
            free[worker] -= 1
            pairs.append((workers[worker], shown.pop(request)))
        return pairs

    @property
    def name(self) -> str:
        """What errors call the strategy."""
        return f"the strategy {type(self._strategy).__name__}"

    def _nonsense(self, what: str) -> LocalProtocolError:
        return LocalProtocolError(f"{self.name} gave {what}")

    def _show(self, requests: Iterable[R], shown: dict[RequestView, R]) -> Iterator[RequestView]:
        for request in requests:
            view = self._view(request)
            shown[view] = request
            yield view

    def _worker(self, worker: W, desk: Desk[R]) -> WorkerView:
        held = tuple(map(self._view, desk.held))
        free = max(0, desk.places - len(held))
        return WorkerView(desk.number, self._pid(worker), free, held)


def _name(what: object) -> str:
    """Say what somebody gave, without showing what may be in it."""
    if isinstance(what, RequestView):
        return f"request {what.id}"
    if isinstance(what, WorkerView):
        return f"worker {what.number}"
    return f"a {type(what).__name__}"
