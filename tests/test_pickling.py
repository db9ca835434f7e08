"""Exceptions travel whole, also where somebody has called tblib's ``install`` for the process."""

from __future__ import annotations

import copyreg
import pickle
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest
import tblib.pickling_support

import jobs
import stream_jobs
from trioipc import RequestExitError, open_worker_pool
from trioipc.protocol._codec import decode, encode
from trioipc.protocol._pickling import dumps, dumps_with_tracebacks

if TYPE_CHECKING:
    from collections.abc import Iterator


class Spoken(SystemExit):
    """An exit that is made of other things than its code."""

    def __init__(self, word: str, code: int) -> None:
        super().__init__(code)
        self.word = word


class Missing(OSError):
    """An error of the system that is made of a name only."""

    def __init__(self, name: str) -> None:
        super().__init__(2, "not there", name)


class Orderly(Exception):
    """One that says itself how it is made."""

    def __init__(self, *, name: str) -> None:
        super().__init__(f"no {name}")
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return _orderly, (self.name,)


def _orderly(name: str) -> Orderly:
    return Orderly(name=name)


class Unusual(Exception):
    """One that somebody else has told `copyreg` of."""


def _reduce_unusual(error: Unusual) -> tuple[Any, ...]:
    return Unusual, ("made by copyreg",)


class Wordy(Exception):
    """One whose pickle would be a name."""

    def __reduce__(self) -> str:  # type: ignore[override]
        return "WORDY"


# What plain pickles bring home, and the attributes that it is about.
WHOLE: list[tuple[BaseException, tuple[str, ...]]] = [
    (SystemExit(3), ("code",)),
    (StopIteration(4), ("value",)),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"), ("object", "start", "end", "reason")),
    (UnicodeEncodeError("ascii", "é", 0, 1, "why"), ("object", "start", "end", "reason")),
    (SyntaxError("what", ("file", 1, 2, "text")), ("msg", "filename", "lineno", "text")),
    (ImportError("what", name="n", path="p"), ("msg", "name", "path")),
    (FileNotFoundError(2, "not there", "file"), ("errno", "strerror", "filename")),
    (BlockingIOError(11, "again", 5), ("errno", "characters_written")),
    (KeyError("key"), ()),
    (KeyboardInterrupt(), ()),
    (Orderly(name="one"), ("name",)),
]
# What plain pickles do not, for ``__init__`` wants something else.
AT_ODDS: list[tuple[BaseException, tuple[str, ...]]] = [
    (Spoken("bye", 3), ("code", "word")),
    (Missing("file"), ("errno", "strerror", "filename")),
]


def _name(value: object) -> str:
    return type(value).__name__ if isinstance(value, BaseException) else ""


@pytest.fixture(autouse=True)
def table() -> Iterator[None]:
    """Have `copyreg` as the interpreter starts with it, and afterwards as it was."""
    before = dict(copyreg.dispatch_table)
    for kind in before:
        if kind is TracebackType or issubclass(kind, BaseException):
            del copyreg.dispatch_table[kind]
    yield
    copyreg.dispatch_table.clear()
    copyreg.dispatch_table.update(before)


@pytest.fixture
def installed(table: None) -> None:
    """Do what the import of ``distributed`` does."""
    tblib.pickling_support.install()


def _facts(error: BaseException, attributes: tuple[str, ...]) -> list[Any]:
    return [type(error), error.args, str(error), *[getattr(error, name) for name in attributes]]


@pytest.mark.parametrize(("error", "attributes"), WHOLE, ids=_name)
def test_where_it_is_not_installed(error: BaseException, attributes: tuple[str, ...]) -> None:
    """A pickle is what Python makes it, to the byte."""
    assert dumps(error) == pickle.dumps(error, 5)


@pytest.mark.parametrize(("error", "attributes"), WHOLE + AT_ODDS, ids=_name)
@pytest.mark.usefixtures("installed")
def test_where_it_is_installed(error: BaseException, attributes: tuple[str, ...]) -> None:
    """Nothing is lost, alone or inside of something."""
    assert _facts(pickle.loads(dumps(error)), attributes) == _facts(error, attributes)
    encoded = encode((error, {"again": error}))
    one, others = decode(encoded.body, encoded.flags, [])
    assert one is others["again"]
    assert _facts(one, attributes) == _facts(error, attributes)


@pytest.mark.parametrize(("error", "attributes"), WHOLE + AT_ODDS, ids=_name)
def test_with_tracebacks(error: BaseException, attributes: tuple[str, ...]) -> None:
    """Nothing is lost either, and there is the rest of it; `copyreg` is told nothing."""
    table = dict(copyreg.dispatch_table)
    try:
        try:
            raise KeyError("a cause")
        except KeyError as cause:
            error.add_note("a note")
            raise error from cause
    except BaseException as caught:
        pickled = dumps_with_tracebacks(caught)
    got = pickle.loads(pickled)
    assert _facts(got, attributes) == _facts(error, attributes)
    assert got.__notes__[-1] == "a note"
    assert repr(got.__cause__) == "KeyError('a cause')"
    assert got.__traceback__.tb_frame.f_code.co_name == "test_with_tracebacks"
    assert got.__cause__.__traceback__.tb_lineno == error.__cause__.__traceback__.tb_lineno  # type: ignore[union-attr]
    assert copyreg.dispatch_table == table


def test_what_others_have_told_copyreg() -> None:
    """It stays as they want it, exceptions that are not tblib's included."""
    copyreg.pickle(Unusual, _reduce_unusual)
    tblib.pickling_support.install(ValueError())
    assert pickle.loads(dumps(Unusual("one"))).args == ("made by copyreg",)


def test_one_that_cannot_be_made() -> None:
    """A str instead of how to make it would be looked up as a name of the module."""
    with pytest.raises(TypeError, match=r"Wordy\.__reduce__ returned a str"):
        dumps_with_tracebacks(Wordy())


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
async def test_through_a_worker() -> None:
    """To it and back: as an argument, as what it raises, as one of the results of a map."""
    async with open_worker_pool(1) as pool:
        with pytest.raises(RequestExitError) as left:
            await pool.run(jobs.fail, SystemExit(3))
        assert left.value.code == 3
        with pytest.raises(UnicodeDecodeError, match="can't decode byte 0xff") as caught:
            await pool.run(bytes.decode, b"\xff")
        assert (caught.value.object, caught.value.end) == (b"\xff", 1)
        with pytest.raises(RuntimeError, match="StopIteration") as stopped:
            await pool.run(jobs.fail, StopIteration(4))
        assert isinstance(stopped.value.__cause__, StopIteration)
        assert stopped.value.__cause__.value == 4
        async with pool.map(jobs.echo, [SystemExit(n) for n in range(3)]) as results:
            assert [error.code async for error in results] == [0, 1, 2]
        async with pool.stream(stream_jobs.yield_exits, 3) as items:
            assert [error.code async for error in items] == [0, 1, 2]
