"""``async with`` blocks that a Ctrl-C cannot tear in two.

`contextlib.asynccontextmanager` runs code of its own between the ``async with`` and the generator.
A KeyboardInterrupt that Trio raises there leaves a nursery that nobody closes.
"""

from __future__ import annotations

import functools
from contextlib import _AsyncGeneratorContextManager
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from trio.lowlevel import enable_ki_protection

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Any

P = ParamSpec("P")
T = TypeVar("T")


class _Block(_AsyncGeneratorContextManager[T]):
    """What contextlib makes, entered and left in one piece."""

    @enable_ki_protection
    async def __aenter__(self) -> T:
        return await super().__aenter__()

    @enable_ki_protection
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await super().__aexit__(kind, error, traceback)


def block(
    function: Callable[P, AsyncIterator[T]],
) -> Callable[P, AbstractAsyncContextManager[T]]:
    """Make an ``async with`` block of a generator; as `contextlib.asynccontextmanager`.

    The generator runs with KI protection, the body of the block as it is.
    """
    protected: Callable[..., AsyncGenerator[T, None]] = enable_ki_protection(function)  # type: ignore[assignment]

    @functools.wraps(function)
    def open_block(*args: P.args, **options: P.kwargs) -> AbstractAsyncContextManager[T]:
        made: Any = _Block
        block: _Block[T] = made(protected, args, options)
        return block

    return open_block
