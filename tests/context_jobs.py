"""Context variables, and functions that look at them in workers."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import trio

tenant: ContextVar[str] = ContextVar("tenant")
depth: ContextVar[int] = ContextVar("depth", default=0)
secret: ContextVar[str] = ContextVar("secret", default="")
not_one = "a str"


def look(*arguments: object) -> tuple[object, ...]:
    """Return what is set here, and the arguments."""
    return tenant.get("nobody"), depth.get(), secret.get(), *arguments


def look_and_set() -> object:
    """Return what is set, and set something else."""
    found = look()
    tenant.set("left behind")
    return found


class Shop:
    """A class whose methods are pickled with the object."""

    def look(self, argument: object) -> tuple[object, ...]:
        """Do so."""
        return look(argument)


async def look_async(argument: object) -> tuple[object, ...]:
    """Do so after others had their turn."""
    await trio.sleep(0.01)
    return look(argument)


def lock() -> threading.Lock:
    """Return what cannot be pickled."""
    return threading.Lock()
