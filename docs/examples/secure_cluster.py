"""A cluster whose parts prove to each other who they are, and encrypt what they say."""

import statistics
import sys

import trio
from distributed import Security

import trioipc
from trioipc.dask import DaskEngine


async def main(address: str, authority: str, certificate: str, key: str) -> None:
    """Send some work there."""
    security = Security(
        tls_ca_file=authority,
        tls_client_cert=certificate,
        tls_client_key=key,
        require_encryption=True,
    )
    engine = DaskEngine(address, security=security)
    async with trioipc.open_worker_pool(engine=engine) as pool:
        print("mean:", await pool.run(statistics.fmean, [1, 2, 3]))


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
