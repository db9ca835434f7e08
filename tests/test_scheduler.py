"""Which worker runs which request next."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trioipc.pool._scheduler import Scheduler
from trioipc.pool._supervisor import wanted

Priority = Literal["high", "normal", "low"]
PRIORITIES: list[Priority] = ["high", "normal", "low"]


def scheduler(workers: dict[str, int], **options: Any) -> Scheduler[str, str]:
    """Make one with these workers and their places."""
    made: Scheduler[str, str] = Scheduler(**options)
    for worker, places in workers.items():
        made.add_worker(worker, places)
    return made


def pairs(it: Scheduler[str, str]) -> list[tuple[str, str]]:
    """Return all that can be assigned now."""
    return list(iter(it.next_pair, None))


def test_least_busy_takes_who_holds_least() -> None:
    """Among two in each state: full, half full and idle."""
    it = scheduler({"full 1": 2, "full 2": 2, "half 1": 2, "half 2": 2, "idle 1": 2, "idle 2": 2})
    for number in range(12):
        it.add(f"r{number}", "normal")
    held: dict[str, list[str]] = {}
    for worker, request in pairs(it):
        held.setdefault(worker, []).append(request)
    assert sum(map(len, held.values())) == 12
    for worker in ("half 1", "half 2", "idle 1", "idle 2", "idle 1", "idle 2"):
        it.free(worker, held[worker].pop())
    assert it.held == 6
    for number in range(9):
        it.add(f"s{number}", "normal")
    assigned = [worker for worker, _ in pairs(it)]
    assert sorted(assigned[:2]) == ["idle 1", "idle 2"]
    assert sorted(assigned[2:]) == ["half 1", "half 2", "idle 1", "idle 2"]
    assert it.waiting == 3


def test_among_equals_the_longest_idle_is_next() -> None:
    """So work goes round, and a worker that just got something is last."""
    it = scheduler({"a": 1, "b": 1, "c": 1})
    order = []
    for number in range(6):
        worker = it.place(f"r{number}", "normal")
        assert worker is not None
        order.append(worker)
        it.free(worker, f"r{number}")
    assert order == ["a", "b", "c", "a", "b", "c"]


def test_round_robin_skips_full_ones() -> None:
    """It goes round among those with a place, however many the others hold."""
    it = scheduler({"a": 1, "b": 2, "c": 3}, strategy="round-robin")
    for number in range(6):
        it.add(f"r{number}", "normal")
    assert [worker for worker, _ in pairs(it)] == ["a", "b", "c", "b", "c", "c"]


def test_priorities() -> None:
    """High before normal before low, first come first served within each."""
    it = scheduler({})
    for name, priority in (
        ("l1", "low"),
        ("n1", "normal"),
        ("h1", "high"),
        ("l2", "low"),
        ("h2", "high"),
        ("n2", "normal"),
    ):
        it.add(name, priority)  # type: ignore[arg-type]
    assert list(it.requests()) == ["h1", "h2", "n1", "n2", "l1", "l2"]
    it.put_back("n0", "normal")
    it.discard("h2", "high")
    it.discard("never there", "low")
    it.add_worker("w", 10)
    assert [request for _, request in pairs(it)] == ["h1", "n0", "n1", "n2", "l1", "l2"]


def test_a_new_request_never_overtakes() -> None:
    """While others wait, it waits too, though a place may be free."""
    it = scheduler({})
    it.add("first", "low")
    it.add_worker("w", 2)
    assert it.place("second", "low") is None
    assert pairs(it) == [("w", "first"), ("w", "second")]


def test_a_full_queue() -> None:
    """It is full when no place is free and as many wait as may."""
    it = scheduler({"w": 1}, max_waiting=1)
    assert not it.is_full()
    assert it.place("a", "normal") == "w"
    assert not it.is_full()
    assert it.place("b", "normal") is None
    assert it.is_full()
    it.free("w", "a")
    assert not it.is_full()
    assert scheduler({"w": 1}, max_waiting=math.inf).is_full() is False
    assert scheduler({"w": 1}, max_waiting=0).is_full() is False
    assert scheduler({}, max_waiting=0).is_full() is True


def test_an_unknown_strategy_is_named() -> None:
    """The error says which there are."""
    with pytest.raises(ValueError, match="one of least-busy, round-robin, not 'random'"):
        scheduler({}, strategy="random")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "place", "back", "discard", "free", "leave", "join", "assign"]),
            st.integers(0, 5),
            st.sampled_from(PRIORITIES),
        ),
        max_size=80,
    ),
    st.sampled_from(["least-busy", "round-robin"]),
)
@settings(max_examples=300)
def test_nothing_is_lost(steps: list[tuple[str, int, Priority]], strategy: str) -> None:
    """Whatever happens, each request waits, has one place, or was discarded."""
    it = scheduler({"w0": 2, "w1": 1}, strategy=strategy)
    places = {"w0": 2, "w1": 1}
    waiting: dict[str, Priority] = {}
    held: dict[str, list[str]] = {"w0": [], "w1": []}

    def give(worker: str, request: str) -> None:
        held[worker].append(request)
        waiting.pop(request, None)
        assert len(held[worker]) <= places[worker]

    for number, (step, who, priority) in enumerate(steps):
        worker = f"w{who}"
        request = f"r{number}"
        if step == "add":
            it.add(request, priority)
            waiting[request] = priority
        elif step == "place":
            given_to = it.place(request, priority)
            if given_to is None:
                waiting[request] = priority
            else:
                give(given_to, request)
        elif step == "back":
            it.put_back(request, priority)
            waiting[request] = priority
        elif step == "discard" and waiting:
            gone = list(waiting)[who % len(waiting)]
            it.discard(gone, waiting.pop(gone))
        elif step == "free" and held.get(worker):
            it.free(worker, held[worker].pop())
        elif step == "leave" and worker in held:
            it.remove_worker(worker)
            del held[worker], places[worker]
        elif step == "join" and worker not in held:
            it.add_worker(worker, who % 3 + 1)
            held[worker], places[worker] = [], who % 3 + 1
        elif step == "assign":
            for given_to, assigned in pairs(it):
                highest = min(waiting.values(), key=PRIORITIES.index)
                assert waiting[assigned] == highest
                give(given_to, assigned)
            assert not waiting or all(len(held[w]) == places[w] for w in held)
        assert it.waiting == len(waiting)
        assert it.held == sum(map(len, held.values()))
        assert set(it.requests()) == set(waiting)


@pytest.mark.parametrize(
    ("size", "target", "alive", "starting", "waiting", "start"),
    [
        (4, 1, 0, 0, 0, 1),  # the first one
        (4, 1, 1, 0, 0, 0),  # nobody waits
        (4, 1, 1, 0, 2, 2),  # one for each that waits
        (4, 1, 2, 1, 1, 0),  # one that is starting will do
        (4, 1, 3, 2, 9, 1),  # never more than the size
        (4, 3, 1, 0, 0, 2),  # some are gone
        (4, 9, 9, 0, 9, 0),  # too many already
    ],
)
def test_how_many_workers_to_start(
    size: int, target: int, alive: int, starting: int, waiting: int, start: int
) -> None:
    """As many as are missing or wait, less those on their way, and no more than there may be."""
    assert (
        wanted(size=size, target=target, alive=alive, starting=starting, waiting=waiting) == start
    )
