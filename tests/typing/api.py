"""What type checkers see of the public names; checked by mypy and pyright, and never run.

What is right must pass, with the type that it is said to have. What is wrong has a
``type: ignore``, and both checkers complain of one that is not needed.
"""

from __future__ import annotations

import math
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, assert_type

import trioipc
from trioipc import (
    Encrypted,
    FileHash,
    PoolRequest,
    Progress,
    SharedCancellation,
    WrittenFile,
    current_request,
    operation,
)
from trioipc.dask import DaskEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    import rich.progress


def add(first: int, second: float) -> complex:
    """Take what is of several types."""
    return first + second


def halve(number: int) -> float:
    """Take an item."""
    return number / 2


async def ticks() -> AsyncIterator[int]:
    """Yield items."""
    yield 1


def nothing() -> None:
    """Take nothing, and give nothing."""


def many(*numbers: int) -> list[int]:
    """Take any number of them."""
    return list(numbers)


def default(number: int, text: str = "") -> str:
    """Have a default."""
    return text * number


async def asynchronous(number: int) -> bytes:
    """Be for io workers."""
    return bytes(number)


# ---- pools


async def pools() -> None:
    """`WorkerPool.run` has the parameters and the result of its function."""
    async with trioipc.open_worker_pool(2, modules=["jobs"], strategy="round-robin") as pool:
        assert_type(pool, trioipc.WorkerPool)
        assert_type(await pool.run(add, 1, 2.0), complex)
        assert_type(await pool.run(many, 1, 2, 3), list[int])
        assert_type(await pool.run(len, [1]), int)
        assert_type(await pool.run(add, 1, 2, timeout=3, priority="high"), complex)
        assert_type(await pool.run(default, 1, "a"), str)
        assert_type(await pool.run_nowait(add, 1, 2.0), complex)
        await pool.run(nothing)

        await pool.run(add, 1)  # type: ignore[arg-type]
        await pool.run(add, 1, "2")  # type: ignore[arg-type]
        await pool.run(add, 1, 2.0, 3)  # type: ignore[arg-type]
        await pool.run(nothing, 1)  # type: ignore[arg-type]
        await pool.run(3)  # type: ignore[arg-type]
        await pool.run(add, 1, 2.0, priority="urgent")  # type: ignore[arg-type]
        await pool.run(add, 1, 2.0, timeout="3")  # type: ignore[arg-type]
        await pool.run(add, 1, 2.0, unknown=3)  # type: ignore[call-arg]
        await pool.run(add, first=1, second=2.0)  # type: ignore[call-arg, arg-type]
        text: str = await pool.run(add, 1, 2.0)  # type: ignore[arg-type]
        assert text

    sticky = trioipc.StickyStrategy(lambda function, arguments: arguments[0])
    trioipc.open_worker_pool(strategy=sticky, concurrency={add: 1, "resize": 2})
    trioipc.open_worker_pool(strategy=trioipc.CostWeightedStrategy(lambda *_: 1.5))
    trioipc.open_worker_pool(engine=DaskEngine("tcp://127.0.0.1:8786", resources={"GPU": 1}))
    trioipc.open_worker_pool(engine="tcp://127.0.0.1:8786")  # type: ignore[arg-type]
    trioipc.open_worker_pool(concurrency={add: "1"})  # type: ignore[dict-item]
    trioipc.open_worker_pool(strategy=trioipc.StickyStrategy)  # type: ignore[arg-type]
    trioipc.open_worker_pool(strategy="random")  # type: ignore[arg-type]
    trioipc.open_worker_pool(kind="gpu")  # type: ignore[arg-type]
    with trioipc.open_worker_pool():  # type: ignore[attr-defined]
        pass


async def requests(pool: trioipc.WorkerPool) -> None:
    """So has `WorkerPool.open_request`."""
    async with pool.open_request(add, 1, 2.0, timeout=3) as request:
        assert_type(request, PoolRequest[complex])
        assert_type(await request.result(), complex)
        assert_type(request.id, str)
        async for progress in request.progress:
            assert_type(progress, Progress)
            assert_type(progress.eta, float | None)
        request.id = "mine"  # type: ignore[misc]

    pool.open_request(add, 1)  # type: ignore[arg-type]
    pool.open_request(add, 1, 2.0, on_progress=print)  # type: ignore[call-arg]


async def words() -> AsyncIterator[str]:
    """Give items as they come."""
    yield "word"


async def maps(pool: trioipc.WorkerPool) -> None:
    """`WorkerPool.map` has the item's type as its parameter, and gives results."""
    async with pool.map(bytes, [1, 2, 3], ordered=False, timeout=1) as results:
        async for result in results:
            assert_type(result, bytes)
    async with pool.map(str.encode, words(), on_error="collect", max_pending=3) as results:
        pass
    pool.map(default, [1, 2])
    pool.map(str.encode, [1, 2])  # type: ignore[arg-type]
    pool.map(add, [1, 2])  # type: ignore[arg-type]
    pool.map(bytes, 3)  # type: ignore[arg-type]
    pool.map(default, words())  # type: ignore[arg-type]
    pool.map(default, [1], on_error="ignore")  # type: ignore[arg-type]
    pool.map(default, [1], chunk_size="large")  # type: ignore[arg-type]


def counted(limit: int, step: float = 1) -> Iterator[bytes]:
    """Be a generator."""
    yield bytes(limit)


async def waited(limit: int) -> AsyncIterator[str]:
    """Be a generator for io workers."""
    yield str(limit)


async def streams(pool: trioipc.WorkerPool) -> None:
    """`WorkerPool.stream` has its generator's parameters, and gives what that yields."""
    async with pool.stream(counted, 3, buffer=2, timeout=1) as items:
        async for item in items:
            assert_type(item, bytes)
    async with pool.stream(waited, 3) as texts, pool.map(len, texts) as lengths:
        async for length in lengths:
            assert_type(length, int)
    pool.stream(counted, "3")  # type: ignore[arg-type]
    pool.stream(counted)  # type: ignore[arg-type]
    pool.stream(add, 1, 2.0)  # type: ignore[arg-type]
    pool.stream(counted, 3, buffer="all")  # type: ignore[arg-type]


async def shortest() -> None:
    """And `trioipc.run`."""
    assert_type(await trioipc.run(add, 1, 2.0), complex)
    await trioipc.run(add, 1)  # type: ignore[arg-type]


# ---- progress


def takes_progress(progress: Progress) -> None:
    """Be a callback."""


async def awaits_progress(progress: Progress) -> None:
    """Be a callback that is awaited."""


def takes_text(text: str) -> None:
    """Be no callback."""


async def callbacks(pool: trioipc.WorkerPool, bars: rich.progress.Progress) -> None:
    """A callback may be asynchronous, return anything, and come from `trioipc.progress`."""
    await pool.run(nothing, on_progress=takes_progress)
    await pool.run(nothing, on_progress=awaits_progress)
    await pool.run(nothing, on_progress=print)
    await pool.run(nothing, on_progress=trioipc.progress.rich_task(bars, "it"))
    await pool.run(nothing, on_progress=takes_text)  # type: ignore[arg-type]
    trioipc.progress.rich_task("bars", "it")  # type: ignore[arg-type]


# ---- operations


@operation
def bare(payload: int) -> str:
    """Be marked without parentheses."""
    return str(payload)


@operation("named", channel="file", idempotent=True)
def named(payload: bytes, size: int = 1) -> list[bytes]:
    """Be marked with options."""
    return [payload] * size


async def operations(pool: trioipc.WorkerPool) -> None:
    """`operation` gives the function itself back."""
    assert_type(bare(1), str)
    assert_type(named(b"", size=2), list[bytes])
    assert_type(await pool.run(bare, 1), str)
    bare("1")  # type: ignore[arg-type]
    await pool.run(bare, "1")  # type: ignore[arg-type]
    operation(channel="radio")  # type: ignore[call-overload]
    operation(idempotent="yes")  # type: ignore[call-overload]


# ---- inside of a worker


def inside() -> None:
    """What a function finds."""
    request = current_request()
    assert_type(request.progress.increment(), int)
    assert_type(request.time_left(), float)
    assert_type(request.allocate(8), memoryview)
    with request.uninterruptible():
        request.set_phase("at it")
    request.progress.set("1")  # type: ignore[arg-type]
    assert_type(request.run_sync(add, 1, 2.0), complex)
    request.run_sync(add, 1)  # type: ignore[arg-type]


async def inside_a_task() -> None:
    """What an asynchronous function finds."""
    assert_type(await current_request().run(asynchronous, 1), bytes)
    await current_request().run(asynchronous, "1")  # type: ignore[arg-type]
    await current_request().run(add, 1, 2.0)  # type: ignore[arg-type]


# ---- lifespans


@contextmanager
def plain() -> Iterator[int]:
    """Be for any workers."""
    yield 1


@asynccontextmanager
async def for_tasks(number: int) -> AsyncIterator[int]:
    """Be for io workers, given its argument."""
    yield number


def lifespans() -> None:
    """A lifespan is made without arguments."""
    trioipc.open_worker_pool(lifespan=plain)
    trioipc.open_worker_pool(kind="io", lifespan=partial(for_tasks, 1))
    trioipc.open_worker_bridge(lifespan=plain)
    trioipc.open_worker_pool(lifespan=for_tasks)  # type: ignore[arg-type]
    trioipc.open_worker_pool(lifespan=plain())  # type: ignore[arg-type]
    trioipc.open_worker_pool(lifespan=nothing)  # type: ignore[arg-type]


# ---- the bridge


async def bridges(flag: SharedCancellation, path: Path) -> None:
    """Results are bytes, or a file where there is a destination."""
    async with trioipc.open_worker_bridge(placement="auto") as bridge:
        assert_type(await bridge.crypto.hash_file(path, cancellation=flag), str)
        assert_type(await bridge.crypto.hash_file(b"data"), str)
        assert_type(await bridge.file.hash_file("file", "SHA-512"), FileHash)

        inline = await bridge.crypto.encrypt_file(b"data", bytes(32))
        assert_type(inline, Encrypted[memoryview])
        assert_type(inline.ciphertext, memoryview)
        written = await bridge.crypto.encrypt_file(path, bytes(32), destination="to")
        assert_type(written.ciphertext, WrittenFile)
        assert_type(await bridge.crypto.decrypt_file(b"", bytes(32), bytes(12)), memoryview)
        assert_type(await bridge.compression.compress_data(b"", algorithm="brotli"), memoryview)
        assert_type(await bridge.compression.compress_data(b"", destination=path), WrittenFile)
        assert_type(await bridge.pool.run(add, 1, 2), complex)

        await bridge.crypto.hash_file(3)  # type: ignore[arg-type]
        await bridge.file.hash_file(b"", "MD5")  # type: ignore[arg-type]
        await bridge.compression.compress_data(b"", algorithm="zip")  # type: ignore[call-overload]
        await bridge.crypto.encrypt_file(b"", "password")  # type: ignore[call-overload]
    trioipc.open_worker_bridge(placement="moon")  # type: ignore[arg-type]


# ---- messages, shared state, errors


async def messages() -> None:
    """What a worker says is an object until it is looked at."""
    protocol = trioipc.IPCProtocol(default_timeout=5)
    async with trioipc.open_worker("greeter") as worker:
        answer = await protocol.request(worker, "greet", "custom", {"name": "Ada"})
        assert_type(answer, object)
        await protocol.request(worker, "greet", "radio", {})  # type: ignore[arg-type]


async def states() -> None:
    """Each is of its values."""
    with trioipc.SharedCounter(3) as counter:
        assert_type(counter.compare_and_swap(3, 4), bool)
        async with counter.subscribe() as changes:
            async for value in changes:
                assert_type(value, int)
        counter.set(1.5)  # type: ignore[arg-type]
    with trioipc.SharedFlag() as flag:
        assert_type(flag.toggle(), bool)
    with SharedCancellation() as cancellation:
        assert_type(cancellation.reason(), str | None)


def errors(error: trioipc.WorkerCrashedError) -> None:
    """What an error knows has a type."""
    assert_type(error.pid, int | None)
    assert_type(error.attempts, int)
    error.frobnicate  # type: ignore[attr-defined] # noqa: B018


def names() -> None:
    """Submodules are there, and a name that is none is not."""
    bytes(trioipc.chunks.DEFAULT)
    math.isinf(trioipc.timeouts.QUICK)
    len(trioipc.chunks.FINE)  # type: ignore[arg-type]
    assert_type(trioipc.sizing.pool_size("io"), int)
    assert_type(trioipc.__version__, str)
    trioipc.Nonsense  # type: ignore[attr-defined] # noqa: B018
