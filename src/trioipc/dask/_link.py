"""The side of a pool that is in Dask's own thread: tasks are submitted and awaited here.

Rules:

- What Trio's side calls returns at once: it hands over to the loop of the client. What has come of
  it goes back through the Trio token.
- An errand ends once; what comes later is nothing. Who comes first is decided on Trio's side.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, final

import attrs

from trioipc._errors import WorkerError
from trioipc.dask._payload import ClusterAnswer
from trioipc.memory._board import DEFAULT_TOTAL
from trioipc.pool._endpoint import Death, Snapshot
from trioipc.protocol._codec import PAYLOAD, SKIPPED, encode, payload_error
from trioipc.protocol._parcel import Parcel
from trioipc.worker import _cluster
from trioipc.worker._chunk import ALL_BEGUN, BEGUN

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from distributed import Future

    from trioipc.dask._payload import ClusterCall

# How long the nanny of a worker may take to kill it, and the scheduler to notice: milliseconds, but
# where the host cannot be reached. Out of the air.
KILL_SECONDS = 5.0

# How long the scheduler may take to answer somebody who blocks a thread for that.
ANSWER_SECONDS = 2.0

_SIGKILL = -9

# Results are let go of together with the next call, or after this.
_RELEASE_SECONDS = 0.1


@final
@attrs.define(eq=False)
class Errand:
    """One call that was sent to the cluster.

    Args:
      key: Of its task.
      name: Of its request.
      generation: Of its request.
      call: What is called.
      parcel: The same, as it travels.
      since: When it was submitted, by `time.perf_counter_ns`.
      tell: Called, in any thread, with how it ended: an answer or a death.
    """

    key: str
    name: str
    generation: int
    call: ClusterCall
    parcel: Parcel
    since: int
    tell: Callable[[Errand, ClusterAnswer | Death], None]
    future: Future[Any] | None = attrs.field(default=None, init=False)
    # Whether its function was called, and where.
    has_begun: bool = attrs.field(default=False, init=False)
    pid: int | None = attrs.field(default=None, init=False)
    # What was last heard of it, and when; see `trioipc.worker._cluster.seen`.
    seen: tuple[float, int, int, int, str | None] = attrs.field(
        default=(0.0, 0, DEFAULT_TOTAL, 0, None), init=False
    )
    seen_at: float = attrs.field(default=0.0, init=False)
    is_withdrawn: bool = attrs.field(default=False, init=False)
    # On Trio's side.
    is_over: bool = attrs.field(default=False, init=False)
    # Set in Dask's thread, when its task is.
    gone: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    def note(self, seen: Any, pid: int | None = None) -> None:
        """Take in what its worker has said."""
        self.seen, self.seen_at = tuple(seen), time.perf_counter()
        self.pid = pid or self.pid
        self.has_begun = True

    def lose(self) -> None:
        """Take in that it is over, and that nobody knows more of it than what was heard."""
        if self.has_begun:
            self.note((self.seen[0] + time.perf_counter() - self.seen_at, *self.seen[1:]))
            if self.call.log is not None:
                self.call.log[BEGUN * 8 : BEGUN * 8 + 8].cast("q")[0] = ALL_BEGUN

    def snapshot(self) -> Snapshot:
        """Say what is known of it."""
        if not self.has_begun:
            return Snapshot(started=False)
        seconds, value, total, ticks, phase = self.seen
        if not self.is_over:
            seconds += time.perf_counter() - self.seen_at
        written = bool(value or total != DEFAULT_TOTAL or phase)
        return Snapshot(True, seconds, value, total, phase, ticks, written)


@final
class Link:
    """A client of a cluster, as one pool uses it.

    Args:
      client: Which has a loop in a thread of its own.
      topic: For events of this pool.
      terms: How tasks are submitted.
      base: The priority of those that are neither high nor low.
      patience: How many seconds they wait where there is no worker for them.
      deserted: Called, in Dask's thread, with the keys of all that have waited as long, and have
        been taken back.
    """

    # The client is of `distributed.Client`; few of its methods have types.
    def __init__(
        self,
        client: Any,
        topic: str,
        terms: dict[str, Any],
        base: int,
        patience: float,
        deserted: Callable[[list[str]], None],
    ) -> None:
        self._client = client
        self._topic = topic
        self._terms = terms
        self._base = base
        self._patience = patience
        self._deserted = deserted
        # Since when there has been no worker, as far as anybody has looked.
        self._alone_since: float | None = None
        self._address: str = self._client.scheduler.address
        # Another one means that the scheduler was lost in between, and all that it knew.
        self._comm = self._client.scheduler_comm
        self._errands: dict[str, Errand] = {}  # {key: what is under way}
        self._tasks: set[asyncio.Future[None]] = set()
        # {key: a task that is done, whose result Dask still has}
        self._done: dict[str, Future[Any]] = {}
        # {address of a worker: the request to whose end its process was killed}
        self._killed: dict[str, Errand] = {}
        self._client.subscribe_topic(topic, self._hear)

    # -- from Trio's side ---------------------------------------------------------------------

    def failure(self) -> str | None:
        """Say what is wrong with the connection to the scheduler; None if nothing is."""
        client = self._client
        if client.status == "running" and client.scheduler_comm is self._comm:
            return None
        return f"the connection to Dask's scheduler at {self._address} was lost"

    def is_deserted(self) -> bool:
        """Ask whether there is no worker for what is sent; blocks."""
        try:
            there, _ = self._client.sync(self._ask, [], callback_timeout=ANSWER_SECONDS)
        except OSError:
            return True
        return not there

    def seek(self) -> None:
        """Look whether there are workers for what waits."""
        self._soon(self._seek)

    def send(self, errand: Errand) -> None:
        """Have a call run."""
        self._soon(self._carry, errand)

    def cancel(self, errand: Errand, reason: str | None) -> None:
        """Set the cancel word, or take the call back if it has not begun."""
        self._soon(self._cancel, errand, reason)

    def kill(self, errand: Errand) -> None:
        """Kill the worker that runs a call, or take that back."""
        self._soon(self._kill, errand)

    def close(self) -> None:
        """Hear no more; blocks."""
        if self.failure() is None:
            self._client.unsubscribe_topic(self._topic)
            forget = self._client.scheduler.trioipc_forget
            self._client.sync(forget, topic=self._topic, callback_timeout=ANSWER_SECONDS)

    def _soon(self, function: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        self._client.loop.add_callback(self._start, function, *args)

    # -- in Dask's thread -----------------------------------------------------------------------

    def _start(self, function: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        task = asyncio.ensure_future(function(*args))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, errand: Errand) -> None:
        """Be there for a task, from its beginning to its end."""
        failure = self.failure()
        if failure is not None:
            errand.tell(errand, Death(error=WorkerError(failure)))
            return
        # Before the next is submitted: so both go out in one message.
        self._done.clear()
        try:
            errand.future = self._submit(errand)
        except Exception as error:  # a warning that is an error, say
            encoded = encode(payload_error("the call could not be submitted", error))
            errand.tell(errand, ClusterAnswer(PAYLOAD, Parcel.of(encoded)))
            return
        self._errands[errand.key] = errand
        try:
            self._take_home(errand, await errand.future.result())
        except BaseException as error:  # Dask's CancelledError is no Exception
            errand.tell(errand, self._death(errand, error))
            if isinstance(error, GeneratorExit):
                raise
        finally:
            del self._errands[errand.key]
            errand.gone.set()
            # Dask lets go of the result with the last reference. Not now: messages to the scheduler
            # are 10 ms apart, so the next call would have to wait for this one.
            self._done[errand.key] = errand.future
            self._client.loop.call_later(_RELEASE_SECONDS, self._done.pop, errand.key, None)
            errand.future = None

    def _submit(self, errand: Errand) -> Future[Any]:
        future: Future[Any] = self._client.submit(
            _cluster.run,
            errand.parcel,
            key=errand.key,
            pure=False,
            priority=self._base + errand.call.rank,
            **self._terms,
        )
        return future

    def _take_home(self, errand: Errand, parcel: Parcel) -> None:
        kind, seen, pid, log = parcel.label
        if kind == SKIPPED:
            if errand.is_withdrawn:
                errand.tell(errand, ClusterAnswer(SKIPPED, None))
            else:  # it was begun elsewhere before, and that was lost
                errand.tell(errand, Death(error=WorkerError("its worker left the cluster")))
            return
        errand.note(seen, pid)
        if errand.call.log is not None:
            errand.call.log[: len(log)] = log
        errand.tell(errand, ClusterAnswer(kind, parcel))

    def _death(self, errand: Errand, error: BaseException) -> Death:
        """Say how a task ended that Dask has not brought to its end."""
        what = self.failure() or f"Dask gave its task up: {error}"
        failure = WorkerError(what)
        failure.__cause__ = error
        return Death(error=failure)

    def _hear(self, event: tuple[float, dict[str, Any]]) -> None:
        """Take in an event of this pool's topic."""
        _, message = event
        (kind, key) = next(iter(message.items()))
        errand = self._errands.get(key)
        if errand is None:
            return
        if kind == "begun":
            errand.note(errand.seen)
        elif kind == "seen":
            errand.note(message["values"], message["pid"])
        elif kind == "lost":
            errand.note(errand.seen)
            errand.tell(errand, self._loss(errand, message["worker"]))
            self._start(self._forget, errand)

    def _loss(self, errand: Errand, worker: str) -> Death:
        """Say why a worker is gone."""
        culprit = self._killed.get(worker)
        if culprit is errand:
            return Death(_SIGKILL)
        if culprit is not None:
            return Death(
                _SIGKILL, WorkerError(f"{worker} was restarted, since {culprit.name} did not stop")
            )
        return Death(error=WorkerError(f"{worker} left the cluster"))

    async def _forget(self, errand: Errand) -> None:
        """Have Dask not run a task, or run it no more."""
        if errand.future is not None:
            with contextlib.suppress(Exception):
                await self._client.cancel([errand.future], force=True)

    async def _withdraw(self, errand: Errand) -> str | None:
        """Take a call back; return the worker that has begun it, if it is too late."""
        worker: str | None = await self._client.scheduler.trioipc_withdraw(key=errand.key)
        if worker is None:
            errand.is_withdrawn = True
            errand.tell(errand, ClusterAnswer(SKIPPED, None))
            await self._forget(errand)
        return worker

    async def _ask(self, keys: list[str], *, may_wait: bool = True) -> tuple[bool, list[str]]:
        """Ask the register whether there are workers, and what it has taken back."""
        names, resources = self._terms.get("workers"), self._terms.get("resources")
        there, keys = await self._client.scheduler.trioipc_seek(
            keys=keys, workers=names, resources=resources, may_wait=may_wait
        )
        return there, keys

    async def _seek(self) -> None:
        """Take back what waits for workers that are gone."""
        keys = [key for key, errand in self._errands.items() if not errand.has_begun]
        if not keys:
            self._alone_since = None
            return
        now = time.monotonic()
        is_over = self._alone_since is not None and now - self._alone_since >= self._patience
        try:
            there, withdrawn = await self._ask(keys, may_wait=not is_over)
        except OSError:  # the scheduler is gone, and that is noticed
            return
        if there:
            self._alone_since = None
            self._send_back(withdrawn)
        elif self._alone_since is None:
            self._alone_since = now
        elif is_over:
            self._deserted(withdrawn)
            self._alone_since = None
        for key in withdrawn:
            if key in self._errands:
                await self._forget(self._errands[key])

    def _send_back(self, keys: list[str]) -> None:
        """Have others go in the place of what was sent to an address where nobody is any more."""
        for key in keys:
            if key in self._errands:
                errand = self._errands[key]
                errand.tell(errand, Death(error=WorkerError("its worker left the cluster")))

    async def _cancel(self, errand: Errand, reason: str | None) -> None:
        with contextlib.suppress(OSError):  # the scheduler is gone, and that is noticed
            worker = await self._withdraw(errand)
            if worker is not None:
                await self._client.run(
                    _cluster.cancel, errand.key, reason, workers=[worker], on_error="ignore"
                )

    async def _kill(self, errand: Errand) -> None:
        try:
            async with asyncio.timeout(KILL_SECONDS):
                worker = await self._withdraw(errand)
                if worker is not None:
                    self._killed[worker] = errand
                    await self._client.run(
                        _cluster.kill, workers=[worker], nanny=True, on_error="ignore"
                    )
                    await errand.gone.wait()
        except (OSError, TimeoutError):
            text = f"it could not be killed within {KILL_SECONDS} s, and may still be running"
            errand.tell(errand, Death(error=WorkerError(text)))
            await self._forget(errand)
