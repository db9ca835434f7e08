"""What a function gave, as bytes for home. Nothing escapes: what cannot travel is said so."""

from __future__ import annotations

import pickle
import traceback
from typing import TYPE_CHECKING

from tblib.pickling_support import install as install_traceback_pickling

from trioipc.memory._segment import Segment, create
from trioipc.memory._travel import next_number
from trioipc.protocol._codec import (
    ERROR,
    EXIT,
    PARCELS_LIMIT,
    PAYLOAD,
    VALUE,
    Encoded,
    encode,
    lift,
    payload_error,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CoroutineType
    from typing import Any

    from trioipc.protocol._codec import Buffer, Place
else:
    from types import CoroutineType

# A cache line: no two buffers share one.
_ALIGNMENT = 64


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
    return kind, _EMPTY


_EMPTY = Encoded(b"")


def _type_name(value: object) -> str:
    return f"type {type(value).__module__}.{type(value).__qualname__}"


def _encode_exception(error: Exception) -> tuple[int, Encoded]:
    """Encode an exception with its traceback, its causes and its notes."""
    try:
        install_traceback_pickling(error)
        pickled = pickle.dumps(error, 5)
        # One whose __init__ wants other arguments only fails on the way back. Better here.
        pickle.loads(pickled)
        return ERROR, encode(error)
    except BaseException as reason:
        lost = payload_error(f"an exception of {_type_name(error)}", reason)
        lost.add_note(_text_of(error))
        return PAYLOAD, encode(lost)


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


def put_beside(
    buffers: Sequence[Buffer], allocated: Sequence[Segment]
) -> tuple[list[tuple[int, Segment]], list[Place]]:
    """Find or make shared memory for ``buffers``.

    Args:
      buffers: What travels beside the frame.
      allocated: Segments of this request that may hold some of them already.

    Returns:
      The segments to send, with their numbers, and the place of each buffer.

    Raises:
      OSError: if there is no memory left.
    """
    numbers: dict[Segment, int] = {}  # {segment to send: its number}
    places: list[Place | None] = []
    homeless: list[tuple[int, Buffer, int]] = []
    size = 0
    for index, buffer in enumerate(buffers):
        home = _home_of(buffer, allocated)
        # No more segments than can be sent; the rest is copied into one.
        if home is None or (home[0] not in numbers and len(numbers) >= PARCELS_LIMIT):
            homeless.append((index, buffer, size))
            size += -(-len(buffer) // _ALIGNMENT) * _ALIGNMENT
            places.append(None)
            continue
        segment, offset = home
        if segment not in numbers:
            numbers[segment] = next_number()
        places.append((numbers[segment], offset, len(buffer)))
    if homeless:
        fresh = create(size)
        numbers[fresh] = number = next_number()
        view = memoryview(fresh.memory)
        for index, buffer, offset in homeless:
            view[offset : offset + len(buffer)] = buffer
            places[index] = (number, offset, len(buffer))
    # Each None has been replaced.
    return [(n, s) for s, n in numbers.items()], places  # type: ignore[return-value]


def _home_of(buffer: Buffer, allocated: Sequence[Segment]) -> tuple[Segment, int] | None:
    """Say in which allocated segment a buffer lies, and at which offset."""
    if not allocated or type(buffer) is not memoryview or buffer.readonly or not buffer.nbytes:
        return None
    exporter: object = buffer
    while type(exporter) is memoryview:
        exporter = exporter.obj
    for segment in allocated:
        if exporter is segment.memory:
            return segment, _address(buffer) - _address(memoryview(segment.memory))
    return None


def _address(view: memoryview) -> int:
    import ctypes  # 3 ms: only where somebody allocates

    return ctypes.addressof(ctypes.c_char.from_buffer(view))
