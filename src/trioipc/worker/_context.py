"""Context variables that travel with a request: by name, as they cannot be pickled.

Only loaded where some travel.
"""

from __future__ import annotations

import pkgutil
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias


class Carrier:
    """What is taken along as a context variable is, though it is none."""

    def get(self, default: Any) -> Any:
        """Return what can be pickled of what is so here, or ``default`` if that is nothing."""
        raise NotImplementedError

    def set(self, value: Any) -> None:
        """Make it so here: in a context that is left with the request."""
        raise NotImplementedError


Variable: TypeAlias = "ContextVar[Any] | Carrier"


@cache
def variable(name: str) -> Variable:
    """Find a context variable, importing its module.

    Args:
      name: Such as ``"package.module:NAME"``.

    Raises:
      ValueError: if there is none of that name.
      TypeError: if it is something else.
    """
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"there is no context variable {name!r}: {error}") from error
    if not isinstance(found, ContextVar | Carrier):
        raise TypeError(f"{name} must be a ContextVar, not a {type(found).__name__}")
    return found


def within(values: dict[str, Any], function: Callable[..., Any], /, *arguments: Any) -> Any:
    """Set the variables, where we are, and call the function."""
    for name, value in values.items():
        variable(name).set(value)
    return function(*arguments)
