"""Pickles as they should be, whoever else has told `copyreg` about exceptions.

`tblib.pickling_support.install`, which other libraries call for the whole process when they are
imported, has exceptions pickled with their tracebacks, causes and notes, but some without what they
are about: the code of a `SystemExit`, the value of a `StopIteration`, the bytes and the text of a
`UnicodeDecodeError`.

Rules:

- `copyreg` is asked, and never told.
- Where nobody has called `install`, and no traceback is wanted, this is `pickle.dumps`.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from types import MethodDescriptorType, TracebackType, WrapperDescriptorType
from typing import TYPE_CHECKING, Any

from tblib.pickling_support import pickle_exception, pickle_traceback, unpickle_exception

if TYPE_CHECKING:
    from collections.abc import Callable

# Py_TPFLAGS_HEAPTYPE: made at run time, and so not one of the interpreter's own.
_MADE = 1 << 9


def dumps(
    value: object,
    protocol: int = 5,
    buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None,
) -> bytes:
    """Pickle a value; see `pickle.dumps`."""
    if TracebackType not in copyreg.dispatch_table:
        return pickle.dumps(value, protocol, buffer_callback=buffer_callback)
    return _dump(value, protocol, buffer_callback, _CORRECTED)


def dumps_with_tracebacks(
    value: object,
    protocol: int = 5,
    buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None,
) -> bytes:
    """Pickle a value; the exceptions in it with their tracebacks, causes, contexts and notes."""
    return _dump(value, protocol, buffer_callback, _WITH_TRACEBACKS)


def _dump(
    value: object,
    protocol: int,
    buffer_callback: Callable[[pickle.PickleBuffer], object] | None,
    table: _Table,
) -> bytes:
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol, buffer_callback=buffer_callback)
    pickler.dispatch_table = table
    pickler.dump(value)
    return file.getvalue()


class _Table(dict[Any, Any]):
    """What `copyreg` says, but for tblib's exceptions."""

    def __missing__(self, kind: type) -> Any:
        reduce = copyreg.dispatch_table[kind]
        return _reduce_exception if reduce is pickle_exception else reduce


class _TracebackTable(_Table):
    """The same, and all exceptions are tblib's, as are their tracebacks."""

    def __missing__(self, kind: type) -> Any:
        if issubclass(kind, BaseException):
            return _reduce_exception
        return super().__missing__(kind)


_CORRECTED = _Table()
_WITH_TRACEBACKS = _TracebackTable({TracebackType: pickle_traceback})


def _reduce_exception(error: BaseException) -> tuple[Any, ...]:
    """Say how to make an exception again; as tblib does, which says it wrong for some.

    Raises:
      TypeError: if its ``__reduce__`` does not return a tuple.
    """
    reduced = error.__reduce_ex__(4)
    if isinstance(reduced, str):
        raise TypeError(f"{type(error).__qualname__}.__reduce__ returned a str")
    function, arguments, *state = reduced
    if _is_at_odds(type(error)):
        function, arguments = _make, (type(error), arguments)
    about = (
        error.__cause__,
        error.__traceback__,
        error.__context__,
        error.__suppress_context__,
        getattr(error, "__notes__", None),
    )
    return unpickle_exception, (function, arguments, *about), *state


def _is_at_odds(kind: type[BaseException]) -> bool:
    """Say whether ``__init__`` may want other arguments than the interpreter would give it."""
    inherited = kind.__reduce_ex__ is object.__reduce_ex__
    inherited = inherited and isinstance(kind.__reduce__, MethodDescriptorType)
    return inherited and not isinstance(kind.__init__, WrapperDescriptorType)


def _make(kind: type[BaseException], arguments: tuple[Any, ...]) -> BaseException:
    """Make an exception as the interpreter's own class below it does: those are its arguments."""
    base: type = kind
    while base.__flags__ & _MADE and base.__base__ is not None:
        base = base.__base__
    error: BaseException = base.__new__(kind, *arguments)
    base.__init__(error, *arguments)  # type: ignore[misc]
    return error
