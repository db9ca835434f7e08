"""Say who runs what, how many at once, and what to do when the queue is full."""

import time

import trio

import trioipc

_tables = {}  # what this worker has loaded


def look_up(table, key):
    """Look something up, in a table that is loaded once in each worker that needs it."""
    first = table not in _tables
    if first:
        _tables[table] = {key: key.upper() for key in ("a", "b", "c")}
    return _tables[table][key], first


def convert(number):
    """Stand for something of which no more than one is to run."""
    time.sleep(0.05)
    return number


async def sticky():
    """Look up the same table in the same worker: one load for each table."""
    strategy = trioipc.StickyStrategy(lambda function, arguments: arguments[0])
    async with trioipc.open_worker_pool(2, strategy=strategy) as pool:
        await pool.warm()
        loads = 0
        for table in ("names", "places", "names", "places", "names"):
            _, first = await pool.run(look_up, table, "a")
            loads += first
        print("loads:", loads)


async def limited():
    """Run one conversion at a time, and lookups beside it."""
    async with trioipc.open_worker_pool(2, concurrency={convert: 1}, max_queue=3) as pool:
        await pool.warm()
        async with trio.open_nursery() as nursery:
            for number in range(6):  # one runs, three wait, and two wait for room
                nursery.start_soon(pool.run, convert, number)
            await trio.sleep(0.01)
            try:
                await pool.run_nowait(look_up, "names", "b")
            except trio.WouldBlock:
                print("full: not now")
        print("then:", await pool.run_nowait(look_up, "names", "b"))


class NewestFirst:
    """Serve the newest request first; the oldest may no longer matter."""

    def label(self, function, arguments):
        """Nothing but the order is needed."""

    def assign(self, requests, workers):
        """Pair the last requests with the free workers."""
        free = [worker for worker in workers for _ in range(worker.free)]
        return zip(reversed([*requests]), free, strict=False)


async def newest_first():
    """Use a strategy of one's own."""
    order = []

    async def run(number):
        order.append(await pool.run(convert, number))

    async with (
        trioipc.open_worker_pool(1, strategy=NewestFirst()) as pool,
        trio.open_nursery() as nursery,
    ):
        for number in range(4):
            nursery.start_soon(run, number)
            await trio.lowlevel.checkpoint()
    print("newest first:", order)


async def main():
    """Show all three."""
    await sticky()
    await limited()
    await newest_first()


if __name__ == "__main__":
    trio.run(main)
