"""The worker's loop: receive, run, answer. Nothing that a function does escapes it.

Guarantees:

- Each call that arrives whole is answered exactly once, or this process dies.
- Nothing here imports Trio; a function that needs it imports it itself.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from trioipc.memory._board import (
    CANCEL,
    DEFAULT_TOTAL,
    DONE,
    GENERATION,
    OPERATIONS,
    OVER,
    PHASE,
    QUEUE,
    RUN,
    RUNNING,
    SLOT,
    STARTED_AT,
    STATE,
    SUBMITTED_AT,
    TICK,
    TOOK,
    TOTAL,
    WHOLE,
    count,
    dropped_at,
    histogram_base,
)
from trioipc.memory._fence import fence
from trioipc.memory._segment import adopt
from trioipc.protocol._codec import (
    ASK_NUMBER,
    BESIDE,
    CALL,
    CONTEXT,
    DEFINE,
    FROM_WORKER,
    INLINE,
    INTERRUPTED,
    NONE,
    PAYLOAD,
    PLAIN,
    READY,
    SKIPPED,
    STOP,
    TO_WORKER,
    WAKE,
    decode,
    encode_operations,
    payload_error,
    split_frames,
    with_places,
)
from trioipc.worker._answer import encode_answer, encode_plain_answer
from trioipc.worker._execute import OURS, Executor
from trioipc.worker._life import give_way
from trioipc.worker._wires import send_segment
from trioipc.worker.registry import load, registered
from trioipc.worker.request import CurrentRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    from trioipc.memory._segment import Segment
    from trioipc.protocol._codec import Encoded
    from trioipc.worker._beside import Beside
    from trioipc.worker._nesting import Asker
    from trioipc.worker._wires import Ticket, Wires

    _Loaded: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...]]


# How long a worker looks for the next call before it blocks. Whoever calls back to back then
# pays no wake-up, 15 us instead of 58. It must yield in each turn: without that it keeps the
# parent from the core that they share (32 us became 81).
_SPIN_NANOSECONDS = 100_000
READ_SIZE = 64 << 10

# What is wiped before an answer rather than after it: 10 us, less than a write of its own costs.
_QUICK_WIPE = 256 << 10


class Server:
    """One worker process that runs one call at a time."""

    def __init__(self, ticket: Ticket, wires: Wires) -> None:
        self._ticket = ticket
        self._wires = wires
        cells = adopt(wires.board, ticket.board_bytes).cells()
        self._slots = [cells[i * SLOT : (i + 1) * SLOT] for i in range(ticket.slots)]
        self._cells = cells
        # [operation: where its run, queue and total times are counted]
        self._histograms = [
            tuple(histogram_base(ticket.slots, number, which) for which in (RUN, QUEUE, WHOLE))
            for number in range(OPERATIONS)
        ]
        self._operations = [0] * ticket.slots  # [slot: which operation it is used for]
        self._functions: dict[int, Callable[..., Any]] = {}  # {number: function}
        self._broken: dict[int, BaseException] = {}  # {number: why it could not be loaded}
        self._plain: set[int] = set()  # generations of calls whose answers are to be plain data
        self._executor = Executor()
        # Whether a read would block.
        self._sleeps = True
        # What travels beside frames, from the first time on that something does.
        self._beside: Beside | None = None
        self._making = threading.Lock()
        # Whether a function was interrupted: what that has left half-done is not for those that
        # were sent ahead, and the next ones go elsewhere.
        self._is_spent = False
        # Asks the parent, from the first time on that a function does.
        self._asks: Asker | None = None
        # A thread may ask while the loop answers.
        self._writing = threading.Lock()
        # What has arrived and not been handled, and what of a frame has arrived behind that.
        self._frames: deque[tuple[tuple[Any, ...], bytes]] = deque()
        self._rest = b""
        # Whether a function has forked, and this is the child.
        self.is_fork = False
        # What the lifespan has given.
        self._state: Any = None

    def prepare(self) -> None:
        """Load the pool's modules.

        Raises:
          WorkerStartError: if one of them cannot be loaded.
        """
        load(self._ticket.modules)
        self.listen_to_signals()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._become_fork)

    def run(self) -> None:
        """Enter the lifespan, say that we are ready, and answer calls.

        Raises:
          WorkerStartError: if the lifespan cannot be entered.
        """
        if self._ticket.lifespan is None:
            self._say_ready()
            self.loop()
            return
        from trioipc.worker._lifespan import living, loaded

        with living(loaded(self._ticket.lifespan)) as self._state:
            self._say_ready()
            self.loop()

    def _say_ready(self) -> None:
        ready = encode_operations(registered())
        self._write(FROM_WORKER.pack(len(ready), READY, 0, 0, 0) + ready)
        give_way()

    def dropped(self) -> memoryview:
        """Return the cell in which lost log records are counted."""
        return self._cells[dropped_at(self._ticket.slots) :]

    def _become_fork(self) -> None:
        self.is_fork = True

    def listen_to_signals(self) -> None:
        """Have the function that runs interrupted by a signal, if it is to be."""
        self._executor.install()

    def loop(self) -> None:
        """Answer calls until the parent closes its end."""
        while data := self._read():
            self._split(data)
            while self._frames:
                self._handle(*self._frames.popleft())

    def _split(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        self._rest = split_frames(data, TO_WORKER, self._keep)

    def _keep(self, head: tuple[Any, ...], body: bytes) -> None:
        self._frames.append((head, body))

    def hear(self) -> None:
        """Do what the parent has said about slabs while a function runs; calls have to wait."""
        calls = self._wires.calls
        if self._sleeps:
            os.set_blocking(calls, False)
            self._sleeps = False
        with contextlib.suppress(BlockingIOError):
            while data := os.read(calls, READ_SIZE):
                self._split(data)
        frames, self._frames = self._frames, deque()
        for head, body in frames:
            if head[1] in (CALL, DEFINE):
                self._keep(head, body)
            else:
                self._handle(head, body)

    def _read(self) -> bytes:
        """Wait for bytes: first awake, then asleep."""
        calls = self._wires.calls
        if self._sleeps:
            os.set_blocking(calls, False)
            self._sleeps = False
        end = time.perf_counter_ns() + _SPIN_NANOSECONDS
        while time.perf_counter_ns() < end:
            try:
                return os.read(calls, READ_SIZE)
            except BlockingIOError:
                os.sched_yield()
        while self._beside is not None and self._beside.wipe_step():
            with contextlib.suppress(BlockingIOError):
                return os.read(calls, READ_SIZE)
        os.set_blocking(calls, True)
        self._sleeps = True  # until the next time: who has waked us waits for an answer
        return os.read(calls, READ_SIZE)

    def _write(self, frame: bytes) -> None:
        try:
            with self._writing:
                written = os.write(self._wires.answers, frame)
                while written < len(frame):
                    written += os.write(self._wires.answers, frame[written:])
        except BrokenPipeError:  # the parent left; there is nobody to tell
            os._exit(0)

    def _handle(self, head: tuple[Any, ...], body: bytes) -> None:
        _, kind, flags, slot, operation, function, generation, serial = head
        if kind == CALL:
            self._operations[slot] = operation
            self._call(slot, function, generation, serial, flags, body)
        elif kind == DEFINE:
            self._define(function, body)
        elif kind == STOP:
            self._stop(slot, generation)
        elif self._beside is not None:
            self._beside.hear(kind, generation)

    def _stop(self, slot: int, generation: int) -> None:
        """Do nothing: the function looks at its slot, or is interrupted."""

    def _define(self, number: int, pickled: bytes) -> None:
        try:
            self._functions[number] = decode(pickled, 0, ())
        except BaseException as error:  # said when it is called
            self._broken[number] = error

    def _call(
        self, slot: int, function: int, generation: int, serial: int, flags: int, body: bytes
    ) -> None:
        cells = self._slots[slot]
        if flags & PLAIN:
            self._plain.add(generation)
        started = time.perf_counter_ns()
        self._is_spent = self._is_spent or self._executor.interrupted
        self._executor.interrupted = False
        cells[DONE] = 0
        cells[TOTAL] = DEFAULT_TOTAL
        cells[TICK] = 0
        cells[PHASE] = 0
        cells[STARTED_AT] = started
        cells[STATE] = generation << 2 | RUNNING
        fence()  # who recalls a call trusts that either we see the word, or they see the state
        if cells[CANCEL] & GENERATION == generation or self._is_spent:
            if flags & BESIDE:  # it must be taken in to be given back
                with contextlib.suppress(OSError):
                    self._traffic().take_in(body, flags)
            self._answer(slot, generation, self._frame(slot, generation, SKIPPED, None))
            return
        try:
            target, arguments = self._load(function, flags, body)
            if flags & CONTEXT:
                *others, values = arguments
                target, arguments = self._in_context(values, target), tuple(others)
            loaded = [(target, arguments)]
            del target, arguments
        except BaseException as error:
            frame = self._frame(slot, generation, PAYLOAD, error)
            del error  # it holds what was loaded, which can be returned now
            self._answer(slot, generation, frame)
            return
        request = CurrentRequest(
            cells,
            generation,
            f"{self._ticket.name}-{serial}",
            self._allocate,
            self._state,
            self._asker,
        )
        request._server = self
        self._start(request, slot, loaded)

    def _start(self, request: CurrentRequest, slot: int, loaded: list[_Loaded]) -> None:
        """Run a call to its end, and answer it.

        Args:
          request: What the function sees of it.
          slot: Where it is.
          loaded: The function and its arguments, to be taken out: who has called this must not
            hold what the arguments came in.
        """
        target, arguments = loaded.pop()
        generation = request._generation
        kind, value = self._executor.run(request, target, arguments)
        if self.is_fork:  # it shares our memory, and must not wipe what our function still reads
            os._exit(1)
        self._count(slot)
        del target, arguments
        frame = self._frame(slot, generation, kind, value)
        del value
        self._answer(slot, generation, frame)
        request._end()  # nobody waits for this

    def _load(self, function: int, flags: int, body: bytes) -> _Loaded:
        """Bring back the function and its arguments. Imports happen here, uninterrupted."""
        if not body:
            return self._function(function), ()
        if flags & BESIDE:
            views, segments, rest = self._traffic().take_in(body, flags)
            value: tuple[Any, ...] = decode(rest, flags, views, segments)
        else:
            value = decode(body, flags, ())
        if function == INLINE:
            target, arguments = value
            return target, arguments
        return self._function(function), value

    def _in_context(self, values: dict[str, Any], target: Callable[..., Any]) -> Callable[..., Any]:
        """Let a function see context variables, which are gone when it has ended."""
        from contextvars import copy_context
        from functools import partial

        from trioipc.worker._context import within

        return partial(copy_context().run, within, values, target)

    def _traffic(self) -> Beside:
        """Return what travels beside frames. Loaded when first needed, for it takes 3 ms."""
        with self._making:  # a thread that some function has left may be here as well
            if self._beside is None:
                from trioipc.memory._arena import UNINTERRUPTED
                from trioipc.worker._beside import Beside

                OURS.update(UNINTERRUPTED)
                self._beside = Beside(self._wires.control)
            return self._beside

    def _allocate(self, nbytes: int, blank: bool) -> memoryview:
        if self.is_fork:  # what is shared is not ours to give
            return memoryview(bytearray(nbytes))
        return self._traffic().allocate(nbytes, blank)

    def _asker(self) -> Asker:
        """Return what asks the parent. Loaded when first needed: few functions do."""
        if self.is_fork:
            raise RuntimeError("a process that was forked from a worker cannot ask its pool")
        with self._making:
            if self._asks is None:
                from trioipc.worker._nesting import Asker

                self._asks = Asker(self, self._wires.replies)
            return self._asks

    def send_ask(self, kind: int, number: int, request: CurrentRequest, encoded: Encoded) -> None:
        """Send what a function asks for; see `Asker`."""
        request._shields += 1  # an interrupt half-way would leave half a frame
        try:
            body = ASK_NUMBER.pack(number) + self._send_beside(encoded)
            frame = FROM_WORKER.pack(len(body), kind, encoded.flags, 0, request._generation) + body
            if self._beside is not None:  # the replies' slabs are to be had again before the end
                frame = self._beside.losses() + frame + self._beside.returns()
            self._write(frame)
        finally:
            request._shields -= 1

    def take_in(
        self, request: CurrentRequest, body: bytes, flags: int
    ) -> tuple[list[memoryview], dict[int, Segment], bytes]:
        """Take in what travels beside a reply; see `Beside.take_in`."""
        request._shields += 1
        try:
            return self._traffic().take_in(body, flags)
        finally:
            request._shields -= 1

    def _function(self, number: int) -> Callable[..., Any]:
        if number in self._broken:
            raise self._broken[number]
        return self._functions[number]

    def _count(self, slot: int) -> None:
        """Count run, queue and total time; here it costs nobody's throughput."""
        cells = self._slots[slot]
        now, started = time.perf_counter_ns(), cells[STARTED_AT]
        cells[TOOK] = now - started
        submitted = cells[SUBMITTED_AT]
        run, queue, whole = self._histograms[self._operations[slot]]
        count(self._cells, run, now - started)
        count(self._cells, queue, started - submitted)
        count(self._cells, whole, now - submitted)

    def _frame(self, slot: int, generation: int, kind: int, value: Any) -> bytes:
        """Write down how a call ended; send what travels beside that."""
        flags = INTERRUPTED if self._executor.interrupted else 0
        write_down = encode_answer
        if generation in self._plain:
            self._plain.discard(generation)
            write_down = encode_plain_answer
        if kind in (NONE, SKIPPED):
            return FROM_WORKER.pack(0, kind, flags, slot, generation)
        if kind == PAYLOAD:
            value = payload_error("the call", value)
        kind, encoded = write_down(kind, value)
        try:
            body = self._send_beside(encoded)
        except OSError as error:
            kind, encoded = write_down(PAYLOAD, payload_error("the result", error))
            body = encoded.body
        flags |= encoded.flags
        return FROM_WORKER.pack(len(body), kind, flags, slot, generation) + body

    # -- streams ----------------------------------------------------------------------------

    def wake(self, generation: int) -> None:
        """Tell the parent that there is an item on a belt which it has found empty."""
        self._write(FROM_WORKER.pack(0, WAKE, 0, 0, generation))

    def send_item(self, encoded: Encoded) -> bytes:
        """Send what travels beside an item, always as a copy; return what stands for it.

        Raises:
          OSError: if there is no memory left.
        """
        return self._send_beside(encoded, copy=True)

    # -- answers ----------------------------------------------------------------------------

    def _send_beside(self, encoded: Encoded, *, copy: bool = False) -> bytes:
        """Send what travels beside the frame, before it; return the frame's body."""
        if not encoded.flags & BESIDE:
            return encoded.body
        places = self._traffic().put(encoded.buffers, copy=copy)
        for number, parcel in encoded.parcels:
            send_segment(self._wires.control, number, parcel)
        return with_places(encoded, places)

    def _answer(self, slot: int, generation: int, frame: bytes) -> None:
        """Send an answer, and return the slabs that the call came in."""
        beside = self._beside
        if beside is not None:
            frame = beside.losses() + frame + beside.returns(_QUICK_WIPE)
        self._write(frame)
        # After the answer: whoever sees this finds it in the pipe.
        self._slots[slot][STATE] = generation << 2 | OVER
        if beside is not None:  # nobody waits for this
            beside.tidy()
            if frame := beside.returns():
                self._write(frame)
