"""Traces of what a pool does, for OpenTelemetry; the extra ``opentelemetry``.

The pool's application chooses an SDK and exporters; this module knows only the API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from trioipc import __version__
from trioipc._errors import MissingExtraError
from trioipc.pool._instruments import Instrument

try:
    from opentelemetry import context, trace
except ImportError as error:
    raise MissingExtraError(
        "trioipc.opentelemetry needs opentelemetry-api: pip install 'trioipc[opentelemetry]'"
    ) from error

if TYPE_CHECKING:
    from trioipc.pool._instruments import CancelReason, RequestEnd, RequestRecord

__all__ = ["OpenTelemetryInstrument"]


@final
class OpenTelemetryInstrument(Instrument):
    """Makes a span of each request, in which spans that its function makes are.

    The span begins when the request is made, as a child of what is the current span there, and ends
    with the request. Its name is the operation's, its kind ``CLIENT``, its status an error where
    the request's outcome is one; cancelled requests have none. Each time that it is sent to a
    worker, and a cancel, is an event in it. Its attributes are

    - ``trioipc.request.id``, ``trioipc.operation`` and ``trioipc.priority``;
    - ``trioipc.worker.pid``, ``trioipc.attempts``, ``trioipc.outcome``, ``trioipc.clock`` and
      ``trioipc.rung``, as in `trioipc.RequestEnd`, where there is one;
    - ``trioipc.queue_time`` and ``trioipc.run_time``, in seconds;
    - ``error.type``, the name of the type of an error, or the outcome.

    The trace context, and with it baggage, travels to the worker by OpenTelemetry's global
    propagators; it is the current one of the function. For spans made there to be exported, the
    worker needs a tracer provider of its own: one that a module of the pool's ``modules`` sets.

    Args:
      tracer_provider: Makes the spans; None for the global one.
    """

    context_variables = ("trioipc.worker._telemetry:TRACE",)

    def __init__(self, tracer_provider: trace.TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("trioipc", __version__, tracer_provider)
        self._spans: dict[RequestRecord, trace.Span] = {}

    def request_submitted(self, request: RequestRecord) -> None:
        """Begin a span, and let it travel."""
        attributes = {
            "trioipc.request.id": request.id,
            "trioipc.operation": request.operation,
            "trioipc.priority": request.priority,
        }
        span = self._tracer.start_span(
            request.operation, kind=trace.SpanKind.CLIENT, attributes=attributes
        )
        self._spans[request] = span
        context.attach(trace.set_span_in_context(span))

    def request_sent(self, request: RequestRecord, attempt: int, worker_pid: int | None) -> None:
        """Note it."""
        event = {"trioipc.attempt": attempt}
        if worker_pid is not None:
            event["trioipc.worker.pid"] = worker_pid
        self._spans[request].add_event("sent", event)

    def request_cancelled(self, request: RequestRecord, reason: CancelReason) -> None:
        """Note it."""
        self._spans[request].add_event("cancelled", {"trioipc.reason": reason})

    def request_ended(self, request: RequestRecord, end: RequestEnd) -> None:
        """End the span."""
        span = self._spans.pop(request)
        found = {
            "trioipc.worker.pid": end.worker_pid,
            "trioipc.attempts": end.attempts,
            "trioipc.outcome": end.outcome,
            "trioipc.clock": end.clock,
            "trioipc.rung": end.rung,
            "trioipc.queue_time": end.queue_time,
            "trioipc.run_time": end.run_time,
        }
        span.set_attributes({name: value for name, value in found.items() if value is not None})
        if end.outcome not in ("value", "cancelled"):
            span.set_attribute("error.type", end.error or end.outcome)
            span.set_status(trace.StatusCode.ERROR, end.outcome)
        span.end()
