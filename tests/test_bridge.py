"""The bridge: arguments, results, where it runs, and the default one."""

from __future__ import annotations

import array
import hashlib
import math
import multiprocessing
import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import trio
import trio.testing
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from trioipc._errors import (
    DataError,
    FallbackWarning,
    RequestCancelledError,
    RequestInterrupt,
    RequestTimeoutError,
    WorkerError,
    WorkerStartError,
)
from trioipc.bridge import _home as home_module
from trioipc.bridge._arguments import WrittenFile
from trioipc.bridge.bridge import (
    Placement,
    WorkerBridge,
    close_default_bridge,
    default_bridge,
    open_worker_bridge,
)
from trioipc.bridge.crypto import CryptoBridge, Encrypted
from trioipc.bridge.file import FileBridge, FileHash
from trioipc.builtin import _files
from trioipc.memory.state import SharedCancellation
from trioipc.pool._opening import open_worker_pool
from trioipc.pool.pool import WorkerPool
from watched import Direct

KEY = bytes(range(32))
NONCE = bytes(range(12))
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()

# Where an endless source is cancelled, it has to be long: this takes half a minute to hash.
LONG = 1 << 36


def encrypt(data: bytes, associated_data: bytes | None = None) -> bytes:
    """Encrypt with somebody else's code."""
    return AESGCM(KEY).encrypt(NONCE, data, associated_data)


def sparse_file(path: Path, size: int) -> Path:
    """Make a file of zeros that takes no room."""
    path.touch()
    os.truncate(path, size)
    return path


@pytest.fixture
def crypto(direct: Direct) -> CryptoBridge:
    """Give a crypto bridge over it."""
    return CryptoBridge(direct)


@pytest.fixture
def file(direct: Direct) -> FileBridge:
    """Give a file bridge over it."""
    return FileBridge(direct)


# ---- arguments: wrong ones never reach a worker


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((b"", KEY[:31]), {}, ValueError, "key must be 32 bytes long, not 31"),
        ((b"", KEY + b"!"), {}, ValueError, "key must be 32 bytes long, not 33"),
        ((b"", "k" * 32), {}, TypeError, "key must be bytes-like, not str"),
        ((b"", None), {}, TypeError, "key must be bytes-like, not NoneType"),
        ((b"", KEY, b"short"), {}, ValueError, "nonce must be 12 bytes long, not 5"),
        ((b"", KEY, b""), {}, ValueError, "nonce must be 12 bytes long, not 0"),
        ((b"", KEY, "n" * 12), {}, TypeError, "nonce must be bytes-like, not str"),
        ((7, KEY, NONCE), {}, TypeError, "source must be bytes-like, not int"),
        ((None, KEY, NONCE), {}, TypeError, "source must be bytes-like, not NoneType"),
        (("", KEY, NONCE), {}, ValueError, "source is an empty path"),
        (("a\0b", KEY, NONCE), {}, ValueError, "source has a NUL"),
        ((memoryview(b"abcd")[::2], KEY, NONCE), {}, ValueError, "source must be C-contiguous"),
        ((b"", KEY, NONCE), {"associated_data": "a"}, TypeError, "associated_data must be bytes"),
        ((b"", KEY, NONCE), {"destination": b"out"}, TypeError, "destination must be a str or a"),
        ((b"", KEY, NONCE), {"destination": ""}, ValueError, "destination is an empty path"),
        ((b"", KEY, NONCE), {"destination": "out/"}, ValueError, "names a folder"),
    ],
)
@pytest.mark.parametrize("operation", ["encrypt_file", "decrypt_file"])
async def test_wrong_arguments_are_refused_here(
    crypto: CryptoBridge,
    direct: Direct,
    operation: str,
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    """The error says which argument, what it was and what would be right; no worker is asked."""
    if operation == "decrypt_file" and len(arguments) == 2:
        arguments = (*arguments, NONCE)
    if operation == "decrypt_file" and arguments[0] == b"":
        arguments = (bytes(16), *arguments[1:])
    with pytest.raises(error, match=message):
        await getattr(crypto, operation)(*arguments, **options)
    assert direct.calls == []


async def test_no_error_shows_a_key(crypto: CryptoBridge) -> None:
    """A key of the wrong length or type is in no message."""
    for key in (b"hunter2", "hunter2"):
        with pytest.raises((TypeError, ValueError)) as caught:
            await crypto.encrypt_file(b"", key)  # type: ignore[call-overload]
        assert "hunter2" not in str(caught.value)


async def test_what_is_too_long_is_refused_here(
    crypto: CryptoBridge, direct: Direct, tmp_path: Path
) -> None:
    """One nonce is good for 2**36 - 32 bytes; a longer file is a ValueError."""
    source = sparse_file(tmp_path / "source", 2**36 - 31)
    with pytest.raises(ValueError, match=r"2\*\*36 - 32"):
        await crypto.encrypt_file(source, KEY)
    os.truncate(source, 2**36 - 31 + 16)
    with pytest.raises(ValueError, match=r"2\*\*36 - 32"):
        await crypto.decrypt_file(source, KEY, NONCE)
    assert direct.calls == []


async def test_a_ciphertext_without_a_tag_is_refused_here(
    crypto: CryptoBridge, direct: Direct
) -> None:
    """Fewer than 16 bytes are a DataError, which is a ValueError; no worker is asked."""
    with pytest.raises(DataError, match="only 15 bytes"):
        await crypto.decrypt_file(bytes(15), KEY, NONCE)
    assert direct.calls == []


@pytest.mark.parametrize("algorithm", ["SHA-1", "sha256", "", None, ["SHA-256"]])
async def test_an_unknown_algorithm_is_refused_here(
    file: FileBridge, direct: Direct, algorithm: Any
) -> None:
    """The error names those that there are."""
    with pytest.raises(ValueError, match="SHA-256, SHA-512"):
        await file.hash_file(b"", algorithm)
    assert direct.calls == []


@pytest.mark.parametrize("how", ["same", "symlink", "hard link", "other way"])
async def test_source_and_destination_must_differ(
    crypto: CryptoBridge, direct: Direct, tmp_path: Path, how: str
) -> None:
    """The same file under any name is a ValueError, and stays as it is."""
    source, destination = tmp_path / "source", tmp_path / "destination"
    source.write_bytes(b"data")
    if how == "symlink":
        destination.symlink_to(source)
    elif how == "hard link":
        os.link(source, destination)
    else:
        destination = source if how == "same" else tmp_path / ".." / tmp_path.name / "source"
    for operation in (crypto.encrypt_file, crypto.decrypt_file):
        with pytest.raises(ValueError, match="same file"):
            await operation(source, KEY, NONCE, destination=destination)
    assert source.read_bytes() == b"data"
    assert direct.calls == []


# ---- arguments: right ones reach a worker as what they mean


@pytest.mark.parametrize(
    "source",
    [
        b"abcd",
        bytearray(b"abcd"),
        memoryview(b"abcd"),
        memoryview(b"xabcdx")[1:5],
        array.array("I", b"abcd"),
        memoryview(b"abcd").cast("B", (2, 2)),
        b"",
        bytearray(),
        array.array("I"),
    ],
)
async def test_every_bytes_like_source_is_data(
    crypto: CryptoBridge, direct: Direct, source: Any
) -> None:
    """Whatever exports a contiguous buffer is encrypted as its bytes, without a copy here."""
    encrypted = await crypto.encrypt_file(source, KEY, NONCE)
    assert encrypted.ciphertext == encrypt(bytes(memoryview(source)))
    assert encrypted.nonce == NONCE
    assert type(direct.calls[0][0]) is memoryview


async def test_paths_mean_the_directory_of_the_call(
    crypto: CryptoBridge, direct: Direct, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths are made absolute at the call, whatever the directory is later."""
    (tmp_path / "source").write_bytes(b"data")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    direct.before = lambda *arguments: os.chdir(tmp_path / "elsewhere")
    encrypted = await crypto.encrypt_file("source", KEY, NONCE, destination=Path("out"))
    assert encrypted.ciphertext == WrittenFile(tmp_path / "out", 20)
    assert (tmp_path / "out").read_bytes() == encrypt(b"data")


async def test_a_path_through_a_link_means_what_the_kernel_means(
    crypto: CryptoBridge, tmp_path: Path
) -> None:
    """``link/../name`` is beside what the link leads to, not beside the link."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    (tmp_path / "a" / "name").write_bytes(b"abc")
    assert await crypto.hash_file(f"{tmp_path}/link/../name") == hashlib.sha256(b"abc").hexdigest()


async def test_a_linked_destination_stays_a_link(crypto: CryptoBridge, tmp_path: Path) -> None:
    """A symbolic link as the destination is followed, as by `open`."""
    (tmp_path / "far").mkdir()
    real, link = tmp_path / "far" / "real", tmp_path / "link"
    real.write_bytes(b"old")
    link.symlink_to(real)
    await crypto.encrypt_file(b"new", KEY, NONCE, destination=link)
    assert link.is_symlink()
    assert real.read_bytes() == encrypt(b"new")
    assert sorted(os.listdir(tmp_path) + os.listdir(tmp_path / "far")) == ["far", "link", "real"]


async def test_a_long_name_leaves_room_for_a_spare_one(
    crypto: CryptoBridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A destination's name may be as long as names may be, in any script."""
    monkeypatch.setattr(_files, "open_nameless", lambda folder: None)
    for name in ("n" * 255, "\N{HIRAGANA LETTER A}" * 85):
        encrypted = await crypto.encrypt_file(b"", KEY, destination=tmp_path / name)
        assert encrypted.ciphertext.size == 16
    assert len(os.listdir(tmp_path)) == 2


async def test_a_nonce_is_drawn_for_each_call(crypto: CryptoBridge) -> None:
    """Without a nonce, each call has a new random one, and it decrypts."""
    several = [await crypto.encrypt_file(b"data", KEY) for _ in range(20)]
    assert {len(encrypted.nonce) for encrypted in several} == {12}
    assert len({encrypted.nonce for encrypted in several}) == 20
    assert await crypto.decrypt_file(several[0].ciphertext, KEY, several[0].nonce) == b"data"


async def test_options_reach_the_pool(
    crypto: CryptoBridge, file: FileBridge, direct: Direct
) -> None:
    """Each operation hands on what it was told about the request."""
    with SharedCancellation() as flag:
        options: dict[str, Any] = {
            "on_progress": print,
            "timeout": 1.0,
            "queue_timeout": 2.0,
            "cancellation": flag,
            "priority": "high",
        }
        await crypto.encrypt_file(b"", KEY, **options)
        await crypto.decrypt_file(encrypt(b""), KEY, NONCE, **options)
        await crypto.hash_file(b"", **options)
        await file.hash_file(b"", **options)
    assert direct.options == [options] * 4


# ---- results


async def test_results_are_read_only(crypto: CryptoBridge) -> None:
    """Bytes come as read-only views."""
    encrypted = await crypto.encrypt_file(b"data", KEY, NONCE)
    plaintext = await crypto.decrypt_file(encrypted.ciphertext, KEY, NONCE)
    assert (encrypted.ciphertext.readonly, plaintext.readonly) == (True, True)


async def test_records_do_not_show_what_they_hold(crypto: CryptoBridge, tmp_path: Path) -> None:
    """The repr of a result has lengths and names, no bytes."""
    encrypted = await crypto.encrypt_file(b"data", KEY, NONCE)
    assert repr(encrypted) == "Encrypted(ciphertext=<20 bytes>, nonce=<12 bytes>)"
    written = await crypto.encrypt_file(b"data", KEY, NONCE, destination=tmp_path / "out")
    expected = WrittenFile(tmp_path / "out", 20)
    assert written == Encrypted(expected, NONCE)
    assert repr(written) == f"Encrypted(ciphertext={expected!r}, nonce=<12 bytes>)"


async def test_hashes(crypto: CryptoBridge, file: FileBridge) -> None:
    """`crypto` gives SHA-256 in hex, `file` says which hash it is."""
    assert await crypto.hash_file(b"abc") == hashlib.sha256(b"abc").hexdigest()
    assert await file.hash_file(b"abc") == FileHash(hashlib.sha256(b"abc").hexdigest(), "SHA-256")
    sha512 = FileHash(hashlib.sha512(b"abc").hexdigest(), "SHA-512")
    assert await file.hash_file(b"abc", "SHA-512") == sha512


@pytest.mark.parametrize("error", [RequestInterrupt, OSError, trio.Cancelled._create])
async def test_what_a_killed_worker_left_is_removed(
    tmp_path: Path, error: Callable[[], BaseException]
) -> None:
    """However the request ends, its spare file goes, and the destination stays what it was."""
    spares: list[str] = []

    def leave_something(*arguments: Any) -> None:
        spares.append(arguments[-1])
        Path(arguments[-1]).write_bytes(b"half a file")
        raise ended

    try:
        ended = error()
    except TypeError:  # this version of Trio wants to know more
        ended = trio.Cancelled._create(source="explicit")  # type: ignore[call-arg]
    (tmp_path / "out").write_bytes(b"old")
    crypto = CryptoBridge(Direct(leave_something))
    with pytest.raises(type(ended)):
        await crypto.encrypt_file(b"data", KEY, destination=tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == b"old"
    assert os.path.dirname(spares[0]) == str(tmp_path)


async def test_a_missing_folder_is_the_workers_to_say(crypto: CryptoBridge, tmp_path: Path) -> None:
    """The error of the call is that of the worker, not one of cleaning up."""
    with pytest.raises(FileNotFoundError):
        await crypto.encrypt_file(b"data", KEY, destination=tmp_path / "no" / "out")


# ---- with workers

Kind = Literal["process", "thread"]
both_kinds = pytest.mark.parametrize("kind", ["process", "thread"])


@both_kinds
async def test_files_to_files(kind: Kind, tmp_path: Path) -> None:
    """A file is encrypted, decrypted and hashed by workers, and comes back as it was."""
    data = os.urandom(3 << 20)
    (tmp_path / "plain").write_bytes(data)
    async with open_worker_bridge(1, placement=kind) as bridge:
        encrypted = await bridge.crypto.encrypt_file(
            tmp_path / "plain", KEY, NONCE, destination=tmp_path / "cipher"
        )
        assert encrypted.ciphertext == WrittenFile(tmp_path / "cipher", len(data) + 16)
        assert (tmp_path / "cipher").read_bytes() == encrypt(data)
        written = await bridge.crypto.decrypt_file(
            tmp_path / "cipher", KEY, NONCE, destination=tmp_path / "back"
        )
        assert written == WrittenFile(tmp_path / "back", len(data))
        assert (tmp_path / "back").read_bytes() == data
        assert await bridge.crypto.hash_file(tmp_path / "back") == hashlib.sha256(data).hexdigest()
    assert sorted(os.listdir(tmp_path)) == ["back", "cipher", "plain"]


@both_kinds
async def test_bytes_to_bytes(kind: Kind) -> None:
    """Bytes of every size come back as they were, and the views outlive the bridge."""
    results = {}
    async with open_worker_bridge(1, placement=kind) as bridge:
        for size in (0, 1, 100, 10_000, 3 << 20):
            data = os.urandom(size)
            encrypted = await bridge.crypto.encrypt_file(data, KEY, associated_data=b"context")
            results[data] = await bridge.crypto.decrypt_file(
                encrypted.ciphertext, KEY, encrypted.nonce, associated_data=b"context"
            )
            assert bytes(encrypted.ciphertext) != data
    assert list(results.values()) == list(results)
    assert {view.readonly for view in results.values()} == {True}


@both_kinds
async def test_what_does_not_verify_comes_home_as_itself(kind: Kind, tmp_path: Path) -> None:
    """It is cryptography's own InvalidTag, and there is no file."""
    async with open_worker_bridge(1, placement=kind) as bridge:
        with pytest.raises(InvalidTag):
            await bridge.crypto.decrypt_file(bytes(100), KEY, NONCE)
        with pytest.raises(InvalidTag):
            await bridge.crypto.decrypt_file(bytes(100), KEY, NONCE, destination=tmp_path / "out")
        with pytest.raises(FileNotFoundError) as caught:
            await bridge.crypto.hash_file(tmp_path / "missing")
        assert caught.value.filename == str(tmp_path / "missing")
    assert os.listdir(tmp_path) == []


@both_kinds
@pytest.mark.parametrize("size", [0, 5 << 20])
async def test_progress_ends_at_the_total(kind: Kind, tmp_path: Path, size: int) -> None:
    """The last progress is the size of the source, also if that is 0."""
    seen: list[Any] = []
    source = sparse_file(tmp_path / "source", size)
    async with open_worker_bridge(1, placement=kind) as bridge:
        await bridge.crypto.encrypt_file(source, KEY, on_progress=seen.append)
    assert (seen[-1].value, seen[-1].total, seen[-1].fraction) == (size, size, 1.0)


@both_kinds
async def test_a_cancelled_call_leaves_no_file(kind: Kind, tmp_path: Path) -> None:
    """Cancelled in the middle, nothing is left, and the worker serves the next request."""
    source = sparse_file(tmp_path / "source", LONG - 32)
    async with open_worker_bridge(1, placement=kind) as bridge:
        with trio.CancelScope() as scope:
            await bridge.crypto.encrypt_file(
                source,
                KEY,
                destination=tmp_path / "out",
                on_progress=lambda progress: scope.cancel() if progress.value else None,
            )
        assert scope.cancelled_caught
        assert os.listdir(tmp_path) == ["source"]
        assert await bridge.crypto.hash_file(b"") == EMPTY_SHA256


@both_kinds
async def test_a_timeout_and_a_cancellation_are_errors_of_the_call(
    kind: Kind, tmp_path: Path
) -> None:
    """They come as everywhere in the pool."""
    source = sparse_file(tmp_path / "source", LONG)
    async with open_worker_bridge(1, placement=kind) as bridge:
        with pytest.raises(RequestTimeoutError):
            await bridge.crypto.hash_file(source, timeout=0.01)
        cancellation = SharedCancellation()
        with pytest.raises(RequestCancelledError):
            await bridge.file.hash_file(
                source,
                cancellation=cancellation,
                on_progress=lambda progress: cancellation.cancel(),
            )


async def test_it_says_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """`placed` says where and why: by default, by the option, by the environment."""
    monkeypatch.delenv("TRIOIPC_PLACEMENT", raising=False)
    async with open_worker_bridge(1) as bridge:
        assert bridge.placed == Placement("process", "the default")
        assert repr(bridge) == "<WorkerBridge: on processes>"
    async with open_worker_bridge(1, placement="thread") as bridge:
        assert bridge.placed == Placement("thread", "placement says so")
        assert repr(bridge) == "<WorkerBridge: on threads>"
    monkeypatch.setenv("TRIOIPC_PLACEMENT", "thread")
    async with open_worker_bridge(1) as bridge:
        assert bridge.placed == Placement("thread", "TRIOIPC_PLACEMENT says so")
    async with open_worker_bridge(1, placement="process") as bridge:
        assert bridge.placed == Placement("process", "placement says so")


async def test_wrong_options_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An option that is none of those that there are is a ValueError that names them."""
    with pytest.raises(
        ValueError, match="placement must be one of process, thread, auto, not 'moon'"
    ):
        async with open_worker_bridge(placement="moon"):  # type: ignore[arg-type]
            pass
    with pytest.raises(ValueError, match="fallback must be one of thread, never, not 'always'"):
        async with open_worker_bridge(fallback="always"):  # type: ignore[arg-type]
            pass
    monkeypatch.setenv("TRIOIPC_PLACEMENT", "here")
    with pytest.raises(ValueError, match="TRIOIPC_PLACEMENT must be one of process, thread"):
        async with open_worker_bridge():
            pass


@both_kinds
async def test_the_pool_below_runs_other_functions(kind: Kind) -> None:
    """`bridge.pool` is the pool, where somebody chose what it is made of."""
    async with open_worker_bridge(1, placement=kind) as bridge:
        assert await bridge.pool.run(math.factorial, 5) == 120


@both_kinds
@pytest.mark.parametrize(
    "error",
    [ValueError("v"), KeyboardInterrupt(), ExceptionGroup("g", [ValueError()]), WorkerStartError()],
    ids=lambda error: type(error).__name__,
)
async def test_what_the_body_raises_leaves_as_itself(kind: Kind, error: BaseException) -> None:
    """It is that very exception; nothing is wrapped round it, and nothing falls back."""
    with pytest.raises(type(error)) as caught:
        async with open_worker_bridge(1, placement=kind):
            raise error
    assert caught.value is error


@both_kinds
async def test_a_cancelled_body_leaves_quietly(kind: Kind) -> None:
    """A cancel of the block's scope is caught by that scope."""
    with trio.CancelScope() as scope:
        async with open_worker_bridge(1, placement=kind):
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught


# ---- falling back

OpenPool = Callable[..., AbstractAsyncContextManager[WorkerPool]]


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be where no worker process can be started."""
    monkeypatch.delenv("TRIOIPC_PLACEMENT", raising=False)

    @asynccontextmanager
    async def open_pool(size: Any, *, kind: str, **options: Any) -> AsyncIterator[WorkerPool]:
        if kind == "cpu":
            raise WorkerStartError("no processes here")
        async with open_worker_pool(size, kind=kind, **options) as pool:  # type: ignore[arg-type]
            yield pool

    monkeypatch.setattr(home_module, "open_worker_pool", open_pool)


async def test_it_falls_back_to_threads(no_processes: None) -> None:
    """Where no process can be started, operations work, and one warning points at the block."""
    with pytest.warns(FallbackWarning, match="no processes here") as caught:
        async with open_worker_bridge(1) as bridge:
            assert await bridge.crypto.hash_file(b"") == EMPTY_SHA256
            assert bridge.placed.kind == "thread"
            assert "no processes here" in bridge.placed.reason
    assert [warning.filename for warning in caught] == [__file__]


async def test_only_built_in_operations_fall_back(no_processes: None) -> None:
    """After a fallback the pool cannot be had, since other functions could not be killed."""
    with pytest.warns(FallbackWarning):
        async with open_worker_bridge(1) as bridge:
            with pytest.raises(WorkerStartError, match="threads") as caught:
                bridge.pool  # noqa: B018 - a property that raises
    assert str(caught.value.__cause__) == "no processes here"


async def test_it_never_falls_back_if_told_so(no_processes: None) -> None:
    """With ``fallback="never"`` it is the error of the pool."""
    with pytest.raises(WorkerStartError, match="no processes here"):
        async with open_worker_bridge(1, fallback="never"):
            pass


async def test_a_body_does_not_fall_back(no_processes: None) -> None:
    """After a fallback, too, what the body raises leaves as itself."""
    error = WorkerStartError("of the body")
    with pytest.raises(WorkerStartError) as caught, pytest.warns(FallbackWarning):
        async with open_worker_bridge(1):
            raise error
    assert caught.value is error
    assert error.__context__ is None


async def test_a_warning_that_is_an_error_closes_the_bridge(no_processes: None) -> None:
    """Where warnings are errors, a fallback is one, and nothing stays open."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FallbackWarning):
            async with open_worker_bridge(1):
                pass


async def test_a_worker_that_starts_too_slowly_is_none() -> None:
    """A real process that cannot be ready in a microsecond: threads it is."""
    with pytest.warns(FallbackWarning):
        async with open_worker_bridge(1, placement="process", start_timeout=1e-6) as bridge:
            assert bridge.placed.kind == "thread"
            assert await bridge.crypto.hash_file(b"") == EMPTY_SHA256
    assert multiprocessing.active_children() == []


def test_without_a_guard_only_the_main_process_falls_back(tmp_path: Path) -> None:
    """A main module without a guard runs once; its worker refuses to run it again, and says why."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import trio
            from trioipc.bridge.bridge import open_worker_bridge

            async def main():
                async with open_worker_bridge(1, placement="process") as bridge:
                    print(bridge.placed.kind, await bridge.crypto.hash_file(b""))

            trio.run(main)
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == [f"thread {EMPTY_SHA256}"]
    assert "FallbackWarning" in done.stderr
    assert "__name__" in done.stderr


# ---- the default bridge


@pytest.fixture
def on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the default bridge work on threads, which start at once."""
    monkeypatch.setenv("TRIOIPC_PLACEMENT", "thread")


@pytest.fixture
def on_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the default bridge work on processes."""
    monkeypatch.delenv("TRIOIPC_PLACEMENT", raising=False)


def test_there_is_none_outside_of_trio() -> None:
    """Outside of `trio.run` there is no default bridge, nor one to close."""
    with pytest.raises(RuntimeError, match=r"trio\.run"):
        default_bridge()
    with pytest.raises(RuntimeError, match=r"trio\.run"):
        close_default_bridge().send(None)


async def test_it_starts_nothing_until_it_is_used(on_processes: None) -> None:
    """To ask for it costs nothing; the first operation starts what it needs."""
    before = trio.lowlevel.current_statistics().tasks_living
    bridge = default_bridge()
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == before
    assert multiprocessing.active_children() == []
    assert bridge.placed == Placement("process", "the default; nothing has been started yet")
    with pytest.raises(RuntimeError, match="before its first operation"):
        bridge.pool  # noqa: B018 - a property that raises
    assert await bridge.crypto.hash_file(b"") == EMPTY_SHA256
    assert bridge.placed == Placement("process", "the default")
    assert await bridge.pool.run(math.factorial, 5) == 120
    await close_default_bridge()
    assert multiprocessing.active_children() == []


async def test_it_is_the_same_for_all_tasks(on_threads: None) -> None:
    """All tasks of a run have one default bridge, also if they start it at once."""
    seen: set[WorkerBridge] = set()

    async def use() -> None:
        seen.add(default_bridge())
        assert await default_bridge().crypto.hash_file(b"") == EMPTY_SHA256

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(use)
    assert seen == {default_bridge()}


async def test_after_closing_there_is_a_new_one(on_threads: None) -> None:
    """The closed one raises ClosedResourceError; the next is another and works."""
    for use in (False, True):
        bridge = default_bridge()
        if use:
            await bridge.crypto.hash_file(b"")
        await close_default_bridge()
        with pytest.raises(trio.ClosedResourceError):
            await bridge.crypto.hash_file(b"")
        with pytest.raises(trio.ClosedResourceError):
            bridge.pool  # noqa: B018 - a property that raises
        assert default_bridge() is not bridge
    assert await default_bridge().crypto.hash_file(b"") == EMPTY_SHA256


async def test_closing_none_does_nothing() -> None:
    """With no default bridge, and with an unused one, closing is just a checkpoint."""
    with trio.testing.assert_checkpoints():
        await close_default_bridge()
    default_bridge()
    with trio.testing.assert_checkpoints():
        await close_default_bridge()


async def test_closing_serves_what_is_under_way(on_threads: None, tmp_path: Path) -> None:
    """A request that runs when the bridge is closed is finished first."""
    source = sparse_file(tmp_path / "source", 32 << 20)
    results: list[str] = []

    async def use(task_status: trio.TaskStatus[None]) -> None:
        results.append(
            await default_bridge().crypto.hash_file(
                source, on_progress=lambda progress: started.set()
            )
        )

    started = trio.Event()
    await default_bridge().crypto.hash_file(b"")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(use, trio.TASK_STATUS_IGNORED)
        await started.wait()
        await close_default_bridge()
        # Its answer has come; its task may need another turn.
        await trio.testing.wait_all_tasks_blocked()
        assert results == [hashlib.sha256(bytes(32 << 20)).hexdigest()]


async def test_a_cancelled_close_aborts(on_threads: None, tmp_path: Path) -> None:
    """If closing is cancelled, requests under way are aborted, and it is closed all the same."""
    source = sparse_file(tmp_path / "source", LONG)
    started = trio.Event()

    async def use() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await bridge.crypto.hash_file(source, on_progress=lambda progress: started.set())

    bridge = default_bridge()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(use)
        await started.wait()
        with trio.CancelScope() as scope:
            scope.cancel()
            await close_default_bridge()
        assert scope.cancelled_caught
    with pytest.raises(trio.ClosedResourceError):
        await bridge.crypto.hash_file(b"")


async def test_a_cancelled_first_call_does_not_hurt_others(on_threads: None) -> None:
    """Who is cancelled while the bridge opens takes nobody with them."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await default_bridge().crypto.hash_file(b"")
    assert scope.cancelled_caught
    assert await default_bridge().crypto.hash_file(b"") == EMPTY_SHA256


def test_each_run_has_its_own(on_threads: None) -> None:
    """A new run has a new one; that of an ended run is closed, used or not."""

    async def make(use: bool) -> WorkerBridge:
        bridge = default_bridge()
        if use:
            await bridge.crypto.hash_file(b"")
        return bridge

    async def use(bridge: WorkerBridge) -> None:
        assert default_bridge() is not bridge
        await bridge.crypto.hash_file(b"")

    for used, error in ((True, trio.ClosedResourceError), (False, RuntimeError)):
        bridge = trio.run(make, used)
        with pytest.raises(error):
            trio.run(use, bridge)


def test_no_process_outlives_the_run(on_processes: None) -> None:
    """When the main task has ended, the workers end, also if nobody closed anything."""

    async def main() -> str:
        return await default_bridge().crypto.hash_file(b"")

    assert trio.run(main) == EMPTY_SHA256
    assert multiprocessing.active_children() == []


def test_requests_that_outlive_the_main_task_are_aborted(on_threads: None, tmp_path: Path) -> None:
    """After the main task, those in flight and all later ones get ClosedResourceError."""
    source = sparse_file(tmp_path / "source", LONG)
    errors: list[type[BaseException]] = []

    async def main() -> None:
        started = trio.Event()

        async def outlive() -> None:
            with trio.CancelScope(shield=True):
                for something in (source, b""):
                    try:
                        await default_bridge().crypto.hash_file(
                            something, on_progress=lambda progress: started.set()
                        )
                    except trio.ClosedResourceError as error:
                        errors.append(type(error))

        trio.lowlevel.spawn_system_task(outlive)
        await started.wait()

    trio.run(main)
    assert errors == [trio.ClosedResourceError] * 2


async def test_it_falls_back_with_a_warning_once(no_processes: None) -> None:
    """The first call that finds out warns, at its own line."""
    with pytest.warns(FallbackWarning, match="no processes here") as caught:
        for _ in range(2):
            assert await default_bridge().crypto.hash_file(b"") == EMPTY_SHA256
            assert (await default_bridge().file.hash_file(b"")).hash == EMPTY_SHA256
    assert [warning.filename for warning in caught] == [__file__]


async def test_one_that_cannot_open_is_an_error_of_the_call(
    on_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run lives on, all who wait are told, and the next default bridge tries again."""

    @asynccontextmanager
    async def open_pool(*arguments: Any, **options: Any) -> AsyncIterator[WorkerPool]:
        await trio.testing.wait_all_tasks_blocked()
        raise OSError("nothing left")
        yield

    told: list[BaseException | None] = []

    async def use(bridge: WorkerBridge) -> None:
        with pytest.raises(WorkerStartError) as caught:
            await bridge.crypto.hash_file(b"")
        told.append(caught.value.__cause__)

    with monkeypatch.context() as patch:
        patch.setattr(home_module, "open_worker_pool", open_pool)
        bridge = default_bridge()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use, bridge)
            nursery.start_soon(use, bridge)
        await use(bridge)
    assert list(map(str, told)) == ["nothing left"] * 3
    assert await default_bridge().crypto.hash_file(b"") == EMPTY_SHA256


async def test_one_that_breaks_is_an_error_of_the_next_call(
    on_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If its pool breaks, the run lives on, the next call is told, then there is a new one."""
    breaks = trio.Event()

    @asynccontextmanager
    async def open_pool(size: Any, **options: Any) -> AsyncIterator[WorkerPool]:
        async with open_worker_pool(size, **options) as pool:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def wait() -> None:
                        await breaks.wait()
                        scope.cancel()

                    yield pool
            raise OSError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(home_module, "open_worker_pool", open_pool)
        bridge = default_bridge()
        await bridge.crypto.hash_file(b"")
        breaks.set()
        await bridge._home._ended.wait()  # type: ignore[attr-defined] # workers take their time
        assert default_bridge() is bridge
        with pytest.raises(WorkerError, match="broken") as caught:
            await bridge.crypto.hash_file(b"")
    assert str(caught.value.__cause__) == "broken"
    assert default_bridge() is not bridge
    assert await default_bridge().crypto.hash_file(b"") == EMPTY_SHA256
