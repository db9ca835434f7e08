"""Be told of what is slow or crashes, and ask for numbers."""

import os
import time

import trio

import trioipc


class Watch(trioipc.Instrument):
    """Says what takes longer than it should, and what ends badly."""

    def request_ended(self, request: trioipc.RequestRecord, end: trioipc.RequestEnd) -> None:
        """Hear of every request, when it is over."""
        if end.outcome != "value" or end.total_time > 0.2:
            waited = f"waited {end.queue_time:.1f} s, ran {end.run_time:.1f} s"
            print(f"{request.id}: {request.operation}: {end.outcome}, {waited}")

    def worker_ended(self, worker: trioipc.WorkerInfo, reason: str, exitcode: int | None) -> None:
        """Hear of every worker that is gone."""
        if reason == "crashed":
            print(f"a worker has crashed with exit code {exitcode}")


async def main() -> None:
    """Do something quick, something slow and something wrong."""
    async with trioipc.open_worker_pool(2, name="shop", instruments=[Watch()]) as pool:
        for number in range(100):
            await pool.run(abs, -number)
        await pool.run(time.sleep, 0.3)
        try:
            await pool.run(os._exit, 3)
        except trioipc.WorkerCrashedError:
            pass
        statistics = pool.statistics()
    for name, operation in statistics.operations.items():
        times = operation.times.run_time
        print(f"{name}: {times.count} ended, longest {times.max:.1f} s, {operation.errors} errors")


if __name__ == "__main__":
    trio.run(main)
