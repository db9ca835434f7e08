"""Let a bridge find out where each call costs least."""

import trio

import trioipc

SIZES = {"100 bytes": 100, "4 MiB": 4 << 20}


async def main() -> None:
    """Hash a little and a lot, again and again, and ask what the bridge has learnt."""
    async with trioipc.open_worker_bridge(placement="auto") as bridge:
        print("before:", bridge.explain("crypto.hash_file", 100).reason)
        for name, size in SIZES.items():
            data = bytes(size)
            for _ in range(20):
                await bridge.crypto.hash_file(data)
            where = bridge.explain("crypto.hash_file", size)
            print(f"{name}: {where.kind} ({where.reason})")


if __name__ == "__main__":
    trio.run(main)
