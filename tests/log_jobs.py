"""What the tests of logging run in workers."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import time

from trioipc import current_request

log = logging.getLogger("shop.orders")


def say(text: str, *arguments: object) -> str | None:
    """Log at three levels; return the request's id."""
    log.debug(text, *arguments)
    log.info(text, *arguments, extra={"order": 7, "basket": object()})
    logging.getLogger("shop.stock").info("in stock")
    logging.getLogger().warning("of the root")
    return current_request().id


async def say_async(text: str) -> str | None:
    """Log in an io worker."""
    log.info(text)
    return current_request().id


def log_an_error() -> None:
    """Log an exception, and where it was."""
    try:
        raise LookupError("nothing there")
    except LookupError:
        log.exception("it went %s", "wrong", stack_info=True)


def log_badly() -> None:
    """Log what cannot be made a text of; logging itself says so on stderr."""
    sys.stderr = io.StringIO()
    log.info("%d", "no number")
    log.info("after it")


def flood(count: int, size: int) -> float:
    """Log very much; return how many seconds that took."""
    started = time.perf_counter()
    for number in range(count):
        log.info("%d %s", number, "x" * size)
    return time.perf_counter() - started


def say_and_die(text: str) -> None:
    """Log, and be killed."""
    log.info(text)
    os.kill(os.getpid(), signal.SIGKILL)


def say_from_thread() -> str | None:
    """Log from a thread that the function has started."""
    thread = threading.Thread(target=log.info, args=("from a thread",), name="helper")
    thread.start()
    thread.join()
    return current_request().id


def say_in_a_fork() -> int:
    """Log in a forked child; return how it ended."""
    pid = os.fork()
    if not pid:
        log.info("from a fork")
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def handlers() -> int:
    """Say how many handlers the root logger has."""
    return len(logging.getLogger().handlers)


def send_garbage(data: bytes) -> None:
    """Write something else into the pipe of the log records, and stay."""
    (handler,) = logging.getLogger().handlers
    os.write(handler._descriptor, data)  # type: ignore[attr-defined]
    time.sleep(60)
