"""An HTTP service whose work does not hold up its event loop.

    python web_service.py [PORT]

    curl --data-binary @file http://127.0.0.1:8000/hash
    curl --data-binary @file http://127.0.0.1:8000/compress -o file.gz
    curl http://127.0.0.1:8000/health

It is a plain ASGI application on hypercorn, and shows what a service needs besides its work:

- who sends too much is told so (413), and when there is too much to do, everybody is (503);
- when a client goes away, the work that nobody waits for any more is cancelled;
- on SIGTERM and Ctrl-C it takes no new requests, and finishes those it has.

Needs hypercorn: pip install hypercorn
"""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import attrs
import hypercorn.trio
import trio
from hypercorn.config import Config

import trioipc

MAX_BODY = 64 << 20
# How long a request may wait for a worker before its client is told to come again.
QUEUE_SECONDS = 2.0

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@attrs.frozen
class Answer:
    """What a client gets."""

    status: int
    body: bytes | memoryview
    headers: tuple[tuple[bytes, bytes], ...] = ()


@attrs.define(eq=False)
class Service:
    """The application: one instance for as long as the bridge is open."""

    bridge: trioipc.WorkerBridge

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection's request, or the life of the server."""
        if scope["type"] == "lifespan":
            await live(receive, send)
        elif scope["type"] == "http":
            answer = await self.answer(scope["method"], scope["path"], receive)
            if answer is not None:
                await respond(answer, send)

    async def answer(self, method: str, path: str, receive: Receive) -> Answer | None:
        """Return what to say; None if nobody listens any more."""
        work = {"/hash": self.hash, "/compress": self.compress}.get(path)
        if (method, path) == ("GET", "/health"):
            return self.health()
        if work is None:
            return Answer(404, b"there are /hash, /compress and /health\n")
        if method != "POST":
            return Answer(405, b"send a body\n", ((b"allow", b"POST"),))
        body = await body_of(receive)
        if body is None:
            return Answer(413, b"at most %d bytes\n" % MAX_BODY)
        try:
            return await while_connected(receive, partial(work, body))
        except trioipc.RequestTimeoutError:
            return Answer(503, b"too much to do\n", ((b"retry-after", b"5"),))

    async def hash(self, body: bytearray) -> Answer:
        """Say what the SHA-256 of the body is."""
        digest = await self.bridge.crypto.hash_file(body)
        return Answer(200, digest.encode() + b"\n")

    async def compress(self, body: bytearray) -> Answer:
        """Give the body back as gzip; the memory that the worker wrote is what is sent."""
        packed = await self.bridge.compression.compress_data(body)
        return Answer(200, packed, ((b"content-type", b"application/gzip"),))

    def health(self) -> Answer:
        """Say how it goes. This needs no worker, and so is quick also when all are busy."""
        now = self.bridge.pool.statistics()
        health = {
            "workers": now.pool_size,
            "busy": now.busy_workers,
            "waiting": now.queued_tasks,
            "done": now.total_tasks_processed,
            "cancelled": now.total_cancelled,
            "crashed workers": now.restarts.get("crash", 0),
        }
        return Answer(200, json.dumps(health).encode() + b"\n")


async def live(receive: Receive, send: Send) -> None:
    """Say yes to the server's life; to end before it does would be taken for a crash."""
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def body_of(receive: Receive) -> bytearray | None:
    """Read the body of a request; None if it is too large."""
    body = bytearray()
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            return None
    return body


async def while_connected(receive: Receive, work: Callable[[], Awaitable[Answer]]) -> Answer | None:
    """Do the work, but only for as long as somebody waits for it.

    What the work raises leaves the nursery as itself.
    """
    answer: Answer | None = None
    failure: Exception | None = None

    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        try:
            answer = await work()
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return answer


async def respond(answer: Answer, send: Send) -> None:
    """Send an answer."""
    length = (b"content-length", b"%d" % len(answer.body))
    headers = [length, *answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": bytes(answer.body)})


async def until_told() -> None:
    """Wait for the end."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            return


async def main(port: int) -> None:
    """Serve until told to end."""
    async with trioipc.open_worker_bridge(queue_timeout=QUEUE_SECONDS) as bridge:
        listener = socket.create_server(("127.0.0.1", port))
        print("http://{}:{}".format(*listener.getsockname()), flush=True)
        config = Config()
        config.bind = [f"fd://{listener.detach()}"]  # it is the server's from now on
        app: Any = Service(bridge)
        await hypercorn.trio.serve(app, config, shutdown_trigger=until_told)
    print("ended", flush=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
