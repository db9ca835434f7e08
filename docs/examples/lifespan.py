"""Have each worker open what it needs once, and close it when it ends."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import trio

import trioipc

WORDS = ["work", "worker", "works"]


@contextmanager
def dictionary() -> Iterator[sqlite3.Connection]:
    """Fill a database of this worker's own, which takes a while, and close it at the end."""
    connection = sqlite3.connect(":memory:")
    connection.execute("create table words (word text)")
    connection.executemany("insert into words values (?)", [(word,) for word in WORDS])
    print("opened", flush=True)
    try:
        yield connection
    finally:
        connection.close()
        print("closed", flush=True)


def count(prefix: str) -> int:
    """Ask the database of the worker that runs this."""
    database: sqlite3.Connection = trioipc.current_request().state
    question = "select count(*) from words where word like ?"
    (number,) = database.execute(question, (prefix + "%",)).fetchone()
    return int(number)


async def main() -> None:
    """Ask twice."""
    async with trioipc.open_worker_pool(1, lifespan=dictionary) as pool:
        for prefix in ("work", "worke"):
            print(prefix, await pool.run(count, prefix))


if __name__ == "__main__":
    trio.run(main)
