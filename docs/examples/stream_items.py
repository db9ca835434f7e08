"""Iterate over what a generator in a worker yields."""

import zlib
from collections.abc import Iterator

import trio

import trioipc


def blocks(path: str, size: int) -> Iterator[tuple[int, bytes]]:
    """Read a file and compress it, block by block."""
    compress = zlib.compressobj(9)
    with open(path, "rb") as file:
        try:
            while data := file.read(size):
                yield len(data), compress.compress(data) + compress.flush(zlib.Z_SYNC_FLUSH)
            yield 0, compress.flush()
        finally:
            print("the file is closed", flush=True)


async def main() -> None:
    """Take all blocks of this file, then only the first."""
    async with trioipc.open_worker_pool(1) as pool:
        before, packed = 0, b""
        async with pool.stream(blocks, __file__, 50, buffer=4) as items:
            async for length, block in items:
                before += length
                packed += block
        whole = await trio.Path(__file__).read_bytes()
        print("the same:", zlib.decompress(packed) == whole, before == len(whole), flush=True)

        async with pool.stream(blocks, __file__, 50) as items:
            async for length, _ in items:
                print(f"{length} bytes are enough", flush=True)
                break


if __name__ == "__main__":
    trio.run(main)
