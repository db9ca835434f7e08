"""Values to frames and back, at every size and split."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trioipc import PayloadError, RemoteProtocolError
from trioipc.memory._secret import revealed
from trioipc.protocol._codec import (
    BESIDE,
    CALL,
    DEFINE,
    FRAME_LIMIT,
    FROM_WORKER,
    OUT_OF_BAND,
    PICKLE_BESIDE,
    PICKLE_LIMIT,
    TO_WORKER,
    VALUE,
    Encoded,
    decode,
    define_frame,
    encode,
    lift,
    lift_arguments,
    payload_error,
    places_of,
    split_frames,
    with_places,
)
from trioipc.protocol._parcel import Parcel


def travel(value: object) -> Any:
    """Send a value through a frame and memory beside it, and bring it back."""
    encoded = encode(lift(value))
    assert len(encoded.body) <= PICKLE_LIMIT
    memory = b"".join(encoded.buffers)
    places, offset = [], 0
    for buffer in encoded.buffers:
        places.append((1, offset, len(buffer)))
        offset += len(buffer)
    body = with_places(encoded, places)
    assert len(body) <= FRAME_LIMIT
    found, numbers, rest = places_of(body, encoded.flags)
    assert numbers == []
    assert [place[:3] for place in found] == places
    views = [memoryview(memory)[at : at + length] for _, at, length, _ in found]
    return decode(rest, encoded.flags, views)


@pytest.mark.parametrize("size", [1, 32, OUT_OF_BAND + 1])
def test_secrets_travel_beside_the_frame(size: int) -> None:
    """However small, they are in no pickle; what arrives is a view; the copy here is wiped."""
    with revealed(memoryview(b"\xc7" * size)) as secret:
        encoded = encode(("before", secret))
        assert b"\xc7" not in encoded.body
        assert travel(("before", secret)) == ("before", b"\xc7" * size)
        assert type(travel(secret)) is memoryview
        assert repr(secret) == f"<Secret: {size} bytes>"
    assert secret == bytes(size)


@pytest.mark.parametrize("size", [0, 1, OUT_OF_BAND - 1, OUT_OF_BAND, PICKLE_LIMIT + 1, 100_000])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_types_are_kept(kind: Any, size: int) -> None:
    """At the top, or one level inside a tuple, list or dict, of any size."""
    data = kind(b"x" * size)
    for value in (data, (data, 1), [data, data], {"a": data, "b": [1]}):
        back = travel(value)
        assert back == value
        assert type(back) is type(value)
    assert type(travel((data,))[0]) is kind
    assert type(travel({"a": data})["a"]) is kind


@pytest.mark.parametrize("size", [0, 10, OUT_OF_BAND, 100_000])
def test_views_arrive_as_views(size: int) -> None:
    """Without being copied by pickle, even small ones, which pickle could not take at all."""
    data = memoryview(b"y" * size)
    for value, back in ((data, travel(data)), (data, travel([data])[0])):
        assert type(back) is memoryview
        assert back == value


def test_big_buffers_leave_the_pickle() -> None:
    """From 8 KiB on; a pickle of more than 16 KiB leaves the frame as a whole."""
    small = encode(lift(b"x" * (OUT_OF_BAND - 1)))
    assert (small.flags, list(small.buffers)) == (0, [])
    big = encode(lift(b"x" * OUT_OF_BAND))
    assert big.flags == BESIDE
    assert [len(buffer) for buffer in big.buffers] == [OUT_OF_BAND]
    deep = encode(lift([["x" * PICKLE_LIMIT]]))
    assert deep.flags == BESIDE | PICKLE_BESIDE
    assert deep.body == b""


class Exporter:
    """Exports a buffer the way numpy's arrays do."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: int) -> tuple[object, ...]:
        return Exporter, (pickle.PickleBuffer(self.data),)


def test_exporters_of_buffers_leave_too() -> None:
    """Objects that hand pickle a buffer of their own get memory of their own."""
    value = Exporter(b"z" * 50_000)
    encoded = encode(value)
    assert [len(buffer) for buffer in encoded.buffers] == [50_000]
    assert bytes(travel(value).data) == value.data
    assert bytes(travel(Exporter(b"small")).data) == b"small"


def test_very_many_buffers_still_fit() -> None:
    """Those beyond what a table can hold stay in the pickle."""
    value = [bytes([n % 256]) * OUT_OF_BAND for n in range(1100)]
    assert travel(value) == value


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.binary()
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


@given(VALUES)
@settings(max_examples=200)
def test_values_survive(value: object) -> None:
    """Whatever is plain arrives equal and of the same type."""
    back = travel(value)
    assert back == value
    assert type(back) is type(value)


@given(VALUES)
def test_lifting_changes_nothing_else(value: object) -> None:
    """What has no buffers stays what it was; the original is never touched."""
    before = pickle.dumps(value)
    lift(value)
    lift_arguments((value, value))
    assert pickle.dumps(value) == before


# ---- frames


def frames_of(data: bytes) -> list[tuple[Any, ...]]:
    """Split a stream of answers."""
    found: list[tuple[Any, ...]] = []
    rest = split_frames(data, FROM_WORKER, lambda head, body: found.append((head[4], body)))
    assert rest == b""
    return found


STREAM = b"".join(
    FROM_WORKER.pack(len(body), VALUE, 0, 0, number) + body
    for number, body in enumerate((b"", b"x", b"abc" * 50, b"", b"last"))
)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 16, 50, 1000])
def test_frames_come_in_any_pieces(step: int) -> None:
    """However the stream is cut up, the frames are the same."""
    whole = frames_of(STREAM)
    assert len(whole) == 5
    found: list[tuple[Any, ...]] = []
    rest = b""
    for start in range(0, len(STREAM), step):
        rest = split_frames(
            rest + STREAM[start : start + step],
            FROM_WORKER,
            lambda head, body: found.append((head[4], body)),
        )
    assert found == whole


def test_a_frame_that_is_too_long_is_refused() -> None:
    """Before anything of that length is waited for."""
    frame = FROM_WORKER.pack(FRAME_LIMIT + 1, VALUE, 0, 0, 1)
    with pytest.raises(RemoteProtocolError, match=f"a frame of {FRAME_LIMIT + 1} bytes; at most"):
        frames_of(frame)


@given(st.binary(max_size=200), st.sampled_from([0, BESIDE, BESIDE | PICKLE_BESIDE]))
def test_any_body_has_places_or_is_refused(body: bytes, flags: int) -> None:
    """A table that is longer than its body is a RemoteProtocolError, and nothing else is."""
    try:
        places, numbers, rest = places_of(body, flags)
    except RemoteProtocolError:
        assert flags & BESIDE
    else:
        table = 4 + 25 * (len(places) + len(numbers)) if flags & BESIDE else 0
        assert body[table:] == rest


def test_definitions_are_frames() -> None:
    """Of a function's number and its pickle."""
    found: list[tuple[tuple[Any, ...], bytes]] = []
    call = TO_WORKER.pack(0, CALL, 0, 0, 3, 7, 1, 1)
    split_frames(
        define_frame(7, b"pickle") + call, TO_WORKER, lambda head, body: found.append((head, body))
    )
    (define, body), (called, _) = found
    assert (define[1], define[5], body) == (DEFINE, 7, b"pickle")
    assert (called[1], called[4], called[5]) == (CALL, 3, 7)


def test_payload_errors_say_what_and_why() -> None:
    """And the kind of the reason."""
    error = payload_error("argument 1", TypeError("no locks"))
    assert isinstance(error, PayloadError)
    assert str(error) == "argument 1: TypeError: no locks"


def test_encoded_without_buffers_is_its_body() -> None:
    """No table is written where nothing is beside."""
    assert with_places(Encoded(b"body"), []) == b"body"


# ---- parcels


def pickled_views(parcel: Parcel) -> tuple[bytes, list[memoryview]]:
    """Pickle a parcel as Dask does, which keeps views of its buffers."""
    views: list[memoryview] = []
    body = pickle.dumps(
        parcel, protocol=5, buffer_callback=lambda buffer: views.append(memoryview(buffer))
    )
    return body, views


BIG = bytes(range(256)) * 100
WHOLE: dict[str, Any] = {
    "bytes": BIG,
    "a bytearray": bytearray(BIG),
    "a view": memoryview(bytearray(BIG)),
    "a part": memoryview(BIG)[100:20_000],
    "a writable part": memoryview(bytearray(BIG))[100:20_000],
    "an array": np.arange(5000),
    "a part of an array": np.arange(5000)[100:3000],
    "a column": np.asfortranarray(np.arange(5000).reshape(50, 100)),
    "a view of that": memoryview(np.asfortranarray(np.arange(5000).reshape(50, 100))),
}


@pytest.mark.parametrize("has_numpy", [True, False])
@pytest.mark.parametrize("value", WHOLE.values(), ids=WHOLE.keys())
def test_parcels_have_no_views_of_views(
    value: Any, has_numpy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would crash the collector; and what they hold arrives, twice if need be."""
    if not has_numpy:
        monkeypatch.setattr("trioipc.protocol._parcel._array", None)
    parcel = Parcel.of(encode(lift(value)), "label")
    assert not any(type(memoryview(buffer).obj) is memoryview for buffer in parcel.buffers)
    for _ in range(2):  # Dask's scheduler passes it on
        body, views = pickled_views(parcel)
        for view in views:
            assert type(view.obj) is not memoryview
            assert (view.format, view.ndim) == ("B", 1)
            if has_numpy:  # nothing was copied
                assert any(np.shares_memory(view, memoryview(b)) for b in parcel.buffers)
        parcel = pickle.loads(body, buffers=[view.toreadonly() for view in views])
    assert parcel.label == ("label",)
    arrived = parcel.open()
    assert type(arrived) is type(value)
    assert memoryview(arrived).tobytes("A") == memoryview(value).tobytes("A")


def test_parcels_can_be_collected() -> None:
    """With whoever keeps views of them, in a circle, whoever is older."""
    code = (
        "import gc, pickle, sys\n"
        "from trioipc.protocol._codec import encode, lift\n"
        "from trioipc.protocol._parcel import Parcel\n"
        "gc.disable()\n"
        "parcel = Parcel.of(encode(lift(b'x' * 100_000)))\n"
        "circle = []\n"
        "pickle.dumps(parcel, 5, buffer_callback=lambda b: circle.append(memoryview(b)))\n"
        "circle.append(circle)\n"
        "del parcel, circle\n"
        "print(gc.collect() > 0)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "True\n", "")
