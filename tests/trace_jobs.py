"""Functions that make spans, for `test_opentelemetry`; with an SDK of the worker's own."""

from __future__ import annotations

from typing import TypeAlias

import trio
from opentelemetry import baggage
from opentelemetry.sdk.trace import TracerProvider

Seen: TypeAlias = "tuple[int, int | None, dict[str, object]]"

_tracer = TracerProvider().get_tracer("worker")


def look() -> Seen:
    """Make a span; return its trace, its parent, and the baggage there is."""
    with _tracer.start_as_current_span("inner") as span:
        parent = span.parent.span_id if span.parent is not None else None  # type: ignore[attr-defined]
        return span.get_span_context().trace_id, parent, dict(baggage.get_all())


async def look_async() -> Seen:
    """Do so among others."""
    await trio.sleep(0.01)
    return look()


def look_later(value: bytes) -> Seen:
    """Do so with something to carry."""
    return look()
