"""State that a request and its caller, or any two threads, see at the same time.

Rules:

- A cell is 64 bits, aligned, and has one writer; loads and stores are one move each.
- What is closed stays closed: every method then raises `SharedStateError`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, final

from trioipc._errors import SharedStateError
from trioipc.memory._board import DEFAULT_TOTAL, clear_text, read_text, write_text
from trioipc.memory._segment import best_backend, create

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


# Another process sees a change within 10 ms (the contract); a thread that waits looks this often.
_LOOK_INTERVAL = 0.005

_HIGHEST = (1 << 64) - 1


def is_shared_memory_available() -> bool:
    """Say whether this platform has memory that several processes can share."""
    return best_backend() != "plain"


def _checked(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not 0 <= value <= _HIGHEST:
        raise ValueError(f"{name} must be from 0 to 2**64 - 1, not {value}")
    return value


@final
class SharedProgress:
    """How far a piece of work has come: a value and a total, both ints >= 0.

    One process writes it; its threads may share the object. In a worker,
    ``current_request().progress`` is one whose values reach the caller.

    Args:
      total: What ``value`` will be when all is done. 0 counts as all done.
    """

    __slots__ = ("_cells", "_value")

    def __init__(self, total: int = DEFAULT_TOTAL) -> None:
        self._cells = create(16).cells()
        self._value = 0
        self.set_total(total)

    @classmethod
    def _over(cls, cells: memoryview) -> Self:
        """Write to two cells that belong to somebody else: value, total."""
        progress = cls.__new__(cls)
        progress._cells = cells
        # What we, the only writer, wrote last: an increment then loads no shared cell.
        progress._value = cells[0]
        return progress

    def _turn_to_scrap(self) -> None:
        """Stop writing where others look; for the end of a request."""
        self._cells = memoryview(bytearray(16)).cast("Q")

    def __repr__(self) -> str:
        return f"<SharedProgress: {self.get()} of {self.get_total()}>"

    def increment(self, delta: int = 1) -> int:
        """Add ``delta``, which may be negative while the value stays >= 0; return the new value."""
        value = self._value + delta
        try:
            # No call of Python code between these three lines, so no other thread gets a turn.
            self._cells[0] = value
        except (TypeError, ValueError):
            _checked("delta", abs(delta) if isinstance(delta, int) else delta)
            _checked("the progress value", value)
            raise
        self._value = value
        return value

    def set(self, value: int) -> None:
        """Set the value; beyond the total is kept as it is."""
        self._cells[0] = _checked("value", value)
        self._value = value

    def get(self) -> int:
        """Return the value."""
        return int(self._cells[0])

    def set_total(self, total: int) -> None:
        """Set the total."""
        self._cells[1] = _checked("total", total)

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


@final
class SharedCancellation:
    """A flag that says "stop", with a reason, to whoever looks.

    Give it to ``run(..., cancellation=flag)``: when it is set, by any thread, the request is
    cancelled within 10 ms and ends as `RequestCancelledError`. In a worker,
    ``current_request().cancellation`` tells whether the request is cancelled.
    """

    __slots__ = ("_cells", "_expected", "_reason_at")

    def __init__(self) -> None:
        self._cells: memoryview | None = create(12 * 8).cells()
        # The word that means "cancelled"; a slot of the board has its generation there instead.
        self._expected = 1
        self._reason_at = 1

    @classmethod
    def _over(cls, cells: memoryview, expected: int, reason_at: int) -> Self:
        """Look at cells that belong to somebody else, who alone may set them."""
        cancellation = cls.__new__(cls)
        cancellation._cells = cells.toreadonly()
        cancellation._expected = expected
        cancellation._reason_at = reason_at
        return cancellation

    def _open(self) -> memoryview:
        if self._cells is None:
            raise SharedStateError("this SharedCancellation is closed")
        return self._cells

    def _writable(self) -> memoryview:
        cells = self._open()
        if cells.readonly:
            raise SharedStateError("only the caller of a request may cancel it")
        return cells

    def __repr__(self) -> str:
        if self._cells is None:
            return "<SharedCancellation: closed>"
        return f"<SharedCancellation: {'cancelled' if self.is_cancelled() else 'not cancelled'}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise SharedStateError(
            "a SharedCancellation does not travel as an argument; "
            "pass it as run(..., cancellation=...)"
        )

    def cancel(self, reason: str | None = None) -> None:
        """Set the flag. The first reason stays; to set it again changes nothing.

        Args:
          reason: Why, at most 40 bytes of UTF-8; the rest is cut off.
        """
        cells = self._writable()
        if cells[0] == self._expected:
            return
        if reason is not None:
            write_text(cells, self._reason_at, reason)
        cells[0] = self._expected

    def is_cancelled(self) -> bool:
        """Say whether the flag is set."""
        return bool(self._open()[0] == self._expected)

    def reason(self) -> str | None:
        """Return the reason, if the flag is set and one was given."""
        return read_text(self._open(), self._reason_at) if self.is_cancelled() else None

    def reset(self) -> None:
        """Take the flag and its reason back."""
        cells = self._writable()
        cells[0] = 0
        clear_text(cells, self._reason_at)

    def wait(self, timeout: float | None = None) -> bool:
        """Block this thread until the flag is set; return whether it is.

        Args:
          timeout: In seconds; 0 only looks, None waits for ever.
        """
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout must be >= 0 seconds or None, not {timeout!r}")
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.is_cancelled():
            left = _LOOK_INTERVAL if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, _LOOK_INTERVAL))
        return True

    def close(self) -> None:
        """Let go of the memory. Closing twice is fine."""
        self._cells = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
