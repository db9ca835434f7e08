"""Run one function, so that an interrupt can end it and nothing else.

A signal says only "look at your slot". The handler raises if a function is running (`armed`), if
the cancel word names *this* request, if the interrupted frame is none of ours, and if the function
is not cleaning up after an interrupt already. The third rule is what makes it free of races: it
never raises between two lines of ours, so it may be sent as often as one likes, and a lock of ours
is never left behind. A test places it at every opcode. The fourth leaves a ``finally`` of the
user's its whole ``grace``, though the signal is sent every 20 ms; what clean-up hangs is killed.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, final

from trioipc._errors import RequestInterrupt
from trioipc.memory._board import CANCEL
from trioipc.memory._cell import CellLock
from trioipc.protocol._codec import ERROR, EXIT, NONE, STOPPED, VALUE
from trioipc.worker.request import CurrentRequest, set_process_request

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Give a C function a frame of Python's, in which it can be interrupted."""
    return function(*arguments)


def _is_cleaning_up(error: BaseException | None) -> bool:
    """Say whether an interrupt is being handled, be it by a handler within another's."""
    while error is not None:
        if isinstance(error, RequestInterrupt):
            return True
        error = error.__context__
    return False


@final
class Executor:
    """Runs functions of this process's main thread, one at a time."""

    __slots__ = ("_armed", "_request", "interrupted")

    def __init__(self) -> None:
        self._armed = False
        self._request: CurrentRequest | None = None
        # Whether the last function was interrupted, even if it swallowed that.
        self.interrupted = False

    def install(self) -> None:
        """Listen to the signal of the interrupt rung."""
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, self.on_signal)

    def on_signal(self, signum: int, frame: FrameType | None) -> None:
        """Raise in the function that runs, if it is the one to be interrupted."""
        request = self._request
        if not self._armed or request is None or request._shields:
            return
        if request._cells[CANCEL] != request._generation:
            return
        if frame is not None and frame.f_code in OURS:
            return
        if _is_cleaning_up(sys.exception()):
            return
        self.interrupted = True
        raise RequestInterrupt

    def run(
        self, request: CurrentRequest, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> tuple[int, Any]:
        """Call ``function(*arguments)``; return how it ended and with what. Never raises."""
        self.interrupted = False
        self._request = request
        set_process_request(request)
        try:
            self._armed = True
            if request._cells[CANCEL] == request._generation:  # set since we looked last
                raise RequestInterrupt
            result = _call(function, arguments)
            self._armed = False
            return (NONE if result is None else VALUE), result
        except RequestInterrupt:
            self._armed = False
            return STOPPED, None
        except Exception as error:
            self._armed = False
            return ERROR, error
        except BaseException as error:
            self._armed = False
            return EXIT, error
        finally:
            self._armed = False
            set_process_request(None)


# Frames in which an interrupt never raises. `_call` is not one of them. What is loaded later adds
# its own.
OURS: set[CodeType] = {
    function.__code__
    for function in (
        Executor.run,
        Executor.on_signal,
        set_process_request,
        CurrentRequest.__init__,
        CurrentRequest._allocate,
        CurrentRequest._end,
        CurrentRequest.uninterruptible.__wrapped__,  # type: ignore[attr-defined]
        CellLock.change,
    )
}
