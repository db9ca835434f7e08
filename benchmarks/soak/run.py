"""The soak itself: callers that make requests, one who breaks workers, one who watches.

Each has its own source of chance, from the one seed: what is asked for, and what is broken, is the
same each time; what meets what is up to the machine.
"""

from __future__ import annotations

import math
import os
import signal
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import attrs
import trio

import trioipc
from benchmarks.soak import left, requests
from benchmarks.soak.requests import Requests

if TYPE_CHECKING:
    from benchmarks.soak.requests import Kind
    from trioipc import PoolStatistics, WorkerPool

CALLERS = 48
# A request that takes longer than this is lost: each has a clock of its own, and a ladder.
LOST_SECONDS = 120.0
# What a request may end with because its worker was killed or stopped.
_LOSSES = (
    trioipc.WorkerCrashedError,
    trioipc.PoisonedRequestError,
    trioipc.RequestTimeoutError,
)
# No report needs more.
_MOST_WRONGS = 20


@attrs.define
class Sample:
    """Memory at a moment, in bytes."""

    seconds: float
    requests: int
    own: int
    shared: int
    workers: int


@attrs.define
class Result:
    """What came of it."""

    seed: int
    seconds: float = 0.0
    # Of this process and all of its workers.
    cpu_seconds: float = 0.0
    requests: int = 0
    # {(kind, how it ended): how often}
    ends: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    # {what was done to workers: how often}
    faults: Counter[str] = attrs.field(factory=Counter)
    wrong: list[str] = attrs.field(factory=list)
    lost: list[str] = attrs.field(factory=list)
    # Requests that a pool says have ended beyond those that it was given; negative: too few.
    surplus: dict[str, int] = attrs.field(factory=dict)
    left: dict[str, list[str]] = attrs.field(factory=dict)
    samples: list[Sample] = attrs.field(factory=list)
    most_children: int = 0
    statistics: dict[str, PoolStatistics] = attrs.field(factory=dict)


@attrs.define
class Turns:
    """When each request is made: as soon as a caller is free, or evenly over the time.

    In the second case all are made: what comes too late for its turn is made at once, and if the
    machine cannot follow, it takes longer.
    """

    start: float
    seconds: float
    requests: float = math.inf
    taken: int = 0

    def take(self, now: float) -> float | None:
        """Return when the next request is to be made; None if no more are."""
        if self.requests == math.inf:
            is_over = now >= self.start + self.seconds
        else:
            is_over = self.taken >= self.requests
        if is_over:
            return None
        turn = self.start + self.seconds * (self.taken / self.requests)
        self.taken += 1
        return turn


def soak(seconds: float, seed: int, rate: float, number: float = math.inf) -> Result:
    """Run it in a `trio.run` of its own.

    Args:
      seconds: How long requests are made.
      seed: Of all chance.
      rate: How many kills, stops and bad payloads there are in a second, in the mean.
      number: How many requests are made evenly over that time, bad ones apart; `math.inf` for as
        many as can be.
    """
    trio.run(_open_and_run, Result(seed), 0.2, 0.0, math.inf)  # what a first time leaves
    before = left.holdings()
    result = Result(seed)
    used = left.cpu_seconds()
    trio.run(_open_and_run, result, seconds, rate, number)
    result.cpu_seconds = left.cpu_seconds() - used
    result.left.update(left.settle(before, 15))  # Trio keeps its threads for 10 s
    return result


async def _open_and_run(result: Result, seconds: float, rate: float, number: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with (
            trioipc.open_worker_pool(2, grace=0.2) as pool,
            trioipc.open_worker_pool(1, kind="io", grace=0.2) as io_pool,
            trioipc.open_worker_bridge(2, placement="process", grace=0.2) as bridge,
        ):
            made = Requests(pool, io_pool, bridge, Path(folder))
            turns = Turns(trio.current_time(), seconds, number)
            await _Soak(result, made, turns, rate).run()
            pools = {"cpu": pool, "io": io_pool, "bridge": bridge.pool}
            result.statistics = {name: pool.statistics() for name, pool in pools.items()}
        result.surplus = {
            name: result.statistics[name].total_tasks_processed - made.given.get(pool, 0)
            for name, pool in pools.items()
        }
        if not made.added <= made.counter.get() <= made.tried:
            result.wrong.append(
                f"counted {made.counter.get()}, but calls say {made.added} to {made.tried}"
            )
        made.counter.close()
        if files := os.listdir(folder):
            result.left["files"] = files


@attrs.define(eq=False)
class _Soak:
    result: Result
    made: Requests
    turns: Turns
    rate: float
    calling: int = CALLERS

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            async with trio.open_nursery() as callers:
                for index in range(CALLERS):
                    chance = Random(f"{self.result.seed} caller {index}")
                    callers.start_soon(self._call, chance)
                if self.rate:
                    await self._break(Random(f"{self.result.seed} faults"), callers)
            self.result.seconds = trio.current_time() - self.turns.start
            nursery.cancel_scope.cancel()

    async def _call(self, chance: Random) -> None:
        kinds, weights = [*requests.ORDINARY], [*requests.ORDINARY.values()]
        while (turn := self.turns.take(trio.current_time())) is not None:
            if turn > trio.current_time():
                await trio.sleep_until(turn)
            (kind,) = chance.choices(kinds, weights)
            await self._request(kind, chance)
        self.calling -= 1

    async def _request(self, kind: Kind, chance: Random) -> None:
        """Make one; whatever it raises is a finding."""
        self.result.requests += 1
        name = kind.__name__.strip("_")
        how = "as it should"
        try:
            with trio.fail_after(LOST_SECONDS):
                await kind(self.made, chance)
        except trio.TooSlowError:
            how = "lost"
            self.result.lost.append(name)
        except _LOSSES as error:
            how = type(error).__name__
        except Exception:
            how = "wrong"
            if len(self.result.wrong) < _MOST_WRONGS:
                self.result.wrong.append(f"{name}: {traceback.format_exc()}")
        self.result.ends[name, how] += 1

    # -- faults -----------------------------------------------------------------------------

    async def _break(self, chance: Random, nursery: trio.Nursery) -> None:
        kinds, weights = [*requests.BAD], [*requests.BAD.values()]
        turn = self.turns.start
        while self.calling:
            turn += chance.expovariate(self.rate)
            await trio.sleep_until(turn)
            how = chance.choices([self._kill, self._stop, None], [1, 1, 4])[0]
            if how is None:
                (kind,) = chance.choices(kinds, weights)
                self.result.faults[kind.__name__] += 1
                nursery.start_soon(self._request, kind, Random(chance.random()))
            else:
                how(chance, nursery)

    def _victim(self, chance: Random) -> int | None:
        pool: WorkerPool = chance.choice([self.made.pool, self.made.io_pool, self.made.bridge.pool])
        living = [w.pid for w in pool.workers if w.pid and w.state in ("idle", "busy")]
        return chance.choice(living) if living else None

    def _kill(self, chance: Random, nursery: trio.Nursery) -> None:
        pid = self._victim(chance)
        if pid is not None and _send(pid, signal.SIGKILL):
            self.result.faults["kill"] += 1

    def _stop(self, chance: Random, nursery: trio.Nursery) -> None:
        pid = self._victim(chance)
        if pid is not None and _send(pid, signal.SIGSTOP):
            then = chance.choices(["go on", "kill", "leave"], [12, 6, 1])[0]
            self.result.faults[f"stop, then {then}"] += 1
            if then != "leave":
                number = signal.SIGCONT if then == "go on" else signal.SIGKILL
                nursery.start_soon(_send_later, chance.uniform(0, 0.3), pid, number)

    # -- watching ---------------------------------------------------------------------------

    async def _watch(self) -> None:
        pause = max(0.1, self.turns.seconds / 2000)
        while True:
            children = left.children()
            own, shared = left.resident()
            workers = sum(left.resident(pid)[0] for pid in children)
            at = trio.current_time() - self.turns.start
            self.result.samples.append(Sample(at, self.result.requests, own, shared, workers))
            # The resource tracker of multiprocessing is one as well.
            self.result.most_children = max(self.result.most_children, len(children))
            await trio.sleep(pause)


def _send(pid: int, number: signal.Signals) -> bool:
    """Send a signal to a child of ours; a process that was reaped is none."""
    if pid not in left.children():
        return False
    os.kill(pid, number)
    return True


async def _send_later(seconds: float, pid: int, number: signal.Signals) -> None:
    await trio.sleep(seconds)
    _send(pid, number)
