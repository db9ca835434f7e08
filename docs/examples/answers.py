"""Answer a request from elsewhere: by messages that another transport has brought."""

import time

import trio

import trioipc
from trioipc import operation


@operation
def ponder(payload: float) -> str:
    """Take far too long."""
    request = trioipc.current_request()
    request.set_phase("pondering")
    end = time.monotonic() + payload
    while time.monotonic() < end:
        request.checkpoint()
        time.sleep(0.001)
    return "by the worker"


async def main() -> None:
    """Let somebody else be quicker than the worker."""
    protocol = trioipc.IPCProtocol(default_timeout=60)
    message: trioipc.IPCRequest = protocol.create_message("ponder", "custom", 50.0)
    begun = trio.Event()

    async def ask(worker: trioipc.Worker) -> None:
        answer = await protocol.request(
            worker,
            message.type,
            message.channel,
            message.payload,
            message_id=message.id,
            on_progress=lambda _: begun.set(),
        )
        print("answered", answer)

    async with trioipc.open_worker("answers") as worker, trio.open_nursery() as nursery:
        nursery.start_soon(ask, worker)
        await begun.wait()
        answer: trioipc.IPCResponse = protocol.create_success_response(message.id, "by another")
        print("somebody waited for it:", protocol.handle_message(answer))
    print("and for one more:", protocol.handle_message(answer))


if __name__ == "__main__":
    trio.run(main)
