"""Calls and answers to frames and back; big buffers leave for shared memory.

A frame is a head of fixed size and a body of at most `FRAME_LIMIT` bytes. What is larger does not
travel in frames but in segments beside them, and the body then begins with a table of places.

Rules:

- Nothing here does I/O or allocates shared memory: `encode` says what must travel beside the
  frame, the caller puts it somewhere, `with_places` writes down where.
- A length is checked against its limit before anything of that length is made.
- Types are kept: ``bytes`` arrive as ``bytes``, ``bytearray`` as ``bytearray``.
"""

from __future__ import annotations

import pickle
import struct
from typing import TYPE_CHECKING

from trioipc._errors import PayloadError, RemoteProtocolError
from trioipc.memory._ring import RingSpace
from trioipc.memory._secret import Secret
from trioipc.memory._travel import carrying, receiving
from trioipc.protocol._pickling import dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence
    from typing import Any, TypeAlias

    from trioipc.memory._segment import Segment
    from trioipc.memory._travel import Carried, Parcel

    Buffer: TypeAlias = bytes | bytearray | memoryview
    # (number of the slab, offset, length), and then one of the kinds below, perhaps with `WIPE`
    Place: TypeAlias = tuple[int, int, int]
    KindedPlace: TypeAlias = tuple[int, int, int, int]

VERSION = 1

# From here on a buffer travels beside the frame. Below it, copying through the pipe is faster.
OUT_OF_BAND = 8 << 10
# The longest pickle that travels inside the frame.
PICKLE_LIMIT = 16 << 10
# The longest body: a pickle and a table. Far below a pipe's 64 KiB, so that a write never waits.
FRAME_LIMIT = 48 << 10

# Frames to a worker: length of the body, kind, flags, slot, operation (under which it is counted),
# function, generation, serial number.
TO_WORKER = struct.Struct("<IBBHBIQQ")
# DEFINE: a function and its number. FREE: a slab of the worker's is no longer looked at; DROP: it
# is not wanted again. FORGET: one of the parent's will not come again. Their numbers are in the
# place of the generation; each side counts its own. STOP: a call was cancelled, for workers that do
# not look at its slot.
DEFINE, CALL, FREE, DROP, FORGET, STOP = range(6)
# The function number of a call whose body holds the function too.
INLINE = 0xFFFFFFFF

# Frames from a worker: length of the body, kind, flags, slot, generation.
FROM_WORKER = struct.Struct("<IBBHQ")
# READY: the worker can be used. The others answer a call: None; a value; an exception of the
# function; a BaseException of it that is no Exception; a result or exception that could not be
# pickled; cancelled before it began; stopped by a checkpoint or an interrupt. RETURN answers none:
# a slab of the parent's is no longer looked at; its number is in the place of the generation. LOST
# likewise: it could not be mapped, and must be shown again. ASK: the function that runs wants
# another called; the body begins with the number of that. WITHDRAW: it does so no more. WAKE: there
# is an item on the belt of a call, for whom found none there.
READY, NONE, VALUE, ERROR, EXIT, PAYLOAD, SKIPPED, STOPPED, RETURN, LOST, ASK, WITHDRAW, WAKE = (
    range(13)
)
ASK_NUMBER = struct.Struct("<Q")

# Frames that reply to ASK, on a pipe of their own: length of the body, kind, flags, number. The
# kind is NONE, VALUE, ERROR, PAYLOAD or STOPPED.
REPLY = struct.Struct("<IBBQ")

# Flags of a body.
BESIDE = 1  # it begins with a table of places
PICKLE_BESIDE = 2  # the pickle itself is at the last place
# A flag of an answer.
INTERRUPTED = 4  # the interrupt rung has raised in the function
# Flags of a call.
PLAIN = 8  # its answer is to be as `trioipc.protocol._plain` writes it
CONTEXT = 16  # its last argument is a dict of context variables

_COUNT = struct.Struct("<I")
_PLACE = struct.Struct("<QQQB")
# What is at a place: a view will do; what becomes bytes, or a bytearray; a segment of shared state.
VIEW, BYTES, BYTEARRAY, STATE = range(4)
# Added to the kind: whoever gets it sets the slab to zero before it returns it.
WIPE = 0x80
# Kinds of records on a belt: a pickle; and the body of a frame that has `BESIDE` and
# `PICKLE_BESIDE`.
ITEM_INLINE, ITEM_BESIDE = range(2)
_KINDS: dict[type, int] = {bytes: BYTES, bytearray: BYTEARRAY}
# What travels beside the frame whatever its size.
_ALWAYS_BESIDE = frozenset((RingSpace, Secret))
# So many descriptors fit into a socket that nobody reads yet; 250 did, 300 did not.
PARCELS_LIMIT = 64
# More buffers than this would not fit a frame; the rest stays in the pickle.
PLACES_LIMIT = 1024


class Encoded:
    """A value as bytes for the frame, and what travels beside it: buffers, and shared state."""

    __slots__ = ("body", "buffers", "flags", "kinds", "parcels")

    def __init__(
        self,
        body: bytes,
        flags: int = 0,
        buffers: Sequence[Buffer] = (),
        kinds: Sequence[int] = (),
        parcels: Sequence[tuple[int, Parcel]] = (),
    ) -> None:
        self.body = body
        self.flags = flags
        self.buffers = buffers
        # Of each of them, what it becomes again.
        self.kinds = kinds
        # The numbers of segments, and what is to be sent for them.
        self.parcels = parcels

    def held(self) -> int:
        """Say how many bytes of memory of ours this is, while it waits to be sent."""
        return len(self.buffers[-1]) if self.flags & PICKLE_BESIDE else len(self.body)


class _Kept:
    """A buffer that travels beside the frame and arrives as what it was."""

    __slots__ = ("buffer", "kind")

    def __init__(self, kind: type, buffer: Buffer) -> None:
        self.kind = kind
        self.buffer = buffer

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (self.kind, pickle.PickleBuffer(self.buffer))


def _restore(kind: Any, buffer: Any) -> Any:
    """Make what it was of a buffer; it is that already, if somebody has copied it in steps."""
    return buffer if type(buffer) is kind else kind(buffer)


_BUFFERS = frozenset((bytes, bytearray, memoryview))


def _lift_one(value: Any) -> Any:
    kind = type(value)
    if kind is memoryview or (kind in (bytes, bytearray) and len(value) >= OUT_OF_BAND):
        return _Kept(kind, value)
    return value


def lift(value: Any) -> Any:
    """Mark the big buffers in ``value``, or one level inside it, to travel beside the frame."""
    kind = type(value)
    if kind is tuple or kind is list:
        if _BUFFERS.isdisjoint(map(type, value)):
            return value
        return kind([_lift_one(item) for item in value])
    if kind is dict:
        if _BUFFERS.isdisjoint(map(type, value.values())):
            return value
        return {key: _lift_one(item) for key, item in value.items()}
    return _lift_one(value) if kind in _BUFFERS else value


def lift_arguments(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Mark the big buffers among ``arguments``, or one level inside them."""
    return tuple([lift(argument) for argument in arguments])


def places_that_fit(room: int) -> int:
    """Say how many buffers a table in ``room`` bytes can name, beside a pickle and parcels."""
    return (room - _COUNT.size) // _PLACE.size - PARCELS_LIMIT - 1


def encode(
    value: object,
    pickle_limit: int = PICKLE_LIMIT,
    places_limit: int = PLACES_LIMIT,
    dumps: Callable[..., bytes] = dumps,
) -> Encoded:
    """Pickle ``value``; what `lift` has marked, and big pickle-5 buffers, stay out of the body.

    Args:
      value: Anything.
      pickle_limit: A longer pickle travels beside the frame as well, in bytes.
      places_limit: How many buffers do so at most; more stay in the pickle.
      dumps: What pickles.

    Raises:
      Exception: whatever pickling it raises.
    """
    views: list[memoryview] = []
    kinds: list[int] = []

    def keep_inside(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        kind = _KINDS.get(type(view.obj), VIEW)
        if type(view.obj) is memoryview:
            # No view of a view: before Python 3.12.7, the interpreter crashes when such a pair is
            # collected as garbage (gh-77894).
            if not view.obj.c_contiguous:
                return True
            view = memoryview(view.obj).cast("B")
        if len(views) >= places_limit or (
            len(view) < OUT_OF_BAND and type(view.obj) not in _ALWAYS_BESIDE
        ):
            return True
        views.append(view)
        kinds.append(kind)
        return False

    carried: Carried = {}
    with carrying(carried):
        body = dumps(value, 5, keep_inside)
    parcels = [*carried.values()]
    if len(parcels) > PARCELS_LIMIT:
        raise ValueError(
            f"{len(parcels)} pieces of shared state; at most {PARCELS_LIMIT} travel at a time"
        )
    if len(body) > pickle_limit:
        return Encoded(b"", BESIDE | PICKLE_BESIDE, (*views, body), (*kinds, VIEW), parcels)
    return Encoded(body, BESIDE if views or parcels else 0, views, kinds, parcels)


def with_places(encoded: Encoded, places: Sequence[Place], wipe: Container[int] = ()) -> bytes:
    """Return the body of ``encoded`` whose buffers have been put at ``places``.

    Args:
      encoded: From `encode`.
      places: Of each of its buffers.
      wipe: Numbers of the slabs that the other side shall wipe.
    """
    if not encoded.flags & BESIDE:
        return encoded.body
    entries = [
        (*place, kind | WIPE if place[0] in wipe else kind)
        for place, kind in zip(places, encoded.kinds, strict=True)
    ]
    entries += [(number, 0, parcel.size, STATE) for number, parcel in encoded.parcels]
    table = b"".join([_PLACE.pack(*entry) for entry in entries])
    return _COUNT.pack(len(entries)) + table + encoded.body


def places_of(body: bytes, flags: int) -> tuple[list[KindedPlace], list[int], bytes]:
    """Take a body apart into its table of places, the numbers of whole segments, and the rest.

    Raises:
      RemoteProtocolError: if the table is longer than the body.
    """
    if not flags & BESIDE:
        return [], [], body
    if len(body) < _COUNT.size:
        raise RemoteProtocolError(f"a body of {len(body)} bytes cannot hold a table")
    (count,) = _COUNT.unpack_from(body)
    end = _COUNT.size + count * _PLACE.size
    if end > len(body):
        raise RemoteProtocolError(f"a table of {count} places in a body of {len(body)} bytes")
    entries = [_PLACE.unpack_from(body, at) for at in range(_COUNT.size, end, _PLACE.size)]
    places = [entry for entry in entries if entry[3] != STATE]
    return places, [entry[0] for entry in entries if entry[3] == STATE], body[end:]


def decode(
    rest: Buffer,
    flags: int,
    views: Sequence[Buffer],
    segments: dict[int, Segment] | None = None,
) -> Any:
    """Unpickle what `encode` made.

    Args:
      rest: The body behind its table.
      flags: The frame's flags.
      views: What is at the places of the table: views, or what has been made of them.
      segments: The whole segments of the table, by their numbers.

    Raises:
      Exception: whatever unpickling it raises.
    """
    if segments:
        with receiving(segments.__getitem__):
            return decode(rest, flags, views)
    if flags & PICKLE_BESIDE:
        return pickle.loads(views[-1], buffers=views[:-1])
    return pickle.loads(rest, buffers=views)


def encode_operations(operations: Iterable[tuple[str, str, bool]]) -> bytes:
    """Write down what operations a worker has, as ``(channel, name, idempotent)``."""
    body = b""
    for channel, name, idempotent in operations:
        raw = f"{channel} {idempotent:d} {name}".encode(errors="surrogatepass")
        body += _COUNT.pack(len(raw)) + raw
    return body


def decode_operations(body: bytes) -> tuple[tuple[str, str, bool], ...]:
    """Read what `encode_operations` wrote; nothing that anybody may have written runs.

    Raises:
      RemoteProtocolError, ValueError, struct.error: if it is something else.
    """
    found = []
    at = 0
    while at < len(body):
        (length,) = _COUNT.unpack_from(body, at)
        at += _COUNT.size + length
        if at > len(body):
            raise RemoteProtocolError("a list of operations that breaks off")
        channel, mark, name = body[at - length : at].decode(errors="surrogatepass").split(" ", 2)
        found.append((channel, name, mark == "1"))
    return tuple(found)


def define_frame(number: int, function: bytes) -> bytes:
    """Write the frame that tells a worker a function's number, once."""
    return TO_WORKER.pack(len(function), DEFINE, 0, 0, 0, number, 0, 0) + function


def slab_frame(kind: int, number: int) -> bytes:
    """Write the frame that tells a worker what becomes of a slab."""
    return TO_WORKER.pack(0, kind, 0, 0, 0, 0, number, 0)


def stop_frame(slot: int, generation: int) -> bytes:
    """Write the frame that tells a worker that a call was cancelled."""
    return TO_WORKER.pack(0, STOP, 0, slot, 0, 0, generation, 0)


def return_frame(number: int, kind: int = RETURN) -> bytes:
    """Write the frame that tells the parent that a slab of its is free, or was lost."""
    return FROM_WORKER.pack(0, kind, 0, 0, number)


def split_frames(
    data: bytes, head: struct.Struct, frames: Callable[[tuple[Any, ...], bytes], None]
) -> bytes:
    """Give each whole frame in ``data`` to ``frames`` as head and body; return what is left.

    Raises:
      RemoteProtocolError: if a body would be longer than any that is ever sent.
    """
    position, end, size = 0, len(data), head.size
    while end - position >= size:
        fields = head.unpack_from(data, position)
        length = fields[0]
        if length > FRAME_LIMIT:
            raise RemoteProtocolError(f"a frame of {length} bytes; at most {FRAME_LIMIT} are sent")
        body = position + size
        if end - body < length:
            break
        position = body + length
        frames(fields, data[body:position])
    return data[position:]


def payload_error(what: str, error: BaseException) -> PayloadError:
    """Say that ``what`` could not be pickled or unpickled, and why."""
    try:
        why = str(error)
    except Exception as reason:  # it is somebody else's
        why = f"(its text could not be had: {type(reason).__name__})"
    return PayloadError(f"{what}: {type(error).__name__}: {why}")
