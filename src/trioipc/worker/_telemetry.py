"""What OpenTelemetry knows of where it is, taken along from the caller to the function.

Only loaded where `trioipc.opentelemetry` is used, in the parent and in its workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from opentelemetry import context, propagate

from trioipc.worker._context import Carrier

if TYPE_CHECKING:
    from typing import Any


@final
class _Trace(Carrier):
    """The current OpenTelemetry context, by its global propagators: W3C headers, as a rule."""

    def get(self, default: Any) -> Any:
        """Return it as headers, if there is one."""
        headers: dict[str, str] = {}
        propagate.inject(headers)
        return headers or default

    def set(self, value: Any) -> None:
        """Make it the current one here; who called has a context of its own for that."""
        context.attach(propagate.extract(value))


TRACE = _Trace()
