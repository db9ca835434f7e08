"""Compress files with all cores, and see that they come back.

    python compress_files.py FILE...

Each FILE gets a FILE.gz beside it, which any gzip reads.
"""

import sys

import trio

import trioipc


async def main(files: list[str]) -> None:
    """Compress one file after the other, each by all workers at once."""
    async with trioipc.open_worker_bridge() as bridge:
        for file in files:
            packed = await bridge.compression.compress_data(
                file,
                parallel=True,
                destination=file + ".gz",
                on_progress=lambda p: print(f"{p.percent:3.0f} %"),
            )
            before = await bridge.file.read_metadata(file)
            print(f"{packed.path.name}: {before.size} bytes, now {packed.size}")

            data = await bridge.compression.decompress_data(
                packed.path, max_output_size=before.size
            )
            same = await bridge.crypto.hash_file(data) == await bridge.crypto.hash_file(file)
            print("comes back as it was:", same)


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
