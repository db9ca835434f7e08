"""A service that hashes what it is sent, and ends in good order when it is told to.

    python service.py PORT

Send it a line; it answers with the SHA-256 of it. It ends at SIGTERM or Ctrl-C: no new
connections, and ten seconds for what it has begun.
"""

import contextlib
import hashlib
import signal
import sys
from functools import partial

import trio

import trioipc


def digest(line: bytes) -> str:
    """Do what takes long."""
    return hashlib.sha256(line).hexdigest()


async def serve(pool: trioipc.WorkerPool, stream: trio.SocketStream) -> None:
    """Answer one connection."""
    with contextlib.suppress(trio.BrokenResourceError):  # the other side has gone away
        async with stream:
            line = bytearray()
            async for chunk in stream:
                line += chunk
                if line.endswith(b"\n"):
                    break
            answer = await pool.run(digest, bytes(line[:-1]), timeout=30)
            await stream.send_all(answer.encode() + b"\n")


async def end_when_told(scope: trio.CancelScope) -> None:
    """Wait for the signal of systemd, Docker and Kubernetes."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            print("ending", flush=True)
            scope.cancel()
            return


async def main(port: int) -> None:
    """Serve until told to end."""
    async with trioipc.open_worker_pool(
        spare=1, drain_timeout=10, max_memory=500 << 20, max_age=86_400
    ) as pool:
        await pool.warm()
        async with trio.open_nursery() as nursery:
            accepting = trio.CancelScope()
            nursery.start_soon(end_when_told, accepting)
            with accepting:
                listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
                print("listening on", listeners[0].socket.getsockname()[1], flush=True)
                await trio.serve_listeners(partial(serve, pool), listeners, handler_nursery=nursery)
    print("ended", flush=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
