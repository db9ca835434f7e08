"""Talk to a worker of one's own in messages."""

import trio

import trioipc


async def main() -> None:
    """Send one request, and read what the protocol counted."""
    protocol = trioipc.IPCProtocol(default_timeout=5)
    async with trioipc.open_worker("greeter") as worker:
        print(await protocol.request(worker, "greet", "custom", {"name": "Ada"}))
    print(protocol.statistics().pending_requests, "pending")


if __name__ == "__main__":
    trio.run(main)
