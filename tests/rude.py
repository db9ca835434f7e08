"""Hosts on loopback that answer, and hosts that do not know how to behave."""

from __future__ import annotations

import gzip
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable

    Handler = Callable[[trio.abc.Stream], Awaitable[object]]

# 64 MiB of zeros in 64 KiB.
BOMB = gzip.compress(bytes(64 << 20))


class Host:
    """A host that is being served."""

    def __init__(self, port: int, address: str, scheme: str) -> None:
        self.port = port
        self.base = f"{scheme}://[{address}]:{port}" if ":" in address else ""
        self.base = self.base or f"{scheme}://{address}:{port}"
        self.requests: list[bytes] = []
        self.connections = 0

    @property
    def url(self) -> str:
        return self.base + "/"


@asynccontextmanager
async def serve(
    handler: Handler,
    address: str = "127.0.0.1",
    port: int = 0,
    context: ssl.SSLContext | None = None,
    listens: bool = True,
) -> AsyncIterator[Host]:
    """Serve connections, each by ``handler``, after its request if the host ``listens``."""
    listeners = await trio.open_tcp_listeners(port, host=address)
    name = listeners[0].socket.getsockname()
    host = Host(name[1], address, "http" if context is None else "https")

    async def serve_one(stream: trio.abc.Stream) -> None:
        host.connections += 1
        async with stream:
            try:
                request = b""
                while listens and b"\r\n\r\n" not in request:
                    part = await stream.receive_some()
                    if not part:
                        return
                    request += part
                host.requests.append(request)
                await handler(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the client has had enough

    if context is not None:
        listeners = [  # type: ignore[assignment]
            trio.SSLListener(listener, context, https_compatible=True) for listener in listeners
        ]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, serve_one, listeners))
        yield host
        nursery.cancel_scope.cancel()


def answer(body: bytes = b"hello", status: str = "200 OK", **headers: str) -> Handler:
    """Answer as one should; ``_`` in the name of a header stands for ``-``."""
    fields = {"Content_Length": str(len(body)), **headers}
    lines = [f"{key.replace('_', '-')}: {value}\r\n" for key, value in fields.items()]
    text = f"HTTP/1.1 {status}\r\n{''.join(lines)}\r\n"

    async def handle(stream: trio.abc.Stream) -> None:
        await stream.send_all(text.encode("latin-1") + body)

    return handle


def redirect(location: str, status: str = "302 Found") -> Handler:
    """Lead on."""
    return answer(b"", status, Location=location)


async def silent(stream: trio.abc.Stream) -> None:
    """Never answer."""
    await trio.sleep_forever()


async def slow_loris(stream: trio.abc.Stream) -> None:
    """Begin an answer, and never finish its header."""
    await stream.send_all(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        await stream.send_all(b"a")
        await trio.sleep(0.02)


async def endless_header(stream: trio.abc.Stream) -> None:
    """Send one header after the other."""
    await stream.send_all(b"HTTP/1.1 200 OK\r\n")
    while True:
        await stream.send_all(b"X-More: " + b"a" * 1000 + b"\r\n")


async def endless_hints(stream: trio.abc.Stream) -> None:
    """Send one interim answer after the other."""
    while True:
        await stream.send_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await trio.sleep(0.001)


async def endless_body(stream: trio.abc.Stream) -> None:
    """Answer, and never stop."""
    await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await stream.send_all(bytes(1 << 16))


async def early_close(stream: trio.abc.Stream) -> None:
    """Say nothing and leave."""


async def liar(stream: trio.abc.Stream) -> None:
    """Promise more than there is."""
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + bytes(10))


async def garbage(stream: trio.abc.Stream) -> None:
    """Speak something else."""
    await stream.send_all(b"SSH-2.0-OpenSSH_9.2p1\r\n" * 10)


bomb = answer(BOMB, Content_Encoding="gzip")


class Names(trio.abc.HostnameResolver):
    """A name service: {name: what it answers, one answer after the other}."""

    def __init__(self, names: dict[str, list[list[str]]]) -> None:
        self.names = names
        self.asked: list[str] = []

    async def getaddrinfo(self, host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        import socket

        name = host.decode() if isinstance(host, bytes) else host
        self.asked.append(name)
        await trio.lowlevel.checkpoint()
        if name not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        answers = self.names[name]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        kind = arguments[1] if len(arguments) > 1 else options.get("type", 0)
        found = []
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            place = (address, port, 0, 0) if ":" in address else (address, port)
            found.append((family, kind, 0, "", place))
        return found

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError
