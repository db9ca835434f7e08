"""Warm memory: who may have it, when it is free again, and what it holds then."""

from __future__ import annotations

import ctypes
import gc
import math
import mmap
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from test_execute import run_at
from trioipc.memory._arena import (
    BIG,
    SMALLEST,
    UNINTERRUPTED,
    WIPE_STEP,
    Arena,
    Borrowed,
    Budget,
    Home,
    is_lendable,
    offsets_of,
    size_class,
)
from trioipc.memory._segment import adopt, create
from trioipc.worker import _execute

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from trioipc.memory._arena import Slab

MIB = 1 << 20


def make_arena(limit: float = math.inf, *, wipes: bool = True) -> Arena:
    """Make an arena."""
    return Arena(Budget(limit), wipes=wipes)


def lend(arena: Arena, nbytes: int) -> tuple[Slab, memoryview]:
    """Return a slab of which a view is the only user."""
    slab = arena.take(nbytes, blank=True)
    view = slab.lease()
    arena.release(slab)
    return slab, view


def is_free(arena: Arena, slab: Slab) -> bool:
    """Say whether a slab may be used again."""
    arena.drain()
    return slab in [*arena.idle()]


# ---- sizes


@given(st.integers(0, 1 << 50))
def test_sizes_of_slabs(nbytes: int) -> None:
    """Four for each power of two: what is asked for fits, and wastes little; pages stay whole."""
    size = size_class(nbytes)
    assert size >= max(nbytes, SMALLEST)
    assert size == SMALLEST or size < 1.25 * nbytes
    assert size % mmap.PAGESIZE == 0
    assert size_class(size) == size
    assert size_class(nbytes + 1) >= size
    classes = {size_class(n) for n in range(SMALLEST + 1, 2 * SMALLEST + 1, 1000)}
    assert len(classes) == 4


@given(st.lists(st.integers(0, 1 << 20), max_size=50))
def test_pieces_are_laid_out_one_behind_the_other(lengths: list[int]) -> None:
    """None overlaps another, each begins on a cache line of its own, and all fit."""
    offsets, size = offsets_of(lengths)
    assert len(offsets) == len(lengths)
    end = 0
    for offset, length in zip(offsets, lengths, strict=True):
        assert offset >= end
        assert offset % 64 == 0
        end = offset + length
    assert end <= size < end + 64


# ---- an arena against a model


@attrs.define(eq=False)
class User:
    """Who has a slab, as the model knows it."""

    slab: Slab
    nbytes: int
    fill: int
    taken: bool = True
    views: list[memoryview] = attrs.field(factory=list)

    def uses(self) -> bool:
        """Say whether it still has it."""
        return self.taken or bool(self.views)


class Model(RuleBasedStateMachine):
    """Takes, leases, drops and forgets, and remembers who has what."""

    wipes = True

    def __init__(self) -> None:
        super().__init__()
        self.arena = make_arena(wipes=self.wipes)
        self.users: list[User] = []

    @rule(nbytes=st.integers(1, 300_000), blank=st.booleans(), fill=st.integers(1, 255))
    def take(self, nbytes: int, blank: bool, fill: int) -> None:
        slab = self.arena.take(nbytes, blank=blank)
        assert slab.uses == 1
        assert slab.size == size_class(nbytes)
        assert slab not in [user.slab for user in self.users if user.uses()]
        if blank or not self.wipes:
            assert not any(slab.view(0, slab.size))
        slab.view(0, nbytes)[:] = bytes([fill]) * nbytes
        self.users.append(User(slab, nbytes, fill))

    def some_user(self, data: st.DataObject) -> User:
        return data.draw(st.sampled_from([user for user in self.users if user.uses()]))

    @precondition(lambda self: any(user.uses() for user in self.users))
    @rule(data=st.data(), wipe=st.booleans())
    def lease(self, data: st.DataObject, wipe: bool) -> None:
        user = self.some_user(data)
        user.views.append(user.slab.lease(wipe=wipe))

    @precondition(lambda self: any(user.views for user in self.users))
    @rule(data=st.data(), cut=st.integers(0, 1000))
    def slice(self, data: st.DataObject, cut: int) -> None:
        user = data.draw(st.sampled_from([user for user in self.users if user.views]))
        view = user.views[data.draw(st.integers(0, len(user.views) - 1))]
        user.views.append(view[min(cut, len(view) - 1) :])

    @precondition(lambda self: any(user.views for user in self.users))
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        user = data.draw(st.sampled_from([user for user in self.users if user.views]))
        user.views.pop(data.draw(st.integers(0, len(user.views) - 1)))

    @precondition(lambda self: any(user.taken for user in self.users))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        user = data.draw(st.sampled_from([user for user in self.users if user.taken]))
        user.taken = False
        self.arena.release(user.slab)

    @rule()
    def wipe_step(self) -> None:
        soiled = self.arena.is_soiled()
        assert self.arena.wipe_step() == soiled

    @precondition(lambda self: self.arena.slabs)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from([*self.arena.slabs]))
        slab = self.arena.forget(number)
        assert slab is not None
        assert slab.segment.descriptor is None
        assert self.arena.forget(number) is None

    @invariant()
    def only_what_nobody_has_is_idle(self) -> None:
        self.arena.drain()
        self.users = [user for user in self.users if user.uses()]
        used = {user.slab for user in self.users}
        idle = [*self.arena.idle()]
        assert len(idle) == len(set(idle))
        assert set(idle) == set(self.arena.slabs.values()) - used

    @invariant()
    def each_keeps_what_it_wrote(self) -> None:
        for user in self.users:
            assert user.slab.view(0, 1)[0] == user.fill
            assert user.slab.view(user.nbytes - 1, user.nbytes)[0] == user.fill

    @invariant()
    def the_budget_is_the_sum(self) -> None:
        budget = self.arena.budget
        assert budget.used == sum(slab.size for slab in self.arena.slabs.values())
        assert budget.slabs == len(self.arena.slabs)

    @invariant()
    def what_is_clean_is_zero(self) -> None:
        for slab in self.arena.idle():
            if not slab.dirty:
                assert not any(slab.view(0, slab.size))

    @invariant()
    def each_view_is_found(self) -> None:
        for user in self.users:
            for view in user.views:
                if user.slab.number in self.arena.slabs:
                    offset = user.slab.size - len(view)
                    assert self.arena.find(view) == (user.slab, offset)
                else:
                    assert self.arena.find(view) is None


class Unwiped(Model):
    """The same, where a slab that holds something waits for `wipe_step`."""

    wipes = False


TestArena = Model.TestCase
TestUnwiped = Unwiped.TestCase
TestArena.settings = TestUnwiped.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None
)


# ---- leases


def a_cast(view: memoryview) -> object:
    """Keep a view of other items."""
    return view.cast("Q")


def an_iterator(view: memoryview) -> object:
    """Keep an iterator."""
    return iter(view[10:20])


def an_array(view: memoryview) -> object:
    """Keep what numpy does as well: an object that asks for the buffer, and not for the view."""
    return (ctypes.c_double * 10).from_buffer(view, 64)


def a_view_of_an_array(view: memoryview) -> object:
    """Keep two steps between."""
    return memoryview((ctypes.c_double * 10).from_buffer(view, 64))[3:5]


def a_bound_method(view: memoryview) -> object:
    """Keep it in what nobody would think of."""
    return view.tobytes


@pytest.mark.parametrize(
    "keep", [a_cast, an_iterator, an_array, a_view_of_an_array, a_bound_method]
)
def test_whatever_looks_at_it_keeps_a_slab(keep: Callable[[memoryview], object]) -> None:
    """It is free when the last of them is gone, at once and without the collector."""
    arena = make_arena()
    slab, view = lend(arena, 100_000)
    kept = keep(view)
    del view
    assert not is_free(arena, slab)
    del kept
    assert is_free(arena, slab)


def test_each_lease_counts_once() -> None:
    """And the take as well."""
    arena = make_arena()
    slab = arena.take(100_000, blank=True)
    first, second = slab.lease(), slab.lease()
    assert slab.uses == 3
    del first
    arena.drain()
    assert slab.uses == 2
    arena.release(slab)
    assert not is_free(arena, slab)
    del second
    assert is_free(arena, slab)


def test_leases_end_in_other_threads() -> None:
    """In many at once, while this one takes more; each end is counted."""
    arena = make_arena()
    pairs = [lend(arena, 70_000) for _ in range(40)]
    slabs = {slab for slab, _ in pairs}
    heaps: list[list[memoryview]] = [[view for _, view in pairs[i::4]] for i in range(4)]
    del pairs
    threads = [threading.Thread(target=heap.clear) for heap in heaps]
    taken = []
    for thread in threads:
        thread.start()
        taken.append(lend(arena, 70_000))
        arena.drain()
    for thread in threads:
        thread.join()
    arena.drain()
    assert len({slab for slab, _ in taken}) == 4
    assert slabs - {*arena.idle()} <= {slab for slab, _ in taken}


def test_a_lease_ends_when_its_cycle_is_collected() -> None:
    """In the middle of whatever made the collector run."""
    arena = make_arena()
    slab, view = lend(arena, 100_000)
    cycle: list[object] = [view]
    cycle.append(cycle)
    del view, cycle
    gc.collect()
    assert is_free(arena, slab)


def test_who_forgets_a_slab_hears_no_more_of_it() -> None:
    """And with its last view goes the map, without the collector."""
    arena = make_arena()
    slab, view = lend(arena, 100_000)
    arena.forget(slab.number)
    number = slab.number
    del slab
    assert len(view) == size_class(100_000)
    gc.disable()
    try:
        del view
        assert not arena.ended
        assert not any(type(o).__name__ == "Slab" and o.number == number for o in gc.get_objects())
    finally:
        gc.enable()


POKES = [
    (math.inf, BIG, True),
    (math.inf, BIG - (BIG >> 2), False),
    (SMALLEST, 2 * SMALLEST, True),
    (2 * SMALLEST, 2 * SMALLEST, False),
]


@pytest.mark.parametrize(("limit", "size", "pokes"), POKES)
def test_the_end_of_a_lease_is_told_if_it_matters(limit: float, size: int, pokes: bool) -> None:
    """If much is free now, or there is more than there may be."""
    arena = make_arena(limit)
    poked: list[bool] = []
    arena.poke = lambda: poked.append(True)
    slab, view = lend(arena, size)
    assert slab.size == size
    del view
    assert bool(poked) == pokes


AT_EXIT = """
import gc, math, sys, threading
from trioipc.memory._arena import Arena, Budget
arena = Arena(Budget(math.inf), wipes=True)
arena.poke = lambda: None
def lend():
    slab = arena.take(2_000_000, blank=True)
    view = slab.lease()
    arena.release(slab)
    return view
class Node:
    pass
node = Node()
node.view, node.node, node.arena = lend(), node, arena
of_module = lend()
sys.of_sys = lend()
threading.of_threading = [lend()[5:10], lend().cast("Q")]
local = threading.local()
local.view = lend()
threading.Thread(target=threading.Event().wait, args=(lend(),), daemon=True)
print("end")
"""


def test_leases_that_end_at_exit_are_silent() -> None:
    """Whatever of the interpreter is gone by then."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", AT_EXIT],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


# ---- what strikes while a lease ends


def drop(views: list[memoryview]) -> str:
    """End a lease."""
    views.clear()
    return "done"


def test_an_interrupt_while_a_lease_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not raise there: the end would be lost, and the interrupt as well."""
    monkeypatch.setattr(_execute, "OURS", {*_execute.OURS, *UNINTERRUPTED})
    arena = make_arena()
    at, within = 0, 0
    while True:
        slab, view = lend(arena, 70_000)
        views = [view]
        del view
        placement, executor, kind, value = run_at(at, drop, views)
        if not placement.fired:
            break
        at += 1
        if "__del__" in placement.where or Home.tell.__qualname__ in placement.where:
            within += 1
            assert (kind, value, executor.interrupted) == (_execute.VALUE, "done", False)
            arena.drain()
            assert slab.uses == 0
    assert within > 10


def test_a_ctrl_c_while_a_lease_ends() -> None:
    """It comes a moment later, where it can be heard."""
    arena = make_arena()
    interrupted_at(0, [lend(arena, 70_000)[1]])  # Python 3.12 reports no opcodes the first time
    at = 0
    while True:
        slab, view = lend(arena, 70_000)
        views = [view]
        del view
        came = interrupted_at(at, views)
        arena.drain()
        assert slab.uses == 0, at
        if not came:
            break
        at += 1
    assert at > 10


def interrupted_at(at: int, views: list[memoryview]) -> bool:
    """End a lease under Trio, with a SIGINT at an opcode of that; return whether it came."""
    seen = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal seen
        if frame.f_code not in UNINTERRUPTED:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen += 1
            if seen == at + 1:
                os.kill(os.getpid(), signal.SIGINT)
        return trace

    async def main() -> None:
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            views.clear()
        finally:
            sys.settrace(before)
        await trio.lowlevel.checkpoint()

    try:
        trio.run(main)
    except KeyboardInterrupt:
        return True
    return False


# ---- finding


def test_a_view_is_found_where_it_lies() -> None:
    """Read-only, of other items, or of somebody else's array over it."""
    arena = make_arena()
    slab, view = lend(arena, 300_000)
    others = [lend(arena, 300_000) for _ in range(3)]
    array = (ctypes.c_double * 1000).from_buffer(view, 4096)
    for found, offset in (
        (view, 0),
        (view[1000:200_000], 1000),
        (view[5000:].toreadonly(), 5000),
        (view[:160].cast("d").cast("B"), 0),
        (array, 4096),
        (memoryview(array)[10:], 4096 + 80),
        (view[slab.size - 10 :], slab.size - 10),
        (view[8:8], 8),
    ):
        assert arena.find(found) == (slab, offset)
    for other, its in others:
        assert arena.find(its[70:]) == (other, 70)


def test_foreign_memory_is_not_found() -> None:
    """Nor what lies beside ours, or begins or ends outside of it."""
    segment = create(4 * mmap.PAGESIZE)
    arena = make_arena()
    slab, view = lend(arena, 300_000)
    foreign = [
        bytes(300_000),
        bytearray(300_000),
        memoryview(segment.memory),
        lend(make_arena(), 300_000)[1],
    ]
    for buffer in foreign:
        assert arena.find(buffer) is None
    neighbour = ctypes.c_char * 1000
    for offset in (-1000, -1, slab.size - 999, slab.size):
        assert arena.find(neighbour.from_address(slab.address + offset)) is None
    assert arena.find(neighbour.from_address(slab.address + slab.size - 1000)) is not None
    del view
    arena.drain()
    assert arena.find(neighbour.from_address(slab.address)) is None  # nobody uses it now


def test_what_can_be_lent_as_it_is() -> None:
    """Views of an arena's; not of borrowed slabs, nor of anything else."""
    arena = make_arena()
    _, view = lend(arena, 300_000)
    segment = create(300_000)
    assert segment.descriptor is not None
    twin = adopt(os.dup(segment.descriptor), 300_000)
    borrowed = Borrowed(Budget(math.inf)).learn(7, twin).lease()
    assert is_lendable(view)
    assert is_lendable(view[10:].toreadonly())
    assert not is_lendable(borrowed)
    assert not is_lendable(memoryview(b"abc"))


# ---- wiping and letting go


def test_a_slab_is_wiped_in_steps() -> None:
    """From its end, each step bounded; nothing that may be dirty is left."""
    arena = make_arena(wipes=False)
    slab = arena.take(3 * WIPE_STEP, blank=True)
    slab.view(0, slab.size)[: 3 * WIPE_STEP] = b"x" * (3 * WIPE_STEP)
    arena.release(slab)
    assert not arena.has(3 * WIPE_STEP)
    for left in (2, 1, 0):
        assert arena.wipe_step()
        assert slab.dirty == left * WIPE_STEP
        assert slab.view(0, slab.size).tobytes().count(b"x") == left * WIPE_STEP
    assert not arena.wipe_step()
    assert arena.has(3 * WIPE_STEP)
    assert arena.take(3 * WIPE_STEP, blank=True) is slab


def resident(slab: Slab) -> int:
    """Say how many bytes of a slab's map are in memory, as the kernel counts them."""
    start = f"{slab.address:x}-"
    with open("/proc/self/smaps") as file:
        lines = iter(file)
        for line in lines:
            if line.startswith(start):
                break
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Rss:"))


@pytest.mark.parametrize("backend", ["memfd", "shm"])
@pytest.mark.parametrize("keep", [False, True])
def test_pages_are_given_back_in_steps(
    backend: str, keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all who look at them, or for this process only."""
    monkeypatch.setenv("TRIOIPC_SEGMENT", backend)
    arena = make_arena()
    slab = arena.take(5 * MIB, blank=True)
    assert slab.segment.descriptor is not None
    other = adopt(os.dup(slab.segment.descriptor), slab.size)
    slab.view(0, slab.size)[:] = b"x" * slab.size
    assert resident(slab) == slab.size
    steps, start = 0, 0
    while start < slab.size:
        start = slab.let_go(start, keep=keep)
        steps += 1
        assert resident(slab) <= slab.size - start
    assert steps == 3
    assert other.memory[0] == other.memory[slab.size - 1] == (ord("x") if keep else 0)


def test_letting_go_where_that_is_not_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain memory, or a system that cannot: it goes with its last view."""
    monkeypatch.setenv("TRIOIPC_SEGMENT", "plain")
    arena = make_arena()
    slab = arena.take(MIB, blank=True)
    assert slab.let_go(0) == slab.size
    monkeypatch.setenv("TRIOIPC_SEGMENT", "memfd")
    slab = arena.take(2 * MIB, blank=True)
    monkeypatch.delattr(mmap, "MADV_REMOVE")
    assert slab.let_go(0) == slab.size
