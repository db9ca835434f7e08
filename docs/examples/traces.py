"""Trace a request from the caller into the function that runs in a worker."""

import telemetry  # noqa: F401 - sets OpenTelemetry up
import trio
from opentelemetry import trace

import trioipc
from trioipc.opentelemetry import OpenTelemetryInstrument


def count_words(text: str) -> int:
    """Do the work, in a span of its own."""
    with trace.get_tracer("shop").start_as_current_span("split"):
        return len(text.split())


async def main() -> None:
    """Have the work done, in a span."""
    options = {"modules": ["telemetry"], "instruments": [OpenTelemetryInstrument()]}
    async with trioipc.open_worker_pool(1, **options) as pool:
        with trace.get_tracer("shop").start_as_current_span("checkout"):
            await pool.run(count_words, "three short words")


if __name__ == "__main__":
    trio.run(main)
