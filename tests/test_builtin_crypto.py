"""The built-in AES-256-GCM, called as the plain functions they are."""

from __future__ import annotations

import errno
import os
import random
import resource
import stat
import tracemalloc
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cryptography_vectors
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from trioipc._errors import DataError, RequestInterrupt
from trioipc.builtin import _files, crypto
from trioipc.builtin._ciphers import TAG_SIZE, TagLast
from trioipc.builtin.crypto import STEP, decrypt_file, encrypt_file
from watched import WatchedCells, call_watched, damaged, files_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trioipc.builtin._ciphers import Format

VECTORS = Path(cryptography_vectors.__file__).parent / "ciphers" / "AES" / "GCM"

KEY = bytes(range(32))
NONCE = bytes(range(12))

# Files at the border of a step, and such that the tag lies across it.
SIZES = [0, 1, 15, 16, 17, STEP - 16, STEP - 1, STEP, STEP + 1, 2 * STEP + 7]


def encrypt(data: bytes, associated_data: bytes | None = None) -> bytes:
    """Encrypt with somebody else's code."""
    return AESGCM(KEY).encrypt(NONCE, data, associated_data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder for destinations only."""
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


@pytest.fixture
def target(folder: Path) -> tuple[str, str]:
    """Give a destination and a spare name for it, as a bridge does."""
    return str(folder / "out"), str(folder / ".out.0123456789abcdef.trioipc")


@pytest.fixture
def only_named_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be on a file system that has no files without a name."""
    monkeypatch.setattr(_files, "open_nameless", lambda folder: None)


@pytest.fixture(params=["nameless", "named"])
def either_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Be on a file system of either kind."""
    if request.param == "named":
        monkeypatch.setattr(_files, "open_nameless", lambda folder: None)
    return str(request.param)


# ---- vectors


def read_vectors(name: str) -> list[dict[str, bytes | None]]:
    """Read the vectors with a nonce of 96 bits and a tag of 128; ``FAIL`` is a PT of None."""
    lengths: dict[str, int] = {}
    vectors: list[dict[str, bytes | None]] = []
    for line in (VECTORS / name).read_text().splitlines():
        key, _, value = line.strip().partition(" =")
        if key.startswith("["):
            lengths[key[1:]] = int(value.strip("] "))
        elif (lengths.get("IVlen"), lengths.get("Taglen")) != (96, 128):
            continue
        elif key == "Count":
            vectors.append({})
        elif key == "FAIL":
            vectors[-1]["PT"] = None
        elif key:
            vectors[-1][key] = bytes.fromhex(value)
    return vectors


def parts(vector: dict[str, bytes | None]) -> tuple[bytes, bytes, bytes, bytes]:
    """Return key, nonce, associated data, and ciphertext with its tag."""
    key, nonce, data = vector["Key"], vector["IV"], vector["AAD"]
    ciphertext, tag = vector["CT"], vector["Tag"]
    assert key is not None
    assert nonce is not None
    assert data is not None
    assert ciphertext is not None
    assert tag is not None
    return key, nonce, data, ciphertext + tag


def test_encryption_is_that_of_the_vectors() -> None:
    """NIST's vectors come out, all of them."""
    vectors = read_vectors("gcmEncryptExtIV256.rsp")
    for vector in vectors:
        key, nonce, data, expected = parts(vector)
        plaintext = memoryview(vector["PT"] or b"")
        assert encrypt_file(plaintext, key, nonce, memoryview(data)) == expected
    assert len(vectors) == 375


def test_decryption_is_that_of_the_vectors() -> None:
    """NIST's vectors come out, and those that must fail do."""
    vectors = read_vectors("gcmDecrypt256.rsp")
    failed = 0
    for vector in vectors:
        key, nonce, data, ciphertext = parts(vector)
        try:
            got = decrypt_file(memoryview(ciphertext), key, nonce, memoryview(data))
        except InvalidTag:
            failed += 1
            got = None
        assert got == vector["PT"]
    assert (len(vectors), failed) == (375, 191)


def test_files_are_encrypted_as_in_the_vectors(tmp_path: Path, target: tuple[str, str]) -> None:
    """From file to file, a sample of NIST's vectors comes out as well."""
    source = tmp_path / "source"
    for vector in read_vectors("gcmEncryptExtIV256.rsp")[::15]:
        key, nonce, data, expected = parts(vector)
        source.write_bytes(vector["PT"] or b"")
        size = encrypt_file(str(source), key, nonce, memoryview(data), "gcm", *target)
        assert size == len(expected)
        assert Path(target[0]).read_bytes() == expected


def test_files_are_decrypted_as_in_the_vectors(tmp_path: Path, target: tuple[str, str]) -> None:
    """From file to file, a sample of NIST's vectors comes out, or leaves no file."""
    source = tmp_path / "source"
    for vector in read_vectors("gcmDecrypt256.rsp")[::15]:
        key, nonce, data, ciphertext = parts(vector)
        source.write_bytes(ciphertext)
        Path(target[0]).unlink(missing_ok=True)
        try:
            decrypt_file(str(source), key, nonce, memoryview(data), "gcm", *target)
        except InvalidTag:
            pass
        expected = {} if vector["PT"] is None else {"out": vector["PT"]}
        assert files_in(Path(target[0]).parent) == expected


# ---- any data, any steps


@given(
    data=st.binary(max_size=300),
    associated_data=st.none() | st.binary(max_size=100),
    step=st.integers(1, 64),
)
def test_round_trip_in_steps(data: bytes, associated_data: bytes | None, step: int) -> None:
    """Whatever the step: what one-shot AES-GCM gives, and back."""
    view = None if associated_data is None else memoryview(associated_data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crypto, "STEP", step)
        ciphertext = encrypt_file(memoryview(data), KEY, NONCE, view)
        assert ciphertext == encrypt(data, associated_data)
        assert isinstance(ciphertext, memoryview)
        assert decrypt_file(ciphertext, KEY, NONCE, view) == data


@given(lengths=st.lists(st.integers(1, 50), max_size=8))
def test_the_tag_is_what_comes_last(lengths: list[int]) -> None:
    """However the bytes come, the last 16 are held back and the others come through."""
    data = bytes(i % 251 for i in range(sum(lengths)))
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    body = TagLast(
        memoryview(data)[end - length : end] for end, length in zip(ends, lengths, strict=True)
    )
    got = b"".join(map(bytes, body))
    assert (got, body.tag) == (data[:-TAG_SIZE], data[-TAG_SIZE:])


@pytest.mark.parametrize("size", SIZES)
def test_round_trip_of_a_file(
    tmp_path: Path, target: tuple[str, str], size: int, either_kind: str
) -> None:
    """File to file and back, the bytes are the same and nothing else is left."""
    data = os.urandom(size)
    source = tmp_path / "source"
    source.write_bytes(data)
    assert encrypt_file(str(source), KEY, NONCE, None, "gcm", *target) == size + TAG_SIZE
    assert files_in(Path(target[0]).parent) == {"out": encrypt(data)}
    source.write_bytes(encrypt(data))
    assert decrypt_file(str(source), KEY, NONCE, None, "gcm", *target) == size
    assert files_in(Path(target[0]).parent) == {"out": data}


@pytest.mark.parametrize("size", SIZES)
def test_round_trip_from_a_file_to_memory(tmp_path: Path, size: int) -> None:
    """A file comes back as bytes, and so does its plaintext."""
    data = os.urandom(size)
    source = tmp_path / "source"
    source.write_bytes(data)
    assert encrypt_file(str(source), KEY, NONCE) == encrypt(data)
    source.write_bytes(encrypt(data))
    assert decrypt_file(str(source), KEY, NONCE) == data


def test_a_result_lies_in_what_was_allocated() -> None:
    """The ciphertext is the allocated memory itself, so it travels home without a copy."""
    result, allocated = call_watched(WatchedCells(), encrypt_file, memoryview(b"abc"), KEY, NONCE)
    assert allocated == [encrypt(b"abc")]
    assert isinstance(result.obj, bytearray)


# ---- progress


@pytest.mark.parametrize("size", SIZES)
def test_progress_ends_at_the_size_of_the_source(size: int) -> None:
    """Value and total end at the size of the source, also if that is 0."""
    cells = WatchedCells()
    call_watched(cells, encrypt_file, memoryview(bytes(size)), KEY, NONCE)
    assert cells.progress() == (size, size)
    ciphertext = encrypt(bytes(size))
    cells = WatchedCells()
    call_watched(cells, decrypt_file, memoryview(ciphertext), KEY, NONCE)
    assert cells.progress() == (len(ciphertext), len(ciphertext))


def test_progress_and_a_cancel_point_after_each_step() -> None:
    """Each step of 1 MiB is a progress value and a checkpoint."""
    cells = WatchedCells()
    size = 2 * STEP + 5
    call_watched(cells, encrypt_file, memoryview(bytes(size)), KEY, NONCE)
    assert cells.seen == [(done, size) for done in (0, STEP, 2 * STEP, size)]


def test_progress_of_two_passes_goes_up_once(
    target: tuple[str, str], only_named_files: None
) -> None:
    """Where plaintext is verified first, the total is twice the source, and nothing starts over."""
    ciphertext = encrypt(bytes(STEP))
    cells = WatchedCells()
    call_watched(cells, decrypt_file, memoryview(ciphertext), KEY, NONCE, None, "gcm", *target)
    total = 2 * len(ciphertext)
    steps = [0, STEP, len(ciphertext), len(ciphertext) + STEP, total]
    assert cells.seen == [(done, total) for done in steps]


def test_memory_does_not_grow_with_the_file(
    tmp_path: Path, target: tuple[str, str], either_kind: str
) -> None:
    """From file to file, 48 MiB take less than 4 MiB."""
    source = tmp_path / "source"
    source.touch()
    os.truncate(source, 48 * STEP)
    tracemalloc.start()
    try:
        encrypt_file(str(source), KEY, NONCE, None, "gcm", *target)
        os.replace(target[0], source)
        decrypt_file(str(source), KEY, NONCE, None, "gcm", *target)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * STEP


# ---- what does not verify


@given(data=st.binary(max_size=100), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_an_invalid_tag(data: bytes, place: float, bit: int) -> None:
    """One bit, anywhere, and there is no plaintext; what was allocated is zero again."""
    ciphertext = bytearray(encrypt(data))
    ciphertext[int(place * len(ciphertext))] ^= 1 << bit
    result, allocated = call_watched(
        WatchedCells(), decrypt_file, memoryview(ciphertext), KEY, NONCE
    )
    assert type(result) is InvalidTag
    assert [any(memory) for memory in allocated] == [False]


@pytest.mark.slow
@pytest.mark.parametrize("format", ["gcm", "chunked"])
def test_damaged_ciphertext_is_never_decrypted(format: Format) -> None:
    """Whatever was changed: one of two errors, and no plaintext.

    TRIOIPC_MUTANTS says how many; 100,000 have been tried.
    """
    chance = random.Random(1)
    nonce = NONCE if format == "gcm" else b""
    texts = [b"", b"a", bytes(100), random.Random(2).randbytes(40_000)]
    originals = [bytes(encrypt_file(memoryview(t), KEY, nonce, format=format)) for t in texts]
    for _ in range(int(os.environ.get("TRIOIPC_MUTANTS", "3000"))):
        data = damaged(chance, chance.choice(originals))
        if data in originals:
            continue
        with pytest.raises((InvalidTag, DataError)):
            decrypt_file(memoryview(data), KEY, nonce, format=format)


@pytest.mark.parametrize("wrong", ["key", "nonce", "associated data", "no associated data"])
def test_anything_wrong_is_an_invalid_tag(
    target: tuple[str, str], wrong: str, either_kind: str
) -> None:
    """With another key, nonce or associated data there is no file, and no trace of one."""
    result, _ = call_watched(
        WatchedCells(),
        decrypt_file,
        memoryview(encrypt(b"secret", b"context")),
        bytes(32) if wrong == "key" else KEY,
        bytes(12) if wrong == "nonce" else NONCE,
        {"associated data": memoryview(b"other"), "no associated data": None}.get(
            wrong, memoryview(b"context")
        ),
        "gcm",
        *target,
    )
    assert type(result) is InvalidTag
    assert files_in(Path(target[0]).parent) == {}


def test_what_does_not_verify_replaces_nothing(target: tuple[str, str], either_kind: str) -> None:
    """A file that was there stays as it was."""
    Path(target[0]).write_bytes(b"old")
    with pytest.raises(InvalidTag):
        decrypt_file(memoryview(bytes(100)), KEY, NONCE, None, "gcm", *target)
    assert files_in(Path(target[0]).parent) == {"out": b"old"}


def test_big_memory_is_zero_again() -> None:
    """Also results of many steps are zeroed after they did not verify."""
    ciphertext = bytearray(encrypt(b"secret" * STEP))
    ciphertext[-1] ^= 1
    result, allocated = call_watched(
        WatchedCells(), decrypt_file, memoryview(ciphertext), KEY, NONCE
    )
    assert type(result) is InvalidTag
    assert [any(memory) for memory in allocated] == [False]


@pytest.mark.parametrize("size", [0, 1, 15])
def test_what_is_shorter_than_a_tag_is_no_ciphertext(
    tmp_path: Path, target: tuple[str, str], size: int, either_kind: str
) -> None:
    """It is a DataError that says so, and leaves no file."""
    source = tmp_path / "source"
    source.write_bytes(bytes(size))
    with pytest.raises(DataError, match=f"only {size} bytes"):
        decrypt_file(str(source), KEY, NONCE, None, "gcm", *target)
    assert files_in(Path(target[0]).parent) == {}


@pytest.mark.parametrize("function", [encrypt_file, decrypt_file])
def test_a_file_too_long_for_one_nonce_is_refused(
    tmp_path: Path, function: Callable[..., Any]
) -> None:
    """A file over the limit is a ValueError at once."""
    source = tmp_path / "source"
    source.touch()
    os.truncate(source, 2**36 - 32 + TAG_SIZE + 1)
    with pytest.raises(ValueError, match=r"2\*\*36 - 32"):
        function(str(source), KEY, NONCE)


# ---- what is seen meanwhile


def test_a_nameless_file_is_not_seen(folder: Path, target: tuple[str, str]) -> None:
    """While it is written, nothing is in the folder."""
    seen: list[list[str]] = []
    cells = WatchedCells(lambda number: seen.append(os.listdir(folder)))
    ciphertext = memoryview(encrypt(bytes(3 * STEP)))
    result, _ = call_watched(cells, decrypt_file, ciphertext, KEY, NONCE, None, "gcm", *target)
    assert result == 3 * STEP
    assert seen == [[]] * 5


def test_plaintext_has_no_name_before_it_has_verified(
    folder: Path, target: tuple[str, str], only_named_files: None
) -> None:
    """Where files must have a name, that file is empty until the first pass has verified."""
    sizes: list[int] = []
    cells = WatchedCells(lambda number: sizes.append(os.path.getsize(target[1])))
    ciphertext = bytearray(encrypt(bytes(3 * STEP)))
    ciphertext[0] ^= 1
    result, _ = call_watched(
        cells, decrypt_file, memoryview(ciphertext), KEY, NONCE, None, "gcm", *target
    )
    assert type(result) is InvalidTag
    assert sizes == [0] * 5
    assert files_in(folder) == {}


def test_the_spare_file_is_its_owners_alone(
    target: tuple[str, str], only_named_files: None
) -> None:
    """While it has its spare name, nobody else may read it, whatever it will replace."""
    Path(target[0]).touch(0o644)
    modes: list[int] = []
    cells = WatchedCells(lambda number: modes.append(stat.S_IMODE(os.stat(target[1]).st_mode)))
    call_watched(cells, encrypt_file, memoryview(b"abc"), KEY, NONCE, None, "gcm", *target)
    assert modes == [0o600] * 2


# ---- cancelled


@pytest.mark.parametrize("function", [encrypt_file, decrypt_file])
def test_a_cancel_at_any_checkpoint_leaves_no_file(
    target: tuple[str, str], function: Callable[..., Any], either_kind: str
) -> None:
    """Wherever it is cancelled, what was there stays and nothing is added."""
    Path(target[0]).write_bytes(b"old")
    source = memoryview(encrypt(bytes(2 * STEP + 5)))
    for checkpoint in range(1, 20):
        cells = WatchedCells().cancel_at(checkpoint)
        result, _ = call_watched(cells, function, source, KEY, NONCE, None, "gcm", *target)
        if not isinstance(result, RequestInterrupt):
            break
        assert files_in(Path(target[0]).parent) == {"out": b"old"}
    # The start, and each of three steps; of two passes if plaintext must have a name.
    passes = 2 if function is decrypt_file and either_kind == "named" else 1
    assert checkpoint == 2 + 3 * passes
    assert files_in(Path(target[0]).parent) != {"out": b"old"}


def test_a_cancelled_decryption_leaves_no_plaintext_in_memory() -> None:
    """Wherever it is cancelled, what was allocated is zero again."""
    source = memoryview(encrypt(b"secret" * STEP))
    for checkpoint in range(1, 8):
        cells = WatchedCells().cancel_at(checkpoint)
        result, allocated = call_watched(cells, decrypt_file, source, KEY, NONCE)
        assert type(result) is RequestInterrupt
        assert [any(memory) for memory in allocated] == [False]


# ---- sources that change


def test_a_file_that_grows_is_encrypted_to_its_end(tmp_path: Path) -> None:
    """What is appended meanwhile is encrypted as well, and the progress ends equal."""
    source = tmp_path / "source"
    source.write_bytes(b"a" * 100)
    added = b"b" * (3 * STEP)

    def grow(number: int) -> None:
        if number == 1:
            with source.open("ab") as file:
                file.write(added)

    cells = WatchedCells(grow)
    result, allocated = call_watched(cells, encrypt_file, str(source), KEY, NONCE)
    assert result == encrypt(b"a" * 100 + added)
    assert cells.progress() == (100 + len(added), 100 + len(added))
    # Those that were too small; only the last one is a result.
    assert [any(memory) for memory in allocated] == [False] * (len(allocated) - 1) + [True]


@pytest.mark.parametrize("length", [0, 100])
def test_a_file_that_shrinks_is_encrypted_to_its_end(tmp_path: Path, length: int) -> None:
    """What is cut off meanwhile is not encrypted, and the progress ends equal."""
    source = tmp_path / "source"
    source.write_bytes(bytes(STEP))
    cells = WatchedCells(lambda number: os.truncate(source, length))
    result, _ = call_watched(cells, encrypt_file, str(source), KEY, NONCE)
    assert result == encrypt(bytes(length))
    assert cells.progress() == (length, length)


def test_a_ciphertext_that_changes_between_two_passes_is_not_published(
    tmp_path: Path, target: tuple[str, str], only_named_files: None
) -> None:
    """The second pass verifies what it writes, not only what the first one read."""
    source = tmp_path / "source"
    source.write_bytes(encrypt(b"secret"))

    def alter(number: int) -> None:
        if number == 2:  # the first pass has read all
            source.write_bytes(encrypt(b"public"))
            os.truncate(source, 21)

    result, _ = call_watched(
        WatchedCells(alter), decrypt_file, str(source), KEY, NONCE, None, "gcm", *target
    )
    assert type(result) is InvalidTag
    assert files_in(Path(target[0]).parent) == {}


# ---- destinations


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let no file grow beyond ``size``: the full disk that needs no disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing(target: tuple[str, str], either_kind: str) -> None:
    """When the disk refuses more, that is an OSError, and all that was written is gone."""
    Path(target[0]).write_bytes(b"old")
    with file_size_limit(STEP + 10), pytest.raises(OSError) as caught:  # noqa: PT011 - see below
        encrypt_file(memoryview(bytes(3 * STEP)), KEY, NONCE, None, "gcm", *target)
    assert caught.value.errno == errno.EFBIG
    assert files_in(Path(target[0]).parent) == {"out": b"old"}


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o777])
def test_a_new_file_is_its_owners_alone(
    target: tuple[str, str], mask: int, either_kind: str
) -> None:
    """Its mode is 0600, whatever the umask."""
    before = os.umask(mask)
    try:
        encrypt_file(memoryview(b""), KEY, NONCE, None, "gcm", *target)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(target[0]).st_mode) == 0o600


@pytest.mark.parametrize(("old", "new"), [(0o644, 0o644), (0o400, 0o400), (0o4755, 0o755)])
def test_a_replaced_file_keeps_its_mode(
    target: tuple[str, str], old: int, new: int, either_kind: str
) -> None:
    """The permission bits stay; setuid does not survive other content."""
    Path(target[0]).touch()
    os.chmod(target[0], old)
    encrypt_file(memoryview(b""), KEY, NONCE, None, "gcm", *target)
    assert stat.S_IMODE(os.stat(target[0]).st_mode) == new


def test_other_names_of_a_replaced_file_keep_the_old_content(
    folder: Path, target: tuple[str, str], either_kind: str
) -> None:
    """The destination becomes another file; a hard link to the old one still leads there."""
    Path(target[0]).write_bytes(b"old")
    os.link(target[0], folder / "other")
    encrypt_file(memoryview(b"new"), KEY, NONCE, None, "gcm", *target)
    assert files_in(folder) == {"out": encrypt(b"new"), "other": b"old"}


def test_a_spare_file_of_a_dead_worker_is_replaced(
    folder: Path, target: tuple[str, str], either_kind: str
) -> None:
    """The second try of a request whose first worker was killed finds its remains."""
    Path(target[1]).write_bytes(b"remains")
    encrypt_file(memoryview(b"new"), KEY, NONCE, None, "gcm", *target)
    assert files_in(folder) == {"out": encrypt(b"new")}


def test_a_folder_is_no_destination(folder: Path, either_kind: str) -> None:
    """It is an IsADirectoryError before anything is read."""
    spare = str(folder) + ".spare"
    cells = WatchedCells()
    result, _ = call_watched(
        cells, encrypt_file, memoryview(b""), KEY, NONCE, None, "gcm", str(folder), spare
    )
    assert type(result) is IsADirectoryError
    assert cells.seen == []


def test_a_pipe_is_no_destination(folder: Path, target: tuple[str, str], either_kind: str) -> None:
    """What is no regular file is not replaced by one."""
    os.mkfifo(target[0])
    with pytest.raises(OSError, match="regular file"):
        encrypt_file(memoryview(b""), KEY, NONCE, None, "gcm", *target)
    assert stat.S_ISFIFO(os.stat(target[0]).st_mode)
    assert os.listdir(folder) == ["out"]


def test_a_destination_needs_its_folder(folder: Path, either_kind: str) -> None:
    """Without the folder it is a FileNotFoundError; none is made."""
    target = str(folder / "missing" / "out")
    with pytest.raises(FileNotFoundError):
        encrypt_file(memoryview(b""), KEY, NONCE, None, "gcm", target, target + ".spare")
    assert os.listdir(folder) == []


def test_no_descriptor_stays_open(
    tmp_path: Path, target: tuple[str, str], either_kind: str
) -> None:
    """All is closed after a success, an error and a cancel."""
    source = tmp_path / "source"
    source.write_bytes(bytes(STEP))
    before = os.listdir("/dev/fd")
    encrypt_file(str(source), KEY, NONCE, None, "gcm", *target)
    with pytest.raises(InvalidTag):
        decrypt_file(str(source), KEY, NONCE, None, "gcm", *target)
    cells = WatchedCells().cancel_at(2)
    call_watched(cells, encrypt_file, str(source), KEY, NONCE, None, "gcm", *target)
    assert os.listdir("/dev/fd") == before
