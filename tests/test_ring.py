"""A big source while it is being read: all of it, in order, as often as it is wanted."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from trioipc import (
    RequestCancelledError,
    RequestTimeoutError,
    SharedCancellation,
    open_worker_bridge,
)
from trioipc.builtin import _files, crypto
from trioipc.memory._ring import (
    _HEAD,
    ROOM,
    STEP,
    WORTH_A_RING,
    RingReader,
    RingSpace,
    RingWriter,
    Streamed,
)
from trioipc.memory._segment import create
from trioipc.protocol._codec import BESIDE, decode, encode, lift_arguments

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
CONSUMED, PASSES = 8, 16  # the indices of their cells


def some_bytes(size: int) -> bytes:
    """Return bytes of which no two parts are alike."""
    return hashlib.shake_128(b"ring").digest(size)


def make_ring(source: bytes, step: int, room: int) -> tuple[RingWriter, RingReader, memoryview]:
    """Make both sides of a ring in plain memory."""
    space = RingSpace(memoryview(source), step, room)
    memory = memoryview(bytearray(space.nbytes))
    return RingWriter(space, memory), RingReader(memory, len(source)), memory


# ---- one after the other


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(1, 3000),
    step=st.integers(1, 300),
    rooms=st.integers(1, 8),
    length=st.integers(1, 1000),
    passes=st.integers(1, 3),
    data=st.data(),
)
def test_all_arrives_in_order(
    size: int, step: int, rooms: int, length: int, passes: int, data: st.DataObject
) -> None:
    """Whatever the sizes; and a step stays as it is until the next one is asked for."""
    source = some_bytes(size)
    writer, reader, _ = make_ring(source, step, step * rooms)
    reader.checkpoint = writer.fill  # the other side is there while this one waits
    reader.expect(passes)
    for _ in range(passes):
        got = b""
        for part in reader.steps(length):
            assert 0 < len(part) <= length
            seen = bytes(part)
            for _ in range(data.draw(st.integers(0, 3))):
                writer.fill()
            assert part == seen
            got += seen
        assert got == source
    assert writer.is_done()
    assert not writer.fill()


def test_one_pass_is_enough_if_nothing_is_said() -> None:
    """Who asks for the steps, reads them once."""
    source = some_bytes(1000)
    writer, reader, _ = make_ring(source, 100, 200)
    reader.checkpoint = writer.fill
    assert not writer.is_done()
    assert b"".join(map(bytes, reader.steps(64))) == source
    assert writer.is_done()


def test_a_ring_that_nobody_reads_is_filled_once() -> None:
    """And no further: what is in it is still wanted."""
    source = some_bytes(1000)
    writer, _, memory = make_ring(source, 100, 300)
    while writer.fill():
        pass
    assert bytes(memory[_HEAD:]) == source[:300]
    assert not writer.is_done()


def test_it_travels_as_its_reader() -> None:
    """Not one byte of the source is in the pickle; its place is as large as the ring."""
    source = memoryview(some_bytes(2 * MIB))
    streamed = Streamed(source)
    assert repr(streamed) == "<Streamed: 2097152 bytes>"
    encoded = encode(lift_arguments((streamed, b"other")))
    assert encoded.flags == BESIDE
    assert len(encoded.body) < 300
    [space] = encoded.buffers
    assert type(space) is memoryview
    assert type(space.obj) is RingSpace
    assert space.obj.nbytes == _HEAD + 2 * MIB
    memory = memoryview(bytearray(space.obj.nbytes))
    reader, other = decode(encoded.body, encoded.flags, [memory])
    assert type(reader) is RingReader
    assert (reader.size, other) == (2 * MIB, b"other")
    assert repr(reader) == "<RingReader: 2097152 bytes>"
    writer = RingWriter(space.obj, memory)
    reader.checkpoint = writer.fill
    assert b"".join(map(bytes, reader.steps(MIB))) == source


# ---- how long to sleep


def test_who_fills_sleeps_until_half_the_ring_is_free() -> None:
    """By how fast the other side has been so far; in seconds."""
    writer, _, memory = make_ring(some_bytes(10_000), 100, 1000)
    cells = memory[:_HEAD].cast("Q")
    while writer.fill():
        pass
    assert writer.pause(10.0) == 0.002  # it may wait for our processor
    assert writer.pause(10.004) == pytest.approx(0.004)  # it has not begun
    assert writer.pause(11.0) == 0.02  # nor after a long time
    cells[CONSUMED] = 100
    # 100 bytes in 1 s, as it seems: 400 more will take 4 s.
    assert writer.pause(11.0) == pytest.approx(4.0)
    cells[CONSUMED] = 300
    assert writer.pause(12.0) == pytest.approx((500 - 300) * 2.0 / 300)
    assert writer.pause(12.003) == pytest.approx(0.003)  # it stands still
    cells[CONSUMED] = 800
    assert writer.pause(13.0) == 0  # there is room
    cells[CONSUMED] = 0
    assert writer.pause(13.5) == 0.02  # it has wiped the ring: there will be an answer


# ---- both at once


def fill_all(writer: RingWriter) -> None:
    """Fill until all was written."""
    while not writer.is_done():
        if not writer.fill():
            time.sleep(0)


@pytest.mark.parametrize(("size", "step", "room"), [(5 * MIB + 3, STEP, ROOM), (MIB, 4096, 12288)])
def test_a_reader_in_another_thread(size: int, step: int, room: int) -> None:
    """Two passes, while this side fills."""
    source = some_bytes(size)
    writer, reader, _ = make_ring(source, step, room)
    digests = []

    def read() -> None:
        reader.expect(2)
        for _ in range(2):
            hashed = hashlib.sha256()
            for part in reader.steps(100_000):
                hashed.update(part)
            digests.append(hashed.digest())

    thread = threading.Thread(target=read)
    thread.start()
    fill_all(writer)
    thread.join()
    assert digests == [hashlib.sha256(source).digest()] * 2


READER = """
import hashlib, sys
from trioipc.memory._ring import RingReader
from trioipc.memory._segment import adopt
descriptor, nbytes, size = map(int, sys.argv[1:])
reader = RingReader(memoryview(adopt(descriptor, nbytes).memory), size)
reader.expect(2)
for _ in range(2):
    hashed = hashlib.sha256()
    for part in reader.steps(300_000):
        hashed.update(part)
    print(hashed.hexdigest())
"""


@pytest.mark.parametrize("backend", ["memfd", "shm"])
def test_a_reader_in_another_process(backend: str) -> None:
    """Two passes, through shared memory."""
    source = some_bytes(9 * MIB + 1)
    space = RingSpace(memoryview(source), STEP, ROOM)
    segment = create(space.nbytes, backend)  # type: ignore[arg-type]
    assert segment.descriptor is not None
    writer = RingWriter(space, memoryview(segment.memory))
    with subprocess.Popen(
        [sys.executable, "-c", READER]
        + [str(number) for number in (segment.descriptor, space.nbytes, len(source))],
        pass_fds=[segment.descriptor],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        fill_all(writer)
        out, _ = process.communicate(timeout=60)
    assert out.split() == [hashlib.sha256(source).hexdigest()] * 2


def test_a_reader_that_waits_can_be_stopped() -> None:
    """Its checkpoint is called while nothing comes."""

    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    writer, reader, _ = make_ring(some_bytes(3000), 100, 1000)
    reader.checkpoint = stop
    writer.fill()
    got = 0
    with pytest.raises(Stop):
        for part in reader.steps(64):
            got += len(part)
    assert got == 1000  # in the first round, steps have a size of their own


# ---- what the built-in operations do with it


@pytest.fixture
def named_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have no files without a name, so that plaintext is verified in a pass of its own."""
    monkeypatch.setattr(_files, "open_nameless", lambda folder: None)
    return


@pytest.mark.usefixtures("named_files")
@pytest.mark.parametrize("size", [0, 1, 15, MIB - 16, MIB, 3 * MIB + 7])
@pytest.mark.parametrize("flip", [False, True])
def test_decrypting_in_two_passes(size: int, flip: bool, tmp_path: Path) -> None:
    """What another implementation has encrypted; nothing is written if it does not verify."""
    key, nonce = some_bytes(32), some_bytes(12)
    plain = some_bytes(size)
    sealed = bytearray(AESGCM(key).encrypt(nonce, plain, None))
    if flip:
        sealed[-17 if size else -1] ^= 1
    writer, reader, _ = make_ring(bytes(sealed), 64 << 10, 256 << 10)
    thread = threading.Thread(target=fill_all, args=(writer,), daemon=True)
    thread.start()
    path, spare = str(tmp_path / "plain"), str(tmp_path / "spare")
    if flip:
        with pytest.raises(InvalidTag):
            crypto.decrypt_file(reader, key, nonce, None, "gcm", path, spare)
        assert os.listdir(tmp_path) == []
        reader.expect(1)  # lets the other side go
    else:
        assert crypto.decrypt_file(reader, key, nonce, None, "gcm", path, spare) == size
        assert (tmp_path / "plain").read_bytes() == plain
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize("size", [WORTH_A_RING - 1, WORTH_A_RING, 9 * MIB + 5])
async def test_a_bridge_streams_what_is_large(size: int, tmp_path: Path) -> None:
    """Bytes, and what is no bytes; the results are those of other implementations."""
    source = some_bytes(size)
    key, nonce = some_bytes(32), some_bytes(12)
    sealed = AESGCM(key).encrypt(nonce, source, b"data")
    async with open_worker_bridge(1) as bridge:
        for each in (source, bytearray(source), memoryview(source)):
            assert await bridge.crypto.hash_file(each) == hashlib.sha256(source).hexdigest()
        encrypted = await bridge.crypto.encrypt_file(source, key, nonce, associated_data=b"data")
        assert encrypted.ciphertext == sealed
        assert (
            await bridge.crypto.decrypt_file(sealed, key, nonce, associated_data=b"data") == source
        )
        bad = bytearray(sealed)
        bad[size // 2] ^= 1
        with pytest.raises(InvalidTag):
            await bridge.crypto.decrypt_file(bad, key, nonce, associated_data=b"data")
        await bridge.crypto.decrypt_file(
            sealed, key, nonce, associated_data=b"data", destination=tmp_path / "out"
        )
        assert (tmp_path / "out").read_bytes() == source
        arena = bridge.pool.statistics().arena
        assert arena is not None
        assert arena.size < 64 * MIB


@pytest.mark.parametrize("how", ["scope", "flag", "timeout", "error"])
async def test_the_end_of_a_request_whose_ring_is_not_filled(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reader waits, stops at a checkpoint, and its worker serves the next."""
    source = some_bytes(20 * MIB)
    fill, flag, scope = RingWriter.fill, SharedCancellation(), trio.CancelScope()
    filled = 0

    def fill_some(writer: RingWriter) -> bool:
        nonlocal filled
        filled += 1
        if filled <= 50:
            return fill(writer)
        if how == "error":
            raise LookupError("cannot be read any more")
        if writer._cells[PASSES]:  # it is being read
            if how == "scope":
                scope.cancel()
            elif how == "flag":
                flag.cancel()
        return False

    async with open_worker_bridge(1) as bridge:
        await bridge.crypto.hash_file(b"")
        [before] = bridge.pool.workers
        with monkeypatch.context() as patch, trio.fail_after(20):
            patch.setattr(RingWriter, "fill", fill_some)
            if how == "scope":
                with scope:
                    await bridge.crypto.hash_file(source)
                assert scope.cancelled_caught
            else:
                with pytest.raises(ENDS[how]) as caught:
                    await bridge.crypto.hash_file(source, timeout=0.2, cancellation=flag)
                assert getattr(caught.value, "rung", "checkpoint") == "checkpoint"
                del caught
        assert filled > 50
        assert await bridge.crypto.hash_file(source) == hashlib.sha256(source).hexdigest()
        [after] = bridge.pool.workers
        assert after.pid == before.pid
    flag.close()


ENDS = {"flag": RequestCancelledError, "timeout": RequestTimeoutError, "error": LookupError}
