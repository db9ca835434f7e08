"""Pools and bridges on a Dask cluster of real processes with nannies, on loopback."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
import trio
from distributed import Client

import cluster_jobs
import jobs
from cluster import apart, cluster
from helpers import wait_until
from trioipc import (
    PayloadError,
    PoisonedRequestError,
    RequestCancelledError,
    RequestExitError,
    RequestTimeoutError,
    SharedCancellation,
    SharedCounter,
    SharedStateError,
    WorkerCrashedError,
    WorkerStartError,
    open_worker_bridge,
    open_worker_pool,
)
from trioipc.dask import DaskEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trioipc import Progress, WorkerPool

pytestmark = pytest.mark.slow


@pytest.fixture
async def pool(cluster_address: str) -> AsyncIterator[WorkerPool]:
    """Provide a pool there."""
    async with open_worker_pool(
        engine=DaskEngine(cluster_address), modules=["cluster_jobs"], grace=0.3
    ) as pool:
        yield pool


# ---- calls


async def test_functions_run_there(pool: WorkerPool) -> None:
    """With their arguments, in processes that are no children of this one."""
    assert await pool.run(jobs.add, 1, 2) == 3
    assert await pool.run(jobs.request_id) == "trioipc-2"
    assert "Dask" in await pool.run(cluster_jobs.thread_name)
    assert pool.statistics().pool_size == 4


async def test_what_is_big_travels(pool: WorkerPool) -> None:
    """Types are kept, and arrays are not pickled into the pickle."""
    data = bytes(range(256)) * 400
    assert await pool.run(jobs.echo, (data, bytearray(data), 7)) == (data, bytearray(data), 7)
    array = np.arange(100_000)
    assert (await pool.run(np.negative, array) == -array).all()
    assert bytes(await pool.run(jobs.echo, memoryview(data))) == data


async def test_errors_come_home(pool: WorkerPool) -> None:
    """As themselves, with their cause and one note of ours."""
    with pytest.raises(ValueError, match="outer") as caught:
        await pool.run(jobs.fail_with_cause)
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.__notes__[0] == "written by the function"
    assert "trioipc: request trioipc-1 (jobs.fail_with_cause), worker" in caught.value.__notes__[1]
    with pytest.raises(RequestExitError) as left:
        await pool.run(sys.exit, 4)
    assert left.value.code == 4


async def test_what_cannot_be_sent(pool: WorkerPool) -> None:
    """A lambda, a generator, an asynchronous function, an argument, a result: each is said."""
    with pytest.raises(PayloadError, match="lambda"):
        await pool.run(lambda: 1)
    with pytest.raises(PayloadError, match="no pickling of me"):
        await pool.run(jobs.echo, jobs.FailsOnPickle())
    with pytest.raises(PayloadError, match="a result of type"):
        await pool.run(jobs.make, "FailsOnPickle")
    with pytest.raises(PayloadError, match="the call"):
        await pool.run(jobs.echo, jobs.FailsOnUnpickle())
    with pytest.raises(TypeError, match="asynchronous"):
        await pool.run(trio.sleep, 1)
    with pytest.raises(TypeError, match=r"stream\(\)"):
        await pool.run(_generate)
    with pytest.raises(TypeError, match="cannot be streamed from a cluster"):
        async with pool.stream(_generate):
            raise AssertionError
    assert await pool.run(jobs.echo, 1) == 1


def _generate() -> AsyncIterator[int]:  # type: ignore[misc]
    yield 1


async def test_functions_of_the_main_script(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not where a cluster could find them, and that is said before anything is sent."""
    monkeypatch.setattr(jobs.add, "__module__", "__main__")
    with pytest.raises(PayloadError, match="is in the main script"):
        await pool.run(jobs.add, 1, 2)


async def test_shared_state_does_not_travel(pool: WorkerPool) -> None:
    """Neither there nor back."""
    expected = pytest.raises(SharedStateError, match="memory of one machine")
    with SharedCounter() as counter, expected:
        await pool.run(jobs.echo, counter)
    with pytest.raises(SharedStateError, match="memory of one machine"):
        await pool.run(cluster_jobs.make_counter)


async def test_messages(pool: WorkerPool) -> None:
    """Operations of the modules are known there."""
    assert await pool.execute({"type": "double there", "channel": "custom", "payload": 4}) == 8


# ---- progress, cancels, clocks


async def test_progress(pool: WorkerPool, tmp_path: Path) -> None:
    """It comes while the function runs, and the last value always."""
    go = tmp_path / "go"
    seen: list[Progress] = []

    def note(progress: Progress) -> None:
        seen.append(progress)
        go.touch()

    await pool.run(cluster_jobs.slow_steps, str(go), on_progress=note)
    assert [(p.value, p.total, p.phase) for p in seen[:1]] == [(1, 3, "first")]
    assert seen[-1].value == 3


async def test_a_cancel_is_seen(pool: WorkerPool, tmp_path: Path) -> None:
    """By the function's next checkpoint; its process goes on."""
    before = await pool.run(jobs.pid), await pool.run(jobs.pid)
    async with pool.open_request(jobs.cooperate) as request:
        await request.wait_started()
        request.cancel("enough")
        with pytest.raises(RequestCancelledError, match="enough") as caught:
            await request.result()
    assert caught.value.rung == "checkpoint"
    assert await pool.run(jobs.pid) in before or await pool.run(jobs.pid) in before
    with SharedCancellation() as cancellation:
        async with pool.open_request(
            jobs.reason_seen, str(tmp_path / "x"), cancellation=cancellation
        ) as request:
            await request.wait_started()
            cancellation.cancel("the reason")
            with pytest.raises(RequestCancelledError) as caught:
                await request.result()
    assert isinstance(caught.value.__cause__, LookupError)
    assert str(caught.value.__cause__) == "the reason"


async def test_what_waits_is_taken_back(pool: WorkerPool, tmp_path: Path) -> None:
    """At once, though its turn would not come for long, and it never runs."""
    go, trace = tmp_path / "go", tmp_path / "trace"
    async with trio.open_nursery() as nursery:
        for _ in range(2):  # the cluster has two threads
            nursery.start_soon(pool.run, cluster_jobs.wait_for, str(go))
        await wait_until(lambda: sum(w.state == "busy" for w in pool.workers) == 2)
        await trio.sleep(0.2)  # Dask may be told of the third before the others were begun
        with trio.move_on_after(0.1) as scope:
            await pool.run(cluster_jobs.append, str(trace))
        assert scope.cancelled_caught
        assert pool.statistics().busy_workers == 2
        go.touch()
    assert await pool.run(jobs.echo, 1) == 1
    assert not trace.exists()


async def test_the_last_rung(cluster_address: str, tmp_path: Path) -> None:
    """The process is killed and started again; who ran beside the culprit hears why."""
    async with open_worker_pool(2, engine=DaskEngine(cluster_address), grace=0.1) as pool:
        begun = time.monotonic()
        with pytest.raises(RequestTimeoutError) as caught:
            await pool.run(jobs.sleep, 60, timeout=0.3)
        assert (caught.value.clock, caught.value.rung) == ("run", "kill")
        assert time.monotonic() - begun < 15
        assert pool.statistics().restarts == {"killed": 1}
        assert await pool.run(jobs.echo, 1) == 1


async def test_neighbours_hear_why() -> None:
    """A worker with two threads is restarted, which costs both; that is said."""
    with cluster(1, threads=2) as address:
        async with open_worker_pool(engine=DaskEngine(address), grace=0.1) as pool:
            async with pool.open_request(jobs.cooperate) as victim:
                await victim.wait_started()
                with trio.move_on_after(0.3):
                    await pool.run(jobs.sleep, 60)
                with pytest.raises(WorkerCrashedError, match="SIGKILL") as caught:
                    await victim.result()
            assert "was restarted, since trioipc-2 did not stop" in str(caught.value.__cause__)


async def test_the_queue_clock(pool: WorkerPool, tmp_path: Path) -> None:
    """It runs for what Dask has but not begun; the run clock does not."""
    go = tmp_path / "go"
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(pool.run, cluster_jobs.wait_for, str(go))
        await wait_until(lambda: sum(w.state == "busy" for w in pool.workers) == 2)
        await trio.sleep(0.2)
        with pytest.raises(RequestTimeoutError) as caught:
            await pool.run(jobs.echo, 1, queue_timeout=0.3, timeout=0.1)
        assert caught.value.clock == "queue"
        go.touch()


# ---- losses


async def test_a_crash_is_no_second_try(pool: WorkerPool, tmp_path: Path) -> None:
    """What is not idempotent runs once, though Dask would try it four times."""
    trace = tmp_path / "trace"
    with pytest.raises(WorkerCrashedError, match="left the cluster") as caught:
        await pool.run(cluster_jobs.append_and_die, str(trace))
    assert caught.value.attempts == 1
    assert await pool.run(jobs.echo, 1) == 1
    assert len(trace.read_text().splitlines()) == 1


async def test_a_crash_is_tried_again(pool: WorkerPool, tmp_path: Path) -> None:
    """What is idempotent, as often as its retries say."""
    assert await pool.run(jobs.die_once, str(tmp_path / "x"), idempotent=True) == "second try"
    trace = tmp_path / "trace"
    with pytest.raises(PoisonedRequestError):
        await pool.run(cluster_jobs.append_and_die, str(trace), idempotent=True, max_retries=1)
    assert len(trace.read_text().splitlines()) == 2


async def test_a_lost_scheduler() -> None:
    """Each request ends with an error that says so, as does the pool's next one; none hangs."""
    errors: list[BaseException] = []

    async def ask(pool: WorkerPool, idempotent: bool) -> None:
        try:
            await pool.run(jobs.cooperate, idempotent=idempotent)
        except (WorkerStartError, WorkerCrashedError) as error:
            errors.append(error)

    with apart() as parts:
        scheduler = parts.start_scheduler()
        parts.start_worker(threads=4)
        async with open_worker_pool(4, engine=DaskEngine(parts.address), grace=0.1) as pool:
            async with trio.open_nursery() as nursery:
                for idempotent in (False, True, False):
                    nursery.start_soon(ask, pool, idempotent)
                await wait_until(lambda: sum(w.state == "busy" for w in pool.workers) == 3)
                await trio.sleep(0.3)
                scheduler.kill()
            assert len(errors) == 3
            assert all("scheduler" in str(error) for error in errors)
            with pytest.raises(WorkerStartError, match="scheduler"):
                await pool.run(jobs.echo, 1)


async def test_a_scheduler_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it for ever: not who is cancelled, and not who leaves the pool."""
    monkeypatch.setattr("trioipc.dask._link.KILL_SECONDS", 1.0)  # which is long for a test
    with apart() as parts:
        scheduler = parts.start_scheduler()
        parts.start_worker(nanny=True)
        with trio.fail_after(40):
            async with open_worker_pool(1, engine=DaskEngine(parts.address), grace=0.1) as pool:
                await _until_it_runs(pool)
                async with pool.open_request(jobs.cooperate) as request:
                    await request.wait_started()
                    scheduler.send_signal(signal.SIGSTOP)
                    request.cancel("enough")
                    with pytest.raises(RequestCancelledError, match="enough"):
                        await request.result()


async def test_no_worker_comes() -> None:
    """What waits is told so, once it has waited as long as a start may take; one may come later."""
    with apart() as parts:
        parts.start_scheduler()
        engine = DaskEngine(parts.address)
        async with open_worker_pool(engine=engine, start_timeout=4.0) as pool:
            failed = []

            async def ask() -> None:
                with pytest.raises(WorkerStartError, match="has had no worker for this pool"):
                    await pool.run(jobs.echo, 1)
                failed.append(True)

            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    for _ in range(9):  # more than can be with the cluster
                        nursery.start_soon(ask)
            assert len(failed) == 9
            parts.start_worker()
            await _until_it_runs(pool)


async def _until_it_runs(pool: WorkerPool) -> None:
    """Try until there is a worker."""
    with trio.fail_after(30):
        while True:
            try:
                assert await pool.run(jobs.echo, 1) == 1
            except WorkerStartError:
                await trio.sleep(0.05)
            else:
                return


async def test_the_last_worker_is_lost(tmp_path: Path) -> None:
    """What it had begun has crashed; what waited for it waits, and then is told."""
    with apart() as parts:
        parts.start_scheduler()
        worker = parts.start_worker()
        errors: list[BaseException] = []

        async def ask() -> None:
            with pytest.raises((WorkerCrashedError, WorkerStartError)) as caught:
                await pool.run(cluster_jobs.wait_for, str(tmp_path / "never"))
            errors.append(caught.value)

        engine = DaskEngine(parts.address)
        async with open_worker_pool(3, engine=engine, start_timeout=4.0) as pool:
            await _until_it_runs(pool)
            with trio.fail_after(40):
                async with trio.open_nursery() as nursery:
                    for _ in range(4):
                        nursery.start_soon(ask)
                    await wait_until(lambda: sum(_begun(pool)) == 1)
                    worker.kill()
        assert sorted(type(error).__name__ for error in errors) == [
            "WorkerCrashedError",
            *["WorkerStartError"] * 3,
        ]


async def test_a_worker_comes_back_under_another_address(tmp_path: Path) -> None:
    """Dask would have what was sent to it by its name wait for the old one, for ever."""
    go = tmp_path / "go"
    with apart() as parts:
        parts.start_scheduler()
        worker = parts.start_worker(name="alice")
        engine = DaskEngine(parts.address, workers=["alice"])
        async with open_worker_pool(2, engine=engine) as pool:
            await _until_it_runs(pool)
            got: list[int] = []

            async def ask() -> None:
                got.append(await pool.run(cluster_jobs.wait_for, str(go), idempotent=True))

            with trio.fail_after(40):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask)
                    nursery.start_soon(ask)
                    await wait_until(lambda: sum(_begun(pool)) == 1)
                    await trio.sleep(0.2)  # so that the other one is there, too
                    worker.kill()
                    again = parts.start_worker(name="alice")
                    go.touch()
        assert got == [again.pid] * 2


def _begun(pool: WorkerPool) -> list[bool]:
    return [
        worker.endpoint.look(request._slot, request._generation).started
        for worker in pool._dispatcher.team.workers
        for request in worker.held.values()
    ]


async def test_no_cluster() -> None:
    """Nobody listens: that is a start that fails, in time."""
    with pytest.raises(WorkerStartError, match="no connection to a Dask cluster"):
        async with open_worker_pool(engine=DaskEngine("tcp://127.0.0.1:9"), start_timeout=0.5):
            raise AssertionError


async def test_a_module_that_is_not_there(cluster_address: str) -> None:
    """It is missed when the pool is opened."""
    with pytest.raises(WorkerStartError, match="no_such_module"):
        async with open_worker_pool(engine=DaskEngine(cluster_address), modules=["no_such_module"]):
            raise AssertionError


async def test_workers_are_killed_all_the_time(cluster_address: str) -> None:
    """None of 200 requests is lost, and none is wrong."""
    restarts = Counter[str]()
    async with open_worker_pool(engine=DaskEngine(cluster_address)) as pool:
        got: dict[int, int] = {}

        async def ask(number: int) -> None:
            got[number] = await pool.run(
                cluster_jobs.ten_milliseconds, number, idempotent=True, max_retries=9
            )

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(ask, number)
            for _ in range(2):
                await wait_until(lambda: len(got) > 50 * (1 + restarts["tries"]))
                restarts["tries"] += 1
                with pytest.raises(WorkerCrashedError):
                    await pool.run(jobs.kill_self, 9, priority="high")
        assert got == {number: number for number in range(200)}
        assert pool.statistics().restarts["crashed"] >= 2


# ---- many


async def test_map(pool: WorkerPool) -> None:
    """In order, many at a time; an item's error is its own."""
    async with pool.map(jobs.echo, range(3000)) as results:
        assert [value async for value in results] == list(range(3000))
    assert pool.statistics().total_tasks_processed < 300
    async with pool.map(cluster_jobs.reciprocal, [1, 0, 2], on_error="collect") as results:
        got = [value async for value in results]
    assert (got[0], got[2]) == (1.0, 0.5)
    assert isinstance(got[1], ZeroDivisionError)


async def test_a_crash_in_a_chunk(cluster_address: str, tmp_path: Path) -> None:
    """All items of it may have run: none runs twice, or each may."""
    trace = tmp_path / "trace"
    function = partial(cluster_jobs.die_at, path=str(trace))
    # One at a time: of two, the other may be lost as well, before its results were fetched.
    async with open_worker_pool(1, engine=DaskEngine(cluster_address)) as pool:
        async with pool.map(function, range(100), chunk_size=20, on_error="collect") as results:
            got = [value async for value in results]
        lost = [number for number, value in enumerate(got) if isinstance(value, WorkerCrashedError)]
        assert lost == list(range(40, 60))
        assert len(trace.read_text().splitlines()) == 91  # 40 to 50 of the chunk, and all others
        (tmp_path / "trace.dead").unlink()
        (tmp_path / "trace.once").touch()
        async with pool.map(function, range(100), chunk_size=20, idempotent=True) as results:
            assert [value async for value in results] == list(range(100))


# ---- the bridge


async def test_bridge(cluster_address: str, tmp_path: Path) -> None:
    """Built-in operations run there; paths only where they mean the same."""
    data = bytes(range(256)) * 20_000
    key = bytes(32)
    path = tmp_path / "data"
    path.write_bytes(data)
    async with open_worker_bridge(engine=DaskEngine(cluster_address)) as bridge:
        sealed = await bridge.crypto.encrypt_file(data, key)
        assert await bridge.crypto.decrypt_file(sealed.ciphertext, key, sealed.nonce) == data
        packed = await bridge.compression.compress_data(data)
        assert await bridge.compression.decompress_data(packed) == data
        assert "Dask at tcp://" in bridge.placed.reason
        with pytest.raises(ValueError, match="source is a path"):
            await bridge.crypto.hash_file(path)
        with pytest.raises(ValueError, match="destination is a path"):
            await bridge.compression.compress_data(data, destination=tmp_path / "out")
    engine = DaskEngine(cluster_address, shared_paths=True)
    async with open_worker_bridge(engine=engine) as bridge:
        expected = await bridge.crypto.hash_file(data)
        assert await bridge.crypto.hash_file(path) == expected
        await bridge.compression.compress_data(path, destination=tmp_path / "out")
        assert await bridge.compression.decompress_data(tmp_path / "out") == data


# ---- what it is given


async def test_a_client_of_yours(cluster_address: str) -> None:
    """It is used, and stays open; several pools can have it at a time."""
    with Client(cluster_address, set_as_default=False) as client:
        engine = DaskEngine(client)
        async with open_worker_pool(engine=engine) as one, open_worker_pool(engine=engine) as two:
            assert await one.run(jobs.add, 1, 2) == await two.run(jobs.add, 2, 1) == 3
        assert client.submit(jobs.add, 3, 4).result() == 7


async def test_a_client_that_is_closed(cluster_address: str) -> None:
    """Too early: its requests end, as does the pool."""
    client = Client(cluster_address, set_as_default=False)

    async def ask() -> None:
        with pytest.raises(WorkerCrashedError, match="the connection to Dask's scheduler"):
            await pool.run(jobs.sleep, 0.5)

    async with open_worker_pool(engine=DaskEngine(client)) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await wait_until(lambda: sum(w.state == "busy" for w in pool.workers) == 1)
            await trio.sleep(0.2)  # so that it has begun
            await trio.to_thread.run_sync(client.close)
        with pytest.raises(WorkerStartError, match="was lost"):
            await pool.run(jobs.echo, 1)


async def test_restrictions(cluster_address: str) -> None:
    """Requests go to the named workers only."""
    with Client(cluster_address, set_as_default=False) as client:
        pids = client.run(jobs.pid)
        engine = DaskEngine(client, workers=[next(iter(pids))])
        async with open_worker_pool(engine=engine) as pool:
            assert {await pool.run(jobs.pid) for _ in range(6)} == {next(iter(pids.values()))}


async def test_the_event_loop_goes_on(cluster_address: str) -> None:
    """Also while a pool connects, and while a result of some MiB is on its way."""
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await trio.sleep(0.001)
            longest = max(longest, time.perf_counter() - before)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        async with open_worker_pool(engine=DaskEngine(cluster_address)) as pool:
            await pool.run(jobs.sleep, 0.5)
        nursery.cancel_scope.cancel()
    assert longest < 0.4  # it slept for 0.5 s there


async def test_options_that_mean_nothing(cluster_address: str) -> None:
    """They are refused, with the reason, before anybody connects."""
    engine = DaskEngine(cluster_address)
    for options in (
        {"kind": "io"},
        {"strategy": "round-robin"},
        {"max_memory": 1 << 20},
        {"lifespan": threading.Lock},
    ):
        with pytest.raises(ValueError, match="with an engine"):
            async with open_worker_pool(engine=engine, **options):  # type: ignore[arg-type]
                raise AssertionError
    with pytest.raises(TypeError, match="DaskEngine"):
        async with open_worker_pool(engine=cluster_address):  # type: ignore[arg-type]
            raise AssertionError
    with pytest.raises(TypeError, match="client"):
        DaskEngine(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="workers"):
        DaskEngine(cluster_address, workers="one")


def test_dask_is_loaded_by_those_who_want_it() -> None:
    """Everything else goes without; and without the extra, it is said what is missing."""
    code = (
        "import sys, trioipc, trioipc.pool.pool, trioipc.bridge.bridge\n"
        "assert not {'dask', 'distributed'} & {*sys.modules}\n"
        "sys.modules['distributed'] = None\n"
        "try:\n    import trioipc.dask\n"
        "except trioipc.MissingExtraError as error:\n    print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "trioipc[dask]" in ran.stdout
