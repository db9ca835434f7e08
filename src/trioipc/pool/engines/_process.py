"""A worker process as an endpoint: what is sent to it, and what comes back.

Rule 1: what becomes of a request whose process is gone is decided after its stream has been read to
    the end: its answers are still answers.
Rule 2: nothing here is ended by a cancel scope from outside, only by `kill` and `close`.

How a process lives and dies is in `_host`.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from typing import TYPE_CHECKING, final

import trio
import trio_parallel
from trio.lowlevel import enable_ki_protection

from trioipc import __version__
from trioipc._errors import (
    IPCError,
    RemoteProtocolError,
    SharedStateError,
    WorkerStartError,
)
from trioipc.memory._board import (
    OVER,
    SLOT,
    STATE,
    SUBMITTED_AT,
    TIMES,
    TOOK,
    board_bytes,
)
from trioipc.memory._segment import ENVIRONMENT_VARIABLE, Segment, create, is_steady
from trioipc.pool._endpoint import Death, Endpoint, Snapshot
from trioipc.pool.engines._asks import Asks
from trioipc.pool.engines._beside import ParentBeside
from trioipc.pool.engines._host import Host, lend_thread
from trioipc.pool.engines._limits import set_limits
from trioipc.pool.engines._logs import LogReader, levels, warn_of_kill
from trioipc.pool.engines._payload import (
    ProcessAnswer,
    ProcessCall,
    lost_answer,
    plain_answer,
    untrusted_answer,
)
from trioipc.pool.engines._slot import recall, set_cancel, set_limit, snapshot
from trioipc.pool.engines._vitals import read_private_bytes, read_vitals
from trioipc.pool.engines._wires import Listener, ParentWires, hand_over, listen
from trioipc.protocol._codec import (
    ASK,
    BESIDE,
    CALL,
    FROM_WORKER,
    INLINE,
    LOST,
    NONE,
    PLAIN,
    READY,
    RETURN,
    SKIPPED,
    TO_WORKER,
    VERSION,
    WAKE,
    WITHDRAW,
    decode_operations,
    define_frame,
    split_frames,
    stop_frame,
)
from trioipc.worker._stacks import STACKS_SIGNAL
from trioipc.worker._wires import LostSegmentError, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal, Protocol

    from trioipc.pool._endpoint import Answer, Call, Vitals
    from trioipc.pool.engines._inlet import ProcessInlet
    from trioipc.pool.engines._store import Store
    from trioipc.pool.scheduling._expectation import Expectation

    class Plan(Protocol):
        """What a worker process asks of the engine that has made it."""

        name: str
        modules: tuple[str, ...]
        start_timeout: float
        kind: Literal["cpu", "io"]
        memory_limit: float
        scrub_environment: bool
        forward_logs: bool
        lifespan: bytes | None
        exit_seconds: float
        slots: int
        store: Store
        known_operations: tuple[tuple[str, str, bool], ...]


_READ_SIZE = 64 << 10

# The longest a worker waits for us in the handshake: sockets take no infinity.
_HANDSHAKE_SECONDS = 3600.0

# A function that took no longer may be over again before the event loop has turned round, and its
# answer is looked for this long: more, if the worker must wake up first. With 2 ms between calls it
# is here 50 us sooner, since this process then need not fall asleep and wake up as well.
_QUICK_NANOSECONDS = 60_000
_PEEK_NANOSECONDS = 40_000
_WAKE_NANOSECONDS = 150_000

# A worker spins this long before it sleeps.
_AWAKE_NANOSECONDS = 80_000
# So many calls are not looked for after one that was looked for in vain.
_LESSON = 16

# The answer of a function that returned None.
_NOTHING = ProcessAnswer(NONE, 0, [], [], {}, b"")

_GUARD_HINT = (
    "Its own error is on stderr. Most often the main module opens a pool without "
    "`if __name__ == '__main__':` around it: a worker process imports that module again."
)


def _shared_board(slots: int) -> Segment:
    """Make a board that a worker process can be given.

    Raises:
      SharedStateError: if the environment variable asks for memory that cannot be, or for none.
      OSError: if there is no memory or descriptor left for it, or this machine refuses.
    """
    try:
        board = create(board_bytes(slots))
    except ValueError as error:
        raise SharedStateError(str(error)) from error
    if board.descriptor is None:
        raise SharedStateError(f"no process can be given memory of {ENVIRONMENT_VARIABLE}=plain")
    return board


@final
class ProcessEndpoint(Endpoint):
    """One worker process."""

    def __init__(self, engine: Plan) -> None:
        self._engine = engine
        self._board: Segment | None = None
        # Until there is one, and after its end, nobody else can see what is in the slots.
        self._lay_out(memoryview(bytearray(board_bytes(engine.slots))).cast("Q"))
        # Functions that the worker has been sent; those that go with their call need not be.
        self._known: set[int] = {INLINE}
        # The generation of a call for which the worker must load a function; 0 if it has.
        self._loading = 0
        # Of each slot, whether its answer must be plain data.
        self._plain = [False] * engine.slots
        # And what there is to be learnt from how long it took.
        self._expected: list[Expectation | None] = [None] * engine.slots
        # {generation of a stream that runs: where its items arrive}
        self._inlets: dict[int, ProcessInlet] = {}
        # For `peek`: when we last posted and heard something, and how long that had taken.
        self._posted_at = 0
        self._heard_at = 0
        self._was_quick = False
        self._lesson = 0
        self._wires: ParentWires | None = None
        self._logs: LogReader | None = None
        self._beside: ParentBeside | None = None
        self._asks: Asks | None = None
        self._connected = trio.Event()
        self._started = trio.Event()
        self._start_scope = trio.CancelScope()
        self._is_late = False
        self._host = Host(self._start_scope.cancel)
        # Calls that were posted, and whose answers we have not heard.
        self._unheard = 0
        self._broken: BaseException | None = None
        self._closing = False
        self._closed = trio.Event()
        self._rest = b""

    def _lay_out(self, cells: memoryview) -> None:
        slots = self._engine.slots
        self._slots = [cells[i * SLOT : (i + 1) * SLOT] for i in range(slots)]
        self._histogram_cells = cells[slots * SLOT :]
        # The slot of the last call that was posted, and its state when that is over.
        self._last = self._slots[0], 0

    # -- life -------------------------------------------------------------------------------

    @enable_ki_protection
    async def live(
        self,
        ready: Callable[[], None],
        hear: Callable[[int, Answer], None],
        lost: Callable[[Death], None] | None = None,
    ) -> Death:
        """Host the process; see `Endpoint.live`."""
        self._ready, self._hear = ready, hear
        death = Death()
        with trio.CancelScope(shield=True):
            try:
                async with trio.open_nursery() as nursery:
                    error = await self._start(nursery)
                    if not self._started.is_set():
                        self.kill()
                    await self._host.dead.wait()
                    self._connected.set()
                    self._drain()
                    if self._logs is not None and self._broken is None:
                        with contextlib.suppress(RemoteProtocolError):  # it is dead already
                            self._logs.drain()
                    stack = None if self._wires is None else self._wires.stacks.last_words()
                    if lost is not None and self._started.is_set():
                        # To end trio-parallel's call takes milliseconds more.
                        lost(Death(self._host.exitcode(), error or self._broken, stack))
                    # One that could not start, or was closed, has something to say at its end.
                    await self._host.reap(at_once=self._started.is_set() and not self._closing)
                    nursery.cancel_scope.cancel()
                if not self._started.is_set():
                    error = self._start_error(error or self._host.error)
                death = Death(self._host.exitcode(), error or self._broken, stack)
            finally:
                self._release()
                # They know who knows us.
                del self._ready, self._hear
        return death

    async def _start(self, nursery: trio.Nursery) -> Exception | None:
        """Start the process until it is ready, dead or late; return what went wrong here."""
        try:
            self._board = _shared_board(self._engine.slots)
            self._lay_out(self._board.cells())
            with listen() as listener:
                self._host.begin(self._ticket(listener), nursery)
                nursery.start_soon(lend_thread, self._connected)
                self._start_scope.deadline = trio.current_time() + self._engine.start_timeout
                with self._start_scope:
                    await self._connect(listener, self._board, nursery)
                    await self._started.wait()
        except (OSError, IPCError) as error:
            return error
        self._is_late = trio.current_time() >= self._start_scope.deadline
        return None

    def _ticket(self, listener: Listener) -> Ticket:
        engine = self._engine
        return Ticket(
            address=listener.address,
            token=listener.token,
            version=__version__,
            protocol=VERSION,
            kind=engine.kind,
            name=engine.name,
            modules=engine.modules,
            slots=engine.slots,
            board_bytes=board_bytes(engine.slots),
            timeout=min(engine.start_timeout, _HANDSHAKE_SECONDS),
            scrub_environment=engine.scrub_environment,
            log_levels=levels() if engine.forward_logs else None,
            lifespan=engine.lifespan,
        )

    async def _connect(self, listener: Listener, board: Segment, nursery: trio.Nursery) -> None:
        control, pid = await listener.accept()
        self.pid = pid
        try:
            self._host.watch(pid, nursery)
            set_limits(pid, self._engine.memory_limit)
            self._wires = hand_over(control, board, with_logs=self._engine.forward_logs)
        except BaseException:
            control.close()
            raise
        assert board.descriptor is not None
        self._beside = ParentBeside(
            self._engine.store,
            control,
            self._wires.calls.send,
            self._is_at_rest,
            steady=is_steady(board.descriptor),
        )
        self._asks = Asks(self._engine.store, self._beside, self._wires.replies)
        board.release()
        self._connected.set()
        nursery.start_soon(self._read)
        nursery.start_soon(self._wires.calls.run)
        nursery.start_soon(self._wires.replies.run)
        nursery.start_soon(self._insist)
        if self._wires.logs is not None:
            self._logs = LogReader(self._wires.logs, pid, self._dropped)
            nursery.start_soon(self._read_logs, self._logs)

    @enable_ki_protection
    async def _read_logs(self, logs: LogReader) -> None:
        try:
            await logs.run()
        except RemoteProtocolError as error:
            self._broken = error
            self.kill()

    def _dropped(self) -> int:
        cells = self._histogram_cells
        return int(cells[TIMES])

    @enable_ki_protection
    async def _insist(self) -> None:
        """Kill a worker that does not end when it is closed.

        It may have been stopped, or somebody that was forked from us holds its pipe open.
        """
        await self._closed.wait()
        await trio.sleep(self._engine.exit_seconds)
        if self._engine.lifespan is not None:
            warn_of_kill(self.pid, self._engine.exit_seconds)
        self.kill()

    def _start_error(self, cause: BaseException | None) -> WorkerStartError:
        if isinstance(cause, WorkerStartError):
            return cause
        if self._is_late:
            why = f"it was not ready within {self._engine.start_timeout} s (start_timeout)"
        elif isinstance(cause, trio_parallel.BrokenWorkerError):
            code = self._host.exitcode()
            why = f"it died with exit code {code} before it "
            why += f"could report. {_GUARD_HINT}" if self._wires is None else "was ready"
        else:
            why = f"{type(cause).__name__}: {cause}" if cause else "it ended at once"
        error = WorkerStartError(f"a worker process could not be started: {why}")
        error.__cause__ = cause
        return error

    def _release(self) -> None:
        if self._asks is not None:
            self._asks.close()
        if self._beside is not None:
            self._beside.close()
            self._beside = None
        if self._wires is not None:
            self._wires.close()
        if self._logs is not None:
            self._logs.close()
        # What it wrote can still be read, but from a copy: a map holds a descriptor.
        if self._board is not None:
            self._lay_out(memoryview(bytearray(self._board.memory)).cast("Q"))
            self._board = None
        self._host.release()

    # -- frames -----------------------------------------------------------------------------

    @enable_ki_protection
    async def _read(self) -> None:
        assert self._wires is not None
        answers = self._wires.answers
        while True:
            await trio.lowlevel.wait_readable(answers)
            if not self._read_once(answers):
                break
        # Its end of the pipe is gone, but it may live. One that could not start is about to tell
        # why through trio-parallel, within the start timeout.
        if self._started.is_set() and not self._closing:
            self.kill()

    def _read_once(self, answers: int) -> bool:
        """Handle what has arrived; return False at the end."""
        if self._broken is not None:  # by what `peek` has read
            return False
        try:
            data = os.read(answers, _READ_SIZE)
        except BlockingIOError:
            return True
        return bool(data) and self._take(data)

    def _take(self, data: bytes) -> bool:
        """Hear what a read has brought; return whether the stream can still be trusted."""
        assert self._wires is not None
        calls = self._wires.calls
        calls.hold()  # what all these answers let us send goes out in one write
        try:
            self._rest = split_frames(
                self._rest + data if self._rest else data, FROM_WORKER, self._handle
            )
        except Exception as error:  # whatever it is
            self._broken = error
            return False
        finally:
            calls.let_go()
        return True

    def _drain(self) -> None:
        """Read what a dead process has left in its pipe: its answers are still answers."""
        if self._wires is None or self._broken is not None:
            return
        answers = self._wires.answers
        while True:
            try:
                data = os.read(answers, _READ_SIZE)
            except BlockingIOError:  # a grandchild holds the other end
                return
            if not data:
                return
            if not self._take(data):
                return

    def _handle(self, head: tuple[Any, ...], body: bytes) -> None:
        _, kind, flags, slot, generation = head
        answer: Answer
        if kind == NONE and not flags:
            answer = _NOTHING
        elif kind == READY:
            self._engine.known_operations = decode_operations(body)
            self._host.ready = True
            self._started.set()
            self._ready()
            return
        else:
            assert self._beside is not None
            if kind == RETURN:
                self._beside.returned(generation)
                return
            if kind == LOST:
                self._beside.lost(generation)
                return
            if kind in (ASK, WITHDRAW):
                assert self._asks is not None
                self._asks.hear(kind, flags, generation, body, self.asked)
                return
            if kind == WAKE:
                if generation in self._inlets:
                    self._inlets[generation].wake()
                return
            answer = self._receive(kind, flags, slot, body)
        self._heard_at = time.perf_counter_ns()
        took = self._slots[slot][TOOK]
        self._was_quick = took < _QUICK_NANOSECONDS
        expected = self._expected[slot]
        if expected is not None and kind != SKIPPED:
            expected.learn(took)
        if generation == self._loading:
            self._loading = 0
        if self._lesson:
            self._lesson -= 1
        self._unheard -= 1
        if self._inlets:
            self._inlets.pop(generation, None)
        store = self._engine.store
        if store.budget.is_over():  # what nobody looks at can be dropped, now that it rests
            store.poke()
        self._hear(generation, answer)

    def _receive(self, kind: int, flags: int, slot: int, body: bytes) -> Answer:
        """Take in an answer that has a body."""
        assert self._beside is not None
        try:
            views, kinds, segments, rest = self._beside.take_in(body, flags)
        except LostSegmentError as error:
            return lost_answer(flags, error)
        if not self._plain[slot]:
            return ProcessAnswer(kind, flags, views, kinds, segments, rest)
        try:
            return plain_answer(kind, flags, views, rest)
        except RemoteProtocolError as error:
            # Before it is heard, so that this worker gets nothing more that it could begin.
            self.kill()
            return untrusted_answer(error)

    def _is_at_rest(self) -> bool:
        # That its slot says "over" is not enough: an answer that is still in the pipe names slabs.
        return not self._unheard

    def post(
        self,
        call: Call,
        slot: int,
        generation: int,
        serial: int,
        limit: float,
        since: int,
        left: float = math.inf,
    ) -> None:
        """Send a call in one write, or leave the rest to the writer; see `Endpoint.post`."""
        assert type(call) is ProcessCall
        wires, beside = self._wires, self._beside
        if wires is None or beside is None or wires.calls.is_closed:
            return
        body = call.lend(beside) if call.flags & BESIDE else call.body
        if call.inlet is not None:
            call.inlet.attach(beside, self.kill)
            self._inlets[generation] = call.inlet
        cells = self._slots[slot]
        set_limit(cells, limit, left)
        cells[SUBMITTED_AT] = since
        self._last = cells, generation << 2 | OVER
        self._plain[slot] = call.plain
        self._expected[slot] = call.expected
        self._unheard += 1
        self._posted_at = since
        number, flags = call.number, call.flags | PLAIN if call.plain else call.flags
        frame = TO_WORKER.pack(
            len(body), CALL, flags, slot, call.operation, number, generation, serial
        )
        if body:
            frame += body
        if number not in self._known:
            self._known.add(number)
            self._loading = generation
            frame = define_frame(number, call.pickled_function) + frame
        wires.calls.send(beside.frames() + frame)

    def peek(self, *, wait: bool) -> None:
        """Hear an answer before Trio would have asked the kernel for it; see `Endpoint.peek`.

        A call of some microseconds then costs two turns of the event loop less. The slot says
        whether the last call is over, which costs a load where an empty read costs a system call.
        """
        cells, over = self._last
        if not wait or self._unheard > 1:  # what is behind others is not expected at once
            if cells[STATE] == over:
                self._read_early()
            return
        if self._lesson or not self._was_quick:
            return
        asleep = self._posted_at - self._heard_at > _AWAKE_NANOSECONDS
        end = time.perf_counter_ns() + (_WAKE_NANOSECONDS if asleep else _PEEK_NANOSECONDS)
        while not (cells[STATE] == over and self._read_early()):
            if time.perf_counter_ns() > end:
                self._lesson = _LESSON
                return
            os.sched_yield()

    def _read_early(self) -> bool:
        """Hear what there is; return False if that is nothing yet."""
        wires = self._wires
        if wires is None or wires.answers < 0:
            return True
        try:
            data = os.read(wires.answers, _READ_SIZE)
        except BlockingIOError:  # it is about to be written
            return False
        if data and not self._take(data):  # the end is for the reader to see
            self.kill()
        return True

    # -- rungs ------------------------------------------------------------------------------

    def cancel(self, slot: int, generation: int, reason: str | None) -> None:
        """Set the cancel word; see `Endpoint.cancel`."""
        set_cancel(self._slots[slot], generation, reason)
        if self._engine.kind == "io" and self._wires is not None:
            self._wires.calls.send(stop_frame(slot, generation))

    def recall(self, slot: int, generation: int) -> bool:
        """Take a call back that has not begun; see `Endpoint.recall`."""
        return self._engine.kind == "cpu" and recall(self._slots[slot], generation)

    def knows(self, call: Call) -> bool:
        """Say whether the worker has loaded the function; see `Endpoint.knows`."""
        assert type(call) is ProcessCall
        return not self._loading and call.number in self._known

    def interrupt(self) -> bool:
        """Signal the worker to look at its slot."""
        if self._engine.kind == "io":
            return False
        return self._host.signal(getattr(signal, "SIGUSR1", None))

    def kill(self) -> bool:
        """Kill the worker; also one that is still starting."""
        self._host.kill()
        return True

    def close(self) -> None:
        """Close the pipe of the calls, at which the worker ends; see `Endpoint.close`."""
        self._closing = True
        if self._wires is None:
            self.kill()
        else:
            self._wires.calls.close()
            self._closed.set()

    # -- looking ----------------------------------------------------------------------------

    def look(self, slot: int, generation: int) -> Snapshot:
        """Read a slot; see `Endpoint.look`."""
        return snapshot(self._slots[slot], generation)

    def vitals(self) -> Vitals | None:
        """Ask the machine how the process is."""
        return None if self.pid is None else read_vitals(self.pid)

    def memory(self) -> int | None:
        """Ask the machine how much the process holds."""
        return None if self.pid is None else read_private_bytes(self.pid)

    def dump_stack(self) -> Callable[[], str | None]:
        """Ask for the stacks, and do not wait; see `Endpoint.dump_stack`."""
        if self._wires is None or not self._started.is_set():
            return super().dump_stack()
        return self._wires.stacks.note(lambda: self._host.signal(STACKS_SIGNAL))

    async def stacks(self, seconds: float) -> str | None:
        """Ask for the stacks by a signal; see `Endpoint.stacks`."""
        if self._wires is None or not self._started.is_set():
            await trio.lowlevel.checkpoint()
            return None
        return await self._wires.stacks.ask(lambda: self._host.signal(STACKS_SIGNAL), seconds)

    def may_ask(self, slot: int) -> bool:
        """Say so of all but built-in operations, whose workers are not trusted."""
        return not self._plain[slot]

    def histograms(self) -> memoryview:
        """Return the worker's time counts."""
        return self._histogram_cells[:TIMES]
