"""What the tests run in workers. Light: every worker that runs one of these imports it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from trioipc import current_request, operation


def nothing() -> None:
    """Return None."""


def echo(value: object) -> object:
    """Return the argument."""
    return value


def add(first: int, second: int) -> int:
    """Return a sum."""
    return first + second


def fail(error: BaseException) -> None:
    """Raise the argument."""
    raise error


def fail_with_cause() -> None:
    """Raise an error with a cause and a note."""
    try:
        raise KeyError("inner")
    except KeyError as error:
        outer = ValueError("outer")
        outer.add_note("written by the function")
        raise outer from error


def touch(path: str) -> None:
    """Leave a trace."""
    Path(path).touch()


def pid() -> int:
    """Return the worker's process id."""
    return os.getpid()


def thread_id() -> int:
    """Return the thread's id."""
    return threading.get_ident()


def request_id() -> str | None:
    """Return the request's id."""
    return current_request().id


def loaded(name: str) -> bool:
    """Say whether a module is loaded there."""
    return name in sys.modules


def time_left() -> float:
    """Return what the run timeout leaves."""
    return current_request().time_left()


@operation("time left")
def time_left_for_a_message(payload: object) -> float:
    """Return what a message's timeout leaves."""
    return current_request().time_left()


# ---- that take long


def cooperate(path: str | None = None) -> None:
    """Look whether it is cancelled, every 2 ms, for ever; say when it has begun."""
    request = current_request()
    request.checkpoint()
    if path is not None:
        touch(path)
    while True:
        request.checkpoint()
        time.sleep(0.002)


def sleep(seconds: float, path: str | None = None) -> str:
    """Sleep in C, never looking."""
    if path is not None:
        touch(path)
    time.sleep(seconds)
    return "slept"


def spin(path: str | None = None) -> None:
    """Compute in Python, never looking."""
    if path is not None:
        touch(path)
    while True:
        pass


def stubborn(path: str | None = None) -> None:
    """Swallow every interrupt."""
    if path is not None:
        touch(path)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            continue


def wait_for(path: str) -> str:
    """Wait until a file is there, and look whether it is cancelled."""
    request = current_request()
    while not os.path.exists(path):
        request.checkpoint()
        time.sleep(0.001)
    return "found"


def swallow_checkpoint_and_return(path: str) -> str:
    """Answer with a value though it was cancelled."""
    touch(path)
    request = current_request()
    try:
        while True:
            request.checkpoint()
            time.sleep(0.001)
    except BaseException:
        return "a value that came too late"


def fail_in_cleanup(path: str) -> None:
    """Raise something else when it is cancelled."""
    touch(path)
    request = current_request()
    try:
        while True:
            request.checkpoint()
            time.sleep(0.001)
    finally:
        raise LookupError("clean-up failed")


def exit_in_cleanup(path: str) -> None:
    """Raise SystemExit when it is cancelled."""
    touch(path)
    request = current_request()
    try:
        while True:
            request.checkpoint()
            time.sleep(0.001)
    finally:
        sys.exit(7)


def die_when_cancelled(path: str) -> None:
    """Die by itself when it is cancelled."""
    touch(path)
    cancellation = current_request().cancellation
    while not cancellation.is_cancelled():
        time.sleep(0.001)
    os._exit(3)


def reason_seen(path: str) -> None:
    """Raise the reason of the cancellation as an error."""
    touch(path)
    cancellation = current_request().cancellation
    while not cancellation.is_cancelled():
        time.sleep(0.001)
    raise LookupError(str(cancellation.reason()))


def uninterruptible(path: str, result: str) -> None:
    """Finish its critical section though it is interrupted, then be stopped."""
    with current_request().uninterruptible():
        touch(path)
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            time.sleep(0.01)
        touch(result)
    time.sleep(60)


def tidy_up(path: str, result: str) -> None:
    """Be interrupted, and tidy up for longer than until the next signal."""
    try:
        touch(path)
        time.sleep(60)
    finally:
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            time.sleep(0.01)
        touch(result)


def hold_gil(seconds: float) -> int:
    """Let nothing else of Python's run in this process meanwhile; return its id."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return os.getpid()


def hoard(nbytes: int) -> int:
    """Hold on to that much more memory; return the process id."""
    _hoard.append(bytearray(os.urandom(1)) * nbytes)
    return os.getpid()


_hoard: list[bytearray] = []


# ---- that die


def die(code: int) -> None:
    """Leave at once with this exit code."""
    current_request().set_phase("dying")
    current_request().progress.set_total(10)
    current_request().progress.set(4)
    os._exit(code)


def kill_self(number: int) -> None:
    """Send this process a signal."""
    os.kill(os.getpid(), number)
    time.sleep(60)


def segfault() -> None:
    """Read address 0."""
    ctypes.string_at(0)


def die_once(path: str) -> str:
    """Die, but only the first time."""
    if not os.path.exists(path):
        touch(path)
        os._exit(1)
    return "second try"


class DiesOnPickle:
    """Kills the process that pickles it."""

    def __reduce__(self) -> tuple[object, ...]:
        os._exit(5)


def return_deadly() -> DiesOnPickle:
    """Die when the result is pickled."""
    return DiesOnPickle()


class DiesOnUnpickle:
    """Kills the process that unpickles it."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (6,)


class FailsOnPickle:
    """Cannot be pickled."""

    def __reduce__(self) -> tuple[object, ...]:
        raise ValueError("no pickling of me")


def _fail_to_load() -> None:
    raise ValueError("no unpickling of me")


class FailsOnUnpickle:
    """Can be pickled, but not unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return _fail_to_load, ()


def make(name: str) -> object:
    """Return an instance of a class of this module."""
    return globals()[name]()


class PickyError(Exception):
    """Has an __init__ that wants two arguments, and another message than those."""

    def __init__(self, first: object, second: object) -> None:
        super().__init__("picky")
        self.first = first
        self.second = second


def fail_pickily(first: object, second: object) -> None:
    """Raise one."""
    raise PickyError(first, second)


def fail_with_a_lock() -> None:
    """Raise an exception that cannot travel."""
    raise PickyError(1, threading.Lock())


# ---- progress


def count_to(total: int, path: str | None = None) -> int:
    """Report each step; with a path, stop half-way until that file is there."""
    request = current_request()
    request.progress.set_total(total)
    request.set_phase("counting")
    for value in range(1, total + 1):
        request.progress.set(value)
        if path is not None and value == total // 2:
            while not os.path.exists(path):
                request.checkpoint()
                time.sleep(0.001)
    return total


def count_and_fail(total: int) -> None:
    """Report some progress, then fail."""
    current_request().progress.set_total(total)
    current_request().progress.increment(total // 2)
    raise LookupError("half-way")


def leave_a_thread() -> None:
    """Leave a thread behind that goes on writing progress and looking for a cancel."""
    request = current_request()
    progress = request.progress

    def write() -> None:
        while True:
            progress.set(99)
            request.set_phase("from the past")
            time.sleep(0.0005)

    threading.Thread(target=write, daemon=True).start()


def seen_from_thread() -> str | None:
    """Return the request's id as a thread of the function sees it."""
    found: list[str | None] = []
    thread = threading.Thread(target=lambda: found.append(current_request().id))
    thread.start()
    thread.join()
    return found[0]


# ---- descriptors and other processes


def start_grandchild(seconds: float) -> int:
    """Start a program that outlives the worker."""
    return subprocess.Popen(
        [sys.executable, "-c", f"import time; time.sleep({seconds})"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ).pid


def write_from_a_fork(number: int) -> list[bytes]:
    """Open pipes, write into each from a fork, and return what has arrived."""
    pipes = [os.pipe() for _ in range(number)]
    child = os.fork()
    if child == 0:
        for index, (_, write) in enumerate(pipes):
            os.write(write, b"%d" % index)
        os._exit(0)
    os.waitpid(child, 0)
    arrived = []
    for read, write in pipes:
        os.close(write)
        arrived.append(os.read(read, 10))
        os.close(read)
    return arrived


def fork_grandchild(seconds: float, path: str) -> None:
    """Fork, leave the child to sleep, and say its pid in a file; then sleep as well."""
    child = os.fork()
    if child == 0:
        time.sleep(seconds)
        os._exit(0)
    with open(path + ".new", "w") as file:
        file.write(str(child))
    os.rename(path + ".new", path)
    time.sleep(seconds)


def inheritable_descriptors() -> list[int]:
    """Return which descriptors above 2 a program that is started here would get."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        try:
            if number > 2 and os.get_inheritable(number):
                found.append(number)
        except OSError:
            pass
    return found


def descriptors_after_fork() -> list[str]:
    """Return what is open above 2 in a forked child."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        names = []
        for name in os.listdir("/proc/self/fd"):
            try:
                if int(name) not in (0, 1, 2, ours, theirs):
                    names.append(os.readlink(f"/proc/self/fd/{name}"))
            except OSError:
                pass
        os.write(theirs, "\n".join(names).encode())
        os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    text = os.read(ours, 1 << 16).decode()
    os.close(ours)
    return [line for line in text.split("\n") if not line.startswith("/proc/")]


def close_all_descriptors() -> None:
    """Do what careless daemons do."""
    os.closerange(3, 256)
    time.sleep(60)


def stop_self() -> None:
    """Be stopped, as by Ctrl-Z."""
    os.kill(os.getpid(), signal.SIGSTOP)


def hold_the_gil(seconds: int, path: str) -> None:
    """Sleep in C without letting go of the interpreter lock."""
    touch(path)
    ctypes.PyDLL(None).sleep(seconds)


# ---- operations


@operation
def double(payload: int) -> int:
    """Return twice as much."""
    return 2 * payload


@operation("shout", channel="file", idempotent=True)
def loud(payload: str) -> str:
    """Return it louder."""
    return payload.upper() + "!"


@operation(idempotent=True)
def whoami(payload: object) -> str | None:
    """Return the request's id."""
    return current_request().id


@operation
def work(payload: str) -> None:
    """Be cancellable."""
    cooperate(payload)


@operation(idempotent=True)
def frail(payload: str) -> str:
    """Die the first time."""
    return die_once(payload)


@operation
def count(payload: int) -> int:
    """Report progress."""
    return count_to(payload)


# ---- for tests of what a cancelled call leaves


def weigh(data: bytes) -> int:
    """Report progress over bytes, and return how many there are."""
    count_to(5)
    return len(data)


def linger(begun: str, noticed: str, go: str) -> str:
    """Notice that it is cancelled, say so, and go on until it may end; then return a value."""
    touch(begun)
    request = current_request()
    try:
        while True:
            request.checkpoint()
            time.sleep(0.001)
    except BaseException:
        touch(noticed)
    while not os.path.exists(go):
        time.sleep(0.001)
    return "a value that came too late"


def count_arguments(*arguments: object) -> int:
    """Report progress, and return how many there are."""
    return count_to(len(arguments))


def fail_with(argument: object) -> None:
    """Raise, with an argument in the frame."""
    raise LookupError("failed")


def cooperate_with(argument: object) -> None:
    """Be cancellable, with an argument in the frame."""
    cooperate()


def die_with(argument: object) -> None:
    """Die, with an argument in the frame."""
    os._exit(3)


@operation
def measure(payload: bytes) -> int:
    """Report progress over bytes, and return how many there are."""
    return weigh(payload)


@operation
def end_badly(payload: str) -> None:
    """Raise something else when it is cancelled."""
    fail_in_cleanup(payload)


class Box:
    """Something with a method that changes it."""

    def __init__(self) -> None:
        self.content: object = None

    def put(self, content: list[object]) -> list[object]:
        """Change both what is put and where."""
        content.append("put")
        self.content = content
        return content
