"""What the tests of nesting run in workers: functions that ask their pool for others."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from trioipc import RequestInterrupt, WorkerCrashedError, current_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trioipc import CurrentRequest


def fib(n: int) -> int:
    """Compute a Fibonacci number by asking for the two before it."""
    if n < 2:
        return n
    here = current_request()
    return here.run_sync(fib, n - 1) + here.run_sync(fib, n - 2)


async def fib_async(n: int) -> int:
    """Do the same, both at once."""
    if n < 2:
        return n
    here = current_request()
    results: list[int] = []

    async def ask(number: int) -> None:
        results.append(await here.run(fib_async, number))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, n - 1)
        nursery.start_soon(ask, n - 2)
    return sum(results)


def dive(depth: int) -> int:
    """Ask for itself so many times; return how deep it came."""
    return 0 if depth == 0 else 1 + current_request().run_sync(dive, depth - 1)


def ask(function: Callable[..., Any], *arguments: Any) -> Any:
    """Ask for a function."""
    return current_request().run_sync(function, *arguments)


async def ask_async(function: Callable[..., Any], *arguments: Any) -> Any:
    """Ask for an asynchronous function."""
    return await current_request().run(function, *arguments)


def ask_often(times: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Ask for the same one after the other."""
    return [current_request().run_sync(function, *arguments) for _ in range(times)]


def ask_from_threads(number: int, function: Callable[[int], Any]) -> list[Any]:
    """Ask for many at once."""
    with ThreadPoolExecutor(number) as threads:
        ask: Any = current_request().run_sync
        return list(threads.map(partial(ask, function), range(number)))


def double(number: int) -> int:
    """Return twice as much."""
    return 2 * number


def fail(number: int) -> int:
    """Fail."""
    raise LookupError(number)


def double_elsewhere(number: int) -> int:
    """Ask for twice as much."""
    return current_request().run_sync(double, number)


async def double_async(number: int) -> int:
    """Return twice as much, later."""
    await trio.sleep(0.01)
    return 2 * number


def ids() -> tuple[int, str | None]:
    """Return who this is: its process and its request."""
    return os.getpid(), current_request().id


def ids_of_both() -> tuple[tuple[int, str | None], tuple[int, str | None]]:
    """Return who asks and who is asked."""
    return ids(), current_request().run_sync(ids)


def crash() -> None:
    """End the process."""
    os.kill(os.getpid(), signal.SIGKILL)


def survive() -> tuple[str, int]:
    """Ask for one that crashes, and go on."""
    try:
        current_request().run_sync(crash)
    except WorkerCrashedError as error:
        return str(error.signal and error.signal.name), os.getpid()
    raise AssertionError("it did not crash")


def leave_trace(path: str) -> None:
    """Leave a trace when it begins, and another when it ends."""
    try:
        Path(path).with_suffix(".begun").touch()
        while True:
            current_request().checkpoint()
            time.sleep(0.001)
    finally:
        Path(path).with_suffix(".ended").touch()


def linger(path: str) -> None:
    """Leave the traces, but take time to end."""
    try:
        Path(path).with_suffix(".begun").touch()
        while True:
            current_request().checkpoint()
            time.sleep(0.001)
    finally:
        time.sleep(0.3)
        Path(path).with_suffix(".ended").touch()


def stream_and_leave(path: str) -> Iterator[str]:
    """Yield once, and end while a thread has asked for something."""
    here = current_request()
    thread = threading.Thread(target=_ask_in_vain, args=(here, path))
    thread.start()
    while not Path(path).with_suffix(".begun").exists():
        here.checkpoint()
        time.sleep(0.001)
    yield "it has begun"


def _ask_in_vain(here: CurrentRequest, path: str) -> None:
    with contextlib.suppress(RequestInterrupt):
        here.run_sync(linger, path)


async def leave_trace_async(path: str) -> None:
    """Do the same as a task."""
    try:
        Path(path).with_suffix(".begun").touch()
        await trio.sleep_forever()
    finally:
        Path(path).with_suffix(".ended").touch()


def ask_and_tell(path: str) -> str:
    """Ask for what does not end; tell how that was here."""
    try:
        current_request().run_sync(leave_trace, path)
    except RequestInterrupt:
        Path(path).with_suffix(".told").touch()
        raise
    return "it came back"


def be_stubborn(path: str) -> None:
    """Never look, and never end."""
    Path(path).with_suffix(".begun").touch()
    while True:
        try:
            time.sleep(1000)
        except RequestInterrupt:
            pass


def fail_in_cleanup(path: str) -> None:
    """Raise something else when cancelled."""
    try:
        leave_trace(path)
    finally:
        raise LookupError("in clean-up")


def crash_while_asking(path: str) -> None:
    """Crash when what it has asked for has begun."""
    threading.Thread(target=ask, args=(leave_trace, path), daemon=True).start()
    while not Path(path).with_suffix(".begun").exists():
        time.sleep(0.001)
    crash()


def return_while_asking(path: str) -> str:
    """Return when what it has asked for has begun."""

    def wait() -> None:
        try:
            request.run_sync(leave_trace, path)
        except RequestInterrupt:
            Path(path).with_suffix(".told").touch()

    request = current_request()
    threading.Thread(target=wait, daemon=True).start()
    while not Path(path).with_suffix(".begun").exists():
        time.sleep(0.001)
    return "done"


_kept: list[Any] = []


def keep_request() -> None:
    """Keep the request for longer than it lasts."""
    _kept.append(current_request())


def ask_with_kept_request() -> str:
    """Ask for one that has ended."""
    try:
        _kept.pop().run_sync(double, 1)
    except RuntimeError as error:
        return str(error)
    return "it has asked"


async def ask_for_a_moment(path: str) -> bool:
    """Ask for what does not end, and have enough of it."""
    with trio.move_on_after(0.1) as scope:
        await current_request().run(leave_trace_async, path)
    assert Path(path).with_suffix(".ended").exists()
    return scope.cancelled_caught


def progress_of_both() -> tuple[int, int]:
    """Write progress here and there."""
    here = current_request().progress
    here.set_total(10)
    here.set(3)
    current_request().run_sync(write_progress, 7)
    return here.get(), here.get_total()


def write_progress(value: int) -> None:
    """Write progress."""
    current_request().progress.set(value)


def time_left() -> float:
    """Return how much time is left."""
    return current_request().time_left()


def run_sync_on_a_task() -> str:
    """Ask in a way that would hold an event loop."""

    async def main() -> str:
        try:
            current_request().run_sync(double, 1)
        except RuntimeError as error:
            run: Any = current_request().run
            return f"{error}; {await run(double, 2)}"
        raise AssertionError("it did not refuse")

    return trio.run(main)


async def run_sync_async() -> None:
    """Hold the event loop of an io worker."""
    current_request().run_sync(double, 1)


async def ask_from_a_thread(number: int) -> int:
    """Ask from a thread of an io worker."""
    ask: Any = current_request().run_sync
    result: int = await trio.to_thread.run_sync(ask, double_async, number)
    return result


def fork_and_ask() -> str:
    """Ask from a fork."""
    read, write = os.pipe()
    if os.fork():
        os.close(write)
        os.wait()
        return os.read(read, 1000).decode()
    try:
        current_request().run_sync(double, 1)
    except BaseException as error:
        os.write(write, f"{type(error).__name__}: {error}".encode())
    os._exit(0)


def sizes(*buffers: Any) -> list[tuple[str, int]]:
    """Return what came, by type and length."""
    return [(type(buffer).__name__, len(buffer)) for buffer in buffers]


def make_bytes(length: int) -> bytes:
    """Return so many bytes."""
    return os.urandom(1) * length


def sum_of_lengths(times: int, length: int) -> int:
    """Have many big results, one after the other."""
    return sum(len(current_request().run_sync(make_bytes, length)) for _ in range(times))


def pass_on(data: Any) -> list[tuple[str, int]]:
    """Pass on what came, and more."""
    result: list[tuple[str, int]] = current_request().run_sync(
        sizes, data, bytes(200_000), bytearray(300_000)
    )
    return result


def make_lock() -> object:
    """Return what does not travel."""
    return threading.Lock()


def ask_with_lambda() -> None:
    """Ask for what cannot travel."""
    current_request().run_sync(lambda: 1)


def sleep_and_return(seconds: float) -> float:
    """Take a while."""
    time.sleep(seconds)
    return seconds
