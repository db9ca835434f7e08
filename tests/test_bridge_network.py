"""``bridge.network``: arguments, options, and where it runs."""

from __future__ import annotations

import inspect
import math
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trioipc
from rude import answer, serve, silent
from trioipc._errors import MissingExtraError, RequestCancelledError
from trioipc.bridge._here import run_here
from trioipc.bridge.bridge import open_worker_bridge
from trioipc.bridge.network import NetworkBridge
from trioipc.builtin import network as builtin
from trioipc.memory.state import SharedCancellation
from trioipc.worker.request import current_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioipc.pool._progress import Progress
    from watched import Direct


@pytest.fixture
def network(direct: Direct) -> NetworkBridge:
    """Give a network bridge over it."""
    return NetworkBridge(direct)


OPTIONS = {
    "on_progress": None,
    "queue_timeout": None,
    "cancellation": None,
    "priority": "normal",
}


async def run_in_context(**options: Any) -> Any:
    """Await something as `run_here` does, with those options."""
    function = options.pop("function")
    return await run_here(function, **{**OPTIONS, "timeout": math.inf, **options})


# ---- arguments: wrong ones never reach a worker, and nothing is sent


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/", "must begin with http:// or https://, not 'ftp:'"),
        ("file:///etc/passwd", "must begin with http:// or https://, not 'file:'"),
        ("data:text/plain,secret", "must begin with http:// or https://, not 'data:'"),
        ("javascript:alert(1)", "must begin with http:// or https://, not 'javascript:'"),
        ("//host/", "must begin with http:// or https://, not ':'"),
        ("host", "must begin with http:// or https://, not ':'"),
        ("", "must begin with http:// or https://, not ':'"),
        ("http:", "must name a host"),
        ("http:///path", "must name a host"),
        ("http:host", "must name a host"),
        ("http://%31/", "must name a host"),
        ("http://[fe80::1%25eth0]/", "must name a host"),
        ("http://" + "a" * 254, "must name a host"),
        ("http://user@host/", "must hold no user name and no password"),
        ("http://user:secret@host/", "must hold no user name and no password"),
        ("http://:secret@host/", "must hold no user name and no password"),
        ("http://host/a\r\nSecret: x", "must have no blanks, control characters or backslashes"),
        ("http://ho\nst/", "must have no blanks, control characters or backslashes"),
        ("http://host/\t", "must have no blanks, control characters or backslashes"),
        ("http://host/\x00", "must have no blanks, control characters or backslashes"),
        ("http://host/\x7f", "must have no blanks, control characters or backslashes"),
        (" http://host/", "must have no blanks, control characters or backslashes"),
        ("http://host/a b", "must have no blanks, control characters or backslashes"),
        ("http://secret\\@host/", "must have no blanks, control characters or backslashes"),
        ("http://host:0/", "must have a port of 1 to 65535, not 0"),
        ("http://host:65536/", "must have a port of 1 to 65535, not 65536"),
        ("http://host:secret/", "is no URL"),
        ("http://host:-1/", "must have a port of 1 to 65535, not -1"),
        ("http://[::1/", "is no URL"),
        ("http://[secret]/", "is no URL"),
        ("http://\u2024/", "is no URL"),
        ("http://host/" + "a" * 100_000, "is no URL"),
    ],
)
async def test_urls_that_are_not_asked(
    network: NetworkBridge, direct: Direct, url: str, message: str
) -> None:
    """A ValueError says which of them and why, and shows nothing that may be secret."""
    for call, name in (
        (network.test_connectivity(["http://host/", url]), r"urls\[1\]"),
        (network.bandwidth_test(url), "url"),
        (network.latency_check(url), "url"),
    ):
        with pytest.raises(ValueError, match=f"^{name} {message}$") as caught:
            await call
        assert "secret" not in repr(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert direct.calls == []


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda n: n.test_connectivity("http://host/"), TypeError, "urls must be an iterable of"),
        (lambda n: n.test_connectivity([b"http://host/"]), TypeError, r"urls\[0\] must be a str"),
        (lambda n: n.test_connectivity(7), TypeError, "iterable"),
        (lambda n: n.bandwidth_test(None), TypeError, "url must be a str, not NoneType"),
        (lambda n: n.latency_check(b""), TypeError, "url must be a str, not bytes"),
        (lambda n: n.resolve_ice("stun:host"), TypeError, "stun_servers must be an iterable of"),
        (lambda n: n.resolve_ice([None]), TypeError, r"stun_servers\[0\] must be a str, not None"),
        (lambda n: n.resolve_ice(["turn:h"]), ValueError, r"stun_servers\[0\] must be stun:host"),
        (lambda n: n.test_connectivity([], timeout=-1), ValueError, "timeout must be >= 0"),
        (lambda n: n.test_connectivity([], timeout=math.nan), ValueError, "timeout must be >= 0"),
        (lambda n: n.test_connectivity([], timeout=math.inf), ValueError, "timeout must be finite"),
        (lambda n: n.resolve_ice([], timeout=None), TypeError, "timeout must be a number"),
        (lambda n: n.bandwidth_test("http://h", timeout="5"), TypeError, "timeout must be a num"),
        (lambda n: n.bandwidth_test("http://h", payload_size=0), ValueError, "payload_size must"),
        (lambda n: n.bandwidth_test("http://h", payload_size=1.5), TypeError, "payload_size must"),
        (lambda n: n.latency_check("http://h", samples=0), ValueError, "samples must be >= 1"),
        (lambda n: n.latency_check("http://h", samples=1001), ValueError, "samples must be at mo"),
        (lambda n: n.latency_check("http://h", samples=True), TypeError, "samples must be an int"),
    ],
)
async def test_wrong_arguments(
    network: NetworkBridge, direct: Direct, call: Any, error: type[Exception], message: str
) -> None:
    """The error says which argument, and what would be right."""
    with pytest.raises(error, match=message):
        await call(network)
    assert direct.calls == []


async def test_what_is_asked_for(network: NetworkBridge, direct: Direct) -> None:
    """The operation gets plain values; its own timeout, and none of the pool's."""
    async with serve(answer()) as host:
        flag = SharedCancellation()

        def seen(progress: Progress) -> None:
            pass

        options: Any = {
            "on_progress": seen,
            "queue_timeout": 3.0,
            "cancellation": flag,
            "priority": "high",
        }
        await network.test_connectivity((host.url,), timeout=2, **options)
        await network.bandwidth_test(host.url, payload_size=3, **options)
        await network.latency_check(host.url, samples=1, allow_private=False, **options)
        await network.resolve_ice([], **options)
        flag.close()
    assert direct.calls == [
        ([host.url], 2.0, True),
        (host.url, 3, 30.0, True),
        (host.url, 1, 30.0, False),
        ([], 5.0, True),
    ]
    assert direct.options == [{**options, "timeout": math.inf}] * 4


async def test_without_the_extra(
    network: NetworkBridge, direct: Direct, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to install; no worker is asked."""
    monkeypatch.setattr(builtin, "find_spec", lambda name: None)
    for call in (
        network.test_connectivity([]),
        network.resolve_ice([]),
        network.bandwidth_test("http://host/"),
        network.latency_check("http://host/"),
    ):
        with pytest.raises(MissingExtraError, match=r"pip install 'trioipc\[network\]'"):
            await call
    assert direct.calls == []


# ---- on an open bridge


@pytest.mark.parametrize("placement", ["process", "thread"])
async def test_on_a_bridge(placement: Any) -> None:
    """All four answer, with the records that the package exports."""
    seen: list[float] = []
    async with (
        serve(answer()) as host,
        serve(silent) as mute,
        open_worker_bridge(1, placement=placement) as bridge,
    ):
        results = await bridge.network.test_connectivity(
            [host.url, mute.url],
            timeout=0.3,
            on_progress=lambda progress: seen.append(progress.fraction),
        )
        assert [result.error for result in results] == [None, "timeout"]
        assert {type(result) for result in results} == {trioipc.ConnectivityResult}
        assert seen == sorted(seen)
        assert seen[-1] == 1.0
        bandwidth = await bridge.network.bandwidth_test(host.url)
        assert type(bandwidth) is trioipc.Bandwidth
        assert bandwidth.bytes_transferred == 5
        latency = await bridge.network.latency_check(host.url, samples=2)
        assert type(latency) is trioipc.Latency
        assert len(latency.samples) == 2
        ice = await bridge.network.resolve_ice([])
        assert type(ice) is trioipc.IceResult
        assert {type(candidate) for candidate in ice.candidates} <= {trioipc.IceCandidate}
        assert repr(bridge.network) == "<NetworkBridge>"


# ---- awaited here


async def raise_(error: BaseException) -> None:
    """Raise."""
    raise error


async def count_for_ever() -> None:
    """Make progress without an end."""
    progress = current_request().progress
    while True:
        progress.increment()
        await trio.sleep(0.001)


class OwnError(Exception):
    pass


@pytest.mark.parametrize("error", [OwnError("wrong"), ExceptionGroup("several", [OwnError()])])
async def test_what_an_operation_raises_comes_bare(error: Exception) -> None:
    """In no group of ours."""
    with pytest.raises(type(error)) as caught:
        await run_here(raise_, error, **OPTIONS, timeout=math.inf)  # type: ignore[arg-type]
    assert caught.value is error


async def test_what_on_progress_raises_comes_bare() -> None:
    """And the operation ends."""

    def complain(progress: Progress) -> None:
        raise OwnError("enough")

    with trio.fail_after(5), pytest.raises(OwnError, match="enough"):
        await run_in_context(function=count_for_ever, on_progress=complain)


async def test_on_progress_may_be_asynchronous() -> None:
    """And runs in the caller's task."""
    tasks = []

    async def note(progress: Progress) -> None:
        await trio.lowlevel.checkpoint()
        tasks.append(trio.lowlevel.current_task())
        if len(tasks) == 3:
            raise OwnError

    with trio.fail_after(5), pytest.raises(OwnError):
        await run_in_context(function=count_for_ever, on_progress=note)
    assert tasks == [trio.lowlevel.current_task()] * 3


async def test_a_caller_that_is_cancelled() -> None:
    """It is Trio's own Cancelled, and the operation has ended."""
    ended = False

    async def operation() -> None:
        nonlocal ended
        try:
            await trio.sleep_forever()
        finally:
            ended = True

    for options in ({}, {"on_progress": lambda progress: None}):
        ended = False
        with trio.move_on_after(0.05) as scope:
            await run_in_context(function=operation, **options)
        assert scope.cancelled_caught
        assert ended


async def test_a_cancellation() -> None:
    """Set before the call nothing is run; set during it, the operation ends."""
    with SharedCancellation() as flag:

        async def cancel() -> None:
            await trio.sleep(0.05)
            flag.cancel("enough")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            with trio.fail_after(5):
                failure: Any = None
                try:
                    await run_in_context(function=trio.sleep_forever, cancellation=flag)
                except RequestCancelledError as error:
                    failure = error
        assert (failure.reason, failure.rung) == ("enough", "checkpoint")
        assert str(failure) == "the request was cancelled: enough"
        with pytest.raises(RequestCancelledError) as caught:
            await run_in_context(function=count_for_ever, cancellation=flag)
        assert caught.value.rung == "queue"


async def test_a_value_comes_back() -> None:
    """With a cancellation that nobody sets, and progress that nobody makes."""

    async def operation() -> str:
        await trio.sleep(0.02)
        return "value"

    with SharedCancellation() as flag:
        seen: list[Progress] = []
        value = await run_in_context(function=operation, cancellation=flag, on_progress=seen.append)
    assert (value, seen) == ("value", [])


async def test_requests_do_not_see_each_other() -> None:
    """Many at once, and each has a progress of its own."""
    ends: dict[int, int] = {}

    async def operation(number: int) -> None:
        progress = current_request().progress
        progress.set_total(number)
        for _ in range(number):
            await trio.lowlevel.checkpoint()
            progress.increment()

    async def call(number: int) -> None:
        def note(progress: Progress) -> None:
            ends[number] = progress.value
            assert progress.total == number

        options: Any = {**OPTIONS, "on_progress": note, "timeout": math.inf}
        await run_here(operation, number, **options)

    async with trio.open_nursery() as nursery:
        for number in range(1, 20):
            nursery.start_soon(call, number)
    assert ends == {number: number for number in range(1, 20)}
    assert current_request().id is None


def test_every_operation_takes_the_same_options() -> None:
    """By their names and defaults; ``timeout`` is each one's own."""
    methods: list[Callable[..., Any]] = [
        NetworkBridge.test_connectivity,
        NetworkBridge.resolve_ice,
        NetworkBridge.bandwidth_test,
        NetworkBridge.latency_check,
    ]
    for method in methods:
        parameters = inspect.signature(method).parameters
        assert {name: parameters[name].default for name in OPTIONS} == OPTIONS
        assert parameters["allow_private"].default is True
    defaults = [inspect.signature(method).parameters["timeout"].default for method in methods]
    assert defaults == [5.0, 5.0, 30.0, 30.0]


# ---- where it runs


@pytest.mark.slow
async def test_it_has_a_process_of_its_own() -> None:
    """It starts with the first operation; many run in it at once; a cancel closes connections."""
    async with serve(answer()) as host, open_worker_bridge(1) as bridge:
        pool = bridge._home._network  # type: ignore[attr-defined]
        assert pool.workers == ()
        assert (await bridge.network.test_connectivity([host.url]))[0].reachable
        assert len(pool.workers) == 1
        assert pool.workers[0].pid not in {os.getpid(), *(w.pid for w in bridge.pool.workers)}
        async with serve(silent) as hole:
            start = trio.current_time()
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(
                        partial(bridge.network.test_connectivity, [hole.url], timeout=0.5)
                    )
            assert trio.current_time() - start < 5  # one after the other: 10
            with trio.move_on_after(0.2) as scope:
                await bridge.network.latency_check(hole.url)
            assert scope.cancelled_caught
        assert len(pool.workers) == 1
        assert pool.statistics().restarts == {}


@pytest.mark.slow
async def test_two_hundred_at_once_in_a_worker() -> None:
    """A third of them dead or silent: all results, in order, within the timeout and a little."""
    async with (
        serve(answer()) as good,
        serve(silent) as hole,
        open_worker_bridge(1) as bridge,
    ):
        await bridge.network.test_connectivity([good.url])
        dead = f"http://127.0.0.1:{await closed_port()}/"
        urls = [(good.url, good.url, hole.url, good.url, dead)[i % 5] for i in range(200)]
        start = trio.current_time()
        results = await bridge.network.test_connectivity(urls, timeout=2.0)
        assert trio.current_time() - start < 2.5
    assert [result.url for result in results] == urls
    assert [result.reachable for result in results] == [url == good.url for url in urls]


async def closed_port() -> int:
    """Return a port at which nobody listens."""
    async with serve(answer()) as host:
        return host.port
