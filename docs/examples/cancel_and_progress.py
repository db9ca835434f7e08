"""Watch a function, and stop it."""

import time

import trio

import trioipc


def simulate(steps: int) -> str:
    """Work in steps, say how far it is, and stop when asked to."""
    request = trioipc.current_request()
    request.progress.set_total(steps)
    request.set_phase("simulating")
    for _ in range(steps):
        request.checkpoint()
        time.sleep(0.01)
        request.progress.increment()
    return "done"


async def main() -> None:
    """Let it finish once, and run out of time once."""
    async with trioipc.open_worker_pool(1) as pool:
        print(
            await pool.run(
                simulate, 20, on_progress=lambda p: print(f"{p.phase}: {p.percent:.0f} %")
            )
        )
        with trio.move_on_after(0.1) as scope:
            await pool.run(simulate, 10_000)
        print("ran out of time:", scope.cancelled_caught)
        # It looked whether it was cancelled, so its worker is still the same one.
        print("workers replaced:", sum(pool.statistics().restarts.values()))


if __name__ == "__main__":
    trio.run(main)
