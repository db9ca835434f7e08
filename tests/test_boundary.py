"""What comes from a worker of the built-in operations is data, whoever has sent it."""

from __future__ import annotations

import json
import math
import os
import pickle
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

import hostile_jobs
import jobs
from hostile_jobs import Touch, answer_always
from trioipc import (
    Bandwidth,
    ChunkError,
    ConnectivityResult,
    IceCandidate,
    IceResult,
    Latency,
    PayloadError,
    RemoteProtocolError,
    RequestTimeoutError,
    WorkerCrashedError,
    open_worker_bridge,
    open_worker_pool,
)
from trioipc.builtin import crypto
from trioipc.protocol._codec import (
    ERROR,
    EXIT,
    FRAME_LIMIT,
    FROM_WORKER,
    OUT_OF_BAND,
    PAYLOAD,
    PICKLE_BESIDE,
    VALUE,
    decode_operations,
    encode_operations,
    split_frames,
)
from trioipc.protocol._plain import decode_plain, encode_plain

if TYPE_CHECKING:
    from pathlib import Path

    from trioipc.protocol._codec import Encoded


def journey(value: object) -> Any:
    """Write a value down and read it again."""
    encoded: Encoded = encode_plain(value)
    return decode_plain(encoded.body, encoded.flags, [memoryview(b) for b in encoded.buffers])


# ---- data


CANDIDATE = IceCandidate("f", 1, "udp", 1, "192.0.2.1", 9, "host", None, None)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
DATA = st.recursive(
    SCALARS | st.binary() | st.binary().map(bytearray),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(SCALARS | st.tuples(SCALARS, SCALARS), inner)
    ),
)


@given(DATA)
def test_data_is_what_it_was(value: object) -> None:
    """Equal, and of the same types all the way down."""
    got = journey(value)
    assert got == value
    assert repr(got) == repr(value)  # which tells 1 from 1.0 and True


@pytest.mark.parametrize(
    "value",
    [
        [ConnectivityResult("http://a", True, 200, 0.1, None)],
        Bandwidth(1.0, 2.0, 3, "timeout"),
        Latency(0.1, 0.1, 0.1, (0.1,), None),
        IceResult((CANDIDATE,), True),
        math.inf,
        "\\udcff",
        10**3000,
    ],
)
def test_records_and_odd_values(value: object) -> None:
    """Whatever an operation answers with."""
    assert journey(value) == value


@pytest.mark.parametrize("size", [0, OUT_OF_BAND // 2, OUT_OF_BAND, 1 << 20])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_buffers(kind: Any, size: int) -> None:
    """Big ones stay out of the body, and each is of its type again."""
    value = kind(os.urandom(size))
    encoded = encode_plain((value, 1))
    assert len(encoded.body) < OUT_OF_BAND + 100
    assert len(encoded.buffers) == (size >= OUT_OF_BAND)
    got, one = journey((value, 1))
    assert (type(got), bytes(got), one) == (kind, bytes(value), 1)


def test_a_long_answer() -> None:
    """What would not fit a frame goes beside it as well."""
    value = ("x" * 100_000, memoryview(bytes(OUT_OF_BAND)))
    encoded = encode_plain(value)
    assert encoded.body == b""
    assert encoded.flags & PICKLE_BESIDE
    text, view = journey(value)
    assert (text, bytes(view)) == (value[0], bytes(OUT_OF_BAND))


def boom() -> None:
    """Raise something with a cause."""
    try:
        raise FileNotFoundError(2, "No such file", "/there")
    except OSError as error:
        wrong = ChunkError("chunk 3 is missing", index=3)
        wrong.add_note("a note")
        raise wrong from error


def test_exceptions_come_with_all_they_have() -> None:
    """Type, text, attributes, notes, cause; and where they were raised, if that is a program's."""
    with pytest.raises(ChunkError) as caught:
        boom()
    got = journey(caught.value)
    assert type(got) is ChunkError
    assert (got.args, got.index, got.__notes__) == (("chunk 3 is missing",), 3, ["a note"])
    cause = got.__cause__
    assert isinstance(cause, FileNotFoundError)
    assert (cause.errno, cause.filename, cause.__suppress_context__) == (2, "/there", False)
    with pytest.raises(json.JSONDecodeError) as parse:
        json.loads("{")
    with pytest.raises(ValueError, match="invalid literal") as value:
        json.loads("1", parse_int=lambda _: int("x"))
    shown = traceback.format_tb(journey(value.value).__traceback__)
    assert any("in raw_decode" in line for line in shown)
    with pytest.raises(TypeError, match="JSONDecodeError is no plain exception"):
        encode_plain(parse.value)


@pytest.mark.parametrize(
    "error",
    [
        InvalidTag(),
        RequestTimeoutError("late", clock="run"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "why"),
        ExceptionGroup("two", [ValueError(1), KeyError("k")]),
    ],
)
def test_exceptions(error: Exception) -> None:
    """Ours, the interpreter's, and those of cryptography."""
    got = journey(error)
    assert (type(got), repr(got), vars(got)) == (type(error), repr(error), vars(error))


@pytest.mark.parametrize("value", [{1, 2}, object(), Touch("x"), jobs.add, 1j, [b"x", range(3)]])
def test_what_is_no_data_is_refused(value: object) -> None:
    """An honest worker says which type it was."""
    with pytest.raises(TypeError, match="is no plain data"):
        encode_plain(value)


# ---- no data


def an_error(**changes: object) -> dict[str, object]:
    """Return an exception as it travels, but for some changes."""
    usual = {
        "type": ["builtins", "ValueError"],
        "args": ["x"],
        "state": {},
        "notes": [],
        "frames": [],
        "suppress": False,
    }
    return {"e": {**usual, **changes}}


HOSTILE: dict[str, object] = {
    "unknown key": {"x": 1},
    "two keys": {"t": [], "d": []},
    "no key": {},
    "no such place": {"m": 0},
    "place before the first": {"m": -1},
    "place that is True": {"m": True},
    "no hex": {"b": "xyz"},
    "bytes that are a list": {"b": [1]},
    "tuple that is a str": {"t": "abc"},
    "dict of no pairs": {"d": [1]},
    "unhashable key": {"d": [[[], 1]]},
    "other record": {"r": ["Touch"]},
    "record of another module": {"r": ["os.system", "true"]},
    "record with too much": {"r": ["Bandwidth", 1, 2, 3, 4, 5, 6]},
    "record whose name is a list": {"r": [[], 1]},
    "error of another module": an_error(type=["os", "error"]),
    "error that is a function": an_error(type=["builtins", "exec"], args=["1"]),
    "error that is no Exception": an_error(type=["builtins", "SystemExit"]),
    "error that is no error": an_error(type=["builtins", "bytearray"], args=[10**12]),
    "error by way of an attribute": an_error(type=["builtins", "ValueError.__class__"]),
    "error with a class": an_error(state={"__class__": 1}),
    "error with other notes": an_error(notes="x"),
    "error with notes of no str": an_error(notes=[1]),
    "error with other arguments": an_error(type=["builtins", "UnicodeDecodeError"]),
    "error whose cause is none": an_error(__cause__=1),
    "frames of nothing": an_error(frames=[1]),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_objects(what: str) -> None:
    """Each is a RemoteProtocolError, also further down."""
    for value in (HOSTILE[what], [HOSTILE[what]], {"t": [1, HOSTILE[what]]}):
        with pytest.raises(RemoteProtocolError):
            decode_plain(json.dumps(value).encode(), 0, [])


def test_hostile_bytes() -> None:
    """No JSON, a pickle, too deep, a number too long, and a body that is not there."""
    deep = b"[" * 1_000_000
    for body in (b"", b"\xff", pickle.dumps(None), deep, deep + b"]" * 1_000_000, b"1" * 10_000):
        with pytest.raises(RemoteProtocolError):
            decode_plain(body, 0, [])
    with pytest.raises(RemoteProtocolError):
        decode_plain(b"", PICKLE_BESIDE, [])


@given(st.binary())
def test_noise(body: bytes) -> None:
    """Any bytes are data or a RemoteProtocolError."""
    try:
        decode_plain(body, 0, [])
    except RemoteProtocolError:
        pass


JSON = st.recursive(
    SCALARS | st.sampled_from(["builtins", "ValueError", "Bandwidth", "00"]),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["t", "d", "b", "a", "m", "r", "e", "x"]), inner)
        | st.fixed_dictionaries({"r": st.lists(inner).map(lambda rest: ["Latency", *rest])})
        | st.builds(
            an_error,
            type=st.just(["builtins", "OSError"]) | inner,
            args=st.lists(inner) | inner,
            frames=inner,
            notes=inner,
            state=inner,
        )
    ),
)


@given(JSON)
def test_noise_of_the_right_shape(value: object) -> None:
    """The same, for what is nearly right."""
    try:
        decode_plain(json.dumps(value).encode(), 0, [memoryview(b"x")])
    except RemoteProtocolError:
        pass


@pytest.mark.parametrize(
    "frame",
    [
        ["/etc/passwd", 1, "f"],
        ["/dev/zero", 1, "f"],
        [f"{os.path.dirname(os.__file__)}/../../../etc/x.py", 1, "f"],
        [os.__file__, 10**12, "f"],
        [os.__file__, -1, "f"],
        [os.__file__ + "\0.py", 1, "f"],
    ],
)
def test_a_traceback_names_no_other_file(frame: list[object]) -> None:
    """Whoever prints an error opens the files of its frames."""
    got = decode_plain(json.dumps(an_error(frames=[frame])).encode(), 0, [])
    assert got.__traceback__ is None
    good = [os.__file__, 1, "f"]
    got = decode_plain(json.dumps(an_error(frames=[frame, good])).encode(), 0, [])
    assert [f.f_code.co_filename for f, _ in traceback.walk_tb(got.__traceback__)] == [os.__file__]


def test_operations_are_read_as_data() -> None:
    """What a worker has, whatever it is called; a pickle is none of that."""
    known = (("crypto", "hash", True), ("custom", "a b\n\0\udcff", False), ("custom", "", True))
    assert decode_operations(encode_operations(known)) == known
    with pytest.raises(RemoteProtocolError, match="breaks off"):
        decode_operations(pickle.dumps(known))


def test_a_frame_is_measured_before_it_is_waited_for() -> None:
    """Nothing is kept for a frame longer than any that is sent."""
    head = FROM_WORKER.pack(FRAME_LIMIT + 1, VALUE, 0, 0, 1)
    with pytest.raises(RemoteProtocolError, match=str(FRAME_LIMIT)):
        split_frames(head, FROM_WORKER, lambda *_: None)


# ---- with processes


@pytest.mark.parametrize("kind", [VALUE, ERROR, EXIT, PAYLOAD])
async def test_a_hostile_pickle_never_runs(kind: int, tmp_path: Path) -> None:
    """It is an error of its request, its worker is replaced, and it was not even looked at."""
    path = tmp_path / "touched"
    pickled = pickle.dumps(Touch(str(path)))
    assert pickle.loads(pickled) is None
    path.unlink()  # it would have been
    async with open_worker_pool(1) as pool:
        pid = await pool.run(answer_always, kind, pickled)
        with pytest.raises(RemoteProtocolError) as caught:
            await pool.run(crypto.hash_file, memoryview(b"x"))
        assert "JSONDecodeError" in str(caught.value) or "Unicode" in str(caught.value)
        assert await pool.run(crypto.hash_file, memoryview(b"")) == (
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        )
        assert await pool.run(jobs.pid) != pid
        assert sum(pool.statistics().restarts.values()) == 1
    assert not path.exists()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (ERROR, "no exception"),
        (PAYLOAD, ["no exception"]),
        (EXIT, {"t": ["SystemExit", [], "text"]}),
        (EXIT, "abc"),
    ],
)
async def test_a_hostile_end(kind: int, value: object) -> None:
    """Data of the wrong kind is no better."""
    async with open_worker_pool(1) as pool:
        await pool.run(answer_always, kind, json.dumps(value).encode())
        with pytest.raises(RemoteProtocolError):
            await pool.run(crypto.hash_file, memoryview(b"x"))


async def test_the_call_that_a_worker_lives_in(tmp_path: Path) -> None:
    """A worker that has worked is not asked how it ended, nor believed."""
    path = tmp_path / "touched"
    async with open_worker_pool(1) as pool:
        await pool.run(hostile_jobs.answer_the_host, pickle.dumps(Touch(str(path))))
    assert not path.exists()


async def test_memory_that_could_shrink() -> None:
    """It is refused before it is looked at, and its worker replaced."""
    async with open_worker_pool(1) as pool:
        with pytest.raises(WorkerCrashedError) as caught:
            await pool.run(hostile_jobs.make_shaky_memory)
        assert "could shrink" in str(caught.value.__cause__)
        assert await pool.run(jobs.echo, bytes(1 << 20)) == bytes(1 << 20)


async def test_what_an_operation_raises(tmp_path: Path) -> None:
    """Errors of the operations are what they are without a process between."""
    async with open_worker_bridge(1) as bridge:
        with pytest.raises(InvalidTag) as caught:
            await bridge.crypto.decrypt_file(bytes(32), bytes(32), bytes(12))
        assert "in decrypt_file" in "".join(traceback.format_tb(caught.value.__traceback__))
        with pytest.raises(FileNotFoundError) as missing:
            await bridge.crypto.hash_file(tmp_path / "missing")
        assert missing.value.filename == str(tmp_path / "missing")


async def test_what_cannot_travel_from_an_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a PayloadError, and the worker is as honest as before."""
    async with open_worker_pool(1) as pool:
        await pool.run(hostile_jobs.return_a_set)
        with pytest.raises(PayloadError, match=r"builtins\.set is no plain data"):
            await pool.run(crypto.hash_file, memoryview(b"x"))
        assert pool.statistics().restarts == {}
