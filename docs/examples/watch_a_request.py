"""Hold a request in one's hands while it runs."""

import trio

import trioipc


def bake(loaves: int) -> str:
    """Take a while, and say how far it is."""
    request = trioipc.current_request()
    request.set_phase("baking")
    request.progress.set_total(loaves)
    for _ in range(loaves):
        request.checkpoint()
        request.progress.increment()
    return f"{loaves} loaves"


async def watch(request: trioipc.PoolRequest[str]) -> None:
    """See the last value, which always comes; how many come before is a matter of time."""
    values: list[trioipc.Progress] = [value async for value in request.progress]
    last = values[-1]
    print(f"{request.id}: {last.phase}, {last.value} of {last.total}")


async def main() -> None:
    """Open a pool, make a request, and ask what the pool has done."""
    async with trioipc.open_worker_pool(1, name="bakery", task_timeout=60) as pool:
        async with pool.open_request(bake, 300) as request:
            await watch(request)
            print(await request.result())
        statistics = pool.statistics()
    print(statistics.total_tasks_processed, "request,", statistics.total_errors, "errors")


if __name__ == "__main__":
    trio.run(main)
