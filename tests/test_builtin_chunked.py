"""The chunked format: C2SP's vectors, its specification, and the same promises as for the other."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import cryptography_vectors
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from trioipc._errors import DataError, RequestInterrupt
from trioipc.builtin import _files, crypto
from trioipc.builtin._ciphers import CHUNK, Chunked
from trioipc.builtin.crypto import STEP, decrypt_file, encrypt_file
from watched import WatchedCells, call_watched, files_in

VECTORS = Path(cryptography_vectors.__file__).parent / "chunked-encryption" / "vectors.json"

KEY = bytes(range(32))

# A chunk with its tag, in the ciphertext.
WHOLE = CHUNK + 16

# Around the borders of a chunk, and of a step.
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, STEP - 1, STEP, STEP + 1, 2 * STEP + CHUNK]


def chunked(data: bytes, context: bytes | None = None) -> bytes:
    """Encrypt with ours."""
    view = None if context is None else memoryview(context)
    return bytes(encrypt_file(memoryview(data), KEY, b"", view, "chunked"))  # type: ignore[arg-type]


def decrypt_by_the_book(
    ciphertext: bytes, key: bytes, context: bytes, hash: HashAlgorithm, size: int = 32
) -> bytes:
    """Decrypt as c2sp.org/chunked-encryption says, chunk by chunk."""
    salt, commitment, body = ciphertext[:24], ciphertext[24:56], ciphertext[56:]
    name = f"AEAD_AES_{size * 8}_GCM".encode()
    info = b"c2sp.org/chunked-encryption@v1+" + name + b"\0" + salt + context
    derived = HKDFExpand(hash, size + 12 + 32, info).derive(key)
    if len(key) != size or derived[size + 12 :] != commitment:
        raise InvalidTag
    cipher, base = AESGCM(derived[:size]), int.from_bytes(derived[size : size + 12], "big")
    # Only the last chunk is short, and there is always one.
    chunks = [body[start : start + WHOLE] for start in range(0, len(body), WHOLE)]
    if not chunks or len(chunks[-1]) == WHOLE:
        raise InvalidTag
    return b"".join(
        cipher.decrypt((base ^ number).to_bytes(12, "big"), chunk, None)
        for number, chunk in enumerate(chunks)
    )


@pytest.fixture
def target(tmp_path: Path) -> tuple[str, str]:
    """Give a destination in a folder of its own, and a spare name for it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    return str(folder / "out"), str(folder / ".out.0123456789abcdef.trioipc")


@pytest.fixture(params=["nameless", "named"])
def either_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Be on a file system of either kind."""
    if request.param == "named":
        monkeypatch.setattr(_files, "open_nameless", lambda folder: None)
    return str(request.param)


# ---- vectors and the specification


def vectors() -> list[Any]:
    """Return those of AES-GCM; the others are of ciphers that have no part in this."""
    found = json.loads(VECTORS.read_text())["vectors"]
    return [vector for vector in found if "AES" in vector["aead"]]


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector["name"])
def test_the_book_is_that_of_the_vectors(vector: Any) -> None:
    """C2SP's vectors have SHA-256 where Cobblestone has SHA-512; nothing else is different."""
    ciphertext = base64.b64decode(vector["ciphertext"] or "")
    if vector.get("compressed"):
        ciphertext = zlib.decompress(ciphertext)
    key, context = bytes.fromhex(vector["key"]), vector["context"].encode()
    size = 32 if "256" in vector["aead"] else 16
    try:
        plaintext = decrypt_by_the_book(ciphertext, key, context, SHA256(), size)
    except InvalidTag:
        assert vector["expect"] == "failure"
    else:
        assert vector["expect"] == "success"
        assert len(plaintext) == vector["payload_length"]
        assert hashlib.sha256(plaintext).hexdigest() == vector["payload_sha256"]


def test_there_are_vectors() -> None:
    """Of both kinds."""
    expected = [vector["expect"] for vector in vectors()]
    assert (expected.count("success"), expected.count("failure")) == (18, 50)


@given(
    size=st.integers(0, 3 * CHUNK),
    context=st.none() | st.binary(max_size=100),
    step=st.integers(1, 3 * CHUNK),
)
def test_encryption_is_that_of_the_specification(
    size: int, context: bytes | None, step: int
) -> None:
    """Whatever the step: by the book it decrypts, and by ours."""
    data = bytes(i % 251 for i in range(size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crypto, "STEP", max(step, size // 50 + 1))
        ciphertext = chunked(data, context)
        assert decrypt_by_the_book(ciphertext, KEY, context or b"", SHA512()) == data
        view = None if context is None else memoryview(context)
        assert decrypt_file(memoryview(ciphertext), KEY, b"", view, "chunked") == data


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_known_before(size: int) -> None:
    """What is allocated is what will be used, both ways."""
    cipher = Chunked(KEY, None)
    ciphertext = chunked(bytes(size))
    assert cipher.ciphertext_size(size) == len(ciphertext)
    assert cipher.plaintext_size(len(ciphertext)) == size
    for source, function in ((bytes(size), encrypt_file), (ciphertext, decrypt_file)):
        result, allocated = call_watched(
            WatchedCells(), function, memoryview(source), KEY, b"", None, "chunked"
        )
        assert allocated == [bytes(result)] or len(result) == 0


def test_the_salt_is_new_each_time() -> None:
    """The same data twice are two ciphertexts from their first byte on."""
    assert len({chunked(b"data")[:24] for _ in range(20)}) == 20


@pytest.mark.parametrize("size", SIZES)
def test_round_trip_of_a_file(
    tmp_path: Path, target: tuple[str, str], size: int, either_kind: str
) -> None:
    """File to file and back, the bytes are the same and nothing else is left."""
    data = os.urandom(size)
    source = tmp_path / "source"
    source.write_bytes(data)
    written = encrypt_file(str(source), KEY, b"", None, "chunked", *target)
    assert os.stat(target[0]).st_size == written
    os.replace(target[0], source)
    assert decrypt_file(str(source), KEY, b"", None, "chunked", *target) == size
    assert files_in(Path(target[0]).parent) == {"out": data}


@pytest.mark.parametrize("format", ["gcm", "chunked"])
@pytest.mark.parametrize("size", [0, 1, STEP - 5, STEP, 3 * STEP + 7])
def test_a_header_before_the_ciphertext(
    tmp_path: Path, target: tuple[str, str], size: int, format: str, either_kind: str
) -> None:
    """It is written as it is, what follows is the same as without it, and it is left out again."""
    data, header, nonce = os.urandom(size), b"header", bytes(12)
    source = tmp_path / "source"
    source.write_bytes(data)
    encrypt_file(str(source), KEY, nonce, memoryview(header), format, *target, header)  # type: ignore[arg-type]
    written = Path(target[0]).read_bytes()
    assert written[:6] == header
    body, context = memoryview(written)[6:], memoryview(header)
    assert decrypt_file(body, KEY, nonce, context, format) == data  # type: ignore[arg-type]
    os.replace(target[0], source)
    assert decrypt_file(str(source), KEY, nonce, context, format, *target, 6) == size  # type: ignore[arg-type]
    assert files_in(Path(target[0]).parent) == {"out": data}


def test_memory_does_not_grow_with_the_file(
    tmp_path: Path, target: tuple[str, str], either_kind: str
) -> None:
    """From file to file, 48 MiB take less than 4 MiB."""
    source = tmp_path / "source"
    source.touch()
    os.truncate(source, 48 * STEP)
    tracemalloc.start()
    try:
        encrypt_file(str(source), KEY, b"", None, "chunked", *target)
        os.replace(target[0], source)
        decrypt_file(str(source), KEY, b"", None, "chunked", *target)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * STEP


# ---- what does not verify


@given(
    size=st.integers(0, 2 * CHUNK), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7)
)
def test_any_flipped_bit_is_an_invalid_tag(size: int, place: float, bit: int) -> None:
    """One bit, anywhere, and there is no plaintext; what was allocated is zero again."""
    ciphertext = bytearray(chunked(b"!" * size))
    ciphertext[int(place * len(ciphertext))] ^= 1 << bit
    result, allocated = call_watched(
        WatchedCells(), decrypt_file, memoryview(ciphertext), KEY, b"", None, "chunked"
    )
    assert type(result) is InvalidTag
    assert [any(memory) for memory in allocated] == [False]


@pytest.mark.parametrize("cut", [1, 16, 17, CHUNK, CHUNK + 16, 2 * (CHUNK + 16)])
def test_a_cut_is_an_invalid_tag(target: tuple[str, str], cut: int, either_kind: str) -> None:
    """Also where a chunk ends; the chunks before it, which verify, are not seen."""
    Path(target[0]).write_bytes(b"old")
    ciphertext = memoryview(chunked(b"secret" * CHUNK))[:-cut]
    with pytest.raises(InvalidTag):
        decrypt_file(ciphertext, KEY, b"", None, "chunked", *target)
    assert files_in(Path(target[0]).parent) == {"out": b"old"}


@pytest.mark.parametrize(
    "change",
    [
        lambda header, first, second, last: header + second + first + last,
        lambda header, first, second, last: header + first + first + last,
        lambda header, first, second, last: header + first + last,
        lambda header, first, second, last: header + first + second + last + last,
        lambda header, first, second, last: header + first + second + last + second,
        lambda header, first, second, last: header + first + second + last + bytes(12),
        lambda header, first, second, last: header + first + second + last + bytes(20),
        lambda header, first, second, last: first + second + last,
    ],
    ids=["swapped", "twice", "missing", "last twice", "more", "12 more", "20 more", "no header"],
)
def test_chunks_stay_in_their_places(change: Any) -> None:
    """Moved, repeated, left out or added, they are an invalid tag."""
    whole = chunked(bytes(2 * CHUNK) + b"end")
    parts = whole[:56], whole[56 : 56 + WHOLE], whole[56 + WHOLE : 56 + 2 * WHOLE]
    changed = change(*parts, whole[56 + 2 * WHOLE :])
    with pytest.raises(InvalidTag):
        decrypt_file(memoryview(changed), KEY, b"", None, "chunked")


@pytest.mark.parametrize("size", [0, 55, 56, 71])
def test_what_is_shorter_than_any_ciphertext(
    tmp_path: Path, target: tuple[str, str], size: int
) -> None:
    """It is a DataError that says so, and leaves no file."""
    source = tmp_path / "source"
    source.write_bytes(chunked(b"")[:size])
    with pytest.raises(DataError, match=f"only {size} bytes"):
        decrypt_file(str(source), KEY, b"", None, "chunked", *target)
    assert files_in(Path(target[0]).parent) == {}


def test_a_ciphertext_that_shrinks_meanwhile(tmp_path: Path, target: tuple[str, str]) -> None:
    """It is a DataError too, when so little is left."""
    source = tmp_path / "source"
    source.write_bytes(chunked(b"secret"))
    cells = WatchedCells(lambda number: os.truncate(source, 60))
    result, _ = call_watched(cells, decrypt_file, str(source), KEY, b"", None, "chunked", *target)
    assert type(result) is DataError
    assert files_in(Path(target[0]).parent) == {}


def test_no_plaintext_is_seen_before_all_of_it_has_verified(
    target: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even that of chunks that have: where files must have a name, it stays empty."""
    monkeypatch.setattr(_files, "open_nameless", lambda folder: None)
    sizes: list[int] = []
    cells = WatchedCells(lambda number: sizes.append(os.path.getsize(target[1])))
    ciphertext = bytearray(chunked(bytes(3 * STEP)))
    ciphertext[-1] ^= 1
    result, _ = call_watched(
        cells, decrypt_file, memoryview(ciphertext), KEY, b"", None, "chunked", *target
    )
    assert type(result) is InvalidTag
    assert sizes == [0] * 5
    assert files_in(Path(target[0]).parent) == {}


def test_a_message_is_shorter_than_4_pib(tmp_path: Path) -> None:
    """Where a file can be as long at all."""
    source = tmp_path / "source"
    source.touch()
    try:
        os.truncate(source, 2**52)
    except OSError:  # this file system has no such files
        with pytest.raises(ValueError, match=r"less than 2\*\*52"):
            crypto.refuse_too_long("chunked", 2**52)
    else:
        with pytest.raises(ValueError, match=r"less than 2\*\*52"):
            encrypt_file(str(source), KEY, b"", None, "chunked")


# ---- cancelled


@pytest.mark.parametrize("function", [encrypt_file, decrypt_file])
def test_a_cancel_at_any_checkpoint_leaves_nothing(
    target: tuple[str, str], function: Any, either_kind: str
) -> None:
    """Wherever it is cancelled: no file, and no plaintext in memory."""
    source = memoryview(chunked(b"secret" * (STEP // 2)))
    cancelled = 0
    for checkpoint in range(1, 20):
        for where in ((), target):
            result, allocated = call_watched(
                WatchedCells().cancel_at(checkpoint),
                function,
                source,
                KEY,
                b"",
                None,
                "chunked",
                *where,
            )
            if isinstance(result, RequestInterrupt):
                cancelled += 1
                assert not any(map(any, allocated))
                assert files_in(Path(target[0]).parent) == {}
        if not isinstance(result, RequestInterrupt):
            break
    assert cancelled >= 2 * 5


@pytest.mark.parametrize("size", SIZES)
def test_progress_ends_at_the_size_of_the_source(size: int) -> None:
    """As for the other format."""
    cells = WatchedCells()
    call_watched(cells, encrypt_file, memoryview(bytes(size)), KEY, b"", None, "chunked")
    assert cells.progress() == (size, size)
