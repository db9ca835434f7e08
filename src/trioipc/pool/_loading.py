"""How the big buffers of a request are copied, while the event loop goes on.

That is the one thing between a call and its answer that takes a task of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs
import trio
from trio.lowlevel import enable_ki_protection

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from trioipc.pool._endpoint import Call
    from trioipc.pool._request import PoolRequest

    Request: TypeAlias = PoolRequest[object]


@final
@attrs.define(eq=False)
class Loader:
    """Copies for requests that have a place on a worker, each in its own nursery.

    Args:
      loaded: Called when there is enough to send the request; the rest is copied after that.
      failed: Called with what copying has raised, before it was sent or after.
    """

    _loaded: Callable[[Request], None]
    _failed: Callable[[Request, Exception], None]

    def begin(self, request: Request) -> None:
        """Copy what is big in a request, which has its nursery."""
        assert request._nursery is not None
        request._loader = trio.CancelScope(shield=True)
        request._nursery.start_soon(self._load, request, request._call, request._loader)

    @enable_ki_protection
    async def _load(self, request: Request, call: Call, scope: trio.CancelScope) -> None:
        with scope:
            try:
                await call.load()
                if request._loader is scope:  # it was not cancelled, nor moved on
                    self._loaded(request)
                    await call.feed()
            except Exception as error:
                if request._loader is scope:
                    self._failed(request, error)


def stop_loading(request: Request) -> None:
    """Copy no more for a request, and let go of what was copied."""
    if request._loader is not None:
        request._loader.cancel()
        request._loader = None
    request._call.drop()
