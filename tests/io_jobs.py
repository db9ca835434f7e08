"""What the tests run in io workers: asynchronous functions."""

from __future__ import annotations

import os
import time

import trio
import trio.lowlevel

from trioipc import current_request, operation


async def sleep_then(seconds: float, value: object) -> object:
    """Sleep on Trio, then return ``value``."""
    await trio.sleep(seconds)
    return value


async def wait_for(path: str, value: object) -> object:
    """Wait until there is a file, then return ``value``."""
    while not os.path.exists(path):
        await trio.sleep(0.005)
    return value


async def name_twice() -> tuple[str | None, str | None]:
    """Return the name of the request, before and after others had their turn."""
    before = current_request().id
    await trio.sleep(0.02)
    return before, current_request().id


async def stubborn(seconds: float) -> None:
    """Shield oneself against being cancelled."""
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)


async def clean_up(path: str) -> None:
    """Sleep for ever; when cancelled, say so in a file, with the reason."""
    current_request().set_phase("asleep")
    try:
        await trio.sleep_forever()
    except trio.Cancelled as error:
        _note(path, f"cancelled: {error.reason}")
        raise


async def look_sometimes(seconds: float) -> None:
    """Look at the slot, as a cpu function does, in between."""
    request = current_request()
    for _ in range(int(seconds / 0.005)):
        request.checkpoint()
        request.progress.increment()
        await trio.sleep(0.005)


async def fail_later(error: BaseException) -> None:
    """Raise after a while."""
    await trio.sleep(0.01)
    raise error


async def fail_in_a_nursery() -> None:
    """Raise what comes out as a group."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail_later, ValueError("one"))


async def hold_up(path: str) -> None:
    """Block the event loop of the worker, having said so."""
    _note(path, "blocked")
    _block()


async def double(data: memoryview) -> bytes:
    """Return big data twice as big, after a turn of the event loop."""
    await trio.lowlevel.checkpoint()
    return bytes(data) * 2


async def end_the_process(code: int) -> None:
    """Let the whole worker die."""
    os._exit(code)


def _note(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _block() -> None:
    time.sleep(60)


@operation()
async def whisper(payload: dict[str, str]) -> str:
    """Answer a message."""
    await trio.lowlevel.checkpoint()
    return payload["text"].lower()
