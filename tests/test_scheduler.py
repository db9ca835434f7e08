"""Which worker runs which request next."""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trioipc.pool.scheduling._expectation import UNKNOWN
from trioipc.pool.scheduling._gate import Gate
from trioipc.pool.scheduling._queue import PASSES, PriorityQueue
from trioipc.pool.scheduling._scheduler import AHEAD_NANOSECONDS, Scheduler
from trioipc.pool.team._supervisor import wanted

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
        worker = it.place(f"r{number}")
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
    assert it.place("second") is None
    it.add("second", "low")
    assert pairs(it) == [("w", "first"), ("w", "second")]


def test_a_full_queue() -> None:
    """It is full when no place is free and as many wait as may."""
    it = scheduler({"w": 1}, max_waiting=1)
    assert not it.is_full()
    assert it.place("a") == "w"
    assert not it.is_full()
    assert it.place("b") is None
    it.add("b", "normal")
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


# ---- who waits


def test_none_starves() -> None:
    """When sixteen have gone before the first of a lower priority, it is its turn."""
    it: PriorityQueue[str] = PriorityQueue()
    for number in range(100):
        it.add(f"h{number}", "high")
    for name in ("n0", "n1"):
        it.add(name, "normal")
    for name in ("l0", "l1"):
        it.add(name, "low")
    order = [it.pop()[0] for _ in range(50)]
    assert [order.index(name) for name in ("l0", "n0", "l1", "n1")] == [16, 17, 33, 35]
    assert [name for name in order if name[0] == "h"] == [f"h{n}" for n in range(46)]


def test_the_urgent_go_before_all() -> None:
    """Also before those whose turn it is, and they pass nobody."""
    it: PriorityQueue[str] = PriorityQueue()
    it.add("low", "low")
    for number in range(PASSES):
        it.add(f"h{number}", "high")
    assert not it.is_urgent
    for number in range(2 * PASSES):
        it.add(f"f{number}", "first")
        assert it.is_urgent
        assert it.pop() == (f"f{number}", "first")
    assert [it.pop()[0] for _ in range(PASSES)] == [f"h{n}" for n in range(PASSES)]
    it.add("f", "first")
    assert [it.pop()[0] for _ in range(2)] == ["f", "low"]


def test_who_comes_later_was_not_passed_before() -> None:
    """What has passed one that is gone does not count for the next."""
    it: PriorityQueue[str] = PriorityQueue()
    it.add("gone", "low")
    for number in range(40):
        it.add(f"h{number}", "high")
    for _ in range(PASSES - 1):
        it.pop()
    it.discard("gone", "low")
    it.pop()
    it.add("low", "low")
    assert [it.pop()[0] for _ in range(PASSES + 1)][-1] == "low"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "back", "discard", "pop", "pop", "take"]),
            st.sampled_from(PRIORITIES),
            st.integers(0, 99),
        ),
        max_size=300,
    )
)
@settings(max_examples=200)
def test_the_queue_against_three_lists(steps: list[tuple[str, Priority, int]]) -> None:
    """Within a priority the order holds, and none is passed more often than it may be."""
    it: PriorityQueue[int] = PriorityQueue()
    lines: dict[Priority, list[int]] = {"high": [], "normal": [], "low": []}
    passed: dict[Priority, int] = dict.fromkeys(lines, 0)
    for number, (step, priority, which) in enumerate(steps):
        waiting = [request for line in lines.values() for request in line]
        if step == "add":
            it.add(number, priority)
            lines[priority].append(number)
        elif step == "back":
            it.put_back(number, priority)
            lines[priority].insert(0, number)
        elif waiting and step == "discard":
            gone = waiting[which % len(waiting)]
            for name, line in lines.items():
                assert it.discard(gone, name) is (gone in line)
                if gone in line:
                    line.remove(gone)
        elif waiting and step in ("pop", "take"):
            if step == "pop":
                assert it.first() == next(iter(it))
                taken, of = it.pop()
                assert lines[of][0] == taken
            else:
                taken = waiting[which % len(waiting)]
                of = it.take(taken)
            lines[of].remove(taken)
            passed[of] = 0
            for lower in PRIORITIES[PRIORITIES.index(of) + 1 :]:
                passed[lower] = passed[lower] + 1 if lines[lower] else 0
                if step == "pop":  # normal may have to wait for low that has waited as long
                    assert passed[lower] <= PASSES
        assert it.size == sum(map(len, lines.values()))
        assert sorted(it) == sorted(request for line in lines.values() for request in line)


# ---- sending ahead


def ready_to_send(expected: dict[str, int], workers: int = 2) -> Scheduler[str, str]:
    """Make one that knows how long requests take, by their first letter."""
    return scheduler(
        {f"w{number}": 1 for number in range(workers)},
        expect=lambda request: expected.get(request[0], UNKNOWN),
    )


def test_two_hundred_microseconds_are_sent_ahead() -> None:
    """To whoever has least to do; what would be more waits here."""
    it = ready_to_send({"a": 60_000, "b": 10_000})
    given_to = {"w0": ["a0"], "w1": ["b0"]}
    assert [it.place(name) for name in ("a0", "b0")] == ["w0", "w1"]
    for number in range(1, 40):
        it.add(f"b{number}", "normal")
    while (pair := it.next_ahead()) is not None:
        given_to[pair[0]].append(pair[1])
    assert len(given_to["w0"]) == 1 + 14
    assert len(given_to["w1"]) == 20
    assert it.ahead == 33
    assert it.waiting == 39 - 33
    it.free("w1", "b0")
    assert (it.ahead, it.waiting) == (32, 6)  # others are still in its hands
    assert it.next_pair() is None
    pair = it.next_ahead()
    assert pair is not None
    assert pair[0] == "w1"


def test_none_is_sent_ahead_of_an_idle_worker() -> None:
    """Nor behind what takes long or nobody knows, nor itself if that is so."""
    it = ready_to_send({"s": 1000, "l": 500_000})
    assert it.place("s0") == "w0"
    it.add("s1", "normal")
    assert it.next_ahead() is None
    assert it.next_pair() == ("w1", "s1")
    it.add("l0", "normal")
    it.add("s2", "normal")
    assert it.next_ahead() is None  # first come, first served
    it.discard("l0", "normal")
    assert it.next_ahead() is not None
    it.drags_on("w0", "s0")
    it.drags_on("w1", "s1")
    it.add("s3", "normal")
    assert it.next_ahead() is None
    it.discard("s3", "normal")
    it.add_worker("w2", 1)
    it.add("s4", "normal")
    assert it.next_pair() == ("w2", "s4")


def test_a_new_request_is_sent_ahead_at_once() -> None:
    """If nobody waits, no worker is free, and it is known to be short."""
    it = ready_to_send({"s": 1000}, workers=1)
    assert it.place_ahead("s0") is None  # there is a place
    assert it.place("s0") == "w0"
    assert it.place_ahead("l0") is None
    assert it.place_ahead("s1") == "w0"
    assert (it.ahead, it.waiting) == (1, 0)
    it.add("s2", "normal")
    assert it.place_ahead("s3") is None  # it would overtake


def test_a_worker_may_refuse() -> None:
    """What it would have to load first is not sent ahead."""
    it = scheduler({"w": 1}, expect=lambda _: 1000, admits=lambda worker, request: request != "new")
    it.place("r")
    it.add("new", "normal")
    assert it.next_ahead() is None
    it.discard("new", "normal")
    it.add("old", "normal")
    assert it.next_ahead() == ("w", "old")


def test_others_can_help() -> None:
    """If some were sent ahead, and there are others."""
    it = ready_to_send({"s": 1000}, workers=1)
    it.place("s0")
    it.add("s1", "normal")
    assert it.next_ahead() == ("w0", "s1")
    assert not it.can_help
    it.add_worker("w1", 1)
    assert it.can_help
    it.free("w0", "s0")
    assert not it.can_help


# ---- whatever happens


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["add", "place", "back", "discard", "free", "leave", "join", "assign", "drag"]
            ),
            st.integers(0, 5),
            st.sampled_from(PRIORITIES),
        ),
        max_size=80,
    ),
    st.sampled_from(["least-busy", "round-robin"]),
    st.sampled_from([None, 1, 3]),
    st.sampled_from([1000, 90_000, UNKNOWN]),
)
@settings(max_examples=400)
def test_nothing_is_lost(
    steps: list[tuple[str, int, Priority]], strategy: str, limit: int | None, expected: int
) -> None:
    """Whatever happens, each request waits, is held by one worker, or was discarded."""
    gate: Gate[str] | None = None if limit is None else Gate(limit)
    # Every second request is of the operation that has a limit.
    it = scheduler(
        {"w0": 2, "w1": 1},
        strategy=strategy,
        expect=lambda _: expected,
        gate=gate and (lambda request: gate if int(request[1:]) % 2 else None),
    )
    places = {"w0": 2, "w1": 1}
    waiting: dict[str, Priority] = {}
    held: dict[str, list[str]] = {"w0": [], "w1": []}

    def give(worker: str, request: str) -> None:
        held[worker].append(request)
        waiting.pop(request, None)

    def assign() -> None:
        for given_to, assigned in pairs(it):
            assert len(held[given_to]) < places[given_to]
            give(given_to, assigned)
        assert not it.waiting or all(len(held[w]) >= places[w] for w in held)
        for given_to, assigned in iter(it.next_ahead, None):
            assert all(len(held[w]) >= places[w] for w in held)
            give(given_to, assigned)
            assert (len(held[given_to])) * expected <= AHEAD_NANOSECONDS

    for number, (step, who, priority) in enumerate(steps):
        worker = f"w{who}"
        request = f"r{number}"
        if step == "add":
            it.add(request, priority)
            waiting[request] = priority
        elif step == "place":
            if (given_to := it.place(request)) is not None:
                assert len(held[given_to]) < places[given_to]
                give(given_to, request)
            elif (given_to := it.place_ahead(request)) is not None:
                assert not waiting
                assert all(len(held[w]) >= places[w] for w in held)
                give(given_to, request)
                assert (len(held[given_to])) * expected <= AHEAD_NANOSECONDS
            else:
                it.add(request, priority)
                waiting[request] = priority
        elif step == "back":
            it.put_back(request, priority)
            waiting[request] = priority
        elif step == "discard" and waiting:
            gone = list(waiting)[who % len(waiting)]
            it.discard(gone, waiting.pop(gone))
            it.leave(gone)
        elif step == "free" and held.get(worker):
            ended = held[worker].pop(0)
            it.free(worker, ended)
            it.leave(ended)
        elif step == "drag" and held.get(worker):
            it.drags_on(worker, held[worker][0])
        elif step == "leave" and worker in held:
            it.remove_worker(worker)
            for moved in held.pop(worker):
                it.put_back(moved, priority)
                waiting[moved] = priority
            del places[worker]
        elif step == "join" and worker not in held:
            it.add_worker(worker, who % 3 + 1)
            held[worker], places[worker] = [], who % 3 + 1
        elif step == "assign":
            assign()
        assert it.waiting + it.gated == len(waiting)
        assert it.held == sum(map(len, held.values()))
        assert it.ahead == sum(max(0, len(held[w]) - places[w]) for w in held)
        assert set(it.requests()) == set(waiting)
        if limit is not None:
            there = [*waiting, *itertools.chain(*held.values())]
            limited = [request for request in there if int(request[1:]) % 2]
            assert len(limited) - it.gated == min(limit, len(limited))


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
