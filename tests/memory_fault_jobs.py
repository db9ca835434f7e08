"""What happens to shared memory in processes of their own: on a machine that lacks something.

Each scenario is a function without arguments: ``python memory_fault_jobs.py full``. It ends with 0
if all was as it should be.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import platform
import resource
import signal
import struct
import sys
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import state_jobs
from trioipc import (
    FallbackWarning,
    PayloadError,
    SharedCancellation,
    SharedCounter,
    SharedFlag,
    SharedProgress,
    SharedStateError,
    WorkerStartError,
    is_shared_memory_available,
)
from trioipc.memory._segment import Segment, create

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS: list[Any] = [SharedProgress, SharedCancellation, SharedCounter, SharedFlag]
MIB = 1 << 20


# ---- that workers run


def echo(data: bytes) -> bytes:
    """Return the argument."""
    return data


def make_bytes(size: int) -> bytes:
    """Return so many of them."""
    return b"7" * size


def count_with_others(ready: Any, go: Any, counter: Any, times: int) -> int:
    """Add one, many times, all of us at once; say who we are."""
    ready.increment()
    go.wait()
    state_jobs.count_up(counter, times)
    return os.getpid()


def swap_with_others(ready: Any, go: Any, counter: Any, times: int) -> int:
    """Do the same by compare and swap."""
    ready.increment()
    go.wait()
    for _ in range(times):
        value = counter.get()
        while not counter.compare_and_swap(value, value + 1):
            value = counter.get()
    return os.getpid()


def play_ping(ping: Any, pong: Any, times: int) -> None:
    """Set one flag, wait for the other and take it back, many times."""
    for _ in range(times):
        ping.set()
        assert pong.wait(20)
        pong.clear()


def play_pong(ping: Any, pong: Any, times: int) -> None:
    """Do the other half."""
    for _ in range(times):
        assert ping.wait(20)
        ping.clear()
        pong.set()


def wait_for(waits: Any, flag: Any) -> None:
    """Say that we wait, and wait for ever."""
    waits.set()
    flag.wait()


def become_nobody() -> int:
    """Have no rights of root's any more."""
    os.setuid(65534)
    return os.getuid()


def reopens(counter: Any) -> bool:
    """Say whether the lock of a state that was sent here belongs to this object alone."""
    import fcntl

    return bool(counter._lock._take.args[1] == fcntl.F_OFD_SETLK)


# ---- helpers


@contextmanager
def fails_with(number: int, *texts: str) -> Iterator[None]:
    """Expect the system's own error, with all of the texts."""
    try:
        yield
    except OSError as error:
        if error.errno != number or not all(text in str(error) for text in texts):
            raise
    else:
        raise AssertionError(f"no {errno.errorcode[number]}")


@contextmanager
def raises(kind: type[BaseException], text: str) -> Iterator[None]:
    """Expect an error with a text."""
    try:
        yield
    except kind as error:
        if text not in str(error):
            raise
    else:
        raise AssertionError(f"no {kind.__name__}")


def descriptors() -> int:
    """Count what is open, also where there is no /proc."""
    found = 0
    for number in range(resource.getrlimit(resource.RLIMIT_NOFILE)[0]):
        try:
            os.fstat(number)
        except OSError:
            continue
        found += 1
    return found


def refuse_memfd(number: int) -> None:
    """Have the kernel answer memfd_create with an error, here and in every process to come.

    See seccomp(2) and linux/filter.h: load the number of the call; if it is ours, the error.
    """
    call = {"x86_64": 319, "aarch64": 279}[platform.machine()]
    steps = [
        (0x20, 0, 0, 0),  # BPF_LD | BPF_W | BPF_ABS
        (0x15, 0, 1, call),  # BPF_JMP | BPF_JEQ | BPF_K
        (0x06, 0, 0, 0x00050000 | number),  # BPF_RET | BPF_K: SECCOMP_RET_ERRNO
        (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    assert prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP, by a filter
    with fails_with(number):
        os.memfd_create("any")


def fill() -> list[Segment]:
    """Take all the room that there is, and write to each byte of it."""
    held = []
    for size in (MIB // 16, 4096):
        while True:
            try:
                segment = create(size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                break
            segment.memory[:] = b"\xff" * size  # what had no page would be SIGBUS
            held.append(segment)
    return held


def count_together(workers: int, times: int) -> None:
    """Count in workers, a fork and a thread at once, and lose nothing; send a payload."""
    import trio

    from trioipc import open_worker_pool

    counter = SharedCounter()

    async def main() -> None:
        async with open_worker_pool(workers) as pool:
            async with trio.open_nursery() as nursery:
                for _ in range(workers):
                    nursery.start_soon(pool.run, state_jobs.count_up, counter, times)
                nursery.start_soon(trio.to_thread.run_sync, state_jobs.count_up, counter, times)
            assert await pool.run(echo, bytes(MIB)) == bytes(MIB)

    child = os.fork()
    if child == 0:
        try:
            state_jobs.count_up(counter, times)
        finally:
            os._exit(0)
    trio.run(main)
    assert os.waitpid(child, 0)[1] == 0
    assert counter.get() == times * (workers + 2), counter


# ---- scenarios


def full() -> None:
    """In a /dev/shm of 1 MiB: an error that says so, never SIGBUS; freed room is used."""
    assert os.environ["TRIOIPC_SEGMENT"] == "shm"
    before = descriptors()
    with fails_with(errno.ENOSPC, f"no segment of {2 * MIB} bytes (shm): No space left"):
        create(2 * MIB)
    held = fill()
    assert sum(segment.size for segment in held) == MIB
    for kind in KINDS:
        with fails_with(errno.ENOSPC, "(shm): No space left"):
            kind()
    del held
    assert descriptors() == before
    for kind in KINDS:
        kind().close()
    fill()
    assert descriptors() == before


def full_pool() -> None:
    """In a /dev/shm of 1 MiB: too big a payload is an error of its call, and the next works."""
    import trio

    from trioipc import open_worker_pool

    async def main() -> None:
        async with open_worker_pool(1) as pool:
            pid = await pool.run(os.getpid)
            with fails_with(errno.ENOSPC):
                await pool.run(echo, bytes(4 * MIB))
            with raises(PayloadError, "No space left"):
                await pool.run(make_bytes, 4 * MIB)
            assert await pool.run(echo, bytes(MIB // 4)) == bytes(MIB // 4)
            assert await pool.run(os.getpid) == pid
        held = fill()
        with raises(WorkerStartError, "No space left"):
            async with open_worker_pool(1):
                raise AssertionError
        del held
        async with open_worker_pool(1) as pool:
            assert await pool.run(echo, bytes(MIB // 4)) == bytes(MIB // 4)

    trio.run(main)


def full_but_memfd() -> None:
    """What is in no file system does not mind that one is full."""
    with open("/dev/shm/full", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, MIB)
    with fails_with(errno.ENOSPC):
        create(1, "shm")
    create(4 * MIB).memory[:] = b"\xff" * (4 * MIB)
    count_together(1, 500)


def no_proc() -> None:
    """Without /proc: locks belong to the process, and counting is as exact."""
    import trio

    assert not os.path.exists("/proc/self")
    segment = create(8)
    assert segment.reopen() is False

    async def main() -> None:
        from trioipc import open_worker_pool

        async with open_worker_pool(1) as pool:
            assert await pool.run(reopens, SharedCounter()) is False

    before = descriptors()
    trio.run(main)
    count_together(2, 2_000)
    # One is multiprocessing's resource tracker.
    assert descriptors() <= before + 1


def no_proc_twice() -> None:
    """Without /proc, what is sent once arrives; twice is an error that says so."""
    counter = SharedCounter(3)
    pickled = pickle.dumps(counter)
    assert pickle.loads(pickled).increment() == 4
    with raises(SharedStateError, "cannot be had"):
        pickle.loads(pickled)


def nobody() -> None:
    """A worker of another user's, which may not open our files, counts as exactly."""
    import trio

    from trioipc import open_worker_pool

    async def main() -> None:
        counter = SharedCounter()
        async with open_worker_pool(1) as pool:
            assert await pool.run(state_jobs.count_up, counter, 1) == 1  # its imports
            assert await pool.run(become_nobody) == 65534
            may_open = os.environ["TRIOIPC_SEGMENT"] == "memfd"  # the other has mode 0600
            assert await pool.run(reopens, counter) is may_open
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pool.run, state_jobs.count_up, counter, 5_000)
                await trio.to_thread.run_sync(state_jobs.count_up, counter, 5_000)
            assert await pool.run(echo, bytes(MIB)) == bytes(MIB)
        assert counter.get() == 10_001, counter

    trio.run(main)


def no_memfd() -> None:
    """Where memfd_create is refused, whatever the refusal, /dev/shm does."""
    number = int(sys.argv[2])
    refuse_memfd(number)
    segment = create(100)
    assert segment.descriptor is not None
    assert os.readlink(f"/proc/self/fd/{segment.descriptor}").startswith("/dev/shm/")
    with fails_with(number, "no segment of 8 bytes (memfd): "):
        create(8, "memfd")
    assert is_shared_memory_available()
    if number == errno.ENOSYS:  # once is enough
        count_together(1, 500)


def neither() -> None:
    """With no /dev/shm either, state stays at home, and the bridge works on threads."""
    import trio

    from trioipc import open_worker_bridge, open_worker_pool

    refuse_memfd(errno.EPERM)
    assert not is_shared_memory_available()
    with fails_with(errno.EROFS, "no segment of 8 bytes (shm): "):
        create(8)
    counter = SharedCounter(4)
    assert counter.increment() == 5
    with raises(SharedStateError, "cannot go to another"):
        pickle.dumps(counter)

    async def main() -> None:
        with raises(WorkerStartError, "Read-only file system"):
            async with open_worker_pool(1):
                raise AssertionError
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            async with open_worker_bridge(1) as bridge:
                assert bridge.placed.kind == "thread"
                # FIPS 180-4: of the empty message.
                assert (await bridge.crypto.hash_file(b"")).startswith("e3b0c44298fc1c14")
        assert [warning.category for warning in seen] == [FallbackWarning]

    trio.run(main)


def busy() -> None:
    """Keep a pool busy with payloads and shared state, until killed."""
    import trio

    from trioipc import open_worker_pool

    async def call(pool: Any, counter: Any) -> None:
        while True:
            assert len(await pool.run(echo, bytes(MIB))) == MIB
            await pool.run(state_jobs.count_up, counter, 20)
            await pool.run(state_jobs.read, SharedProgress(9))
            await pool.run(state_jobs.make_counter, 7)

    def make_and_close() -> None:
        while True:
            for kind in KINDS:
                kind().close()

    async def main() -> None:
        async with open_worker_pool(2) as pool, trio.open_nursery() as nursery:
            await pool.warm()
            for _ in range(3):
                nursery.start_soon(call, pool, SharedCounter())
            threading.Thread(target=make_and_close, daemon=True).start()
            print("busy", flush=True)

    trio.run(main)


def make_segments() -> None:
    """Make segments and nothing else, until killed."""
    print("busy", flush=True)
    while True:
        create(8)


if __name__ == "__main__":
    signal.alarm(60)  # a hang is a failure
    globals()[sys.argv[1]]()
