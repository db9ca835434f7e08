"""Every public coroutine, cancelled at each of its steps: nothing is lost, nothing is left.

A task that waits takes no steps, so `cancel_at_each_turn` cancels while others take theirs as well.
"""

from __future__ import annotations

import functools
import gc
import gzip
import itertools
import os
import shutil
import signal
import warnings
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

import attrs
import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import jobs
import stream_jobs
from conftest import children, open_descriptors
from helpers import wait_until
from rude import answer, serve
from trioipc import (
    FallbackWarning,
    IPCProtocol,
    SharedCancellation,
    SharedFlag,
    WorkerPool,
    close_default_bridge,
    default_bridge,
    open_worker,
    open_worker_bridge,
    open_worker_pool,
)
from trioipc.bridge._parallel import BLOCK
from trioipc.testing import cancel_at_each_step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from trioipc import PoolRequest, WorkerBridge

    Kind = Literal["cpu", "thread"]
    Check = Callable[[], Awaitable[object]]
    Sweep = Callable[..., Awaitable[int]]

BIG = bytes(200_000)  # more than goes into a frame, or a pipe
KEY, NONCE = bytes(range(32)), bytes(range(12))
CIPHERTEXT = AESGCM(KEY).encrypt(NONCE, BIG, None)
GZIPPED = gzip.compress(BIG)
CHUNKS = [BIG[:100_000], BIG[100_000:]]
LARGE = bytes(2 * BLOCK + 1)  # three pieces of work when compressed in parallel


# ---- the sweeps


# The call may be waiting when it is cancelled.
cancel_at_each_turn = functools.partial(cancel_at_each_step, all_tasks=True)

both_sweeps = pytest.mark.parametrize(
    "sweep", [cancel_at_each_step, cancel_at_each_turn], ids=["step", "turn"]
)
both_kinds = pytest.mark.parametrize("kind", ["cpu", "thread"])


@pytest.fixture(autouse=True)
async def every_token_is_given_back() -> AsyncIterator[None]:
    """Fail a test after which Trio has fewer threads to lend, or more."""
    limiter = trio.to_thread.current_default_thread_limiter()
    total, borrowed = limiter.total_tokens, limiter.borrowed_tokens
    yield
    assert limiter.total_tokens == total
    with trio.move_on_after(2):  # a cancelled start may still be letting go
        while limiter.borrowed_tokens != borrowed:
            await trio.sleep(0.001)
    assert limiter.borrowed_tokens == borrowed


def idle(pool: WorkerPool) -> Check:
    """Make a check that a pool has nothing to do, and does what it is asked."""

    async def check() -> None:
        statistics = pool.statistics()
        assert (statistics.busy_workers, statistics.queued_tasks) == (0, 0)
        assert await pool.run(jobs.add, 1, 2) == 3
        assert pool.statistics().total_errors == 0

    return check


# ---- calls of a pool


async def report(progress: object) -> None:
    """Take progress in, asynchronously."""
    await trio.lowlevel.checkpoint()


async def run_plainly(pool: WorkerPool) -> None:
    """Make the simplest call there is."""
    assert await pool.run(jobs.add, 3, 4) == 7


async def run_without_waiting(pool: WorkerPool) -> None:
    """Make one that would rather not be made than wait for room."""
    assert await pool.run_nowait(jobs.add, 3, 4) == 7


async def run_without_looking(pool: WorkerPool) -> None:
    """Have a function interrupted."""
    assert await pool.run(jobs.sleep, 0.02) == "slept"


async def run_with_everything(pool: WorkerPool) -> None:
    """Have all that can be going on about a request."""
    with SharedCancellation() as flag:
        size = await pool.run(
            jobs.weigh,
            BIG,
            timeout=60,
            queue_timeout=60,
            priority="high",
            on_progress=report,
            cancellation=flag,
            idempotent=True,
            grace=2,
        )
    assert size == len(BIG)


async def run_there_and_back(pool: WorkerPool) -> None:
    """Have memory travel in both directions."""
    assert await pool.run(jobs.echo, [BIG, bytearray(BIG)]) == [BIG, BIG]


async def execute_with_everything(pool: WorkerPool) -> None:
    """Send a message with a payload that travels in shared memory."""
    with SharedCancellation() as flag:
        message = {"type": "measure", "payload": BIG, "timeout": 60, "priority": "low"}
        size = await pool.execute(message, on_progress=report, cancellation=flag)
    assert size == len(BIG)


async def open_and_ask(pool: WorkerPool) -> None:
    """Do in a block all that can be done with a request."""
    async with pool.open_request(jobs.weigh, BIG, timeout=60) as request:
        await request.wait_started()
        async for _ in request.progress:
            pass
        assert await request.result() == len(BIG)
        assert await request.result() == len(BIG)


async def open_and_leave(pool: WorkerPool) -> None:
    """Leave a request that runs, and wait until it has stopped."""
    async with pool.open_request(jobs.cooperate) as request:
        await request.wait_started()


async def open_and_leave_at_once(pool: WorkerPool) -> None:
    """Leave a request whose arguments are being copied."""
    async with pool.open_request(jobs.echo, BIG):
        pass


async def open_several(pool: WorkerPool) -> None:
    """Have requests in requests, of which some wait in the queue."""
    async with (
        pool.open_request(jobs.cooperate),
        pool.open_request(jobs.echo, BIG) as second,
        pool.open_request(jobs.weigh, BIG) as third,
    ):
        third.cancel()
        await third.wait_started()
        second.cancel()


async def stream_all(pool: WorkerPool) -> None:
    """Have items of all sizes, the last one of several megabytes."""
    sizes = [1, 100_000, 3_000_000]
    async with pool.stream(
        stream_jobs.yield_all, *map(bytes, sizes), buffer=2, on_progress=report
    ) as items:
        assert [len(item) async for item in items] == sizes


async def stream_and_leave(pool: WorkerPool) -> None:
    """Leave a generator that would never end."""
    async with pool.stream(stream_jobs.count_to, 10**9) as items:
        assert await anext(items) == 0


CALLS = [
    stream_all,
    stream_and_leave,
    run_plainly,
    run_without_waiting,
    run_with_everything,
    run_there_and_back,
    execute_with_everything,
    open_and_ask,
    open_and_leave,
    open_and_leave_at_once,
    open_several,
]


@both_sweeps
@both_kinds
async def test_a_call_of_a_pool(kind: Kind, sweep: Sweep) -> None:
    """Wherever it is cancelled, the worker is idle, the same as before, and does the next."""
    async with open_worker_pool(1, kind=kind, modules=["jobs"], progress_interval=0.001) as pool:
        worker = await pool.run(jobs.pid)
        for call in CALLS:
            assert await sweep(functools.partial(call, pool), idle(pool)) > 0
        assert await pool.run(jobs.pid) == worker
        assert pool.statistics().restarts == {}


@both_sweeps
async def test_a_call_whose_function_never_looks(sweep: Sweep) -> None:
    """Its worker is replaced, and nobody is kept waiting."""
    async with open_worker_pool(1) as pool:
        await pool.run(jobs.nothing)
        assert await sweep(functools.partial(run_without_looking, pool), idle(pool)) > 0
        assert pool.statistics().restarts.keys() <= {"interrupted"}


async def test_a_call_whose_worker_dies(tmp_path: Path) -> None:
    """Cancelled before, between or after its two tries, it leaves a pool that works."""
    names = itertools.count()

    async def call() -> None:
        path = str(tmp_path / str(next(names)))
        assert await pool.run(jobs.die_once, path, idempotent=True) == "second try"

    async with open_worker_pool(1) as pool:
        assert await cancel_at_each_turn(call, idle(pool), stride=9) > 0


@both_kinds
async def test_a_call_that_waits_in_the_queue(kind: Kind, tmp_path: Path) -> None:
    """Wherever it is cancelled, it is forgotten, and those behind it are served."""
    names = itertools.count()

    async def call() -> None:
        go = tmp_path / str(next(names))
        async with pool.open_request(jobs.wait_for, str(go)) as first:
            nursery.start_soon(touch_when_quiet, go)
            assert await pool.run(jobs.weigh, BIG, on_progress=report) == len(BIG)
            assert await first.result() == "found"

    async with open_worker_pool(1, kind=kind) as pool, trio.open_nursery() as nursery:
        assert await cancel_at_each_turn(call, idle(pool), stride=2) > 0


async def touch_when_quiet(path: Path) -> None:
    """Wait until everybody waits, then leave a trace."""
    await trio.testing.wait_all_tasks_blocked(0.002)
    path.touch()


@pytest.mark.parametrize("call", [run_plainly, execute_with_everything, open_and_ask])
@pytest.mark.parametrize("max_queue", [0, 1])
@both_sweeps
async def test_a_call_that_waits_for_room(
    call: Callable[[WorkerPool], Awaitable[None]], max_queue: int, sweep: Sweep, tmp_path: Path
) -> None:
    """Wherever it is cancelled while the queue is full, nobody else loses their turn."""
    names = itertools.count()
    served: list[object] = []

    async def occupy(go: Path) -> None:
        served.append(await pool.run(jobs.wait_for, str(go)))

    async def operation() -> None:
        with trio.fail_after(5):
            await call(pool)

    async def check() -> None:
        """Let the last ones go, and have the place and the queue taken by the next."""
        nonlocal full
        with trio.fail_after(5):
            full.close()
            await wait_until(lambda: not pool.statistics().busy_workers)
            assert pool.statistics().queued_tasks == 0
            await pool.run(jobs.nothing)
            full = Full(tmp_path / str(next(names)))
            await full.fill()

    @attrs.define(eq=False)
    class Full:
        go: Path

        async def fill(self) -> None:
            for number in range(1 + max_queue):
                nursery.start_soon(occupy, self.go)
                await wait_until(
                    lambda number=number: (
                        pool.statistics().busy_workers + pool.statistics().queued_tasks > number
                    )
                )
            nursery.start_soon(touch_when_quiet, self.go)

        def close(self) -> None:
            self.go.touch()

    async with (
        open_worker_pool(1, kind="thread", modules=["jobs"], max_queue=max_queue) as pool,
        trio.open_nursery() as nursery,
    ):
        full = Full(tmp_path / str(next(names)))
        await full.fill()
        steps = await sweep(operation, check)
        full.close()
    assert steps > 0
    assert served == ["found"] * ((1 + max_queue) * next(names))


@both_sweeps
async def test_warm(sweep: Sweep) -> None:
    """What has been started stays, and the next call waits for it."""
    async with open_worker_pool(2) as pool:
        for _ in ("with workers to start", "with none"):
            assert await sweep(pool.warm, idle(pool)) > 0
            assert [worker.state for worker in pool.workers] == ["idle"] * 2


@both_sweeps
@both_kinds
async def test_dumping_stacks(kind: Kind, sweep: Sweep) -> None:
    """The next dump is whole: it has not what the cancelled one asked for."""
    async with open_worker_pool(1, kind=kind) as pool:
        (usual,) = (await pool.dump_stacks()).values()
        pool_is_idle = idle(pool)

        async def check() -> None:
            await pool_is_idle()
            (text,) = (await pool.dump_stacks()).values()
            if kind == "cpu":  # whose threads are ours alone
                assert text.count("most recent call first") == usual.count("most recent call first")

        assert await sweep(pool.dump_stacks, check) > 0


COLD_CALLS: list[Callable[[WorkerPool], Awaitable[object]]] = [
    run_plainly,
    run_without_waiting,
    run_with_everything,
    run_there_and_back,
    execute_with_everything,
    open_and_ask,
    open_and_leave_at_once,
    open_several,
    WorkerPool.warm,
    functools.partial(WorkerPool.resize, size=1),
    WorkerPool.dump_stacks,
]


@pytest.mark.slow
@pytest.mark.parametrize("call", COLD_CALLS)
async def test_a_call_of_a_cold_pool(call: Callable[[WorkerPool], Awaitable[object]]) -> None:
    """Wherever it is cancelled while the only worker starts, that one comes, and does the next."""
    async with open_worker_pool(1, modules=["jobs"], progress_interval=0.001) as pool:
        await make_cold(pool)

        async def check() -> None:
            with trio.fail_after(20):
                await pool.warm()
            await idle(pool)()
            await make_cold(pool)

        assert await cancel_at_each_step(functools.partial(call, pool), check) > 0
        assert pool.statistics().restarts.keys() == {"crashed"}


@pytest.mark.slow
async def test_a_call_of_a_cold_pool_at_each_turn() -> None:
    """Also while something else is going on: the start, that is."""
    async with open_worker_pool(1) as pool:
        await make_cold(pool)

        async def check() -> None:
            await idle(pool)()
            await make_cold(pool)

        call = functools.partial(run_there_and_back, pool)
        assert await cancel_at_each_turn(call, check, stride=9) > 0


async def make_cold(pool: WorkerPool) -> None:
    """Kill the only worker, and return before there is another."""
    pid = await pool.run(jobs.pid)
    os.kill(pid, signal.SIGKILL)
    await wait_until(lambda: [worker.state for worker in pool.workers] == ["starting"])


@pytest.mark.parametrize("sweep", [cancel_at_each_step, cancel_at_each_turn])
async def test_resize(sweep: Sweep) -> None:
    """The pool has the size that was said last, and serves."""

    async def make_smaller_and_larger() -> None:
        await pool.resize(1)
        await pool.resize(2)
        await pool.warm()

    async with open_worker_pool(2) as pool:
        check = idle(pool)
        stride = {} if sweep is cancel_at_each_step else {"stride": 9}
        assert await sweep(make_smaller_and_larger, check, **stride) > 0
        assert len(pool.workers) == 2
        assert pool.statistics().restarts == {}


# ---- blocks


async def use_a_pool(kind: Kind) -> None:
    """Open a pool, use it and leave it."""
    async with open_worker_pool(2, kind=kind) as pool:
        await pool.run(jobs.echo, BIG)


async def drain_a_pool(kind: Kind) -> None:
    """Leave a pool in which somebody else's request runs."""
    async with trio.open_nursery() as nursery, open_worker_pool(1, kind=kind) as pool:
        nursery.start_soon(ask_on, pool)
        await trio.lowlevel.checkpoint()


async def ask_on(pool: WorkerPool) -> None:
    """Make a call that may be aborted, or come too late."""
    try:
        await pool.run(jobs.weigh, BIG)
    except trio.ClosedResourceError:
        pass


async def use_a_worker() -> None:
    """Open a worker of one's own, ask it and leave it."""
    async with open_worker("jobs") as worker:
        assert await IPCProtocol().request(worker, "double", "custom", 2) == 4


async def use_a_bridge(placement: Literal["process", "thread"], **options: Any) -> None:
    """Open a bridge, use it and leave it."""
    async with open_worker_bridge(1, placement=placement, **options) as bridge:
        await bridge.crypto.hash_file(BIG)


def nothing_left() -> Check:
    """Make a check that there are no more processes and descriptors than now."""
    before, before_children = open_descriptors(), children()

    async def check() -> None:
        gc.collect()
        assert children() == before_children
        assert open_descriptors() == before

    return check


BLOCKS: dict[str, Callable[[], Awaitable[None]]] = {
    "pool": functools.partial(use_a_pool, "cpu"),
    "pool of threads": functools.partial(use_a_pool, "thread"),
    "draining": functools.partial(drain_a_pool, "cpu"),
    "draining threads": functools.partial(drain_a_pool, "thread"),
    "worker": use_a_worker,
    "bridge": functools.partial(use_a_bridge, "process"),
    "bridge of threads": functools.partial(use_a_bridge, "thread"),
    "fallback": functools.partial(use_a_bridge, "process", start_timeout=1e-6),
}


@pytest.mark.parametrize("name", [name for name in BLOCKS if name != "pool"])
async def test_a_block_at_each_step(name: str) -> None:
    """Entering, using and leaving: no process and no descriptor is left.

    `test_process` has that of a pool of processes.
    """
    await trio.to_thread.run_sync(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        assert await cancel_at_each_step(BLOCKS[name], nothing_left()) > 2


@pytest.mark.parametrize(
    ("name", "stride"),
    [("pool", 9), ("pool of threads", 2), ("draining threads", 3), ("fallback", 9)],
)
async def test_a_block_at_each_turn(name: str, stride: int) -> None:
    """Also while something else is going on."""
    await trio.to_thread.run_sync(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        assert await cancel_at_each_turn(BLOCKS[name], nothing_left(), stride=stride) > 2


# ---- messages


@both_sweeps
async def test_a_request_of_a_protocol(sweep: Sweep) -> None:
    """With a big payload and progress: nobody waits, and the worker is the same as before."""
    protocol = IPCProtocol(debug=True)

    async def call() -> None:
        with SharedCancellation() as flag:
            size = await protocol.request(
                worker, "measure", "custom", BIG, on_progress=report, cancellation=flag
            )
        assert size == len(BIG)

    async def check() -> None:
        assert protocol.statistics().pending_requests == 0
        assert await protocol.request(worker, "double", "custom", 1) == 2
        assert await protocol.request(worker, "double", "custom", 1, message_id="again") == 2

    async with open_worker("jobs") as worker:
        assert await sweep(call, check) > 0
        assert worker.restarts == 0


@pytest.mark.slow
async def test_a_request_of_a_worker_that_starts_again() -> None:
    """Wherever it is cancelled, nobody waits for it, and the worker serves."""
    protocol = IPCProtocol()

    async def call() -> None:
        assert await protocol.request(worker, "double", "custom", 2) == 4

    async def check() -> None:
        assert protocol.statistics().pending_requests == 0
        assert await protocol.request(worker, "double", "custom", 1) == 2
        await kill()

    async def kill() -> None:
        before = worker.restarts
        os.kill(worker.pid or 0, signal.SIGKILL)
        await wait_until(lambda: worker.restarts > before)

    async with open_worker("jobs") as worker:
        await kill()
        assert await cancel_at_each_step(call, check) > 0
        await protocol.request(worker, "double", "custom", 1)


# ---- shared state

STATES: dict[str, Callable[[SharedCancellation, SharedFlag], Awaitable[object]]] = {}


def waits(
    call: Callable[[SharedCancellation, SharedFlag], Awaitable[object]],
) -> Callable[[SharedCancellation, SharedFlag], Awaitable[object]]:
    """Have a way to wait for shared state swept."""
    STATES[call.__name__] = call
    return call


@waits
async def wait_cancelled(cancellation: SharedCancellation, flag: SharedFlag) -> None:
    """Wait for a cancellation."""
    await cancellation.wait_cancelled()


@waits
async def wait_set(cancellation: SharedCancellation, flag: SharedFlag) -> None:
    """Wait for a flag."""
    await flag.wait_set()


@waits
async def see_changes(cancellation: SharedCancellation, flag: SharedFlag) -> None:
    """See a flag change."""
    async with flag.subscribe() as changes:
        async for value in changes:
            if value:
                break


@waits
async def see_the_reason(cancellation: SharedCancellation, flag: SharedFlag) -> None:
    """See why something was cancelled."""
    async with cancellation.subscribe() as reasons:
        assert [reason async for reason in reasons] == ["because"]


@waits
async def be_cancelled(cancellation: SharedCancellation, flag: SharedFlag) -> None:
    """Be in a block that a cancellation ends."""
    async with cancellation.open_cancel_scope() as scope:
        await trio.sleep_forever()
    assert scope.cancelled_caught


@both_sweeps
@pytest.mark.parametrize("name", STATES)
async def test_waiting_for_shared_state(
    name: str, sweep: Sweep, autojump_clock: trio.testing.MockClock
) -> None:
    """Wherever it is cancelled, the state is as it was, and no task goes on looking at it."""
    with SharedCancellation() as cancellation, SharedFlag() as flag:

        async def set_later() -> None:
            await trio.sleep(0.05)
            cancellation.cancel("because")
            flag.set()

        async def operation() -> None:
            cancellation.reset()
            flag.clear()
            nursery.start_soon(set_later)
            await STATES[name](cancellation, flag)

        async def check() -> None:
            while len(nursery.child_tasks) > 0:
                await trio.sleep(0.01)
            assert trio.lowlevel.current_statistics().tasks_living == tasks
            assert (cancellation.reason(), flag.is_set()) == ("because", True)

        async with trio.open_nursery() as nursery:
            tasks = trio.lowlevel.current_statistics().tasks_living
            assert await sweep(operation, check) > 0


# ---- bridges

OPERATIONS: dict[str, Callable[[WorkerBridge, Path], Awaitable[object]]] = {
    "encrypt bytes": lambda bridge, folder: bridge.crypto.encrypt_file(
        BIG, KEY, on_progress=report, timeout=60
    ),
    "encrypt a file": lambda bridge, folder: bridge.crypto.encrypt_file(
        folder / "plain", KEY, NONCE, destination=folder / "out", on_progress=report
    ),
    "decrypt bytes": lambda bridge, folder: bridge.crypto.decrypt_file(CIPHERTEXT, KEY, NONCE),
    "decrypt a file": lambda bridge, folder: bridge.crypto.decrypt_file(
        folder / "cipher", KEY, NONCE, destination=folder / "out"
    ),
    "decrypt to a file": lambda bridge, folder: bridge.crypto.decrypt_file(
        CIPHERTEXT, KEY, NONCE, destination=folder / "out", on_progress=report
    ),
    "crypto hash": lambda bridge, folder: bridge.crypto.hash_file(BIG, on_progress=report),
    "chunked format": lambda bridge, folder: there_and_back(bridge),
    "derive a key": lambda bridge, folder: bridge.crypto.derive_key(
        "password", bytes(16), algorithm="pbkdf2-sha256", iterations=1000
    ),
    "file hash": lambda bridge, folder: bridge.file.hash_file(folder / "plain", "SHA-512"),
    "chunk bytes": lambda bridge, folder: bridge.file.chunk_file(BIG, 100_000),
    "chunk to files": lambda bridge, folder: bridge.file.chunk_file(
        folder / "plain", 100_000, destination=folder / "chunks", on_progress=report
    ),
    "merge bytes": lambda bridge, folder: bridge.file.merge_chunks(CHUNKS),
    "merge to a file": lambda bridge, folder: bridge.file.merge_chunks(
        CHUNKS, destination=folder / "out", on_progress=report
    ),
    "type": lambda bridge, folder: bridge.file.detect_type(folder / "plain"),
    "metadata": lambda bridge, folder: bridge.file.read_metadata(folder / "plain"),
    "compress bytes": lambda bridge, folder: bridge.compression.compress_data(BIG),
    "compress a file": lambda bridge, folder: bridge.compression.compress_data(
        folder / "plain", destination=folder / "out", on_progress=report
    ),
    "compress in parallel": lambda bridge, folder: bridge.compression.compress_data(
        LARGE, level=1, parallel=True, destination=folder / "out"
    ),
    "decompress bytes": lambda bridge, folder: bridge.compression.decompress_data(GZIPPED),
    "decompress to a file": lambda bridge, folder: bridge.compression.decompress_data(
        GZIPPED, destination=folder / "out", on_progress=report
    ),
}


async def there_and_back(bridge: WorkerBridge) -> None:
    """Encrypt and decrypt in the chunked format."""
    encrypted = await bridge.crypto.encrypt_file(BIG, KEY, format="chunked")
    plain = await bridge.crypto.decrypt_file(encrypted.ciphertext, KEY, b"", format="chunked")
    assert plain == BIG


@asynccontextmanager
async def files_to_work_on(folder: Path) -> AsyncIterator[Check]:
    """Provide files, and a check that there are no others, the destination whole or as it was."""
    (folder / "plain").write_bytes(BIG)
    (folder / "cipher").write_bytes(CIPHERTEXT)
    (folder / "out").write_bytes(b"old")

    async def check() -> None:
        chunks = folder / "chunks"
        if chunks.exists():
            assert sorted(os.listdir(chunks)) in ([], ["chunk-000000", "chunk-000001"])
            assert b"".join(path.read_bytes() for path in sorted(chunks.iterdir())) in (b"", BIG)
            shutil.rmtree(chunks)
        assert sorted(os.listdir(folder)) == ["cipher", "out", "plain"]
        content = (folder / "out").read_bytes()
        if content.startswith(b"\x1f\x8b"):
            assert gzip.decompress(content) in (BIG, LARGE)
        else:
            assert content in (b"old", BIG, CIPHERTEXT)
        (folder / "out").write_bytes(b"old")

    yield check


@pytest.mark.parametrize("placement", ["process", "thread"])
@both_sweeps
async def test_an_operation_of_a_bridge(
    placement: Literal["process", "thread"], sweep: Sweep, tmp_path: Path
) -> None:
    """No spare file is left, the destination is whole or as it was, the worker the same."""
    async with (
        files_to_work_on(tmp_path) as files_are_right,
        open_worker_bridge(1, placement=placement, progress_interval=0.001) as bridge,
    ):
        pool_is_idle = idle(bridge.pool)

        async def check() -> None:
            await files_are_right()
            await pool_is_idle()

        for name, operation in OPERATIONS.items():
            assert await sweep(functools.partial(operation, bridge, tmp_path), check) > 0, name
        assert bridge.pool.statistics().restarts == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["decrypt to a file", "chunk to files", "compress in parallel"])
async def test_an_operation_of_a_cold_bridge(name: str, tmp_path: Path) -> None:
    """Likewise while its only worker starts."""
    async with (
        files_to_work_on(tmp_path) as files_are_right,
        open_worker_bridge(1, placement="process", progress_interval=0.001) as bridge,
    ):
        pool_is_idle = idle(bridge.pool)
        await make_cold(bridge.pool)

        async def check() -> None:
            await files_are_right()
            await pool_is_idle()
            await make_cold(bridge.pool)

        operation = functools.partial(OPERATIONS[name], bridge, tmp_path)
        assert await cancel_at_each_step(operation, check) > 0
        assert bridge.pool.statistics().restarts.keys() == {"crashed"}


NETWORK: dict[str, Callable[[WorkerBridge, str], Awaitable[object]]] = {
    "connectivity": lambda bridge, url: bridge.network.test_connectivity([url, url]),
    "candidates": lambda bridge, url: bridge.network.resolve_ice(
        ["stun:" + url.removeprefix("http://").rstrip("/")], timeout=0.02
    ),
    "bandwidth": lambda bridge, url: bridge.network.bandwidth_test(url),
    "latency": lambda bridge, url: bridge.network.latency_check(url, samples=2),
}


@pytest.mark.parametrize("placement", ["process", "thread"])
@both_sweeps
async def test_an_operation_of_the_network(
    placement: Literal["process", "thread"], sweep: Sweep
) -> None:
    """Wherever it is cancelled, the worker that they share is the same and asks the next host."""
    async with serve(answer()) as host, open_worker_bridge(1, placement=placement) as bridge:
        before = children()

        async def check() -> None:
            (found,) = await bridge.network.test_connectivity([host.url])
            assert found.reachable

        await check()
        worker = children() - before
        assert len(worker) == (1 if placement == "process" else 0)
        for name, operation in NETWORK.items():
            assert await sweep(functools.partial(operation, bridge, host.url), check) > 0, name
        assert children() - before == worker


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORK)
async def test_the_first_operation_of_the_network(name: str) -> None:
    """Wherever it is cancelled while the worker starts that is there for the network only."""
    async with serve(answer()) as host, open_worker_bridge(1, placement="process") as bridge:
        before = children()

        async def operation() -> None:
            await NETWORK[name](bridge, host.url)

        async def check() -> None:
            with trio.fail_after(20):
                (found,) = await bridge.network.test_connectivity([host.url])
            assert found.reachable
            (pid,) = children() - before
            os.kill(pid, signal.SIGKILL)
            await wait_until(lambda: pid not in children())

        assert await cancel_at_each_step(operation, check) > 0


@pytest.fixture(params=["process", "thread"])
def placed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the default bridge in each of its places."""
    monkeypatch.setenv("TRIOIPC_PLACEMENT", request.param)


@pytest.mark.usefixtures("placed")
async def test_an_operation_of_the_default_bridge(tmp_path: Path) -> None:
    """Open or not yet, wherever its first call or another one is cancelled, the next works."""
    await trio.to_thread.run_sync(int)
    all_is_closed = nothing_left()
    async with files_to_work_on(tmp_path) as files_are_right:

        async def check_and_keep() -> None:
            await files_are_right()
            assert len(await default_bridge().crypto.hash_file(b"")) == 64

        async def check_and_close() -> None:
            await check_and_keep()
            await close_default_bridge()
            await all_is_closed()

        async def call() -> None:
            await OPERATIONS["encrypt a file"](default_bridge(), tmp_path)

        assert await cancel_at_each_step(call, check_and_close) > 0
        assert await cancel_at_each_turn(call, check_and_close, stride=31) > 0
        assert await cancel_at_each_turn(call, check_and_keep) > 0
        await close_default_bridge()


@pytest.mark.usefixtures("placed")
@pytest.mark.parametrize(("sweep", "stride"), [("step", 1), ("turn", 25)])
async def test_closing_the_default_bridge(sweep: str, stride: int) -> None:
    """Wherever it is cancelled, the bridge is closed; a request gets its value or is aborted."""
    await trio.to_thread.run_sync(int)
    all_is_closed = nothing_left()
    ended: list[str] = []

    async def ask() -> None:
        try:
            ended.append(await bridge.crypto.hash_file(bytes(1 << 20)))
        except trio.ClosedResourceError:
            ended.append("aborted")

    async def open_and_use() -> None:
        nonlocal bridge
        bridge = default_bridge()
        await bridge.crypto.hash_file(b"")
        nursery.start_soon(ask)
        await wait_until(lambda: ended or bridge.pool.statistics().busy_workers)

    async def check() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await bridge.crypto.hash_file(b"")
        await wait_until(lambda: ended)
        ended.clear()
        await all_is_closed()
        await open_and_use()

    async with trio.open_nursery() as nursery:
        bridge: WorkerBridge
        await open_and_use()
        if sweep == "step":
            assert await cancel_at_each_step(close_default_bridge, check) > 0
        else:
            assert await cancel_at_each_turn(close_default_bridge, check, stride=stride) > 0
        await close_default_bridge()


# ---- checkpoints


@asynccontextmanager
async def ended_request(pool: WorkerPool) -> AsyncIterator[PoolRequest[int]]:
    """Provide a request whose value is there."""
    async with pool.open_request(jobs.add, 1, 2) as request:
        await request.result()
        yield request


async def within(block: Callable[[], AbstractAsyncContextManager[object]]) -> None:
    """Enter a block and leave it."""
    async with block():
        pass


@both_kinds
async def test_calls_of_a_pool_are_checkpoints(kind: Kind) -> None:
    """Also those that have nothing to wait for."""
    async with (
        open_worker_pool(1, kind=kind, modules=["jobs"]) as pool,
        ended_request(pool) as ended,
    ):
        for _ in range(20):  # the answer to a call of microseconds is there before we wait
            with trio.testing.assert_checkpoints():
                await pool.run(jobs.nothing)
            with trio.testing.assert_checkpoints():
                await pool.run(jobs.nothing, on_progress=report)
            with trio.testing.assert_checkpoints():
                await pool.execute({"type": "double", "payload": 3})
        with trio.testing.assert_checkpoints():
            await ended.result()
        with trio.testing.assert_checkpoints():
            await ended.wait_started()
        with trio.testing.assert_checkpoints():
            await pool.warm()
        with trio.testing.assert_checkpoints():
            await pool.resize(1)
        with trio.testing.assert_checkpoints():
            await pool.dump_stacks()
        with trio.testing.assert_checkpoints():
            await within(lambda: ended_request(pool))
        with trio.testing.assert_checkpoints():
            await within(lambda: pool.open_request(jobs.nothing))


@pytest.mark.parametrize(
    "block",
    [
        lambda: open_worker_pool(1),
        lambda: open_worker_pool(1, kind="thread"),
        lambda: open_worker("jobs"),
        lambda: open_worker_bridge(1, placement="process"),
        lambda: open_worker_bridge(1, placement="thread"),
    ],
    ids=["pool", "pool of threads", "worker", "bridge", "bridge of threads"],
)
async def test_entering_and_leaving_are_checkpoints(
    block: Callable[[], AbstractAsyncContextManager[object]],
) -> None:
    """Each of the two, though there is nothing to wait for."""
    opened = block()
    with trio.testing.assert_checkpoints():
        await opened.__aenter__()
    with trio.testing.assert_checkpoints():
        await opened.__aexit__(None, None, None)


async def test_a_request_of_a_protocol_is_a_checkpoint() -> None:
    """Also the shortest."""
    async with open_worker("jobs") as worker:
        for _ in range(20):
            with trio.testing.assert_checkpoints():
                await IPCProtocol().request(worker, "double", "custom", 2)


@pytest.mark.parametrize("placement", ["process", "thread"])
async def test_operations_of_a_bridge_are_checkpoints(
    placement: Literal["process", "thread"], tmp_path: Path
) -> None:
    """Each of them."""
    async with (
        serve(answer()) as host,
        files_to_work_on(tmp_path),
        open_worker_bridge(1, placement=placement) as bridge,
    ):
        for operation in OPERATIONS.values():
            with trio.testing.assert_checkpoints():
                await operation(bridge, tmp_path)
        for ask in NETWORK.values():
            with trio.testing.assert_checkpoints():
                await ask(bridge, host.url)


@pytest.mark.usefixtures("placed")
async def test_the_default_bridge_is_a_checkpoint() -> None:
    """Its first operation, its next one, and closing it."""
    for _ in range(2):
        with trio.testing.assert_checkpoints():
            await default_bridge().crypto.hash_file(b"")
    with trio.testing.assert_checkpoints():
        await close_default_bridge()
