"""Use workers without opening anything: both open with the first call, and share their workers."""

import math

import trio

import trioipc


async def main() -> None:
    """Run a function, hash some bytes, and let go before the program's end."""
    print(await trioipc.run(math.factorial, 20))
    print(await trioipc.default_bridge().crypto.hash_file(b"abc"))
    await trioipc.close_default_bridge()


if __name__ == "__main__":
    trio.run(main)
