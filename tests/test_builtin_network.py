"""HTTP probes, awaited directly: hosts that answer, and hosts that do everything wrong."""

from __future__ import annotations

import contextvars
import http.server
import math
import socket
import ssl
import threading
import tracemalloc
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trustme

from rude import (
    BOMB,
    Names,
    answer,
    bomb,
    early_close,
    endless_body,
    endless_header,
    endless_hints,
    garbage,
    liar,
    redirect,
    serve,
    silent,
    slow_loris,
)
from trioipc._errors import MissingExtraError
from trioipc.builtin import _addresses, _http, network
from trioipc.builtin._addresses import is_private
from trioipc.builtin._probe import Bandwidth, ConnectivityResult, Failure, bandwidth_of
from trioipc.testing import cancel_at_each_step
from trioipc.worker.request import CurrentRequest, set_context_request
from watched import WatchedCells

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


async def reach(url: str, timeout: float = 5.0, allow_private: bool = True) -> ConnectivityResult:
    """Probe one URL."""
    (result,) = await network.test_connectivity([url], timeout, allow_private)
    assert result.url == url
    assert result.reachable is (result.error is None) is (result.status is not None)
    assert (result.latency is None) is not result.reachable
    return result


async def failure_of(url: str, timeout: float = 5.0, allow_private: bool = True) -> Failure | None:
    """Probe a URL that is no use, and say why."""
    return (await reach(url, timeout, allow_private)).error


def closed_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> str:
    """Give an address that is public, as far as we know, and yet of this machine."""
    monkeypatch.setattr(_addresses, "is_private", lambda host: host != "127.0.0.2")
    return "127.0.0.2"


async def names(names: dict[str, list[list[str]]]) -> Names:
    """Answer questions for names from now on, in this run."""
    resolver = Names(names)
    trio.socket.set_custom_hostname_resolver(resolver)
    return resolver


# ---- hosts that answer


@pytest.fixture
def standard_server() -> Iterator[str]:
    """Give the URL of the standard library's HTTP server."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            code = int(self.path.strip("/"))
            self.send_response(code)
            if code in (301, 302, 303, 307, 308):
                self.send_header("Location", "/204")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_any_status_is_an_answer(standard_server: str) -> None:
    """By the standard library's server; redirects are followed."""
    codes = [200, 404, 500, 301, 302, 303, 307, 308]
    urls = [f"{standard_server}/{code}" for code in codes]
    results = await network.test_connectivity(urls, 5.0, True)
    assert [result.url for result in results] == urls
    assert [result.status for result in results] == [200, 404, 500] + [204] * 5
    assert all(0 < result.latency < 5 for result in results if result.latency is not None)
    assert [result.reachable for result in results] == [True] * 8


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_ipv4_and_ipv6(address: str) -> None:
    """Both are reached, and asked with nothing that says who asks."""
    async with serve(answer(), address) as host:
        assert (await reach(host.url)).status == 200
    (request,) = host.requests
    head, *fields = request.decode().strip().split("\r\n")
    assert head == "GET / HTTP/1.1"
    sent = dict(field.split(": ") for field in fields)
    assert sent.pop("Host") == host.base.partition("://")[2]
    assert sent == {
        "User-Agent": "trioipc",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }


async def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    async with serve(answer()) as host:
        assert (await reach(host.url)).status == 200


async def test_a_name_is_looked_up_once() -> None:
    """The request names the host, and goes to its address."""
    resolver = await names({"example.test": [["127.0.0.1"]]})
    async with serve(answer()) as host:
        assert (await reach(f"http://example.test:{host.port}/a?b=c#d")).status == 200
    assert resolver.asked == ["example.test"]
    assert host.requests[0].startswith(b"GET /a?b=c HTTP/1.1\r\n")
    assert f"\r\nHost: example.test:{host.port}\r\n".encode() in host.requests[0]


async def test_names_of_all_letters() -> None:
    """An internationalised name is looked up in its ASCII form."""
    resolver = await names({"xn--bcher-kva.test": [["127.0.0.1"]]})
    async with serve(answer()) as host:
        assert (await reach(f"http://b\u00fccher.test:{host.port}/\u00e4")).status == 200
    assert resolver.asked == ["xn--bcher-kva.test"]
    assert host.requests[0].startswith(b"GET /%C3%A4 HTTP/1.1\r\n")


@pytest.mark.parametrize("dead", ["127.0.0.3", "198.51.100.1"])
async def test_another_address_is_tried(dead: str) -> None:
    """One that refuses, or that nothing comes back from, holds the next one up only shortly."""
    await names({"example.test": [[dead, "127.0.0.1"]]})
    async with serve(answer()) as host:
        result = await reach(f"http://example.test:{host.port}/", timeout=10)
    assert result.status == 200
    assert result.latency is not None
    assert result.latency < 2


# ---- hosts that do not


@pytest.mark.parametrize(
    ("handler", "failure"),
    [
        (silent, "timeout"),
        (slow_loris, "timeout"),
        (endless_hints, "timeout"),
        (endless_header, "protocol"),
        (early_close, "protocol"),
        (garbage, "protocol"),
        (redirect("ftp://example.test/"), "redirect"),
        (redirect("file:///etc/passwd"), "redirect"),
        (redirect("javascript:alert(1)"), "redirect"),
        (redirect("//user:password@127.0.0.1/"), "redirect"),
        (redirect("http://127.0.0.1:99999/"), "redirect"),
        (redirect("http://[::1/"), "redirect"),
        (redirect("/a b"), "redirect"),
        (redirect("\\\\127.0.0.1\\"), "redirect"),
        (redirect("/\xff"), "redirect"),
    ],
)
async def test_rude_hosts(handler: Any, failure: Failure) -> None:
    """Each is a result that says why; those that never end are ended."""
    async with serve(handler) as host:
        with trio.fail_after(2):
            assert await failure_of(host.url, 0.3 if failure == "timeout" else 5) == failure
    assert host.connections == 1


async def test_a_redirect_to_nowhere() -> None:
    """Without a location, it is an answer like any other."""
    async with serve(answer(b"", "302 Found")) as host:
        assert (await reach(host.url)).status == 302


async def test_a_host_that_leads_to_itself() -> None:
    """For ever, if one let it."""
    async with serve(redirect("/")) as host:
        assert await failure_of(host.url) == "redirect"
    assert host.connections == 6


@pytest.mark.parametrize("handler", [endless_body, liar, bomb])
async def test_a_rude_body_is_not_read(handler: Any) -> None:
    """The header is the answer."""
    async with serve(handler) as host:
        assert (await reach(host.url)).status == 200


async def test_dead_hosts() -> None:
    """Nobody listens; nobody knows the name; the name is too long for one."""
    await names({})
    assert await failure_of(f"http://127.0.0.1:{closed_port()}/") == "connect"
    assert await failure_of("http://example.test/") == "name"
    assert await failure_of(f"http://{'a' * 70}.test/") == "name"


async def test_a_reset_connection() -> None:
    """It is no answer."""

    async def reset(stream: Any) -> None:
        linger = b"\1\0\0\0\0\0\0\0"  # on, 0 seconds
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    async with serve(reset) as host:
        assert await failure_of(host.url) == "protocol"


async def test_five_redirects_are_followed() -> None:
    """The sixth is not."""
    count = 5

    async def lead_on(stream: Any) -> None:
        nonlocal count
        count -= 1
        await (redirect(f"/{count}") if count >= 0 else answer())(stream)

    async with serve(lead_on) as host:
        assert (await reach(host.url)).status == 200
        assert len(host.requests) == 6
        count = 6
        assert await failure_of(host.url) == "redirect"


# ---- TLS


@contextmanager
def trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *names: str
) -> Iterator[ssl.SSLContext]:
    """Give the TLS of a host of those names, and trust who signed its certificate."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    yield context


async def test_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A trusted host of that name answers; one of another name is none."""
    await names({"example.test": [["127.0.0.1"]], "other.test": [["127.0.0.1"]]})
    with trusted(monkeypatch, tmp_path, "example.test") as context:
        async with (
            serve(answer(), context=context) as host,
            serve(redirect(f"https://example.test:{host.port}/")) as plain,
        ):
            assert (await reach(f"https://example.test:{host.port}/")).status == 200
            assert (await reach(plain.url)).status == 200
            assert await failure_of(f"https://other.test:{host.port}/") == "tls"
            assert await failure_of(f"http://example.test:{host.port}/") == "protocol"
        async with serve(garbage, listens=False) as other:
            assert await failure_of(f"https://127.0.0.1:{other.port}/") == "tls"


async def test_an_untrusted_certificate() -> None:
    """It is no answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with serve(answer(), context=context) as host:
        assert await failure_of(host.url) == "tls"


async def test_a_handshake_that_never_ends() -> None:
    """The connection is closed all the same; the check of every test would find it open."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        port = listener.getsockname()[1]
        assert await failure_of(f"https://127.0.0.1:{port}/", 0.2) == "timeout"
        with listener.accept()[0] as accepted:
            accepted.settimeout(5)
            while accepted.recv(4096):  # its hello, then the end
                pass


# ---- private networks


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("8.8.8.8", False),
        ("2001:4860:4860::8888", False),
        ("::ffff:8.8.8.8", False),
        ("64:ff9b::8.8.8.8", False),
        ("2002:808:808::1", False),
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("0.0.0.0", True),
        ("10.0.0.1", True),
        ("172.16.0.1", True),
        ("172.31.255.255", True),
        ("172.32.0.1", False),
        ("192.168.1.1", True),
        ("169.254.169.254", True),
        ("100.64.0.1", True),
        ("192.0.2.1", True),
        ("198.18.0.1", True),
        ("224.0.0.1", True),
        ("239.255.255.250", True),
        ("240.0.0.1", True),
        ("255.255.255.255", True),
        ("::", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", True),
        ("64:ff9b::10.0.0.1", True),
        ("64:ff9b::127.0.0.1", True),
        ("2002:a00:1::1", True),
        ("2002:7f00:1::", True),
        ("fe80::1", True),
        ("fe80::1%eth0", True),
        ("fc00::1", True),
        ("fd12:3456::1", True),
        ("ff02::1", True),
        ("ff0e::1", True),
        ("2001:db8::1", True),
    ],
)
def test_private_addresses(address: str, private: bool) -> None:
    """By the IANA registries, also inside of the addresses that wrap others."""
    assert is_private(address) is private


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "017700000001", "localhost", "[::1]"]
)
async def test_private_hosts_are_not_connected_to(host: str) -> None:
    """However their address is written."""
    async with serve(answer(), "::1" if host == "[::1]" else "127.0.0.1") as served:
        assert await failure_of(f"http://{host}:{served.port}/", 5, False) == "private"
    assert served.connections == 0


async def test_one_private_address_is_enough(public: str) -> None:
    """A name that has another one as well is not connected to at all."""
    await names({"example.test": [[public, "127.0.0.1"]]})
    async with serve(answer(), public) as host:
        assert await failure_of(f"http://example.test:{host.port}/", 5, False) == "private"
    assert host.connections == 0


async def test_a_redirect_to_a_private_network(public: str) -> None:
    """It is not followed, whether it names an address or a name."""
    await names({"inside.test": [["127.0.0.1"]]})
    async with serve(answer()) as private:
        for target in (private.url, f"http://inside.test:{private.port}/"):
            async with serve(redirect(target), public) as host:
                assert (await reach(host.url)).status == 200
                assert await failure_of(host.url, 5, False) == "private"
    assert private.connections == 2


async def test_the_address_that_was_checked_is_the_one(public: str) -> None:
    """A name that leads elsewhere when it is asked again is not asked again."""
    resolver = await names({"example.test": [[public], ["127.0.0.1"]]})
    async with serve(answer(), public) as host, serve(answer(), port=host.port) as private:
        result = await reach(f"http://example.test:{host.port}/", 5, False)
    assert (result.status, host.connections, private.connections) == (200, 1, 0)
    assert resolver.asked == ["example.test"]


# ---- many


@pytest.mark.slow
async def test_200_at_once() -> None:
    """A third of them dead, slow or rude: all results are there in time, and in order."""
    handlers = [silent, slow_loris, endless_header, endless_hints, garbage, early_close]
    await names({})
    async with AsyncExitStack() as stack:
        good = await stack.enter_async_context(serve(answer()))
        bad = [await stack.enter_async_context(serve(handler)) for handler in handlers]
        dead = [f"http://127.0.0.1:{closed_port()}/", "http://example.test/"]
        rude = [*dead, *(host.url for host in bad)]
        urls = [
            f"{rude[i // 3 % len(rude)]}?{i}" if i % 3 == 2 else f"{good.url}?{i}"
            for i in range(200)
        ]
        start = trio.current_time()
        results = await network.test_connectivity(urls, 5.0, True)
        assert trio.current_time() - start < 5.5
    assert [result.url for result in results] == urls
    for index, result in enumerate(results):
        assert result.reachable is (index % 3 != 2), result
    assert {result.error for result in results} == {None, "timeout", "protocol", "connect", "name"}


async def test_more_than_go_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others follow."""
    monkeypatch.setattr(_http, "MAX_AT_ONCE", 3)
    now = most = 0

    async def count(stream: Any) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await trio.sleep(0.01)
        now -= 1
        await answer()(stream)

    async with serve(count) as host:
        results = await network.test_connectivity([host.url] * 20, 5.0, True)
    assert [result.status for result in results] == [200] * 20
    assert most == 3


async def test_none() -> None:
    """No URLs are no results, and all done."""
    assert await network.test_connectivity([], 5.0, True) == []


async def test_cancelled_at_each_step() -> None:
    """Wherever the caller is cancelled, nothing stays open."""

    async def nothing() -> None:
        pass

    async with serve(answer()) as host:
        # Most of it is in tasks of its own; they have no step without the first of ours.
        assert await cancel_at_each_step(lambda: reach(host.url), nothing) >= 1
        steps = await cancel_at_each_step(
            lambda: network.bandwidth_test(host.url, None, 5.0, True), nothing
        )
        assert steps >= 4


# ---- progress


async def watch(function: Any, *arguments: Any) -> tuple[Any, tuple[int, int]]:
    """Await a function as the request of a slot; return what it returns, and its progress."""
    cells = WatchedCells()
    result: Any = None

    async def call() -> None:
        nonlocal result
        set_context_request(CurrentRequest(cells, 1, "test"))  # type: ignore[arg-type]
        result = await function(*arguments)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            context = contextvars.copy_context()
            context.run(nursery.start_soon, call)
    return result, cells.progress()


async def test_progress_ends_at_its_total() -> None:
    """Whatever the hosts do, and if there are none."""
    async with serve(answer(bytes(1000))) as host, serve(silent) as mute, serve(liar) as lying:
        urls = [host.url, mute.url, lying.url]
        assert (await watch(network.test_connectivity, urls, 0.2, True))[1] == (3, 3)
        assert (await watch(network.test_connectivity, [], 0.2, True))[1] == (0, 0)
        assert (await watch(network.latency_check, host.url, 3, 5.0, True))[1] == (3, 3)
        assert (await watch(network.latency_check, mute.url, 3, 0.2, True))[1] == (3, 3)
        for url, size in ((host.url, 1000), (mute.url, 0), (lying.url, 10)):
            result, progress = await watch(network.bandwidth_test, url, None, 0.5, True)
            assert (result.bytes_transferred, progress) == (size, (size, size))


# ---- bandwidth


async def test_bandwidth() -> None:
    """All bytes of the body are counted, as they were sent."""
    async with serve(answer(bytes(1 << 20))) as host, serve(redirect(host.url)) as first:
        for url in (host.url, first.url):
            found = await network.bandwidth_test(url, None, 5.0, True)
            assert (found.bytes_transferred, found.error) == (1 << 20, None)
            assert 0 < found.transfer_time < 5
            assert found.mbps == pytest.approx((1 << 20) * 8 / 1e6 / found.transfer_time)


async def test_the_time_is_that_of_the_transfer() -> None:
    """A body that takes its time takes as long here; connecting does not count."""

    async def slowly(stream: Any) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n")
        for _ in range(4):
            await trio.sleep(0.05)
            await stream.send_all(bytes(100))

    async with serve(slowly) as host:
        found = await network.bandwidth_test(host.url, None, 5.0, True)
    assert found.bytes_transferred == 400
    assert 0.2 <= found.transfer_time < 2


async def test_enough_is_enough() -> None:
    """Of an endless body no more than was asked for; without a number, what time allows."""
    async with serve(endless_body) as host:
        found = await network.bandwidth_test(host.url, 100_000, 5.0, True)
        assert (found.bytes_transferred, found.error) == (100_000, None)
        with trio.fail_after(2):
            found = await network.bandwidth_test(host.url, None, 0.3, True)
        assert found.bytes_transferred > 0
        assert found.transfer_time <= 0.5
        assert found.error is None


async def test_a_bomb_stays_packed() -> None:
    """What is sent is what is counted, and the memory for the rest is not needed."""
    async with serve(bomb) as host:
        tracemalloc.start()
        try:
            found = await network.bandwidth_test(host.url, None, 5.0, True)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert found.bytes_transferred == len(BOMB)
    assert peak < 8 << 20


async def test_bandwidth_of_rude_hosts() -> None:
    """An error says what was wrong, and what had come is counted."""
    async with serve(liar) as host:
        found = await network.bandwidth_test(host.url, None, 5.0, True)
        assert (found.bytes_transferred, found.error) == (10, "protocol")
    for handler, failure in ((silent, "timeout"), (garbage, "protocol")):
        async with serve(handler) as host:
            found = await network.bandwidth_test(host.url, None, 0.3, True)
            assert (found.bytes_transferred, found.error) == (0, failure)
            assert math.isnan(found.mbps)
            assert math.isnan(found.transfer_time)
    found = await network.bandwidth_test(f"http://127.0.0.1:{closed_port()}/", None, 5.0, True)
    assert found.error == "connect"
    async with serve(answer(b"")) as host:
        found = await network.bandwidth_test(host.url, None, 5.0, True)
        assert (found.bytes_transferred, found.error) == (0, None)
    async with serve(answer()) as host:
        assert (await network.bandwidth_test(host.url, None, 5.0, False)).error == "private"


def test_a_clock_that_stands_still() -> None:
    """It is no division by zero."""
    assert bandwidth_of(0.0, 1000, None) == Bandwidth(pytest.approx(8e6), 1e-9, 1000)


# ---- latency


async def test_latency() -> None:
    """As many samples as asked for, each as long as the host took."""

    async def slowly(stream: Any) -> None:
        await trio.sleep(0.05)
        await answer()(stream)

    async with serve(slowly) as host:
        found = await network.latency_check(host.url, 4, 5.0, True)
    assert len(found.samples) == len(host.requests) == 4
    assert all(0.05 <= sample < 2 for sample in found.samples)
    assert (found.minimum, found.maximum) == (min(found.samples), max(found.samples))
    assert found.average == pytest.approx(sum(found.samples) / 4)
    assert found.error is None


async def test_a_redirect_is_an_answer_in_time() -> None:
    """It is not followed."""
    async with serve(redirect("http://example.test/")) as host:
        found = await network.latency_check(host.url, 2, 5.0, True)
    assert (len(found.samples), found.error) == (2, None)


async def test_latency_of_hosts_that_do_not_answer() -> None:
    """NaN, no samples, and why."""
    async with serve(silent) as host:
        with trio.fail_after(2):
            found = await network.latency_check(host.url, 3, 0.3, True)
    assert math.isnan(found.average)
    assert math.isnan(found.minimum)
    assert math.isnan(found.maximum)
    assert (found.samples, found.error) == ((), "timeout")
    found = await network.latency_check(f"http://127.0.0.1:{closed_port()}/", 3, 5.0, True)
    assert (found.samples, found.error) == ((), "connect")


async def test_latency_of_a_host_that_answers_at_times() -> None:
    """The samples that there are, and what was wrong with another."""
    answers = iter([answer(), garbage, answer(), silent])

    async def at_times(stream: Any) -> None:
        await next(answers)(stream)

    async with serve(at_times) as host:
        found = await network.latency_check(host.url, 4, 0.5, True)
    assert (len(found.samples), found.error) == (2, "timeout")


# ---- without the extra


@pytest.mark.parametrize("missing", ["httpx2", "httpcore2", "aioice", "ifaddr"])
async def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """The error says what to install."""
    monkeypatch.setattr(network, "find_spec", lambda name: None if name == missing else object())
    for call in (
        network.test_connectivity([], 1.0, True),
        network.resolve_ice([], 1.0, True),
        network.bandwidth_test("http://127.0.0.1/", None, 1.0, True),
        network.latency_check("http://127.0.0.1/", 1, 1.0, True),
    ):
        message = rf"need {missing}: pip install 'trioipc\[network\]'"
        with pytest.raises(MissingExtraError, match=message):
            await call
