"""``bridge.network``: hosts reached, measured and asked how they see us."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, final

import attrs

from trioipc.builtin import network as builtin
from trioipc.pool._options import count, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol, TypeVar, TypeVarTuple, Unpack

    from trioipc.bridge._arguments import Options
    from trioipc.builtin._probe import Bandwidth, ConnectivityResult, IceResult, Latency
    from trioipc.memory.state import SharedCancellation
    from trioipc.pool.pool import Callback
    from trioipc.protocol._messages import Priority

    T = TypeVar("T")
    Ts = TypeVarTuple("Ts")

    class RunAsync(Protocol):
        """Something that runs an asynchronous function to its end, wherever that is."""

        async def __call__(
            self, function: Callable[[*Ts], Any], /, *args: *Ts, **options: Unpack[Options]
        ) -> Any:
            """Return what it returns."""


# Pulled out of the air; more are a measurement of another kind.
MAX_SAMPLES = 1000


@final
@attrs.define(eq=False, repr=False)
class NetworkBridge:
    """What is probed of the network; get it as ``WorkerBridge.network``.

    Needs the extra: ``pip install 'trioipc[network]'``.

    Only http and https URLs are asked, by a GET that carries no credentials and no cookies and
    goes through no proxy. What a host does wrong is in the result, never an error. With
    ``allow_private=False`` a name of which any address is private, shared, local or otherwise not
    of the public internet is not connected to, and neither is one that a redirect leads to; a
    connection goes to the address that was checked.
    """

    _run: RunAsync

    def __repr__(self) -> str:
        return "<NetworkBridge>"

    async def test_connectivity(
        self,
        urls: Iterable[str],
        *,
        timeout: float = 5.0,
        allow_private: bool = True,
        on_progress: Callback | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> list[ConnectivityResult]:
        """Ask all URLs, at most 256 at a time, whether they answer.

        An answer of any status counts. At most 5 redirects are followed; a body is not read.

        Args:
          urls: http or https, without user name and password.
          timeout: Seconds for the whole call; what has not answered by then has the error
            ``"timeout"``.
          allow_private: Whether a URL, or what it redirects to, may be on a private network. Say
            False where URLs come from others.
          on_progress: Called with the progress, in URLs, in the caller's task.
          queue_timeout: Seconds that the call may wait for a worker; None for the bridge's value.
          cancellation: Cancels the request when it is set.
          priority: ``"low"``, ``"normal"`` or ``"high"``.

        Returns:
          A result for each URL, in their order.

        Raises:
          TypeError: if an argument is of another type; nothing is sent.
          ValueError: if a URL is none that is asked, or ``timeout`` is not finite; nothing is sent.
          MissingExtraError: if the extra is not installed.

        Cancellation: a checkpoint. If cancelled, all connections are closed.

        Source: RFC 9110 (redirects), RFC 8305 (several addresses of a name).
        """
        checked = _texts(urls, "urls")
        limit = _finite(timeout)
        module = await _loaded("_urls")
        for index, url in enumerate(checked):
            module.url_of(url, f"urls[{index}]")
        result: list[ConnectivityResult] = await self._run(
            builtin.test_connectivity,
            checked,
            limit,
            bool(allow_private),
            on_progress=on_progress,
            timeout=math.inf,
            queue_timeout=queue_timeout,
            cancellation=cancellation,
            priority=priority,
        )
        return result

    async def resolve_ice(
        self,
        stun_servers: Iterable[str],
        *,
        timeout: float = 5.0,
        allow_private: bool = True,
        on_progress: Callback | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> IceResult:
        """Find the addresses at which this machine may be reached by UDP.

        Each address of an interface is a ``"host"`` candidate; as a STUN server sees it, if that
        is another address, it is a ``"srflx"`` candidate. The sockets are closed at the end, so
        the ports tell how a NAT treats them, and are not there to be connected to.

        Args:
          stun_servers: ``"stun:host"`` or ``"stun:host:port"``, where the port is 3478 if missing.
          timeout: Seconds for the whole call; a server that never answers takes all of it.
          allow_private: Whether a server may be on a private network.
          on_progress: Called with the progress, in servers, in the caller's task.
          queue_timeout: Seconds that the call may wait for a worker; None for the bridge's value.
          cancellation: Cancels the request when it is set.
          priority: ``"low"``, ``"normal"`` or ``"high"``.

        Returns:
          The candidates, highest priority first, and whether any server answered.

        Raises:
          TypeError: if an argument is of another type; nothing is sent.
          ValueError: if a server is no STUN URI, or ``timeout`` is not finite; nothing is sent.
          MissingExtraError: if the extra is not installed.

        Cancellation: a checkpoint. If cancelled, all sockets are closed.

        Source: RFC 8489 (STUN), RFC 8445 (ICE), RFC 7064 (the URIs).
        """
        checked = _texts(stun_servers, "stun_servers")
        limit = _finite(timeout)
        module = await _loaded("_stun")
        for index, server in enumerate(checked):
            module.server_of(server, f"stun_servers[{index}]")
        result: IceResult = await self._run(
            builtin.resolve_ice,
            checked,
            limit,
            bool(allow_private),
            on_progress=on_progress,
            timeout=math.inf,
            queue_timeout=queue_timeout,
            cancellation=cancellation,
            priority=priority,
        )
        return result

    async def bandwidth_test(
        self,
        url: str,
        *,
        payload_size: int | None = None,
        timeout: float = 30.0,
        allow_private: bool = True,
        on_progress: Callback | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> Bandwidth:
        """Measure how fast the body of a URL comes.

        It is read and forgotten, as it was sent: nothing is decompressed.

        Args:
          url: http or https, without user name and password.
          payload_size: After how many bytes it is enough; None for 1 GiB.
          timeout: Seconds for the whole call; what has come by then is counted.
          allow_private: Whether it, or what it redirects to, may be on a private network.
          on_progress: Called with the progress, in bytes, in the caller's task.
          queue_timeout: Seconds that the call may wait for a worker; None for the bridge's value.
          cancellation: Cancels the request when it is set.
          priority: ``"low"``, ``"normal"`` or ``"high"``.

        Returns:
          The measurement; of NaN, with an error, if nothing came.

        Raises:
          TypeError: if an argument is of another type; nothing is sent.
          ValueError: if the URL is none that is asked, or a number is out of range; nothing is
            sent.
          MissingExtraError: if the extra is not installed.

        Cancellation: a checkpoint. If cancelled, the connection is closed.
        """
        if payload_size is not None:
            count("payload_size", payload_size, 1, finite=True)
        limit = _finite(timeout)
        (await _loaded("_urls")).url_of(url, "url")
        result: Bandwidth = await self._run(
            builtin.bandwidth_test,
            url,
            payload_size,
            limit,
            bool(allow_private),
            on_progress=on_progress,
            timeout=math.inf,
            queue_timeout=queue_timeout,
            cancellation=cancellation,
            priority=priority,
        )
        return result

    async def latency_check(
        self,
        url: str,
        *,
        samples: int = 5,
        timeout: float = 30.0,
        allow_private: bool = True,
        on_progress: Callback | None = None,
        queue_timeout: float | None = None,
        cancellation: SharedCancellation | None = None,
        priority: Priority = "normal",
    ) -> Latency:
        """Measure how long a URL takes to answer, one request after the other.

        Counted is from the request to the end of the answer's header. Each has a connection of
        its own, and the time to open it is not counted. A redirect is an answer.

        Args:
          url: http or https, without user name and password.
          samples: How many requests, 1 to 1000.
          timeout: Seconds for the whole call; the samples that there are by then are taken.
          allow_private: Whether it may be on a private network.
          on_progress: Called with the progress, in samples, in the caller's task.
          queue_timeout: Seconds that the call may wait for a worker; None for the bridge's value.
          cancellation: Cancels the request when it is set.
          priority: ``"low"``, ``"normal"`` or ``"high"``.

        Returns:
          The measurement, in seconds; of NaN and no samples if none was answered.

        Raises:
          TypeError: if an argument is of another type; nothing is sent.
          ValueError: if the URL is none that is asked, or a number is out of range; nothing is
            sent.
          MissingExtraError: if the extra is not installed.

        Cancellation: a checkpoint. If cancelled, the connection is closed.
        """
        count("samples", samples, 1, finite=True)
        if samples > MAX_SAMPLES:
            raise ValueError(f"samples must be at most {MAX_SAMPLES}, not {samples}")
        limit = _finite(timeout)
        (await _loaded("_urls")).url_of(url, "url")
        result: Latency = await self._run(
            builtin.latency_check,
            url,
            samples,
            limit,
            bool(allow_private),
            on_progress=on_progress,
            timeout=math.inf,
            queue_timeout=queue_timeout,
            cancellation=cancellation,
            priority=priority,
        )
        return result


def _texts(items: Iterable[str], name: str) -> list[str]:
    if isinstance(items, str):
        raise TypeError(f"{name} must be an iterable of str, not a str")
    return list(items)


def _finite(timeout: object) -> float:
    checked = seconds("timeout", timeout)
    if checked == math.inf:
        raise ValueError("timeout must be finite: a host that never ends is a host, too")
    return checked


async def _loaded(name: str) -> Any:
    """Return the room that checks arguments; the libraries that it needs are of the extra."""
    builtin.refuse_missing_extra()
    from trioipc.builtin import _rooms

    return await _rooms.load(name)
