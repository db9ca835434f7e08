"""State that any process can share: progress, a cancellation, a counter, a flag.

Each is a few cells in a segment of its own. It goes to other processes by being pickled: into the
workers of a pool, into ``trio_parallel.run_sync``, into ``multiprocessing``.

Rules:

- A cell is 64 bits, aligned, and is loaded or stored in one move: no reader sees half a value.
- What depends on the value that was there is done under the lock of `_cell`, and exact between
  threads and processes. Over memory that is not ours (``from_buffer``) it is exact only between the
  threads that use that one object.
- What is closed stays closed: every method then raises `SharedStateError`. Views stay valid.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast, final

from trioipc._errors import SharedStateError
from trioipc.memory import _travel
from trioipc.memory._board import DEFAULT_TOTAL, TEXT, clear_text, read_text, write_text
from trioipc.memory._cell import CellLock
from trioipc.memory._segment import Segment, best_backend, create

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Self

    import trio
    from typing_extensions import Buffer  # of collections.abc from 3.12 on

    from trioipc.memory._watch import Changes, Reasons

# Another process sees a change within 10 ms (the contract); a thread that waits looks this often.
_LOOK_SECONDS = 0.005

_HIGHEST = (1 << 64) - 1
_SIGNED_LOWEST, _SIGNED_HIGHEST = -(1 << 63), (1 << 63) - 1

# The first cell of each state: "tipc", the version of its layout, its kind.
_MAGIC = 0x63706974
_VERSION = 1


def is_shared_memory_available() -> bool:
    """Say whether this machine has memory that several processes can share."""
    return best_backend() != "plain"


class _Closed:
    """What the cells of a closed state are."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getitem__(self, index: int) -> int:
        raise SharedStateError(f"this {self._name} is closed")

    def __setitem__(self, index: int, value: int) -> None:
        raise SharedStateError(f"this {self._name} is closed")


class _State:
    """What all four have in common."""

    __slots__ = ("__weakref__", "_cells", "_lock", "_segment", "_whole")

    _KIND: ClassVar[int]
    _LENGTH: ClassVar[int]  # in cells, without the first
    _FORMAT: ClassVar[Literal["q", "Q"]] = "Q"

    _cells: memoryview
    _lock: CellLock
    # None over memory that is not ours.
    _segment: Segment | None
    _whole: memoryview

    @classmethod
    def _header(cls) -> int:
        return _MAGIC | _VERSION << 32 | cls._KIND << 48

    @classmethod
    def _nbytes(cls) -> int:
        return 8 * (1 + cls._LENGTH)

    def _make(self) -> None:
        """Have a segment of one's own."""
        segment = create(self._nbytes(), or_plain=True)
        self._attach(memoryview(segment.memory), segment, CellLock(segment))
        self._whole.cast("Q")[0] = self._header()

    def _attach(self, view: memoryview, segment: Segment | None, lock: CellLock) -> None:
        self._segment = segment
        self._lock = lock
        self._whole = view[: self._nbytes()]
        self._cells = self._whole[8:].cast(self._FORMAT)

    @classmethod
    def _from_ticket(cls, ticket: _travel.Ticket) -> Self:
        """Make one over the memory that another process has sent."""
        segment = _travel.take(ticket)
        state = cls.__new__(cls)
        state._attach(memoryview(segment.memory), segment, CellLock(segment, is_own=False))
        state._check_header(state._whole)
        return state

    @classmethod
    def _check_header(cls, view: memoryview) -> None:
        found = view.cast("Q")[0]
        if found != cls._header():
            raise SharedStateError(
                f"this memory does not hold a {cls.__name__} of version {_VERSION}: "
                f"its first cell is {found:#x}, not {cls._header():#x}"
            )

    @classmethod
    def from_buffer(cls, buffer: Buffer) -> Self:
        """Use memory that somebody else owns.

        Memory whose first 8 bytes are zero is made a new state; any other must hold one already.
        Loads and stores are exact; changes that depend on the value are exact only between the
        threads that use this one object.

        Args:
          buffer: Writable, contiguous, and aligned to 8 bytes.

        Raises:
          SharedStateError: if it is too small, or holds something else or another version.
          ValueError: if it is read-only or not aligned.
          TypeError: if it is no buffer.
        """
        view = memoryview(buffer)
        if view.readonly or not view.c_contiguous:
            raise ValueError("the buffer must be writable and contiguous")
        view = view.cast("B") if view.nbytes else view
        if view.nbytes < cls._nbytes():
            raise SharedStateError(
                f"a {cls.__name__} needs {cls._nbytes()} bytes, the buffer has {view.nbytes}"
            )
        import ctypes

        if ctypes.addressof(ctypes.c_char.from_buffer(view)) % 8:
            raise ValueError("the buffer must be aligned to 8 bytes")
        state = cls.__new__(cls)
        state._attach(view, None, CellLock())
        if view[: cls._nbytes()].cast("Q")[0]:
            cls._check_header(view[: cls._nbytes()])
        else:
            state._set_defaults()
            state._whole.cast("Q")[0] = cls._header()
        return state

    def _set_defaults(self) -> None:
        """Write what a new one holds."""

    def get_buffer(self) -> memoryview:
        """Return all of its memory, writable; it stays valid after `close`.

        Another process that maps it can use it by `from_buffer`.
        """
        self._cells[0]  # raises if it is closed
        return self._whole

    def __reduce__(self) -> tuple[Any, ...]:
        self._cells[0]
        if self._segment is None:
            raise SharedStateError(
                f"this {type(self).__name__} is in memory that is not its own and cannot be sent"
            )
        return type(self)._from_ticket, (_travel.give(self._segment),)

    def _change(self, decide: Callable[[int], int | None], index: int = 0) -> int | None:
        return self._lock.change(self._cells, index, decide)

    def close(self) -> None:
        """Let go of the memory, which stays as long as somebody looks at it. Twice is fine."""
        self._cells = cast("memoryview", _Closed(type(self).__name__))
        self._whole = memoryview(b"")
        self._segment = None
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _is_closed(self) -> bool:
        return isinstance(self._cells, _Closed)


def _check_int(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    return value


def _check_count(name: str, value: object) -> int:
    number = _check_int(name, value)
    if not 0 <= number <= _HIGHEST:
        raise ValueError(f"{name} must be from 0 to 2**64 - 1, not {number}")
    return number


def _wait(look: Callable[[], bool], timeout: float | None, instead: str) -> bool:
    """Block this thread until ``look`` returns true; return whether it does."""
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"timeout must be >= 0 seconds or None, not {timeout!r}")
    if timeout != 0 and "trio" in sys.modules:
        _refuse_to_block_trio(instead)
    deadline = None if timeout is None else time.monotonic() + timeout
    while not look():
        left = _LOOK_SECONDS if deadline is None else deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(left, _LOOK_SECONDS))
    return True


def _refuse_to_block_trio(instead: str) -> None:
    if sys.modules["trio"].lowlevel.in_trio_task():
        raise RuntimeError(f"wait() would block the event loop; await {instead}() instead")


@final
class SharedProgress(_State):
    """How far a piece of work has come: a value and a total, both ints >= 0.

    In a worker, ``current_request().progress`` is one whose values reach the caller; only that
    process writes it, and so faster: 0.1 us for an increment.

    Args:
      total: What ``value`` will be when all is done. 0 counts as all done.
    """

    __slots__ = ("_is_only_writer", "_value")

    _KIND = 1
    _LENGTH = 2

    _value: int

    def __init__(self, total: int = DEFAULT_TOTAL) -> None:
        _check_count("total", total)
        self._is_only_writer = False
        self._make()
        self._cells[1] = total

    @classmethod
    def _over(cls, cells: memoryview) -> Self:
        """Be the only writer of two cells that belong to somebody else: value, total."""
        progress = cls.__new__(cls)
        progress._cells = cells
        progress._segment = None
        progress._lock = CellLock()
        progress._whole = memoryview(b"")
        progress._is_only_writer = True
        # What we wrote last: an increment then loads no shared cell.
        progress._value = cells[0]
        return progress

    def _attach(self, view: memoryview, segment: Segment | None, lock: CellLock) -> None:
        self._is_only_writer = False
        super()._attach(view, segment, lock)

    def _set_defaults(self) -> None:
        self._cells[0], self._cells[1] = 0, DEFAULT_TOTAL

    def _turn_to_scrap(self) -> None:
        """Stop writing where others look; for the end of a request."""
        self._cells = memoryview(bytearray(16)).cast("Q")

    def __repr__(self) -> str:
        if self._is_closed():
            return "<SharedProgress: closed>"
        return f"<SharedProgress: {self.get()} of {self.get_total()}>"

    def increment(self, delta: int = 1) -> int:
        """Add ``delta``, which may be negative while the value stays >= 0; return the new value.

        Raises:
          TypeError: if ``delta`` is no int.
          ValueError: if the value would be below 0 or above 2**64 - 1; it stays as it was.
        """
        if not self._is_only_writer:
            _check_int("delta", delta)
            new = self._change(lambda value: _check_count("the progress value", value + delta))
            return cast("int", new)
        value = self._value + delta
        try:
            # No call of Python code between these three lines, so no other thread gets a turn.
            self._cells[0] = value
        except (TypeError, ValueError):
            _check_int("delta", delta)
            _check_count("the progress value", value)
            raise
        self._value = value
        return value

    def set(self, value: int) -> None:
        """Set the value; beyond the total is kept as it is."""
        _check_count("value", value)
        if self._is_only_writer:
            self._cells[0] = self._value = value
        else:
            self._change(lambda _: value)

    def get(self) -> int:
        """Return the value."""
        return int(self._cells[0])

    def set_total(self, total: int) -> None:
        """Set the total."""
        self._cells[1] = _check_count("total", total)

    def get_total(self) -> int:
        """Return the total."""
        return int(self._cells[1])

    def get_percent(self) -> float:
        """Return the value in percent of the total, 0.0 to 100.0; 100.0 if the total is 0."""
        total = self.get_total()
        return min(100.0, 100.0 * self.get() / total) if total else 100.0

    def reset(self) -> None:
        """Set the value to 0; the total stays."""
        self.set(0)

    def subscribe(self) -> AbstractAsyncContextManager[Changes[int]]:
        """Iterate over its values: ``async with progress.subscribe() as changes``.

        First the current one, then each newest one, at most every 20 ms; ends when it is closed.
        """
        from trioipc.memory import _watch

        return _watch.opened(_watch.Changes(self.get))


@final
class SharedCancellation(_State):
    """A flag that says "stop", with a reason, to whoever looks.

    Give it to ``run(..., cancellation=flag)``: when it is set, by anybody, the request is
    cancelled within 10 ms and ends as `RequestCancelledError`. In a worker,
    ``current_request().cancellation`` tells whether the request is cancelled.
    """

    __slots__ = ("_expected", "_is_readonly", "_reason_at")

    _KIND = 2
    _LENGTH = 2 + 2 * TEXT

    def __init__(self) -> None:
        self._make()

    def _attach(self, view: memoryview, segment: Segment | None, lock: CellLock) -> None:
        super()._attach(view, segment, lock)
        # The word that means "cancelled"; a slot of the board has its generation there instead.
        self._expected = 1
        self._reason_at = 1
        self._is_readonly = False

    @classmethod
    def _over(cls, cells: memoryview, expected: int, reason_at: int) -> Self:
        """Look at cells that belong to somebody else, who alone may set them."""
        cancellation = cls.__new__(cls)
        cancellation._cells = cells
        cancellation._segment = None
        cancellation._lock = CellLock()
        cancellation._whole = memoryview(b"")
        cancellation._expected = expected
        cancellation._reason_at = reason_at
        cancellation._is_readonly = True
        return cancellation

    def _refuse_readonly(self) -> None:
        if self._is_readonly:
            raise SharedStateError("only the caller of a request may cancel it")

    def __repr__(self) -> str:
        if self._is_closed():
            return "<SharedCancellation: closed>"
        return f"<SharedCancellation: {'cancelled' if self.is_cancelled() else 'not cancelled'}>"

    def cancel(self, reason: str | None = None) -> None:
        """Set the flag. The first reason stays; to set it again changes nothing.

        Args:
          reason: Why, at most 40 bytes of UTF-8; the rest is cut off.
        """
        self._refuse_readonly()

        def decide(word: int) -> int | None:
            if word == self._expected:
                return None
            if reason is not None:
                write_text(self._cells, self._reason_at, reason)
            return self._expected

        self._change(decide)

    def is_cancelled(self) -> bool:
        """Say whether the flag is set."""
        return bool(self._cells[0] == self._expected)

    def reason(self) -> str | None:
        """Return the reason, if the flag is set and one was given."""
        return read_text(self._cells, self._reason_at) if self.is_cancelled() else None

    def reset(self) -> None:
        """Take the flag and its reason back."""
        self._refuse_readonly()

        def decide(word: int) -> int:
            clear_text(self._cells, self._reason_at)
            return 0

        self._change(decide)

    def wait(self, timeout: float | None = None) -> bool:
        """Block this thread until the flag is set; return whether it is.

        Args:
          timeout: In seconds; 0 only looks, None waits for ever.

        Raises:
          RuntimeError: on a Trio task, which it would block; there, await `wait_cancelled`.
        """
        return _wait(self.is_cancelled, timeout, "wait_cancelled")

    async def wait_cancelled(self) -> None:
        """Wait until the flag is set; it is seen within 10 ms.

        Raises:
          SharedStateError: if it is closed meanwhile.

        Cancellation: a checkpoint.
        """
        from trioipc.memory import _watch

        await _watch.wait_true(self.is_cancelled)

    def subscribe(self) -> AbstractAsyncContextManager[Reasons]:
        """Iterate over its reason, which comes once, when the flag is set."""
        from trioipc.memory import _watch

        return _watch.opened(_watch.Reasons(self))

    def open_cancel_scope(
        self, *, propagate: bool = False
    ) -> AbstractAsyncContextManager[trio.CancelScope]:
        """Cancel a block when the flag is set: ``async with flag.open_cancel_scope() as scope``.

        The block then just ends, with ``scope.cancelled_caught``; the reason is Trio's.

        Args:
          propagate: Whether cancelling the scope sets the flag, with its reason.
        """
        from trioipc.memory import _watch

        return _watch.cancel_scope(self, propagate=propagate)


@final
class SharedCounter(_State):
    """A signed 64-bit number that any process can count with.

    Args:
      initial: From -2**63 to 2**63 - 1.
    """

    __slots__ = ()

    _KIND = 3
    _LENGTH = 1
    _FORMAT = "q"

    def __init__(self, initial: int = 0) -> None:
        _check_signed("initial", initial)
        self._make()
        self._cells[0] = initial

    def __repr__(self) -> str:
        return f"<SharedCounter: {'closed' if self._is_closed() else self.get()}>"

    def increment(self, delta: int = 1) -> int:
        """Add ``delta``; return the new value.

        Raises:
          OverflowError: if it would not fit 64 bits; the value stays as it was.
          TypeError: if ``delta`` is no int.
        """
        if type(delta) is not int:
            _check_int("delta", delta)
        try:
            # No call of `cast`: 0.06 us of 3.
            return self._lock.change(self._cells, 0, delta.__add__)  # type: ignore[return-value]
        except ValueError:  # of the cell, which takes 64 bits
            raise OverflowError(
                f"adding {delta} would take the counter out of -2**63 to 2**63 - 1"
            ) from None

    def decrement(self, delta: int = 1) -> int:
        """Subtract ``delta``; return the new value; otherwise as `increment`."""
        return self.increment(-_check_int("delta", delta))

    def get(self) -> int:
        """Return the value."""
        return int(self._cells[0])

    def set(self, value: int) -> None:
        """Set the value.

        Raises:
          OverflowError: if it does not fit 64 bits.
          TypeError: if it is no int.
        """
        _check_signed("value", value)
        self._change(lambda _: value)

    def compare_and_swap(self, expected: int, new: int) -> bool:
        """Set the value to ``new`` if it is ``expected``; return whether it was."""
        _check_signed("expected", expected)
        _check_signed("new", new)
        return self._change(lambda value: new if value == expected else None) is not None

    def subscribe(self) -> AbstractAsyncContextManager[Changes[int]]:
        """Iterate over its values; as `SharedProgress.subscribe`."""
        from trioipc.memory import _watch

        return _watch.opened(_watch.Changes(self.get))


def _check_signed(name: str, value: object) -> int:
    number = _check_int(name, value)
    if not _SIGNED_LOWEST <= number <= _SIGNED_HIGHEST:
        raise OverflowError(f"{name} must be from -2**63 to 2**63 - 1, not {number}")
    return number


@final
class SharedFlag(_State):
    """A boolean that any process can set, clear, and wait for.

    Args:
      initial: Whether it is set at first.
    """

    __slots__ = ()

    _KIND = 4
    _LENGTH = 1

    def __init__(self, initial: bool = False) -> None:
        if not isinstance(initial, bool):
            raise TypeError(f"initial must be a bool, not {type(initial).__name__}")
        self._make()
        self._cells[0] = initial

    def __repr__(self) -> str:
        if self._is_closed():
            return "<SharedFlag: closed>"
        return f"<SharedFlag: {'set' if self.is_set() else 'not set'}>"

    def set(self) -> None:
        """Set it."""
        self._change(lambda _: 1)

    def clear(self) -> None:
        """Take it back."""
        self._change(lambda _: 0)

    def is_set(self) -> bool:
        """Say whether it is set."""
        return bool(self._cells[0])

    def toggle(self) -> bool:
        """Turn it over; return whether it is set now."""
        return bool(self._change(lambda value: 1 - value))

    def wait(self, timeout: float | None = None) -> bool:
        """Block this thread until it is set; return whether it is.

        Args:
          timeout: In seconds; 0 only looks, None waits for ever.

        Raises:
          RuntimeError: on a Trio task, which it would block; there, await `wait_set`.
        """
        return _wait(self.is_set, timeout, "wait_set")

    async def wait_set(self) -> None:
        """Wait until it is set; that is seen within 10 ms.

        Raises:
          SharedStateError: if it is closed meanwhile.

        Cancellation: a checkpoint.
        """
        from trioipc.memory import _watch

        await _watch.wait_true(self.is_set)

    def subscribe(self) -> AbstractAsyncContextManager[Changes[bool]]:
        """Iterate over its values; as `SharedProgress.subscribe`."""
        from trioipc.memory import _watch

        return _watch.opened(_watch.Changes(self.is_set))
