"""What trioipc finds on this machine, and whether it works here."""

from __future__ import annotations

import multiprocessing
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import trio

import trioipc
from trioipc._errors import IPCError
from trioipc.cli._errors import FAILED, OK
from trioipc.cli._screen import Screen
from trioipc.memory import _segment
from trioipc.pool._opening import open_worker_pool
from trioipc.sizing import usable_cores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trioipc.pool.pool import WorkerPool

# What is asked for by extras, {extra: what it installs}; the others are always there.
_EXTRAS = {
    "network": "httpx2",
    "fast": "zlib-ng",
    "filetype": "pure-magic-rs",
    "zstd": "backports.zstd",
    "cli": "rich",
}
_PAYLOAD = 16 << 20
# Above this, something is wrong with the machine or with us. Pulled out of the air.
_TRY_SECONDS = 60
_CANCEL_AFTER = 0.05


async def examine() -> int:
    """Say what there is, then try it; return the exit code.

    Raises:
      OutputError: if it cannot be said.
    """
    screen = Screen(None)
    for name, found in _inventory():
        screen.line(f"{name:<16}{found}")
    return await _try_all(screen)


# ---- what there is


def _inventory() -> Iterator[tuple[str, str]]:
    yield "trioipc", trioipc.__version__
    yield "python", f"{platform.python_implementation()} {platform.python_version()}"
    yield "system", platform.platform()
    yield "cores", f"{usable_cores()} of {os.cpu_count()} may be used"
    for name in ("trio", "trio-parallel", "attrs", "cryptography", "brotli"):
        yield name, _version_of(name) or "missing"
    for extra, name in _EXTRAS.items():
        found = _version_of(name)
        yield f"extra {extra}", f"{name} {found}" if found else "not installed"
    for kind in _segment._SHARED:
        yield f"memory {kind}", _memory(kind)
    methods = multiprocessing.get_all_start_methods()
    yield "start methods", f"{', '.join(methods)}; trioipc uses spawn"


def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _memory(kind: _segment.Backend) -> str:
    try:
        _segment.create(_PAYLOAD, kind)
    except OSError as error:
        return f"no: {error.strerror}"
    return "yes, the one that is used" if kind == _segment.best_backend() else "yes"


# ---- whether it works


async def _try_all(screen: Screen) -> int:
    try:
        with trio.fail_after(_TRY_SECONDS):
            start = time.perf_counter()
            async with open_worker_pool(1) as pool:
                screen.line(f"{'worker start':<16}{time.perf_counter() - start:.2f} s")
                for name, attempt in _TRIES.items():
                    screen.line(f"{name:<16}{await attempt(pool)}")
    except (IPCError, trio.TooSlowError, _WrongError) as error:
        screen.complain(f"this does not work here: {error or type(error).__name__}")
        return FAILED
    screen.line("all is well")
    return OK


class _WrongError(Exception):
    """A try that did not end as it should."""


async def _echo(pool: WorkerPool) -> str:
    times = []
    for number in range(100):
        start = time.perf_counter()
        if await pool.run(str, number) != str(number):
            raise _WrongError("an echo came back as something else")
        times.append(time.perf_counter() - start)
    return f"{1e6 * sorted(times)[50]:.0f} us there and back"


async def _payload(pool: WorkerPool) -> str:
    sent = pool.allocate(_PAYLOAD)
    sent[:] = os.urandom(1 << 20) * (_PAYLOAD >> 20)
    start = time.perf_counter()
    came = await pool.run(bytearray, sent)
    seconds = time.perf_counter() - start
    if came != sent:
        raise _WrongError("a payload came back as something else")
    return f"{_PAYLOAD >> 20} MiB there and back in {1000 * seconds:.0f} ms"


async def _cancel(pool: WorkerPool) -> str:
    start = time.perf_counter()
    with trio.move_on_after(_CANCEL_AFTER) as scope:
        await pool.run(time.sleep, 2 * _TRY_SECONDS)
    if not scope.cancelled_caught:
        raise _WrongError("what was cancelled went on")
    late = time.perf_counter() - start - _CANCEL_AFTER
    return f"a sleeping function was stopped within {1000 * late:.0f} ms"


_TRIES = {"echo": _echo, "payload": _payload, "cancel": _cancel}
