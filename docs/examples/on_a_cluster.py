"""The same calls on a Dask cluster."""

import statistics

import trio
from distributed import LocalCluster

import trioipc
from trioipc.dask import DaskEngine


async def main(address: str) -> None:
    """Send some work there."""
    engine = DaskEngine(address)
    async with trioipc.open_worker_pool(engine=engine) as pool:
        print("mean:", await pool.run(statistics.fmean, [1, 2, 3]))
        with trio.move_on_after(5):
            async with pool.map(abs, range(-10_000, 0)) as values:
                print("sum:", sum([value async for value in values]))
    async with trioipc.open_worker_bridge(engine=engine) as bridge:
        print("hash:", (await bridge.crypto.hash_file(b"trioipc"))[:16])


if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        trio.run(main, cluster.scheduler_address)
