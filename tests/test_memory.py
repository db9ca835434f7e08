"""Segments, boards and shared state, on every kind of memory."""

from __future__ import annotations

import fcntl
import math
import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import open_descriptors
from trioipc import SharedCancellation, SharedProgress, SharedStateError, is_shared_memory_available
from trioipc.memory._board import (
    HISTOGRAM,
    HISTOGRAM_MAXIMUM,
    clear_text,
    count,
    read_text,
    write_text,
)
from trioipc.memory._segment import ENVIRONMENT_VARIABLE, Segment, adopt, create

BACKENDS = ["memfd", "shm", "plain"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Provide each kind of memory, forced by the environment."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, request.param)
    return str(request.param)


# ---- segments


@pytest.mark.parametrize("size", [0, 1, 4096, 5_000_000])
def test_a_segment_is_zero_and_writable(backend: str, size: int) -> None:
    """It has the size that was asked for, but at least one byte."""
    segment = create(size)
    assert segment.size == max(size, 1)
    view = memoryview(segment.memory)
    assert bytes(view) == bytes(segment.size)
    view[0] = 7
    assert segment.memory[0] == 7
    assert repr(segment).startswith(f"<Segment: {segment.size} bytes, ")


@pytest.mark.parametrize("backend", ["memfd", "shm"])
def test_a_segment_can_be_adopted(backend: str) -> None:
    """By its descriptor, from which the same memory is seen; its name is gone at once."""
    first = create(104, backend)  # type: ignore[arg-type]
    assert first.descriptor is not None
    assert not os.get_inheritable(first.descriptor)
    second = adopt(os.dup(first.descriptor), 104)
    first.cells()[3] = 12345
    assert second.cells()[3] == 12345
    assert "(deleted)" in os.readlink(f"/proc/self/fd/{first.descriptor}")
    first.release()
    first.release()
    assert second.cells()[3] == 12345


def test_a_segment_that_is_too_small_is_refused() -> None:
    """A length that a peer announced is not believed."""
    segment = create(100, "memfd")
    assert segment.descriptor is not None
    with pytest.raises(ValueError, match="a segment of 5000 bytes was announced, but it has 100"):
        adopt(os.dup(segment.descriptor), 5000)


def test_nobody_can_shrink_it_under_its_readers() -> None:
    """Which would be SIGBUS there."""
    segment = create(8192, "memfd")
    assert segment.descriptor is not None
    with pytest.raises(PermissionError):
        os.ftruncate(segment.descriptor, 100)
    with pytest.raises(PermissionError):
        os.ftruncate(segment.descriptor, 1 << 20)
    assert fcntl.fcntl(segment.descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK


def test_no_descriptor_stays(backend: str) -> None:
    """When a segment and its views are gone, so are its descriptors."""
    before = open_descriptors()
    view = memoryview(create(100).memory)
    view[0] = 1
    del view
    assert open_descriptors() == before


def test_an_unknown_kind_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which there are."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "floppy")
    with pytest.raises(ValueError, match=r"TRIOIPC_SEGMENT must be one of .*memfd.*'floppy'"):
        create(1)


def test_memory_that_cannot_be_mapped_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong on the way, what was opened is closed."""

    def refuse(*arguments: object, **options: object) -> object:
        raise OSError(12, "no memory")

    before = open_descriptors()
    for backend, name in (
        ("memfd", "os.ftruncate"),
        ("shm", "os.ftruncate"),
        ("memfd", "mmap.mmap"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, refuse)
            with pytest.raises(OSError, match="no memory"):
                create(100, backend)  # type: ignore[arg-type]
    assert open_descriptors() == before


def test_shared_memory_is_available_here() -> None:
    """On Linux it is, however the environment forces others."""
    assert is_shared_memory_available()


# ---- the board


@given(st.text())
def test_a_text_arrives_up_to_40_bytes(text: str) -> None:
    """Cut at a character, never within one."""
    cells = memoryview(bytearray(11 * 8)).cast("Q")
    write_text(cells, 0, text)
    back = read_text(cells, 0)
    assert back is not None
    sent = text.encode(errors="replace").decode()
    assert len(back.encode()) <= 40
    assert sent.rstrip("\0").startswith(back)
    if len(sent.encode()) <= 40:
        assert back == sent.rstrip("\0")
    clear_text(cells, 0)
    assert read_text(cells, 0) is None


def test_nobody_sees_half_a_text() -> None:
    """A reader beside a writer sees one of the texts that were written."""
    cells = memoryview(create(88).memory).cast("Q")
    texts = [letter * 40 for letter in "abcdef"]
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            for text in texts:
                write_text(cells, 0, text)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen = {read_text(cells, 0) for _ in range(20_000)}
    finally:
        done.set()
        thread.join()
    assert seen <= {None, *texts}


@given(st.lists(st.integers(min_value=-5, max_value=2**63 - 1), max_size=50))
def test_each_time_is_counted_once(times: list[int]) -> None:
    """Whatever it is; the longest is kept; one that ran backwards counts as none."""
    cells = memoryview(bytearray(HISTOGRAM * 8)).cast("Q")
    for time_ in times:
        count(cells, 0, time_)
    assert sum(cells[:HISTOGRAM_MAXIMUM]) == len(times)
    assert cells[HISTOGRAM_MAXIMUM] == max([0, *times])


# ---- progress


def test_progress_counts(backend: str) -> None:
    """`increment` returns the new value; `reset` keeps the total."""
    progress = SharedProgress(10)
    assert (progress.get(), progress.get_total(), progress.get_percent()) == (0, 10, 0.0)
    assert progress.increment() == 1
    assert progress.increment(4) == 5
    assert progress.increment(-2) == 3
    assert progress.get_percent() == 30.0
    progress.set(25)
    assert (progress.get(), progress.get_percent()) == (25, 100.0)
    progress.set_total(50)
    assert progress.get_percent() == 50.0
    progress.reset()
    assert (progress.get(), progress.get_total()) == (0, 50)
    assert repr(progress) == "<SharedProgress: 0 of 50>"
    assert SharedProgress().get_total() == 100
    assert SharedProgress(0).get_percent() == 100.0


@pytest.mark.parametrize("value", [1.0, math.nan, "1", None, True])
def test_progress_takes_ints_only(value: object) -> None:
    """Anything else is a TypeError, and changes nothing."""
    progress = SharedProgress(10)
    for call in (progress.set, progress.set_total, SharedProgress):
        with pytest.raises(TypeError, match="must be an int, not "):
            call(value)  # type: ignore[arg-type]
    assert (progress.get(), progress.get_total()) == (0, 10)


@pytest.mark.parametrize("value", [-1, 2**64])
def test_progress_has_bounds(value: int) -> None:
    """Below 0 and beyond 64 bits is a ValueError that says so, and changes nothing."""
    progress = SharedProgress(10)
    progress.set(3)
    for call in (progress.set, progress.set_total):
        with pytest.raises(ValueError, match=r"from 0 to 2\*\*64 - 1"):
            call(value)
    with pytest.raises(ValueError, match=r"from 0 to 2\*\*64 - 1"):
        progress.increment(value - 3)
    with pytest.raises(TypeError, match="delta must be an int, not float"):
        progress.increment(0.5)  # type: ignore[arg-type]
    assert progress.increment() == 4


# ---- cancellation


def test_a_cancellation_is_set_once(backend: str) -> None:
    """The first reason stays; `reset` takes both back."""
    with SharedCancellation() as flag:
        assert (flag.is_cancelled(), flag.reason()) == (False, None)
        assert repr(flag) == "<SharedCancellation: not cancelled>"
        flag.cancel("first")
        flag.cancel("second")
        assert (flag.is_cancelled(), flag.reason()) == (True, "first")
        assert repr(flag) == "<SharedCancellation: cancelled>"
        flag.reset()
        assert (flag.is_cancelled(), flag.reason()) == (False, None)
        flag.cancel()
        assert (flag.is_cancelled(), flag.reason()) == (True, None)


def test_waiting_for_a_cancellation(backend: str) -> None:
    """0 only looks; it ends with the time or the flag, whichever is first."""
    flag = SharedCancellation()
    began = time.monotonic()
    assert flag.wait(0) is False
    assert flag.wait(0.02) is False
    assert time.monotonic() - began >= 0.02
    with pytest.raises(ValueError, match="timeout must be >= 0 seconds or None, not -1"):
        flag.wait(-1)
    with pytest.raises(ValueError, match="not nan"):
        flag.wait(math.nan)
    threading.Timer(0.01, flag.cancel).start()
    assert flag.wait() is True
    assert flag.wait(0) is True


def test_a_closed_cancellation() -> None:
    """Every use is a SharedStateError; closing twice is fine."""
    flag = SharedCancellation()
    flag.close()
    flag.close()
    assert repr(flag) == "<SharedCancellation: closed>"
    for call in (flag.is_cancelled, flag.cancel, flag.reason, flag.reset, lambda: flag.wait(0)):
        with pytest.raises(SharedStateError, match="closed"):
            call()


def test_a_segment_keeps_its_memory_for_views() -> None:
    """A view outlives its segment."""
    segment = Segment(None, 10)
    view = memoryview(segment.memory)
    del segment
    view[3] = 9
    assert bytes(view) == b"\0\0\0\x09\0\0\0\0\0\0"
