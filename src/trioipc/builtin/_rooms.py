"""Loads what the network operations need, when one of them is awaited."""

from __future__ import annotations

import importlib
from typing import Any

import trio

# {name: module}; not sys.modules, where a module is before it is ready.
_loaded: dict[str, Any] = {}


async def load(name: str) -> Any:
    """Return a module of this folder.

    The libraries behind it take a tenth of a second, for which no event loop should stand still:
    so that is done in a thread.
    """
    if name not in _loaded:
        full = f"{__package__}.{name}"
        _loaded[name] = await trio.to_thread.run_sync(importlib.import_module, full)
    return _loaded[name]
