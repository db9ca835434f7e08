"""`WorkerPool`: the asynchronous shell.

Every request has a nursery and a cancel scope of its own, in the caller's task. Its outcome is
carried out of that nursery and unwrapped outside, so nothing is ever wrapped in a group.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, TypeVarTuple, final

import trio
from outcome import Error, Outcome, capture
from trio import current_effective_deadline
from trio.lowlevel import (
    checkpoint_if_cancelled,
    current_task,
    enable_ki_protection,
    wait_task_rescheduled,
)

from trioipc._errors import (
    OperationNotFoundError,
)
from trioipc.pool._admission import wait_for_room
from trioipc.pool._block import block
from trioipc.pool._dispatch import Dispatcher
from trioipc.pool._factory import RequestFactory
from trioipc.pool._hold import hold
from trioipc.pool._instruments import Instruments
from trioipc.pool._message import message_of
from trioipc.pool._nesting import Nesting
from trioipc.pool._options import Options, count, seconds
from trioipc.pool._progress import Sampler
from trioipc.pool._survey import survey
from trioipc.pool._waiting import call_back, wait_out, wait_out_children
from trioipc.pool.engines._stacks import stacks_of
from trioipc.pool.many._map import map_items
from trioipc.pool.many._stream import stream_items
from trioipc.pool.scheduling._ahead import admits, expect, expect_nothing
from trioipc.pool.scheduling._gate import gates_of
from trioipc.pool.scheduling._planner import Planner
from trioipc.pool.scheduling._scheduler import Scheduler
from trioipc.pool.scheduling._strategy import RequestView
from trioipc.pool.team._recycling import Limits
from trioipc.pool.team._supervisor import Supervisor
from trioipc.worker import registry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping

    from trioipc.memory.state import SharedCancellation
    from trioipc.pool._endpoint import Engine
    from trioipc.pool._nesting import Child
    from trioipc.pool._progress import Progress
    from trioipc.pool._request import PoolRequest, Terms
    from trioipc.pool._statistics import PoolStatistics, WorkerInfo
    from trioipc.pool.team._worker import Worker
    from trioipc.protocol._messages import IPCMessage, Priority

    Callback: TypeAlias = Callable[[Progress], object | Awaitable[object]]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


# [0]: how often this process is a fork of one that had loaded us. A cell, for it is read often.
_forks = [0]
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _forks.append(_forks.pop() + 1))


@final
class WorkerPool:
    """Runs functions in workers; get one from `open_worker_pool`."""

    def __init__(self, engine: Engine, options: Options) -> None:
        gates = gates_of(options.concurrency)
        strategy = options.strategy
        self._strategy = None if isinstance(strategy, str) else strategy
        self._dispatcher = Dispatcher(
            options.name,
            engine,
            Scheduler(
                strategy if isinstance(strategy, str) else "least-busy",
                options.max_queue,
                options.max_arena_bytes,
                lambda request: request._call.held,
                expect if engine.slots > engine.places else expect_nothing,
                admits,
                (lambda request: request._gate) if gates else None,
                None if self._strategy is None else Planner(self._strategy, _view, _pid),
                # Who asked for it has a place meanwhile.
                lambda request: request._depth > 0,
            ),
            Sampler(options.progress_interval),
            options.size,
            self._check_run,
        )
        self._dispatcher.gates = gates
        self._supervisor = Supervisor(self._dispatcher, options.min_size)
        self._dispatcher.asked = Nesting(self._dispatcher, self._perform_nested).asked
        team = self._dispatcher.team
        team.on_demand = self._supervisor.look
        team.spare = options.spare
        if options.instruments:
            team.instruments = Instruments(options.instruments)
        team.limits = Limits(options.max_requests, options.max_memory, options.max_age)
        self._options = options
        self._factory = RequestFactory(self._dispatcher, options, self._strategy)
        self._token = trio.lowlevel.current_trio_token()
        self._forks = _forks[0]
        self._open = True
        self._served = trio.Event()
        self._dumping = trio.Lock()

    def __repr__(self) -> str:
        workers = self._dispatcher.team.workers
        busy = sum(bool(worker.held) for worker in workers)
        waiting = self._dispatcher.waiting
        closed = "" if self._open else ", closed"
        return f"<WorkerPool: {busy} busy, {len(workers) - busy} idle, {waiting} waiting{closed}>"

    # -- checks -----------------------------------------------------------------------------

    def _check_home(self) -> None:
        """Refuse other processes, other threads, other runs, and use after the block.

        Raises:
          RuntimeError: from a place that this pool does not belong to.
          trio.ClosedResourceError: after its block was left.
        """
        self._check_run()
        if not self._open:
            raise trio.ClosedResourceError("this pool is closed")

    def _check_run(self) -> None:
        if _forks[0] != self._forks:
            raise RuntimeError("this pool belongs to another process, the one that forked this")
        try:
            here = trio.lowlevel.current_trio_token() is self._token
        except RuntimeError:
            raise RuntimeError("this pool is used outside its trio.run()") from None
        if not here:
            raise RuntimeError("this pool belongs to another trio.run()")

    # -- requests ---------------------------------------------------------------------------

    @enable_ki_protection
    async def run(
        self,
        fn: Callable[[*Ts], T],
        *args: *Ts,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        priority: Priority = "normal",
        on_progress: Callback | None = None,
        cancellation: SharedCancellation | None = None,
        max_retries: int | None = None,
        idempotent: bool | None = None,
        grace: float | None = None,
    ) -> T:
        """Run ``fn(*args)`` in a worker and return what it returns.

        Args:
          fn: A function that can be pickled by name.
          *args: Its arguments; big ``bytes`` and ``memoryview`` travel in shared memory.
          timeout: Seconds that it may run, from when a worker takes it up.
          queue_timeout: Seconds that it may wait for a worker before that.
          priority: ``"high"`` goes before ``"normal"`` before ``"low"``.
          on_progress: Called with each `Progress` in this task; may be asynchronous. If it
            raises, the request is cancelled and that exception comes out.
          cancellation: Ends the request when it is set, by whoever has it.
          max_retries: How often it is tried again after a crash of its worker.
          idempotent: Whether it may run twice; None takes the mark of `operation`.
          grace: Seconds for each rung of the cancel ladder; 0 kills at once.

        Returns:
          What ``fn`` returned.

        Raises:
          PayloadError: if the call, its result or its exception could not be pickled.
          RequestTimeoutError: if a clock ran out.
          RequestCancelledError: if ``cancellation`` was set. You don't get this when a scope of
            yours was cancelled.
          RequestExitError: if ``fn`` raised a BaseException that is no Exception.
          WorkerCrashedError: if the worker died while it ran ``fn``.
          trio.ClosedResourceError: if the pool is closed, or is before the end.
          Exception: whatever ``fn`` raised, with its traceback.

        Cancellation: a checkpoint. If cancelled, nothing was returned, and the worker is idle
        again or being replaced.
        """
        await checkpoint_if_cancelled()
        deadline = current_effective_deadline()
        self._check_home()
        terms = self._factory.terms(
            fn, timeout, queue_timeout, priority, cancellation, max_retries, idempotent, grace
        )
        if self._dispatcher.scheduler.is_full():
            terms = await wait_for_room(self._dispatcher, fn, terms)
            self._check_home()
        request: PoolRequest[T] = self._factory.make(fn, args, terms)
        if deadline != math.inf:
            request._deadline = deadline
        return await self._perform(request, on_progress)

    @enable_ki_protection
    def run_nowait(
        self,
        fn: Callable[[*Ts], T],
        *args: *Ts,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        priority: Priority = "normal",
        on_progress: Callback | None = None,
        cancellation: SharedCancellation | None = None,
        max_retries: int | None = None,
        idempotent: bool | None = None,
        grace: float | None = None,
    ) -> Coroutine[Any, Any, T]:
        """Run ``fn(*args)`` as `run` does, but never wait for room in the queue.

        For who would rather do without than wait: await at once what this returns. The arguments
        are those of `run`.

        Returns:
          What runs it when it is awaited, and returns what ``fn`` returned; once.

        Raises:
          trio.WouldBlock: if no worker is free and the queue is full, by ``max_queue`` or by the
            bytes of the pickles that wait: here, or if others fill it before this is awaited.
          Exception: as `run`.

        Cancellation: as `run`, when it is awaited.
        """
        self._check_home()
        terms = self._factory.terms(
            fn, timeout, queue_timeout, priority, cancellation, max_retries, idempotent, grace
        )
        if self._dispatcher.scheduler.is_full():
            raise trio.WouldBlock
        return self._run_nowait(fn, args, terms, on_progress)

    @enable_ki_protection
    async def _run_nowait(
        self,
        fn: Callable[[*Ts], T],
        args: tuple[*Ts],
        terms: Terms,
        on_progress: Callback | None,
    ) -> T:
        await checkpoint_if_cancelled()
        self._check_home()
        if self._dispatcher.scheduler.is_full():
            raise trio.WouldBlock
        request: PoolRequest[T] = self._factory.make(fn, args, terms)
        request._deadline = current_effective_deadline()
        return await self._perform(request, on_progress)

    async def _perform(self, request: PoolRequest[T], on_progress: Callback | None) -> T:
        """Run a request to its end in a nursery of its own."""
        failure: BaseException | None = None
        gift: Outcome[T] | None = None
        if on_progress is not None:
            request._wants_progress = True
        dispatcher = self._dispatcher
        request._is_called = True
        try:
            # Before its nursery is open, which takes as long as a worker to wake up.
            dispatcher.submit(request)
            async with trio.open_nursery() as nursery:
                request._nursery = nursery
                dispatcher.attend(request)
                if on_progress is not None:
                    failure = await self._report(request, on_progress)
                if not request._is_over():
                    request._waiter = current_task()
                    await wait_task_rescheduled(request._abort)
                if nursery.child_tasks:  # its arguments were being copied when it was cancelled
                    gift = capture(request._give)
                    failure = await wait_out_children(nursery) or failure
        finally:
            dispatcher.returning -= 1
        if failure is not None:
            request._mention_in(failure)
            raise failure
        if gift is None and request._answer is not None and request._answer.lands:
            await request._land()
        try:
            value: T = request._give() if gift is None else gift.unwrap()
            return value
        finally:
            request._let_go()  # what is raised has a frame that holds the request

    async def _perform_nested(
        self, child: Child, fn: Callable[..., Any], args: tuple[Any, ...]
    ) -> Any:
        """Run what the function of another request asks for to its end."""
        asker = child.asker
        terms = self._factory.terms(
            fn, None, None, asker._terms.priority, None, None, None, asker._terms.grace
        )
        assert asker._nursery is not None
        # Its context variables are those of who asked for the other.
        context = asker._nursery.parent_task.context.copy()
        if asker._watch is not None:  # and what instruments have added to them
            context = asker._watch.context
        request: PoolRequest[Any] = context.run(self._factory.make, fn, args, terms)
        self._dispatcher.engine.exempt(request._call)
        request._depth = asker._depth + 1
        request._deadline = asker._ends_at()
        request._return_place = child.give_back
        child.borrow()
        return await self._perform(request, None)

    async def _report(
        self, request: PoolRequest[Any], on_progress: Callback
    ) -> BaseException | None:
        """Call ``on_progress`` until the request ends; return what that raises."""
        try:
            if request._state != "ended":
                async for progress in request.progress:
                    await call_back(on_progress, progress)
            elif (last := request._last_progress()) is not None:  # one value needs no channel
                await call_back(on_progress, last)
        except trio.Cancelled as error:
            request._raise_cancel = Error(error).unwrap
            request._stopped = True
            self._dispatcher.cancel(request, None)
        except BaseException as error:
            request._dropped = request._stopped = True
            self._dispatcher.cancel(request, None)
            if request._state != "ended":
                with trio.CancelScope(shield=True):
                    request._waiter = current_task()
                    await wait_task_rescheduled(request._abort)
            return error
        return None

    @block
    async def open_request(
        self,
        fn: Callable[[*Ts], T],
        *args: *Ts,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        priority: Priority = "normal",
        cancellation: SharedCancellation | None = None,
        max_retries: int | None = None,
        idempotent: bool | None = None,
        grace: float | None = None,
    ) -> AsyncIterator[PoolRequest[T]]:
        """Run ``fn(*args)`` in a worker while the block goes on.

        The arguments are those of `run`. Leaving the block without `PoolRequest.result` cancels
        the request and waits for its end; if it had already failed, its error comes out.

        Cancellation: as `run`, when the block is left.
        """
        await checkpoint_if_cancelled()
        deadline = current_effective_deadline()
        self._check_home()
        terms = self._factory.terms(
            fn, timeout, queue_timeout, priority, cancellation, max_retries, idempotent, grace
        )
        if self._dispatcher.scheduler.is_full():
            terms = await wait_for_room(self._dispatcher, fn, terms)
            self._check_home()
        request: PoolRequest[T] = self._factory.make(fn, args, terms)
        request._deadline = deadline
        request._wants_progress = True
        async with hold(self._dispatcher, request):
            yield request

    map = map_items
    stream = stream_items

    @enable_ki_protection
    async def execute(
        self,
        message: IPCMessage | Mapping[str, object],
        *,
        on_progress: Callback | None = None,
        cancellation: SharedCancellation | None = None,
    ) -> object:
        """Run the operation that a message asks for, with the message's payload.

        Args:
          message: An `IPCMessage`, or its fields as a mapping; ``type`` is a must.
          on_progress: As in `run`.
          cancellation: As in `run`.

        Raises:
          OperationNotFoundError: if no module of this pool has registered that operation.
          LocalProtocolError: if ``message`` is no message.
          RequestTimeoutError: if the message's ``timeout`` ran out, from now to the answer.
          Exception: as `run`.

        Cancellation: as `run`.
        """
        await checkpoint_if_cancelled()
        self._check_home()
        request = message_of(message)
        return await self._execute(request, on_progress, cancellation, retry=True)

    async def _execute(
        self,
        message: IPCMessage,
        on_progress: Callback | None,
        cancellation: SharedCancellation | None,
        *,
        retry: bool,
        started: Callable[[PoolRequest[Any]], object] | None = None,
    ) -> object:
        self._check_home()
        idempotent = self._find(message.channel, message.type)
        terms = self._factory.terms(
            None,
            math.inf,
            math.inf,
            message.priority,
            cancellation,
            None,
            idempotent and retry,
            None,
            math.inf if message.timeout is None else seconds("timeout", message.timeout),
        )
        arguments = (message.channel, message.type, message.payload, message.id)
        if self._dispatcher.scheduler.is_full():
            terms = await wait_for_room(self._dispatcher, registry.perform, terms)
            self._check_home()
        request = self._factory.make(registry.perform, arguments, terms, message.id or None)
        request._deadline = current_effective_deadline()
        if started is not None:
            started(request)
        return await self._perform(request, on_progress)

    def _find(self, channel: str, name: str) -> bool:
        """Say whether an operation is idempotent.

        Raises:
          OperationNotFoundError: if the workers do not know it.
        """
        known = self._dispatcher.engine.operations()
        for known_channel, known_name, idempotent in known:
            if (known_channel, known_name) == (channel, name):
                return idempotent
        raise OperationNotFoundError(registry.not_found(channel, name, known))

    # -- the pool ---------------------------------------------------------------------------

    @enable_ki_protection
    async def warm(self) -> None:
        """Wait until all workers are ready, starting those that are not there.

        Raises:
          WorkerStartError: if one of them cannot be started.

        Cancellation: a checkpoint; what has been started stays.
        """
        await checkpoint_if_cancelled()
        self._check_home()
        await self._supervisor.wait_ready(self._dispatcher.team.size)
        await trio.lowlevel.checkpoint()

    @enable_ki_protection
    async def resize(self, size: int) -> None:
        """Have ``size`` workers at most from now on.

        More start when they are wanted. If there are too many, those with nothing to do leave,
        then others, as soon as what they hold has ended; this waits until they are gone.

        Args:
          size: At least 1.

        Raises:
          ValueError, TypeError: if it is not.

        Cancellation: a checkpoint; the size stays as it was said, and those that leave, leave.
        """
        await checkpoint_if_cancelled()
        self._check_home()
        await self._supervisor.resize(int(count("size", size, 1, finite=True)))
        await trio.lowlevel.checkpoint()

    @enable_ki_protection
    def allocate(self, nbytes: int) -> memoryview:
        """Return ``nbytes`` of writable memory, all zero, that workers see without a copy.

        Read a file straight into it, and pass it, or slices of it, as arguments of this pool's
        requests; they arrive as a memoryview. It is yours until its last view is gone: do not
        change it while a request uses it.

        Raises:
          ValueError: if ``nbytes`` is negative.
          OSError: if there is no memory or descriptor left.
          trio.ClosedResourceError: if the pool is closed.
        """
        self._check_home()
        return self._dispatcher.engine.allocate(int(count("nbytes", nbytes, 0, finite=True)))

    @enable_ki_protection
    async def dump_stacks(self) -> dict[int, str]:
        """Return where each worker is in its code, also while C code holds its GIL.

        For workers that seem to hang. Costs each of them less than a millisecond. If some do not
        answer, as stopped ones, it takes a second, and 0.2 more for each of them. Workers that are
        still starting are left out. One dump at a time: a second caller waits for the first.

        Returns:
          ``{pid: text}``: the stacks of all threads, as `faulthandler` writes them.

        Raises:
          trio.ClosedResourceError: if the pool is closed.

        Cancellation: a checkpoint.
        """
        await checkpoint_if_cancelled()
        self._check_home()
        async with self._dumping:
            return await stacks_of(self._dispatcher.team.workers)

    def statistics(self) -> PoolStatistics:
        """Return what the pool has done and does."""
        return survey(self._dispatcher, self._supervisor.circuit())

    @property
    def workers(self) -> tuple[WorkerInfo, ...]:
        """The workers there are now."""
        return tuple(worker.info() for worker in self._dispatcher.team.workers)

    # -- leaving ----------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Serve what waits and runs, for as long as the pool's drain timeout."""
        dispatcher = self._dispatcher
        self._open = False
        dispatcher.closed = True
        dispatcher.room.unpark_all()
        if dispatcher.busy:
            with trio.move_on_after(self._options.drain_timeout):
                await dispatcher.quiet.wait()

    async def _stop(self) -> KeyboardInterrupt | None:
        """End what is left and wait until all is gone; return a Ctrl-C that came meanwhile."""
        dispatcher = self._dispatcher
        self._open = False
        dispatcher.closed = True
        self._supervisor.close()
        dispatcher.abort()
        for worker in [*dispatcher.team.workers]:
            dispatcher.team.retire(worker, "closed")
        return await wait_out(self._served)

    @enable_ki_protection
    async def _serve(self) -> None:
        """Host the pool's own tasks until `_stop`, whatever is cancelled outside."""
        try:
            await self._serve_shielded()
        finally:
            self._served.set()

    async def _serve_shielded(self) -> None:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._supervisor.run, nursery)
                nursery.start_soon(self._supervisor.watch)
                nursery.start_soon(self._dispatcher.clocks.run)
                nursery.start_soon(self._dispatcher.sampler.run)
                nursery.start_soon(self._dispatcher.engine.tend)
                await self._supervisor.wait_closed()
                nursery.cancel_scope.cancel()
            await self._dispatcher.engine.close()


def _view(request: PoolRequest[object]) -> RequestView:
    return RequestView(request.id, request._terms.priority, request._label)


def _pid(worker: Worker[PoolRequest[object]]) -> int | None:
    return worker.endpoint.pid
