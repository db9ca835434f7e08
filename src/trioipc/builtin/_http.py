"""HTTP probes on Trio; loaded when one of them is awaited.

Rules:

- A connection goes to the very address that was checked, for each redirect anew: a name that leads
  elsewhere the next time gains nothing.
- Nothing that comes is kept or decompressed, headers are bounded by the parser (100 KiB), bodies
  by a count, all of it by the caller's clock.
- What a host does wrong is a `ProbeError`. Nothing is sent but a GET without cookies, credentials
  or body, and no proxy is asked, which would look names up itself.
"""

from __future__ import annotations

import socket
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, final

import attrs
import httpcore2
import httpx2
import trio

from trioipc.builtin._addresses import resolve
from trioipc.builtin._probe import (
    Bandwidth,
    ConnectivityResult,
    Failure,
    Latency,
    ProbeError,
    bandwidth_of,
    latency_of,
)
from trioipc.builtin._urls import redirect_of, url_of
from trioipc.worker.request import current_request

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterator

# As many as the oldest of the clients' advice, RFC 2068, 10.3: more is a loop.
MAX_REDIRECTS = 5
# RFC 8305, section 5: then the next address is tried as well.
CONNECT_DELAY = 0.25
# A file descriptor each, of the 1024 that most processes may have.
MAX_AT_ONCE = 256
# What is counted of a body when nobody says how much.
MAX_BODY = 1 << 30

_HEADERS = [
    (b"User-Agent", b"trioipc"),
    (b"Accept", b"*/*"),
    (b"Accept-Encoding", b"identity"),
    (b"Connection", b"close"),
]


# ---- the operations


async def test_connectivity(
    urls: list[str], timeout: float, allow_private: bool
) -> list[ConnectivityResult]:
    """See `network.test_connectivity`."""
    parsed = [url_of(url, f"urls[{i}]") for i, url in enumerate(urls)]
    results = [ConnectivityResult(url, False, None, None, "timeout") for url in urls]
    client = _Client(allow_private)
    limiter = trio.CapacityLimiter(MAX_AT_ONCE)
    progress = current_request().progress
    progress.set_total(len(urls))
    progress.set(0)

    async def probe(index: int) -> None:
        async with limiter:
            results[index] = await _reach(client, urls[index], parsed[index])
            progress.increment()

    with trio.move_on_after(timeout):
        async with trio.open_nursery() as nursery:
            for index in range(len(urls)):
                nursery.start_soon(probe, index)
    progress.set(len(urls))
    return results


async def _reach(client: _Client, text: str, url: httpx2.URL) -> ConnectivityResult:
    start = trio.current_time()
    try:
        async with client.answer(url) as (response, _):
            latency = trio.current_time() - start
            return ConnectivityResult(text, True, response.status, latency, None)
    except ProbeError as error:
        return ConnectivityResult(text, False, None, None, error.failure)


async def bandwidth_test(
    url: str, payload_size: int | None, timeout: float, allow_private: bool
) -> Bandwidth:
    """See `network.bandwidth_test`."""
    client = _Client(allow_private)
    parsed = url_of(url, "url")
    progress = current_request().progress
    progress.set(0)
    most = MAX_BODY if payload_size is None else payload_size
    count, seconds = 0, 0.0
    failure: Failure | None = "timeout"
    with trio.move_on_after(timeout) as scope:
        try:
            async with client.answer(parsed) as (response, sent):
                progress.set_total(min(most, _length_of(response) or most))
                async with aclosing(response.aiter_stream()) as parts:
                    async for part in parts:
                        count = min(count + len(part), most)
                        seconds = trio.current_time() - sent
                        progress.set(count)
                        if count == most:
                            break
            failure = None
        except ProbeError as error:
            failure = error.failure
    if scope.cancelled_caught and count:
        failure = None  # all the time there was went into a body that came
    progress.set_total(count)
    progress.set(count)
    return bandwidth_of(seconds, count, failure)


def _length_of(response: httpcore2.Response) -> int | None:
    """Return what the host says that the body has, for the progress only."""
    for key, value in response.headers:
        if key.lower() == b"content-length" and value.isdigit():
            return int(value)
    return None


async def latency_check(url: str, samples: int, timeout: float, allow_private: bool) -> Latency:
    """See `network.latency_check`."""
    client = _Client(allow_private)
    parsed = url_of(url, "url")
    progress = current_request().progress
    progress.set_total(samples)
    progress.set(0)
    found: list[float] = []
    failure: Failure | None = None
    with trio.move_on_after(timeout) as scope:
        for _ in range(samples):
            try:
                async with client.answer(parsed, follow=False) as (_response, sent):
                    found.append(trio.current_time() - sent)
            except ProbeError as error:
                failure = error.failure
            progress.increment()
    progress.set(samples)
    return latency_of(found, "timeout" if scope.cancelled_caught else failure)


# ---- the client


@final
@attrs.define(eq=False)
class _Client:
    """Asks URLs, each on connections of its own."""

    _allow_private: bool
    _context: ssl.SSLContext | None = attrs.field(default=None, init=False)
    _lock: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    @asynccontextmanager
    async def answer(
        self, url: httpx2.URL, *, follow: bool = True
    ) -> AsyncIterator[tuple[httpcore2.Response, float]]:
        """Ask, and follow redirects, or take them for an answer.

        Yields:
          The answer, its body still to come, and when its request was sent, by Trio's clock.

        Raises:
          ProbeError: if none comes, or its body breaks off.
        """
        for _ in range(MAX_REDIRECTS + 1):
            async with self._ask(url) as (response, sent):
                target = redirect_of(url, response.status, response.headers) if follow else None
                if target is None:
                    yield response, sent
                    return
            url = target
        raise ProbeError("redirect")

    @asynccontextmanager
    async def _ask(self, url: httpx2.URL) -> AsyncIterator[tuple[httpcore2.Response, float]]:
        target = httpcore2.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        context = await self._tls() if url.scheme == "https" else None
        sent = [trio.current_time()]

        async def trace(name: str, info: dict[str, Any]) -> None:
            if name == "http11.send_request_headers.started":
                sent[0] = trio.current_time()

        with _as_probe_errors():
            async with (
                _open_network(self._allow_private) as network,
                httpcore2.AsyncHTTPConnection(
                    target.origin, ssl_context=context, network_backend=network
                ) as connection,
                connection.stream(
                    "GET",
                    target,
                    # Said here, since httpcore forgets the brackets of an IPv6 address.
                    headers=[(b"Host", url.netloc), *_HEADERS],
                    extensions={"trace": trace},
                ) as response,
            ):
                yield response, sent[0]

    async def _tls(self) -> ssl.SSLContext:
        async with self._lock:
            if self._context is None:
                # It reads all the certificates that this machine trusts, which takes its time.
                self._context = await trio.to_thread.run_sync(httpx2.create_ssl_context)
            return self._context


@contextmanager
def _as_probe_errors() -> Iterator[None]:
    try:
        yield
    except httpcore2.ConnectError as error:
        # Connecting itself is `_Network`, so this was the handshake.
        raise ProbeError("tls") from error
    except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
        raise ProbeError("protocol") from error


@asynccontextmanager
async def _open_network(allow_private: bool) -> AsyncIterator[_Network]:
    """Close at the end what was connected, also what a cancelled handshake left open."""
    network = _Network(allow_private)
    try:
        yield network
    finally:
        with trio.CancelScope(shield=True):  # of TCP alone: it does not wait for anybody
            for stream in network.streams:
                await stream.aclose()


@final
class _Network(httpcore2.AsyncNetworkBackend):
    """Connects to the addresses of a name that were checked, and to no other."""

    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._below = httpcore2.TrioBackend()
        self.streams: list[httpcore2.AsyncNetworkStream] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address that takes it; the next one gets its chance soon."""
        found = await resolve(host, port, socket.SOCK_STREAM, self._allow_private)
        won: list[httpcore2.AsyncNetworkStream] = []

        async def attempt(address: str, failed: trio.Event) -> None:
            try:
                stream = await self._below.connect_tcp(address, port)
            except httpcore2.ConnectError:
                failed.set()
                return
            self.streams.append(stream)
            won.append(stream)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _, address in found:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(CONNECT_DELAY):
                    await failed.wait()
        if not won:
            raise ProbeError("connect")
        return won[0]
