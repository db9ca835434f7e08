"""Objects and functions that go wrong in odd places. Light: workers load it."""

from __future__ import annotations

import sys
import threading
from typing import Any


class NoText(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise ValueError("no text")


class NoRepr:
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class OddCode(int):
    """An exit code that cannot travel."""

    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle")


class OddBase(BaseException):
    """No Exception, and has no text."""

    def __str__(self) -> str:
        raise ValueError("no text")


class Raises:
    """Raises when it is pickled."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


class ExitsAsError(Exception):
    """An exception that exits when it is pickled."""

    def __reduce__(self) -> Any:
        raise SystemExit(4)


def give(name: str) -> Any:
    """Return something that cannot travel."""
    return {
        "NoText": lambda: Raises(NoText()),
        "SystemExit": lambda: Raises(SystemExit(3)),
        "KeyboardInterrupt": lambda: Raises(KeyboardInterrupt()),
    }[name]()


def throw(name: str) -> None:
    """Raise something that cannot travel."""
    raise {
        "ExitsAsError": ExitsAsError,
        "NoText": NoText,
        "OddBase": OddBase,
        "OddCode": lambda: SystemExit(OddCode(3)),
        "NoRepr": lambda: SystemExit(NoRepr()),
    }[name]()


def add_path(path: str) -> None:
    """Look for modules there too."""
    sys.path.insert(0, path)


def fail_with(view: memoryview) -> None:
    """Raise, while an argument is in shared memory."""
    raise LookupError(len(view))


def many_views(number: int) -> list[memoryview]:
    """Return many pieces of allocated memory."""
    from trioipc import current_request

    views = []
    for index in range(number):
        view = current_request().allocate(9000)
        view[0] = index % 256
        views.append(view)
    return views


def sleep_in_thread(seconds: float) -> str:
    """Block, without ever looking."""
    threading.Event().wait(seconds)
    return "slept"


# ---- that die in the middle of something


def _pipe_of_answers() -> int:
    """Return the descriptor that this worker answers on."""
    import gc

    from trioipc.worker._wires import Wires

    (wires,) = (thing for thing in gc.get_objects() if type(thing) is Wires)
    return wires.answers


def die_within_a_frame(written: int) -> None:
    """Write so much of an answer of 100 bytes, and die."""
    import os
    import signal

    from trioipc.protocol._codec import FROM_WORKER, VALUE

    frame = FROM_WORKER.pack(100, VALUE, 0, 0, 1) + bytes(100)
    os.write(_pipe_of_answers(), frame[:written])
    os.kill(os.getpid(), signal.SIGKILL)


def answer_and_die(begun: str) -> str:
    """Give an answer, and die shortly after it."""
    import os
    import time
    from pathlib import Path

    threading.Timer(0.2, os._exit, (9,)).start()
    Path(begun).touch()
    time.sleep(0.1)
    return "whole"


def kill(pids: list[int], begun: str, go: str) -> None:
    """Kill processes, oneself included, when told."""
    import os
    import signal
    import time
    from pathlib import Path

    Path(begun).touch()
    while not os.path.exists(go):
        time.sleep(0.0005)
    for pid in sorted(pids, key=lambda pid: pid == os.getpid()):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def print_and_die(words: str, number: int) -> None:
    """Say something on stderr, as libraries do before they abort, and die by a signal."""
    import os

    os.write(2, words.encode())
    os.kill(os.getpid(), number)


# ---- that return or raise what is odd


class Recursive:
    """Is pickled for ever."""

    def __reduce__(self) -> Any:
        return Recursive, (Recursive(),)


def recurse(depth: int = 0) -> int:
    """Call oneself for ever."""
    return recurse(depth + 1)


def nested(depth: int) -> list[object]:
    """Return a list in a list in a list."""
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


def fail_in_a_circle() -> None:
    """Raise an error that is the cause of its cause."""
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


def fail_at_length(size: int) -> None:
    """Raise an error with a long text."""
    raise ValueError("x" * size)


def give_a_generator() -> Any:
    """Return what runs later."""
    return (number for number in range(3))


def give_a_coroutine() -> Any:
    """Return what somebody should await."""

    async def coroutine() -> None:
        pass

    made = coroutine()
    made.close()
    return made


# ---- that change the process they run in


def close_standard_streams() -> None:
    """Close descriptors 0 to 2."""
    import os

    for number in range(3):
        os.close(number)


def print_much(size: int) -> int:
    """Write to stdout, without caring whether somebody reads."""
    try:
        sys.stdout.write("x" * size)
        sys.stdout.flush()
    except OSError:
        pass
    return size


def leave_threads(number: int) -> None:
    """Leave threads that never end, and that Python waits for at exit."""
    for _ in range(number):
        threading.Thread(target=threading.Event().wait, daemon=False).start()


def block_all_signals(path: str) -> None:
    """Block every signal that can be, ignore the others that can be, and go on for ever."""
    import signal
    import time
    from pathlib import Path

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    Path(path).touch()
    while True:
        time.sleep(1)


def change_everything(folder: str) -> None:
    """Leave the process other than it was."""
    import locale
    import os
    import signal

    os.chdir(folder)
    os.umask(0o777)
    os.environ.clear()
    locale.setlocale(locale.LC_ALL, "C")
    sys.path.clear()
    sys.setrecursionlimit(150)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    os.nice(5)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def take_memory(limit: int) -> None:
    """Take more than is allowed from now on."""
    import resource
    from pathlib import Path

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + limit, before[1]))
    try:
        bytearray(4 * limit)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def flags_and_warnings() -> tuple[bool, list[str]]:
    """Return how this process was told to run."""
    return sys.flags.dev_mode, sys.warnoptions


def sigterm_of_children() -> list[str]:
    """Return what SIGTERM does to forked children at once, and to a program that is started."""
    import os
    import signal
    import subprocess
    import time

    codes = set()
    for _ in range(100):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        codes.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    os.kill(os.getpid(), signal.SIGTERM)
    program.terminate()
    return [signal.Signals(-code).name for code in (*codes, program.wait())]
