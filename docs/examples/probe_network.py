"""See whether hosts answer, how soon and how fast.

    python probe_network.py URL...

Needs the extra: pip install 'trioipc[network]'
"""

import sys

import trio

import trioipc


async def main(urls: list[str]) -> None:
    """Ask all of them at once, then measure those that answered."""
    async with trioipc.open_worker_bridge() as bridge:
        network = bridge.network
        for result in await network.test_connectivity(urls, timeout=5):
            if not result.reachable:
                print(f"{result.url}: {result.error}")
                continue
            latency = await network.latency_check(result.url, samples=3)
            speed = await network.bandwidth_test(result.url, payload_size=10**6)
            print(
                f"{result.url}: status {result.status}, "
                f"answers in {latency.minimum * 1000:.1f} ms, "
                f"{speed.bytes_transferred} bytes at {speed.mbps:.1f} Mbit/s"
            )


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
