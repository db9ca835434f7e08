"""End a call, in each of the ways there are, and see how its function noticed."""

import contextlib
import time

import trio

import trioipc
from trioipc import RequestCancelledError, RequestTimeoutError, SharedCancellation


def look(seconds: float) -> None:
    """Look again and again whether it is to end, and tidy up."""
    request = trioipc.current_request()
    try:
        for _ in range(round(seconds * 1000)):
            request.checkpoint()
            time.sleep(0.001)
    finally:
        with request.uninterruptible():
            print("  tidied up", flush=True)


async def main() -> None:
    """End it by a scope, a flag, a clock and a request; and end one that never looks."""
    async with trioipc.open_worker_pool(1) as pool:
        print("a scope:")
        with trio.move_on_after(0.1) as scope:
            await pool.run(look, 60)
        print("  cancelled:", scope.cancelled_caught)

        print("a flag, which a thread or another process could set as well:")
        with SharedCancellation() as stop:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_soon, stop)
                try:
                    await pool.run(look, 60, cancellation=stop)
                except RequestCancelledError as error:
                    print(f"  {error.reason}, by the {error.rung}")

        print("a clock, which begins when the function does:")
        try:
            await pool.run(look, 60, timeout=0.1)
        except RequestTimeoutError as error:
            print(f"  the {error.clock} clock, by the {error.rung}")

        print("a request of which only the progress was wanted:")
        async with pool.open_request(look, 60) as request:
            await request.wait_started()
            await trio.sleep(0.1)
            request.cancel("seen enough")
            with contextlib.suppress(RequestCancelledError):
                await request.result()

        print("one that never looks is interrupted:")
        try:
            await pool.run(time.sleep, 60, timeout=0.1)
        except RequestTimeoutError as error:
            print(f"  the {error.clock} clock, by the {error.rung}")


async def cancel_soon(stop: SharedCancellation) -> None:
    """Change one's mind after a while."""
    await trio.sleep(0.1)
    stop.cancel("no longer wanted")


if __name__ == "__main__":
    trio.run(main)
