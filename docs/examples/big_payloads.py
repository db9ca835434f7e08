"""Big bytes to a worker and back, in memory that both processes see."""

import tempfile

import trio

import trioipc

MIB = 1 << 20
FLIPPED = bytes(range(255, -1, -1))


def flip(data: memoryview) -> memoryview:
    """Turn each bit round, in memory that travels home as it is."""
    request = trioipc.current_request()
    result = request.allocate(len(data))
    for start in range(0, len(data), MIB):
        request.checkpoint()
        result[start : start + MIB] = bytes(data[start : start + MIB]).translate(FLIPPED)
    return result


async def main(path: str) -> None:
    """Read a file straight into shared memory, and have it flipped."""
    async with trioipc.open_worker_pool(1, max_arena_bytes=64 * MIB) as pool:
        data = pool.allocate((await trio.Path(path).stat()).st_size)
        async with await trio.open_file(path, "rb", buffering=0) as file:
            count = await file.readinto(data)
        result = await pool.run(flip, data[:count])
        arena = pool.statistics().arena
        assert arena is not None  # as it would be on threads, which share all their memory
        print(f"{arena.size // MIB} MiB of shared memory in {arena.slabs} slabs")
        head = result[:4]
        del data, result  # `head` alone keeps all of the result
        print("one more:", (await pool.run(flip, bytes(100)))[0])
    print("after the pool:", head.hex())


if __name__ == "__main__":
    with tempfile.NamedTemporaryFile() as source:
        source.write(bytes(range(256)) * (16 * MIB // 256))
        source.flush()
        trio.run(main, source.name)
