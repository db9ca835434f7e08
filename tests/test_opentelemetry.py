"""Spans of requests, as OpenTelemetry's own SDK records them; and of what functions make."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import jobs
import nesting_jobs
import trace_jobs
from trioipc import RequestTimeoutError, open_worker_pool
from trioipc.opentelemetry import OpenTelemetryInstrument
from trioipc.pool.engines._payload import function_name

if TYPE_CHECKING:
    from collections.abc import Iterator


class Traces:
    """A tracer, and the spans that have ended."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("test")
        self.instrument = OpenTelemetryInstrument(self.provider)

    @property
    def spans(self) -> list[ReadableSpan]:
        """Those that have ended, the first one first."""
        return list(self._exporter.get_finished_spans())


@pytest.fixture
def traces() -> Iterator[Traces]:
    """Provide one that has recorded nothing."""
    traces = Traces()
    yield traces
    traces.provider.shutdown()


def only(spans: list[ReadableSpan], name: str) -> ReadableSpan:
    """Return the one span of that name."""
    (span,) = [span for span in spans if span.name == name]
    return span


def ids(span: ReadableSpan) -> tuple[int, int]:
    """Return a span's trace, and its own id."""
    return span.context.trace_id, span.context.span_id


async def test_a_request_is_a_span(traces: Traces) -> None:
    """A child of the caller's, with its attributes and events."""
    async with open_worker_pool(1, name="shop", instruments=[traces.instrument]) as pool:
        with traces.tracer.start_as_current_span("caller"):
            await pool.run(jobs.add, 1, 2, priority="high")
        (worker,) = pool.workers
    caller, span = only(traces.spans, "caller"), only(traces.spans, "jobs.add")
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id) == ids(caller)
    assert span.kind is trace.SpanKind.CLIENT
    assert span.status.status_code is trace.StatusCode.UNSET
    found = dict(span.attributes or {})
    assert found.pop("trioipc.queue_time") >= 0
    assert found.pop("trioipc.run_time") >= 0
    assert found == {
        "trioipc.request.id": "shop-1",
        "trioipc.operation": "jobs.add",
        "trioipc.priority": "high",
        "trioipc.worker.pid": worker.pid,
        "trioipc.attempts": 1,
        "trioipc.outcome": "value",
    }
    (sent,) = span.events
    assert (sent.name, dict(sent.attributes or {})) == (
        "sent",
        {"trioipc.attempt": 1, "trioipc.worker.pid": worker.pid},
    )


@pytest.mark.parametrize("kind", ["cpu", "io", "thread"])
async def test_spans_of_the_function_are_children(kind: Any, traces: Traces) -> None:
    """Of the request's span; baggage comes along; the caller's context is what it was."""
    function = trace_jobs.look_async if kind == "io" else trace_jobs.look
    async with open_worker_pool(1, kind=kind, instruments=[traces.instrument]) as pool:
        token = context.attach(baggage.set_baggage("tenant", "us"))
        with traces.tracer.start_as_current_span("caller") as caller:
            seen = await pool.run(function)
            assert trace.get_current_span() is caller
        context.detach(token)
        alone = await pool.run(function)
    first, _, second = traces.spans
    assert seen == (*ids(first), {"tenant": "us"})
    assert alone == (*ids(second), {})
    assert second.parent is None
    assert ids(first)[0] != ids(second)[0]


async def test_each_of_many_has_its_own(traces: Traces) -> None:
    """Also in one process, at once; and with payloads."""
    seen: dict[int, trace_jobs.Seen] = {}

    async def ask(number: int) -> None:
        with traces.tracer.start_as_current_span(f"caller {number}") as span:
            seen[span.get_span_context().trace_id] = await pool.run(trace_jobs.look_async)

    async with (
        open_worker_pool(1, kind="io", instruments=[traces.instrument]) as pool,
        trio.open_nursery() as nursery,
    ):
        for number in range(20):
            nursery.start_soon(ask, number)
    requests = dict(ids(span) for span in traces.spans if "look_async" in span.name)
    assert {trace_id: (found[0], found[1]) for trace_id, found in seen.items()} == {
        trace_id: (trace_id, requests[trace_id]) for trace_id in seen
    }
    assert len(seen) == 20


async def test_big_arguments_travel_as_ever(traces: Traces) -> None:
    """With the headers beside them."""
    async with open_worker_pool(1, instruments=[traces.instrument]) as pool:
        seen = await pool.run(trace_jobs.look_later, bytes(1 << 20))
    assert seen[:2] == ids(only(traces.spans, "trace_jobs.look_later"))


@pytest.mark.parametrize("kind", ["cpu", "io", "thread"])
async def test_what_a_function_asks_for_is_a_child_of_its_request(
    kind: Any, traces: Traces
) -> None:
    """And so on, down to the spans that the function makes that was asked for."""
    ask, look = nesting_jobs.ask, trace_jobs.look
    if kind == "io":
        ask, look = nesting_jobs.ask_async, trace_jobs.look_async
    async with open_worker_pool(1, kind=kind, instruments=[traces.instrument]) as pool:
        seen = await pool.run(ask, look)
    asked, asking = traces.spans  # in the order of their ends
    assert (asked.name, asking.name) == (function_name(look), function_name(ask))
    assert asked.parent is not None
    assert (asked.parent.trace_id, asked.parent.span_id) == ids(asking)
    assert seen[:2] == ids(asked)


async def test_how_requests_end(traces: Traces) -> None:
    """Errors are errors; cancelled requests are none; the kind of error is an attribute."""
    async with open_worker_pool(1, instruments=[traces.instrument]) as pool:
        with pytest.raises(ValueError, match="sesame"):
            await pool.run(jobs.fail, ValueError("sesame"))
        with pytest.raises(RequestTimeoutError):
            await pool.run(jobs.cooperate, timeout=0.3)
        with trio.move_on_after(0.3):
            await pool.run(jobs.cooperate)
    failed, late, cancelled = traces.spans
    found = [
        (span.status.status_code.name, (span.attributes or {}).get("error.type"))
        for span in (failed, late, cancelled)
    ]
    assert found == [("ERROR", "error"), ("ERROR", "RequestTimeoutError"), ("UNSET", None)]
    assert (late.attributes or {})["trioipc.clock"] == "run"
    reasons = [(e.attributes or {})["trioipc.reason"] for e in late.events if e.name == "cancelled"]
    assert reasons == ["timeout"]
    assert [event.name for event in cancelled.events] == ["sent", "cancelled"]
    assert "sesame" not in str([span.to_json() for span in traces.spans])


async def test_a_retry_is_an_event(traces: Traces, tmp_path: Any) -> None:
    """One span for all tries, and another event for each."""
    async with open_worker_pool(1, instruments=[traces.instrument]) as pool:
        await pool.run(jobs.die_once, str(tmp_path / "died"), idempotent=True)
    (span,) = traces.spans
    assert [(event.attributes or {})["trioipc.attempt"] for event in span.events] == [1, 2]
    assert (span.attributes or {})["trioipc.attempts"] == 2


def test_without_the_extra() -> None:
    """It says what to install."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from trioipc import MissingExtraError\n"
        "try: import trioipc.opentelemetry\n"
        "except MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip().endswith("pip install 'trioipc[opentelemetry]'")
