"""The kinds of requests: each makes one at random, and checks what comes of it.

What a request gave is compared with what this process knows, or with what another implementation
says. Anything that should not have come is `WrongError`.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from typing import TYPE_CHECKING, Any

import attrs
import brotli
import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.soak import jobs
from trioipc import (
    DataError,
    PayloadError,
    RequestCancelledError,
    RequestExitError,
    RequestTimeoutError,
    SharedCancellation,
    SharedCounter,
    SharedStateError,
    WorkerCrashedError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from random import Random
    from typing import Concatenate

    from trioipc import Progress, WorkerBridge, WorkerPool

    Kind = Callable[["Requests", Random], Awaitable[object]]

# No function takes so long, but for one whose worker was stopped.
_PATIENCE = 2.0

_BLOCK = os.urandom(8 << 20)
# Where ways part: buffers leave the pickle at 8 KiB, a pipe holds 64 KiB, a ring 4 MiB.
_EDGES = (0, 1, 8 << 10, 64 << 10, 1 << 20, 4 << 20)


class WrongError(Exception):
    """A request gave what it should not have."""


@attrs.define(eq=False)
class Requests:
    """What requests are made on."""

    pool: WorkerPool
    io_pool: WorkerPool
    bridge: WorkerBridge
    folder: Path
    counter: SharedCounter = attrs.field(factory=SharedCounter)
    # What calls have added to the counter for certain, and may have added.
    added: int = 0
    tried: int = 0
    # {pool: requests that it was given}
    given: dict[WorkerPool, int] = attrs.field(factory=dict)
    files: int = 0

    async def run(
        self, pool: WorkerPool, fn: Callable[..., Any], *arguments: Any, **options: Any
    ) -> Any:
        """Run ``fn`` with a bound on its time."""
        self.given[pool] = self.given.get(pool, 0) + 1
        return await pool.run(fn, *arguments, **{"timeout": _PATIENCE, **options})

    async def ask(
        self,
        operation: Callable[Concatenate[Any, ...], Awaitable[Any]],
        *arguments: Any,
        **options: Any,
    ) -> Any:
        """Call an operation of the bridge with a bound on its time."""
        self.given[self.bridge.pool] = self.given.get(self.bridge.pool, 0) + 1
        return await operation(*arguments, timeout=_PATIENCE, **options)

    def path(self) -> Path:
        """Return a path of its own."""
        self.files += 1
        return self.folder / str(self.files)


def _check(holds: object, what: str) -> None:
    if not holds:
        raise WrongError(what)


def _size(chance: Random, most: int) -> int:
    if chance.random() < 0.2:
        return max(0, min(most, chance.choice(_EDGES) + chance.randint(-1, 1)))
    return min(most, int(2 ** chance.uniform(0, 22)))


def _data(chance: Random, most: int = 4 << 20) -> bytes:
    size = _size(chance, most)
    start = chance.randrange(len(_BLOCK) - size)
    return _BLOCK[start : start + size]


def _compressible(chance: Random) -> bytes:
    piece = _data(chance, 1 << 10) or b"\0"
    return (piece * (1 + _size(chance, 1 << 19) // len(piece)))[: 1 << 19]


# ---- that end with a value


async def small(requests: Requests, chance: Random) -> None:
    """Plain values."""
    value = chance.choice([None, chance.random(), [chance.randrange(99)] * 9, {"key": "text" * 9}])
    priority = chance.choice(["low", "normal", "high"])
    got = await requests.run(requests.pool, jobs.echo, value, priority=priority)
    _check(got == value, "a value came back as another")


async def payload(requests: Requests, chance: Random) -> None:
    """Bytes of all sizes, and as they travel."""
    data = _data(chance)
    value = chance.choice(
        [
            lambda: data,
            lambda: bytearray(data),
            lambda: memoryview(data),
            lambda: (1, data),
            lambda: [bytearray(data), data[:100]],
            lambda: {"data": data, "more": 1},
        ]
    )()
    got = await requests.run(requests.pool, jobs.echo, value)
    _check(type(got) is type(value) and got == value, "bytes came back as others")


async def allocated(requests: Requests, chance: Random) -> None:
    """Memory of the arena."""
    data = _data(chance) or b"\0"
    memory = requests.pool.allocate(len(data))
    memory[:] = data
    got = await requests.run(requests.pool, jobs.echo, memory)
    _check(got == data, "allocated memory came back as other")


async def progress(requests: Requests, chance: Random) -> None:
    """Progress goes up, and ends at the total."""
    total, seen = chance.randint(1, 20), [0]

    def listen(progress: Progress) -> None:
        _check(progress.total == total or progress.value == 0, "progress of another request")
        _check(progress.value >= seen[-1], "progress went back")
        seen.append(progress.value)

    got = await requests.run(requests.pool, jobs.count_to, total, on_progress=listen)
    _check(got == seen[-1] == total, "the last progress did not arrive")


async def counter(requests: Requests, chance: Random) -> None:
    """What all processes count together is in the end what the calls say."""
    times = chance.randint(1, 20)
    requests.tried += times
    try:
        requests.added += await requests.run(requests.pool, jobs.count_up, requests.counter, times)
    except SharedStateError as error:  # who held the lock was stopped
        _check("stopped" in str(error), "shared state failed")


async def several(requests: Requests, chance: Random) -> None:
    """A request that runs beside its block; its result may be asked for twice."""
    data = _data(chance, 1 << 16)
    requests.given[requests.pool] = requests.given.get(requests.pool, 0) + 1
    async with requests.pool.open_request(jobs.echo, data, timeout=_PATIENCE) as request:
        _check(await request.result() == await request.result() == data, "two results")


async def asynchronous(requests: Requests, chance: Random) -> None:
    """Many at once in a worker of the io pool."""
    data = _data(chance, 1 << 16)
    got = await requests.run(requests.io_pool, jobs.echo_later, data, chance.uniform(0, 0.01))
    _check(got == data, "an io worker gave other bytes")


# ---- that are ended


def _end_soon(scope: trio.CancelScope, seconds: float) -> None:
    """Cancel what this task has entered; not before the pool has got, and counts, its next call.

    A scope whose time is over when it is entered is cancelled at once; one that gets its time
    later, not before the task has let others have their turn.
    """
    scope.deadline = trio.current_time() + seconds


async def late(requests: Requests, chance: Random) -> None:
    """A clock runs out, and the function looks."""
    try:
        await requests.run(requests.pool, jobs.cooperate, timeout=chance.uniform(0, 0.02))
    except RequestTimeoutError as error:
        _check(error.clock == "run", "another clock ran out")
    else:
        raise WrongError("a function without an end has ended")


async def cancelled(requests: Requests, chance: Random) -> None:
    """The caller gives up, in the queue or later."""
    pool, fn, *arguments = chance.choice(
        [
            (requests.pool, jobs.cooperate),
            (requests.pool, jobs.echo, _data(chance)),
            (requests.io_pool, jobs.echo_later, None, 60),
        ]
    )
    with trio.CancelScope() as scope:
        _end_soon(scope, chance.uniform(0, 0.01))
        got = await requests.run(pool, fn, *arguments)
        _check(fn is jobs.echo and got == arguments[0], "a cancelled call gave something")


async def told(requests: Requests, chance: Random) -> None:
    """The request is cancelled with a reason, by a call or by a flag."""
    reason = f"reason {chance.randrange(1000)}"
    requests.given[requests.pool] = requests.given.get(requests.pool, 0) + 1
    with SharedCancellation() as flag:
        async with requests.pool.open_request(jobs.cooperate, cancellation=flag) as request:
            await trio.sleep(chance.uniform(0, 0.005))
            chance.choice([request.cancel, flag.cancel])(reason)
            try:
                await request.result()
            except RequestCancelledError as error:
                _check(error.reason == reason, "the reason of another")
            else:
                raise WrongError("a function without an end has ended")


async def interrupted(requests: Requests, chance: Random) -> None:
    """The function does not look: it is interrupted, and its worker replaced."""
    with trio.CancelScope() as scope:
        _end_soon(scope, 0.02)
        await requests.run(requests.pool, jobs.never_look)
        raise WrongError("a function without an end has ended")


# ---- of the bridge


async def encrypt(requests: Requests, chance: Random) -> None:
    """Another implementation decrypts it."""
    data, key, more = _data(chance), chance.randbytes(32), chance.randbytes(9)
    got = await requests.ask(requests.bridge.crypto.encrypt_file, data, key, associated_data=more)
    plain = AESGCM(key).decrypt(got.nonce, got.ciphertext, more)
    _check(plain == data, "the ciphertext is of something else")


async def decrypt(requests: Requests, chance: Random) -> None:
    """What another implementation has encrypted; some of it damaged."""
    data, key, nonce = _data(chance), chance.randbytes(32), chance.randbytes(12)
    sealed = bytearray(AESGCM(key).encrypt(nonce, data, None))
    is_damaged = chance.random() < 0.3
    if is_damaged:
        sealed[chance.randrange(len(sealed))] ^= 1 << chance.randrange(8)
    try:
        got = await requests.ask(requests.bridge.crypto.decrypt_file, sealed, key, nonce)
    except InvalidTag:
        _check(is_damaged, "an intact ciphertext did not verify")
    else:
        _check(not is_damaged and got == data, "it was decrypted to something else")


async def encrypt_to_file(requests: Requests, chance: Random) -> None:
    """From a path to a path; the worker may die with the file half written."""
    source, destination = requests.path(), requests.path()
    data, key, nonce = _data(chance, 1 << 18), chance.randbytes(32), chance.randbytes(12)
    source.write_bytes(data)
    try:
        await requests.ask(
            requests.bridge.crypto.encrypt_file, source, key, nonce, destination=destination
        )
        sealed = destination.read_bytes()
        _check(AESGCM(key).decrypt(nonce, sealed, None) == data, "the file is of something else")
    finally:
        source.unlink()
        destination.unlink(missing_ok=True)


async def hash_(requests: Requests, chance: Random) -> None:
    """SHA-256 and SHA-512 as hashlib has them."""
    data, name = _data(chance), chance.choice(["SHA-256", "SHA-512"])
    got = await requests.ask(requests.bridge.file.hash_file, data, name)
    expected = hashlib.new(name.replace("-", ""), data).hexdigest()
    _check(got.hash == expected, "a hash of something else")


async def compress(requests: Requests, chance: Random) -> None:
    """The libraries themselves decompress it."""
    data = _compressible(chance)
    algorithm, undo = chance.choice(
        [("gzip", gzip.decompress), ("deflate", zlib.decompress), ("brotli", brotli.decompress)]
    )
    got = await requests.ask(
        requests.bridge.compression.compress_data, data, algorithm=algorithm, level=4
    )
    _check(undo(bytes(got)) == data, "it was compressed to something else")


async def decompress(requests: Requests, chance: Random) -> None:
    """What the libraries themselves have compressed; some of it cut short."""
    data = _compressible(chance)
    algorithm, do = chance.choice([("gzip", gzip.compress), ("deflate", zlib.compress)])
    packed = do(data, 1)
    is_cut = chance.random() < 0.3
    if is_cut:
        packed = packed[: chance.randrange(len(packed))]
    try:
        got = await requests.ask(
            requests.bridge.compression.decompress_data, packed, algorithm=algorithm
        )
    except DataError:
        _check(is_cut, "intact data could not be decompressed")
    else:
        _check(not is_cut and got == data, "it was decompressed to something else")


# ---- that break something


async def _must_raise(kind: type[Exception], call: Awaitable[object]) -> None:
    try:
        await call
    except kind:
        return
    raise WrongError("a request that cannot end with a value has")


async def bad_payload(requests: Requests, chance: Random) -> None:
    """What cannot be pickled or unpickled, in either direction."""
    fn, *arguments = chance.choice(
        [
            (jobs.give_what_cannot_leave,),
            (jobs.give_what_cannot_arrive,),
            (jobs.echo, jobs.give_what_cannot_arrive()),
        ]
    )
    await _must_raise(PayloadError, requests.run(requests.pool, fn, *arguments))


async def bad_exit(requests: Requests, chance: Random) -> None:
    """SystemExit in a function."""
    await _must_raise(
        RequestExitError, requests.run(requests.pool, jobs.exit_by_exception, chance.randrange(9))
    )


async def bad_end(requests: Requests, chance: Random) -> None:
    """A function that ends its process, in one way or another."""
    fn, *arguments = chance.choice(
        [
            (jobs.leave, chance.choice([0, 1, 255])),
            (jobs.segfault,),
            (jobs.raise_what_kills,),
            (jobs.write_garbage, chance.randbytes(chance.randint(1, 2000))),
        ]
    )
    await _must_raise(WorkerCrashedError, requests.run(requests.pool, fn, *arguments))


# {kind: how often, of all}
ORDINARY: dict[Kind, int] = {
    small: 120,
    payload: 12,
    allocated: 3,
    progress: 3,
    counter: 16,
    several: 12,
    asynchronous: 24,
    late: 2,
    cancelled: 6,
    told: 3,
    encrypt: 3,
    decrypt: 3,
    encrypt_to_file: 2,
    hash_: 4,
    compress: 2,
    decompress: 3,
}
BAD: dict[Kind, int] = {bad_payload: 4, bad_exit: 2, bad_end: 2, interrupted: 1}
