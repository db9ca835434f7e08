"""What a function gave, as bytes for home. Nothing escapes: what cannot travel is said so."""

from __future__ import annotations

import pickle
import traceback
from typing import TYPE_CHECKING

from trioipc.protocol._codec import (
    ERROR,
    EXIT,
    PAYLOAD,
    STOPPED,
    VALUE,
    Encoded,
    encode,
    lift,
    payload_error,
)
from trioipc.protocol._pickling import dumps_with_tracebacks

if TYPE_CHECKING:
    from types import CoroutineType, TracebackType
    from typing import Any
else:
    from types import CoroutineType


def encode_answer(kind: int, value: Any) -> tuple[int, Encoded]:
    """Encode how a function ended; return the kind of the answer, which may now be another.

    A coroutine as the result means that somebody forgot that the function is asynchronous.
    """
    if kind == VALUE:
        if type(value) is CoroutineType:
            value.close()
            return encode_answer(ERROR, TypeError("the function returned a coroutine"))
        try:
            return VALUE, encode(lift(value))
        except BaseException as error:
            return PAYLOAD, encode(payload_error(f"a result of {_type_name(value)}", error))
    if kind == ERROR:
        return _encode_exception(value)
    if kind == EXIT:
        return EXIT, encode(_exit(value))
    if kind == PAYLOAD:
        return PAYLOAD, encode(value)
    return kind, _EMPTY


def encode_plain_answer(kind: int, value: Any) -> tuple[int, Encoded]:
    """Encode the same as plain data, which is what the built-in operations send."""
    from trioipc.protocol._plain import encode_plain  # 2 ms, for operations that take more

    if kind == STOPPED:
        return kind, _EMPTY
    try:
        return kind, encode_plain(_exit(value) if kind == EXIT else value)
    except Exception as error:
        lost = payload_error(f"an answer of {_type_name(value)}", error)
        if kind == ERROR:
            lost.add_note(_text_of(value))
        return PAYLOAD, encode_plain(lost)


def make_portable(error: Exception) -> None:
    """Leave out of an exception of ours what keeps it from travelling; that becomes a note."""
    _encode_exception(error)


_EMPTY = Encoded(b"")
# So many entries of a traceback are kept at either end: Python 3.11 pickles 300 in all.
_TRACEBACK_END = 50


def _type_name(value: object) -> str:
    return f"type {type(value).__module__}.{type(value).__qualname__}"


def _encode_exception(error: Exception) -> tuple[int, Encoded]:
    """Encode an exception with its traceback, its causes and its notes."""
    entries = _entries_of(error)
    text = ""  # what it was, for the case that it cannot travel: most can
    if len(entries) > 2 * _TRACEBACK_END:
        text = _text_of(error)
        _leave_out_the_middle(error, entries)
    for _ in range(2):
        try:
            # One whose __reduce__ gives it other arguments only fails on the way back. Better here.
            pickle.loads(dumps_with_tracebacks(error))
            return ERROR, encode(error, dumps=dumps_with_tracebacks)
        except BaseException as reason:
            lost = payload_error(f"an exception of {_type_name(error)}", reason)
            text = text or _text_of(error)
        if error.__cause__ is None and error.__context__ is None:
            break
        _let_go_of_causes(error)
    lost.add_note(text)
    return PAYLOAD, encode(lost)


def _entries_of(error: Exception) -> list[TracebackType]:
    entries = []
    entry = error.__traceback__
    while entry is not None:
        entries.append(entry)
        entry = entry.tb_next
    return entries


def _leave_out_the_middle(error: Exception, entries: list[TracebackType]) -> None:
    """Shorten a traceback that is too deep to be pickled, as after recursion."""
    entries[_TRACEBACK_END - 1].tb_next = entries[-_TRACEBACK_END]
    left_out = len(entries) - 2 * _TRACEBACK_END
    error.add_note(f"trioipc: {left_out} entries in the middle of the traceback are left out")


def _let_go_of_causes(error: Exception) -> None:
    """Keep as a note what cannot travel; it may be only that which keeps the error from it."""
    cause = error.__cause__ or error.__context__
    error.__cause__ = error.__context__ = None
    if cause is not None and hasattr(error, "add_note"):
        error.add_note(f"trioipc: its cause could not travel:\n{_text_of(cause).rstrip()}")


def _text_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except BaseException as reason:  # its __str__ raises, say
        return f"(it could not be shown: {type(reason).__name__})"


def _exit(error: BaseException) -> tuple[str, object, str]:
    """Take from a BaseException what is safe to show at home: its name, exit code and text."""
    code = error.code if isinstance(error, SystemExit) else None
    if type(code) not in (int, str, type(None)):
        try:
            code = repr(code)
        except Exception:  # it is somebody else's
            code = f"a {type(code).__name__}"
    return type(error).__qualname__, code, _text_of(error)
