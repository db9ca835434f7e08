"""What workers log, in the loggers of their parent."""

from __future__ import annotations

import io
import json
import logging
import struct
from typing import TYPE_CHECKING

import pytest
import trio

import jobs
import log_jobs
from helpers import wait_until
from trioipc import RemoteProtocolError, WorkerCrashedError, open_worker_pool
from trioipc.protocol._records import RECORD_LIMIT, decode_record, encode_record, split_records

if TYPE_CHECKING:
    from collections.abc import Iterator


class Keeper(logging.Handler):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def texts(self) -> list[str]:
        """Return the texts of the records."""
        return [record.getMessage() for record in self.records]


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    """Listen to ``shop``, from INFO on."""
    handler = Keeper()
    logger = logging.getLogger("shop")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.getLogger("shop.stock").setLevel(logging.ERROR)
    yield handler
    logger.removeHandler(handler)
    for name in ("shop", "shop.stock"):
        logging.getLogger(name).setLevel(logging.NOTSET)


async def test_records_come_home(keeper: Keeper) -> None:
    """Of the same names, by the levels here, and they say where they are from."""
    async with open_worker_pool(1, forward_logs=True) as pool:
        request_id = await pool.run(log_jobs.say, "%s to %d", "one", 2)
        (worker,) = pool.workers
    (record,) = keeper.records
    assert (record.name, record.levelname, record.getMessage()) == (
        "shop.orders",
        "INFO",
        "one to 2",
    )
    said = vars(record)
    assert (said["worker_pid"], said["request_id"]) == (worker.pid, request_id)
    assert (said["process"], said["order"], "basket" in said) == (worker.pid, 7, False)
    assert (record.module, record.funcName) == ("log_jobs", "say")


async def test_records_of_io_workers(keeper: Keeper) -> None:
    """Each of many at once says which request it is of."""
    ids = {}
    async with (
        open_worker_pool(1, kind="io", forward_logs=True) as pool,
        trio.open_nursery() as nursery,
    ):

        async def say(text: str) -> None:
            ids[text] = await pool.run(log_jobs.say_async, text)

        for number in range(20):
            nursery.start_soon(say, str(number))
    assert {r.getMessage(): vars(r)["request_id"] for r in keeper.records} == ids
    assert len(set(ids.values())) == 20


async def test_nothing_is_installed_unless_asked(keeper: Keeper) -> None:
    """Without the option, a worker's loggers are as Python makes them."""
    async with open_worker_pool(1) as pool:
        assert await pool.run(log_jobs.handlers) == 0
    async with open_worker_pool(1, forward_logs=True) as pool:
        assert await pool.run(log_jobs.handlers) == 1
    with pytest.raises(TypeError, match="forward_logs must be a bool, not int"):
        async with open_worker_pool(1, forward_logs=1):  # type: ignore[arg-type]
            raise AssertionError("it opened")


async def test_exceptions_threads_and_forks(keeper: Keeper) -> None:
    """Tracebacks come as text; threads belong to the request; forks are not ours."""
    async with open_worker_pool(1, forward_logs=True) as pool:
        await pool.run(log_jobs.log_an_error)
        request_id = await pool.run(log_jobs.say_from_thread)
        assert await pool.run(log_jobs.say_in_a_fork) == 0
        await pool.run(log_jobs.log_badly)
    first, second, third = keeper.records
    text = logging.Formatter("%(levelname)s %(message)s").format(first)
    assert text.startswith("ERROR it went wrong\nTraceback")
    assert "LookupError: nothing there" in text
    assert "Stack (most recent call last)" in text
    assert (second.threadName, vars(second)["request_id"]) == ("helper", request_id)
    assert third.getMessage() == "after it"


async def test_the_last_words_of_the_dead(keeper: Keeper) -> None:
    """What was logged before a crash is here when the crash is."""
    async with open_worker_pool(1, forward_logs=True) as pool:
        with pytest.raises(WorkerCrashedError):
            await pool.run(log_jobs.say_and_die, "farewell")
        assert keeper.texts() == ["farewell"]


async def test_a_flood_is_counted(keeper: Keeper) -> None:
    """Logging does not wait while the parent does not read; what is lost is counted, exactly."""
    counter = Keeper()
    logging.getLogger("trioipc.worker").addHandler(counter)
    count = 5000
    try:
        async with open_worker_pool(1, forward_logs=True) as pool, trio.open_nursery() as nursery:
            await pool.run(jobs.nothing)
            nursery.start_soon(pool.run, log_jobs.flood, count, 200)
            await wait_until(lambda: any(w.state == "busy" for w in pool.workers))
            trio_is_held = trio.current_time() + 0.3
            while trio.current_time() < trio_is_held:
                pass
    finally:
        logging.getLogger("trioipc.worker").removeHandler(counter)
    lost = sum(r.args[1] for r in counter.records)  # type: ignore[index, misc]
    assert lost > 0
    assert len(keeper.records) + lost == count  # type: ignore[operator]
    numbers = [int(text.split()[0]) for text in keeper.texts()]
    assert numbers == sorted(set(numbers))


async def test_records_of_every_size(keeper: Keeper) -> None:
    """What is longer than a frame is cut, and says so; none is split into two."""
    async with open_worker_pool(1, forward_logs=True) as pool:
        for size in (0, 4090, 31_000, 1_000_000):
            await pool.run(log_jobs.say, "%s", "y" * size)
    sizes = [len(text) for text in keeper.texts()]
    assert sizes[:3] == [0, 4090, 31_000]
    assert keeper.texts()[3].endswith("[997500 more characters]")


async def test_a_filter_that_raises_ends_nothing(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shown as logging shows such things, and the next record comes."""

    def refuse(record: logging.LogRecord) -> bool:
        raise ZeroDivisionError(record.getMessage())

    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    logging.getLogger("shop.orders").addFilter(refuse)
    try:
        async with open_worker_pool(1, forward_logs=True) as pool:
            await pool.run(log_jobs.say, "a")
            await pool.run(jobs.nothing)
    finally:
        logging.getLogger("shop.orders").removeFilter(refuse)
    assert "ZeroDivisionError: a" in stderr.getvalue()


@pytest.mark.parametrize(
    "data",
    [struct.pack("<I", RECORD_LIMIT + 1), struct.pack("<I", 2) + b"[]", b"\x02\0\0\0\xff\xff"],
)
async def test_garbage_ends_the_worker(keeper: Keeper, data: bytes) -> None:
    """As garbage in any of its pipes does."""
    async with open_worker_pool(1, forward_logs=True) as pool:
        pid = await pool.run(jobs.pid)
        with pytest.raises(WorkerCrashedError) as caught:
            await pool.run(log_jobs.send_garbage, data)
        assert isinstance(caught.value.__cause__, RemoteProtocolError)
        assert await pool.run(jobs.pid) != pid


def a_record(text: str) -> logging.LogRecord:
    """Make a record."""
    return logging.LogRecord("shop", logging.INFO, "shop.py", 1, text, (), None)


GOOD = json.loads(encode_record(a_record("x"), "r-1")[4:])


@pytest.mark.parametrize(
    ("known", "extra"),
    [
        ({"levelno": "high"}, {}),
        ({"msg": {"an": "object"}}, {}),
        ({"exc_text": ["x"]}, {}),
        ({}, {"exc_info": "x"}),
        ({}, {"args": "x"}),
        ({}, {"other": ["x"]}),
    ],
)
def test_records_are_data(known: dict[str, object], extra: dict[str, object]) -> None:
    """One with what it cannot have is refused, whoever sends it."""
    assert decode_record(json.dumps(GOOD).encode(), 1).getMessage() == "x"
    with pytest.raises(RemoteProtocolError):
        decode_record(json.dumps([{**GOOD[0], **known}, extra]).encode(), 1)


def test_a_stream_is_split_wherever_it_was_cut() -> None:
    """Each record comes out once."""
    frames = [encode_record(a_record(str(n)), None) for n in range(3)]
    stream = b"".join(frames)
    for at in range(len(stream) + 1):
        *first, rest = split_records(stream[:at])
        *second, rest = split_records(rest + stream[at:])
        assert rest == b""
        assert [frame[4:] for frame in frames] == first + second
