"""What must happen to shared memory when something goes wrong.

===========================================  ====================================================
fault                                        test
===========================================  ====================================================
/dev/shm is full                             test_a_full_dev_shm, test_a_full_dev_shm_and_a_pool,
                                             test_memfds_do_not_mind_a_full_dev_shm
more than there is                           test_more_than_there_is
a name that is taken; a foreign file         test_a_name_that_is_taken,
                                             test_another_file_with_the_same_number
attach after close; close twice              test_state: test_a_pickle_is_good_once_...,
                                             test_what_is_closed_stays_closed
close with views                             test_state: test_what_is_closed_stays_closed;
                                             test_memory: test_a_segment_keeps_its_memory_for_views
killed within a change                       test_a_random_worker_is_killed; test_state:
                                             test_a_killed_writer_..., test_a_stopped_holder_...
torn reads                                   test_no_load_is_torn
a late write to a slot that is used again    test_process: test_threads_left_behind_write_nowhere
overflow, wrong types, totals of 0           test_state, test_memory: tables and state machines
contention                                   test_four_processes_count_exactly; swaps in
                                             test_four_processes_swap_exactly
lost wake-ups; a waiter that is killed       test_no_wake_up_is_lost, test_a_waiter_is_killed
many cycles                                  test_cycles
forks, copies, unrelated processes           test_state: test_a_fork_..., test_an_unrelated_...
no /proc; another user; the sender is gone   test_without_proc, test_another_user;
                                             test_state: test_a_pickle_is_good_once_...
memfd_create is refused; so is /dev/shm      test_memfd_is_refused, test_all_memory_is_refused
no descriptor left                           test_no_descriptor_left,
                                             test_no_descriptor_left_for_what_is_sent
a lock that belongs to the process           test_a_copy_that_goes_leaves_the_lock
the parent is killed                         test_a_parent_is_killed, test_a_kill_leaves_no_name,
                                             test_a_segment_never_has_a_name
===========================================  ====================================================

The counts here are small. ``TRIOIPC_FULL=1 pytest tests/test_memory_faults.py`` runs the full ones
(200 kills, 10,000 cycles of each class, 4 x 100,000 increments, 10 million loads), in about three
minutes. ``TRIOIPC_SEED=n`` repeats the moments of a run; a failure names the seed.
"""

from __future__ import annotations

import errno
import gc
import math
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import contextmanager
from functools import cache
from itertools import repeat
from multiprocessing import resource_sharer
from typing import TYPE_CHECKING, Any

import pytest
import trio

import memory_fault_jobs
import state_jobs
from conftest import open_descriptors
from helpers import is_alive, serving_pool, wait_until
from trioipc import (
    SharedCancellation,
    SharedCounter,
    SharedFlag,
    SharedProgress,
    SharedStateError,
    WorkerCrashedError,
)
from trioipc.memory import _segment, _travel
from trioipc.memory._segment import ENVIRONMENT_VARIABLE, create

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trioipc import WorkerPool

KINDS: list[Any] = [SharedProgress, SharedCancellation, SharedCounter, SharedFlag]
pytestmark = pytest.mark.stderr("")

SEED = int(os.environ.get("TRIOIPC_SEED") or random.randrange(1 << 30))


def amount(short: int, full: int) -> int:
    """Say how often something is done."""
    return full if os.environ.get("TRIOIPC_FULL") else short


LONG = pytest.mark.timeout(amount(120, 900))


def steady_descriptors() -> set[str]:
    """Say what is open, when the thread of the resource sharer has closed what it had."""
    found, same = open_descriptors(), 0
    while same < 10:
        time.sleep(0.01)
        again = open_descriptors()
        found, same = again, same + 1 if again == found else 0
    return found


@pytest.fixture(params=["memfd", "shm"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force one kind of segment, here and in the processes to come."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, request.param)
    return str(request.param)


@pytest.fixture(autouse=True)
def _nothing_is_kept_for_others() -> Iterator[None]:
    """Let go of what was pickled for processes that never asked for it."""
    yield
    resource_sharer.stop(timeout=5)


# ---- machines that lack something


@cache
def unshare() -> list[str] | None:
    """Return the command that gives a process mounts of its own, if that is allowed here."""
    for options in (["-m"], ["-Urm"]):
        command = ["unshare", *options]
        tried = [*command, "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
        try:
            if subprocess.run(tried, capture_output=True, timeout=20).returncode == 0:
                return command
        except FileNotFoundError:
            break
    return None


def play(scenario: str, *arguments: str, mount: str = "") -> None:
    """Run a scenario in a process of its own, with something mounted over what is there."""
    command = [sys.executable, "-X", "dev", "-W", "error", memory_fault_jobs.__file__, scenario]
    command += arguments
    if mount:
        private = unshare()
        if private is None:
            pytest.skip("mounts of one's own are not allowed here")
        command = [*private, "sh", "-c", f'mount -t tmpfs {mount} && exec "$@"', "sh", *command]
    result = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert result.returncode == 0, result.stderr


SMALL = "-o size=1m tmpfs /dev/shm"


def test_a_full_dev_shm(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error that names size and kind, never SIGBUS; room that is free again is used."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "shm")
    play("full", mount=SMALL)


def test_a_full_dev_shm_and_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the call whose payload is too big fails; a worker that cannot start says why."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "shm")
    play("full_pool", mount=SMALL)


def test_memfds_do_not_mind_a_full_dev_shm() -> None:
    """They are in no file system that anybody else could fill."""
    play("full_but_memfd", mount=SMALL)


@pytest.mark.parametrize("scenario", ["no_proc", "no_proc_twice"])
def test_without_proc(backend: str, scenario: str) -> None:
    """Where nothing can be opened anew, a pool works and counting is exact."""
    play(scenario, mount="tmpfs /proc")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user(backend: str) -> None:
    """A worker that has become another user may open nothing of ours, and counts as exactly."""
    play("nobody")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EACCES])
def test_memfd_is_refused(number: int) -> None:
    """As by seccomp, here truly: the next kind does, unless memfd was asked for."""
    play("no_memfd", str(number))


def test_all_memory_is_refused() -> None:
    """State then stays at home, no worker starts, and the bridge works on threads."""
    play("neither", mount="-o ro tmpfs /dev/shm")


def test_more_than_there_is(backend: str) -> None:
    """It is an OSError that names the size, and nothing is held."""
    before, size = steady_descriptors(), 1 << 62
    with pytest.raises(OSError, match=rf"no segment of {size} bytes \({backend}\): "):
        create(size)
    assert steady_descriptors() == before


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC, errno.ENOMEM])
def test_what_is_no_refusal_has_no_next(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room and no descriptor is true of the next kind, too, and not hidden by trying it."""

    def refuse(*arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(OSError, match=r"no segment of 8 bytes \(memfd\)") as caught:
        create(8)
    assert caught.value.errno == number


# ---- names and files of others


def without_nameless_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a /dev/shm that knows no O_TMPFILE."""
    system_open = os.open

    def open_(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return system_open(path, flags, mode, **options)

    monkeypatch.setattr(os, "open", open_)


def test_a_segment_never_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Linux: it is not even asked for."""
    monkeypatch.setattr("_posixshmem.shm_open", None)
    segment = create(8, "shm")
    assert segment.descriptor is not None
    assert os.fstat(segment.descriptor).st_nlink == 0


def test_a_name_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a segment needs a name for a moment, what has that name already is never used."""
    without_nameless_files(monkeypatch)
    name = uuid.uuid4().hex[:16]
    path = f"/dev/shm/tipc-{name}"
    first = create(8, "shm")
    assert first.descriptor is not None
    assert os.readlink(f"/proc/self/fd/{first.descriptor}").startswith("/dev/shm/tipc-")
    assert os.fstat(first.descriptor).st_nlink == 0
    monkeypatch.setattr("secrets.token_hex", lambda size: name)
    with open(path, "wb") as file:
        file.write(b"theirs!!")
    try:
        with pytest.raises(FileExistsError):
            create(8, "shm")
        with open(path, "rb") as file:
            assert file.read() == b"theirs!!"
    finally:
        os.unlink(path)


# What multiprocessing's thread prints when it is asked for what it gave before, or cannot give.
_GIVEN = r"Traceback .*resource_sharer\.py.*KeyError: \d+\n"
_NOT_GIVEN = r"(Traceback .*resource_sharer\.py.*(OSError|BrokenPipeError): [^\n]*\n)?"


@pytest.mark.stderr(_GIVEN)
def test_another_file_with_the_same_number(backend: str) -> None:
    """What the sender has opened in the place of a state is not taken for it."""
    mine = SharedCounter(1)
    _, _, (_, _, number) = ticket = _travel.give(mine._segment)  # type: ignore[misc,arg-type]
    pickled = pickle.dumps(mine)
    _travel.take(ticket)  # the resource sharer gives each only once
    pickle.loads(pickled)
    steady_descriptors()  # the resource sharer's thread may still be closing some
    mine.close()
    other = create(8)
    if other.descriptor is not None and other.descriptor != number:  # a lower one was free
        os.dup2(other.descriptor, number, inheritable=False)
        os.close(other.descriptor)
        other.descriptor = number
    assert other.descriptor == number
    before = steady_descriptors()
    with pytest.raises(SharedStateError, match="cannot be had"):
        pickle.loads(pickled)
    assert steady_descriptors() == before
    resource_sharer.stop(timeout=5)  # or it prints later than we look


# ---- no descriptor left


@contextmanager
def descriptors_left(number: int) -> Iterator[None]:
    """Have so many descriptors left, and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + number, hard))
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        pass
    for descriptor in taken[len(taken) - number :]:
        os.close(descriptor)
    del taken[len(taken) - number :]
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


@pytest.mark.parametrize("kind", KINDS)
def test_no_descriptor_left(backend: str, kind: Any) -> None:
    """With any number left, a state is made, or that there is none is the error."""
    before = steady_descriptors()
    made = []
    for left in range(4):
        with descriptors_left(left):
            try:
                kind().close()
            except OSError as error:
                if error.errno != errno.EMFILE:
                    raise
                made.append(False)
            else:
                made.append(True)
        gc.collect()
        assert steady_descriptors() == before
    assert made == [False, sys.version_info >= (3, 13), True, True]


def send(state: Any) -> Any:
    """Pickle and unpickle it as into any process."""
    return pickle.loads(pickle.dumps(state))


def send_beside(state: Any) -> Any:
    """Pickle and unpickle it as into our workers."""
    carried: dict[Any, Any] = {}
    with _travel.carrying(carried):
        pickled = pickle.dumps(state)
    [(number, parcel)] = carried.values()
    received = _segment.adopt(os.dup(parcel.descriptor), parcel.size)
    with _travel.receiving({number: received}.__getitem__):
        return pickle.loads(pickled)


@pytest.mark.stderr(_NOT_GIVEN)
@pytest.mark.parametrize("way", [send, send_beside])
def test_no_descriptor_left_for_what_is_sent(backend: str, way: Callable[[Any], Any]) -> None:
    """Sending a state says so likewise; with enough left, it arrives."""
    before = steady_descriptors()
    send(SharedFlag())  # multiprocessing starts what gives descriptors away
    counter, arrived = SharedCounter(), []
    for left in range(12):
        with descriptors_left(left):
            try:
                arrived.append(way(counter).increment())
            except OSError as error:
                if error.errno != errno.EMFILE:
                    raise
                arrived.append(0)
    assert (arrived[0], arrived[-1]) == (0, counter.get())
    assert counter.get() > 1
    counter.close()
    resource_sharer.stop(timeout=5)
    gc.collect()
    assert steady_descriptors() == before


@pytest.mark.parametrize("first_is_own", [False, True])
@pytest.mark.parametrize("second_is_own", [False, True])
@pytest.mark.parametrize("closes", [False, True])
def test_a_copy_that_goes_leaves_the_lock(
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
    first_is_own: bool,
    second_is_own: bool,
    closes: bool,
) -> None:
    """Where a lock belongs to the process, to close any descriptor of the file would release it.

    That is so without /proc, and for what was taken when no descriptor was left to open it anew.
    """
    counter, reopen = SharedCounter(), _segment.Segment.reopen
    copies = []
    for is_own in (first_is_own, second_is_own):
        monkeypatch.setattr(_segment.Segment, "reopen", reopen if is_own else lambda self: False)
        copies.append(send(counter))
    first, second = copies
    del copies
    threads = [threading.Thread(target=second.close)] * closes

    def decide(value: int) -> int:
        nonlocal second
        for thread in threads:
            thread.start()
            thread.join(0.3)  # it waits for us, or is done
        del second
        taken_by_us = False
        try:
            counter._lock._take()  # type: ignore[misc]
        except BlockingIOError:
            taken_by_us = True
        assert taken_by_us
        return value + 1

    before = steady_descriptors()
    assert first._change(decide) == 1
    for thread in threads:
        thread.join()
    threads.clear()
    send(counter).close()  # lets go of what was kept until then
    assert steady_descriptors() < before
    assert counter.increment() == 2


# ---- cycles


def held() -> tuple[int, int, int, int]:
    """Count descriptors, maps of segments, names in /dev/shm, threads."""
    gc.collect()
    with open("/proc/self/maps") as maps:
        mapped = sum("memfd:trioipc" in line or "/dev/shm" in line for line in maps)
    return len(os.listdir("/proc/self/fd")), mapped, len(names()), threading.active_count()


def names() -> set[str]:
    """Return the names of segments."""
    return {name for name in os.listdir("/dev/shm") if name.startswith("tipc-")}


@LONG
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["memfd", "shm", "plain"], indirect=True)
def test_cycles(backend: str, kind: Any) -> None:
    """However many are made and closed, nothing is held that was not before."""
    kind().close()
    before = held()
    for _ in range(amount(1_000, 10_000)):
        kind().close()
    assert held() == before


# ---- several processes


async def change_at_once(job: Callable[..., int], times: int) -> int:
    """Have four processes change a counter at the same time; return what it holds then."""
    counter, ready, go, pids = SharedCounter(), SharedCounter(), SharedFlag(), set()

    async def call(pool: WorkerPool) -> None:
        pids.add(await pool.run(job, ready, go, counter, times))

    async with serving_pool(4) as pool, trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(call, pool)
        await wait_until(lambda: ready.get() == 4)
        go.set()
    assert len(pids) == 4
    return counter.get()


@LONG
async def test_four_processes_count_exactly(backend: str) -> None:
    """Four at once, and nothing is lost."""
    times = amount(5_000, 100_000)
    assert await change_at_once(memory_fault_jobs.count_with_others, times) == 4 * times


@LONG
async def test_four_processes_swap_exactly() -> None:
    """However often each had to try, every swap that it was told of is in the value."""
    times = amount(1_000, 20_000)
    assert await change_at_once(memory_fault_jobs.swap_with_others, times) == 4 * times


@LONG
async def test_no_load_is_torn(backend: str) -> None:
    """Beside a writer in another process, whatever is loaded was stored, and both are seen."""
    counter, ready, stop = SharedCounter(0x1111111111111111), SharedFlag(), SharedFlag()
    async with serving_pool(1) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.run, state_jobs.store_forever, counter, ready, stop)
        await ready.wait_set()
        load, times = counter._cells.__getitem__, amount(1_000_000, 10_000_000)
        seen = set(map(load, repeat(0, times)))
        stop.set()
    assert seen == {0x1111111111111111, 0x2222222222222222}


async def test_no_wake_up_is_lost() -> None:
    """Two processes wake each other in turn, as often as they like."""
    ping, pong, times = SharedFlag(), SharedFlag(), amount(30, 2_000)
    async with serving_pool(1) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.run, memory_fault_jobs.play_pong, ping, pong, times)
        await trio.to_thread.run_sync(memory_fault_jobs.play_ping, ping, pong, times)
    assert (ping.is_set(), pong.is_set()) == (False, False)


async def test_a_waiter_is_killed() -> None:
    """Who sets the flag later does not notice, nor do those who wait beside it."""
    flag, waits = SharedFlag(), SharedFlag()
    async with serving_pool(1) as pool:
        with pytest.raises(WorkerCrashedError):
            async with pool.open_request(memory_fault_jobs.wait_for, waits, flag) as request:
                await waits.wait_set()
                os.kill(pool.workers[0].pid, signal.SIGKILL)
                await request.result()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, flag.wait, math.inf)
            nursery.start_soon(pool.run, memory_fault_jobs.wait_for, waits, flag)
            await trio.testing.wait_all_tasks_blocked()
            flag.set()


# ---- kills


def marked(mark: str) -> set[int]:
    """Say which processes run that have this in their environment."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if mark.encode() in file.read() and is_alive(int(name)):
                    found.add(int(name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            pass
    return found


@contextmanager
def playing(scenario: str, mark: str) -> Iterator[subprocess.Popen[str]]:
    """Have a scenario play, and kill it in the end."""
    process = subprocess.Popen(
        [sys.executable, memory_fault_jobs.__file__, scenario],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TRIOIPC_MARK": mark},
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "busy\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def within_a_second(holds: Callable[[], bool]) -> bool:
    """Say whether something holds within a second from now."""
    deadline = time.monotonic() + 1
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def living(pool: WorkerPool) -> list[int]:
    """Return the processes of a pool that have started, and are alive."""
    serving = [w.pid for w in pool.workers if w.pid and w.state in ("idle", "busy")]
    return [pid for pid in serving if is_alive(pid)]


@LONG
def test_a_parent_is_killed(backend: str) -> None:
    """At any moment of its work: a second later no process and no segment is left."""
    chance = random.Random(SEED)
    before = names()
    for turn in range(amount(2, 50)):
        mark = uuid.uuid4().hex
        with playing("busy", mark) as parent:
            assert len(marked(mark)) >= 3
            time.sleep(chance.uniform(0, 0.1))
            parent.kill()
            assert within_a_second(lambda mark=mark: not marked(mark)), (SEED, turn)  # type: ignore[misc]
            assert within_a_second(lambda: names() <= before), (SEED, turn)


@LONG
def test_a_kill_leaves_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even of who makes segments all the time: one in ten would, had they names."""
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "shm")
    chance = random.Random(SEED)
    before = names()
    for turn in range(amount(5, 200)):
        with playing("make_segments", "") as maker:
            time.sleep(chance.uniform(0, 0.003))
            maker.kill()
            maker.wait()
        assert within_a_second(lambda: names() <= before), (SEED, turn)


@LONG
async def test_a_random_worker_is_killed(backend: str) -> None:
    """Each call ends once; the lock is free, and what was counted is what the calls say."""
    chance = random.Random(SEED)
    kills, times = amount(5, 50), 5_000  # 10 ms, most of a turn
    counter, before = SharedCounter(), names()
    returned, crashed = 0, 0

    async def call(pool: WorkerPool) -> None:
        nonlocal returned, crashed
        data = os.urandom(1 << 20)
        while not done:
            try:
                assert await pool.run(memory_fault_jobs.echo, data) == data
                await pool.run(state_jobs.count_up, counter, times)
            except WorkerCrashedError:
                crashed += 1
            else:
                returned += 1

    done = False
    async with serving_pool(2) as pool, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(call, pool)
        for _ in range(kills):
            await trio.sleep(chance.uniform(0, 0.1))
            await wait_until(lambda: living(pool))
            os.kill(chance.choice(living(pool)), signal.SIGKILL)
            counter.increment(0)  # nobody who is dead holds the lock
        await wait_until(lambda: returned > 3)
        done = True
    assert times * returned <= counter.get() <= times * (returned + crashed), SEED
    assert crashed <= kills, SEED
    assert names() <= before
