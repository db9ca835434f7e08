"""Set OpenTelemetry up, in the application and in each of its workers."""

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor


def show(span: ReadableSpan) -> str:
    """Write a span in a line."""
    attempts = (span.attributes or {}).get("trioipc.attempts")
    tries = f", {attempts} try" if attempts else ""
    return f"{span.name} in trace {span.context.trace_id}{tries}\n"


# Yours would send them somewhere. Workers end without warning: what batches may lose the last.
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=show)))
trace.set_tracer_provider(provider)
