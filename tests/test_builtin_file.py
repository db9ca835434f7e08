"""The built-in hashes, called as the plain functions they are."""

from __future__ import annotations

import contextvars
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cryptography_vectors
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioipc._errors import RequestInterrupt
from trioipc.builtin import crypto, file
from trioipc.memory._board import CANCEL, DONE, SLOT, TICK, TOTAL
from trioipc.worker.request import CurrentRequest, set_context_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VECTORS = Path(cryptography_vectors.__file__).parent / "hashes" / "SHA2"


class WatchedCells:
    """A slot that notes the progress at each checkpoint and can cancel at one of them."""

    def __init__(self, cancel_at: int | None = None) -> None:
        self.cells = memoryview(bytearray(SLOT * 8)).cast("Q")
        self.seen: list[tuple[int, int]] = []
        self.cancel_at = cancel_at

    def __getitem__(self, index: Any) -> Any:
        return self.cells[index]

    def __setitem__(self, index: int, value: int) -> None:
        self.cells[index] = value
        if index == TICK:
            self.seen.append(self.progress())
            if value == self.cancel_at:
                self.cells[CANCEL] = 1

    def progress(self) -> tuple[int, int]:
        return self.cells[DONE], self.cells[TOTAL]


def call_watched(cells: WatchedCells, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function as the request of a slot."""
    request = CurrentRequest(cells, 1, "test")  # type: ignore[arg-type]

    def call() -> Any:
        set_context_request(request)
        return function(*arguments)

    return contextvars.copy_context().run(call)


def read_vectors(name: str) -> Iterator[tuple[bytes, str]]:
    """Yield message and hash of each vector; a length of 0 has a dummy message of one byte."""
    length = 0
    message = b""
    for line in (VECTORS / name).read_text().splitlines():
        key, _, value = line.partition(" = ")
        if key == "Len":
            length = int(value) // 8
        elif key == "Msg":
            message = bytes.fromhex(value)[:length]
        elif key == "MD":
            yield message, value


@pytest.mark.parametrize(
    ("name", "algorithm", "count"),
    [
        ("SHA256ShortMsg.rsp", "SHA-256", 65),
        ("SHA256LongMsg.rsp", "SHA-256", 64),
        ("SHA512ShortMsg.rsp", "SHA-512", 129),
        ("SHA512LongMsg.rsp", "SHA-512", 128),
    ],
)
def test_hashes_are_those_of_the_vectors(name: str, algorithm: str, count: int) -> None:
    """NIST's vectors come out, all of them."""
    vectors = list(read_vectors(name))
    got = [file.hash_file(memoryview(message), algorithm) for message, _ in vectors]
    assert got == [expected for _, expected in vectors]
    assert len(got) == count


def test_crypto_hash_is_sha256() -> None:
    """The hash of the crypto channel is SHA-256."""
    assert crypto.hash_file(memoryview(b"abc")) == hashlib.sha256(b"abc").hexdigest()


@given(data=st.binary(max_size=200), step=st.integers(1, 80))
def test_steps_do_not_show(data: bytes, step: int) -> None:
    """Whatever the step, the hash is that of all the bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file, "STEP", step)
        assert file.hash_file(memoryview(data)) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", [0, 1, file.STEP - 1, file.STEP, file.STEP + 1, 3 * file.STEP])
def test_a_file_hashes_like_its_bytes(tmp_path: Path, size: int) -> None:
    """A path gives the hash of the file's content, and the progress ends at its size."""
    data = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    cells = WatchedCells()
    got = call_watched(cells, file.hash_file, str(path), "SHA-512")
    assert got == hashlib.sha512(data).hexdigest()
    assert cells.progress() == (size, size)


def test_progress_and_a_cancel_point_after_each_step() -> None:
    """Each step of 256 KiB is a progress value and a checkpoint."""
    cells = WatchedCells()
    size = 2 * file.STEP + 5
    call_watched(cells, file.hash_file, memoryview(bytes(size)))
    steps = [0, file.STEP, 2 * file.STEP, size]
    assert cells.seen == [(done, size) for done in steps]


def test_a_cancelled_hash_stops_at_the_next_step() -> None:
    """The cancel word ends it with an interrupt, one step later at most."""
    cells = WatchedCells(cancel_at=2)
    with pytest.raises(RequestInterrupt):
        call_watched(cells, file.hash_file, memoryview(bytes(5 * file.STEP)))
    assert cells.progress() == (file.STEP, 5 * file.STEP)


@pytest.mark.parametrize("length", [0, file.STEP, 3 * file.STEP])
def test_a_file_that_changes_its_size_is_hashed_to_its_end(tmp_path: Path, length: int) -> None:
    """A file that shrinks or grows while it is read ends the progress at what was read."""
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * file.STEP))

    class ChangingCells(WatchedCells):
        def __setitem__(self, index: int, value: int) -> None:
            super().__setitem__(index, value)
            if index == TICK and value == 1:
                os.truncate(path, length)

    cells = ChangingCells()
    got = call_watched(cells, file.hash_file, str(path))
    assert got == hashlib.sha256(bytes(length)).hexdigest()
    assert cells.progress() == (length, length)


def test_a_folder_is_no_source(tmp_path: Path) -> None:
    """A folder is an IsADirectoryError that names it."""
    with pytest.raises(IsADirectoryError) as caught:
        file.hash_file(str(tmp_path))
    assert caught.value.filename == str(tmp_path)


def test_a_pipe_is_no_source(tmp_path: Path) -> None:
    """A named pipe is refused, and not waited for."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="regular file"):
        file.hash_file(str(path))


def test_a_missing_file_is_no_source(tmp_path: Path) -> None:
    """A missing file is a FileNotFoundError that names it."""
    with pytest.raises(FileNotFoundError) as caught:
        file.hash_file(str(tmp_path / "missing"))
    assert caught.value.filename == str(tmp_path / "missing")


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    """The file is closed after a hash, after an error and after a cancel."""
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * file.STEP))
    before = os.listdir("/dev/fd")
    file.hash_file(str(path))
    with pytest.raises(IsADirectoryError):
        file.hash_file(str(tmp_path))
    with pytest.raises(RequestInterrupt):
        call_watched(WatchedCells(cancel_at=2), file.hash_file, str(path))
    assert os.listdir("/dev/fd") == before
