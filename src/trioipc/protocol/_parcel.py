"""Calls and answers as one object, for transports that pickle objects themselves."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any, final

from trioipc.protocol._codec import Encoded, decode

try:  # Dask takes it where it is there, too
    import numpy as np
except ImportError:
    _array: Any = None
else:
    _array = np.frombuffer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trioipc.protocol._codec import Buffer


@final
class Parcel:
    """What `encode` made, and some plain data beside it.

    Its buffers go out of band where pickle protocol 5 does, and are not copied here; what arrives
    in their places are buffers of whoever unpickles, and go on as they came.

    Args:
      label: Plain data.
      flags: Of the encoded value.
      body: Likewise.
      buffers: Likewise.
    """

    __slots__ = ("body", "buffers", "flags", "label")

    def __init__(
        self, label: tuple[Any, ...], flags: int, body: bytes, buffers: Sequence[Buffer]
    ) -> None:
        self.label = label
        self.flags = flags
        self.body = body
        self.buffers = buffers

    @classmethod
    def of(cls, encoded: Encoded, *label: Any) -> Parcel:
        """Put an encoded value, which holds no shared state, into a parcel."""
        return cls(label, encoded.flags, encoded.body, encoded.buffers)

    def __repr__(self) -> str:
        return f"<Parcel: {len(self.body) + sum(map(len, self.buffers))} bytes>"

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        wrap: Any = _apart if protocol >= 5 else bytes
        return Parcel, (self.label, self.flags, self.body, [*map(wrap, self.buffers)])

    def open(self) -> Any:
        """Unpickle the value.

        Raises:
          Exception: whatever unpickling it raises.
        """
        views = [memoryview(buffer) for buffer in self.buffers]
        return decode(self.body, self.flags, views)


def _apart(buffer: Buffer) -> pickle.PickleBuffer:
    """Let a buffer go out of band, such that a view of it is no view of a view.

    Whoever pickles makes a view of what it gets, and keeps that as long as it likes: Dask does, in
    a log of what it has sent. Before Python 3.12.7, the interpreter crashes when a view of a view
    is collected as garbage (gh-77894), and a parcel's buffers are views. Those that an array keeps
    are not seen by the collector.
    """
    whole: Any = buffer
    if type(buffer) is memoryview:
        whole = buffer.obj
        if not isinstance(whole, bytes | bytearray) or len(whole) != len(buffer):
            if _array is not None:
                whole = _array(buffer, "u1")
            else:
                whole = bytes(buffer) if buffer.readonly else bytearray(buffer)
    return pickle.PickleBuffer(whole)
