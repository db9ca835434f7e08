"""Where ``placement="auto"`` puts a call: the decisions, and bridges that take them."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trioipc import FallbackWarning, Progress, SharedCancellation, open_worker_bridge
from trioipc.bridge._placing import INLINE_SECONDS, PLACES, Chooser

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trioipc.bridge._placing import Place

KiB, MiB = 1 << 10, 1 << 20


def cost_of(place: Place, nbytes: int) -> float:
    """Say what a call costs on a machine that we have made up."""
    fixed = {"inline": 10e-6, "thread": 250e-6, "process": 200e-6}
    rate = {"inline": 1.5e9, "thread": 1.5e9, "process": 3e9}
    return fixed[place] + nbytes / rate[place]


def settle(
    chooser: Chooser, nbytes: int, cost: Callable[[Place, int], float] = cost_of, calls: int = 20
) -> list[Place]:
    """Make some calls; return where they ran."""
    places = []
    for _ in range(calls):
        place, stands_for = chooser.place("crypto.hash_file", nbytes, PLACES)
        if stands_for:
            chooser.learn("crypto.hash_file", place, nbytes, cost(place, nbytes), stands_for)
        places.append(place)
    return places


@pytest.mark.parametrize(
    ("nbytes", "best"),
    [(16, "inline"), (16 * KiB, "inline"), (MiB, "process"), (64 * MiB, "process")],
)
def test_it_finds_the_best_place(nbytes: int, best: Place) -> None:
    """After 20 calls of a size, nearly all go where they cost least."""
    chooser = Chooser()
    settle(chooser, nbytes)
    assert settle(chooser, nbytes, calls=200).count(best) >= 196
    choice = chooser.choose("crypto.hash_file", nbytes)
    assert choice.place == best
    assert choice.reason.startswith(f"{best} ")


def test_a_sweep_costs_little_more_than_the_best() -> None:
    """Over all sizes, one warm-up each: what is spent is that of the best places, or nearly."""
    chooser = Chooser()
    spent = best = 0.0
    for nbytes in [16 << step for step in range(23)]:
        settle(chooser, nbytes)
        costs = {place: cost_of(place, nbytes) for place in PLACES}
        if costs["inline"] > INLINE_SECONDS:
            del costs["inline"]
        for place in settle(chooser, nbytes, calls=50):
            spent += cost_of(place, nbytes)
            best += min(costs.values())
    assert spent <= 1.05 * best


def test_what_is_explained_is_no_trial() -> None:
    """Though the next call sees what another place costs by now."""
    chooser = Chooser()
    for place, seconds in zip(PLACES, (20e-6, 300e-6, 1e-3), strict=True):
        for _ in range(5):
            chooser.learn("crypto.hash_file", place, 16, seconds)
    chooser.learn("crypto.hash_file", "process", 16, 1.0)
    assert [chooser.choose("crypto.hash_file", 16).place for _ in range(2)] == ["inline"] * 2
    assert chooser.place("crypto.hash_file", 16, PLACES) == ("thread", 1)
    assert chooser.place("crypto.hash_file", 16, PLACES)[0] == "inline"


def test_the_event_loop_is_not_held() -> None:
    """What takes long is tried inline at most as often as it takes to know."""
    chooser = Chooser()

    def slow(place: Place, nbytes: int) -> float:
        return 0.05

    assert settle(chooser, 16 * KiB, slow).count("inline") <= 2
    assert "inline" not in settle(chooser, 17 * KiB, slow)
    assert "inline" not in settle(chooser, MiB, slow)


def test_one_slow_first_call_is_forgiven() -> None:
    """The first call finds memory, and caches, cold."""
    chooser = Chooser()
    chooser.learn("crypto.hash_file", "inline", 16, 300 * INLINE_SECONDS)
    settle(chooser, 16)
    assert chooser.choose("crypto.hash_file", 16).place == "inline"


@pytest.mark.parametrize("nbytes", [16, 100])
def test_slow_first_calls_are_forgiven(nbytes: int) -> None:
    """Two that took a little too long, of that size or a smaller one, do not rule it out."""
    chooser = Chooser()
    for _ in range(2):
        chooser.learn("crypto.hash_file", "inline", 16, 1.2 * INLINE_SECONDS)
    settle(chooser, nbytes)
    assert chooser.choose("crypto.hash_file", nbytes).place == "inline"


def test_a_machine_that_changes() -> None:
    """The next best is tried now and then, so what becomes better is found, at little cost."""
    chooser = Chooser()
    settle(chooser, MiB, calls=50)
    assert chooser.choose("crypto.hash_file", MiB).place == "process"

    def changed(place: Place, nbytes: int) -> float:
        return 5e-3 if place == "process" else 1e-3

    places = settle(chooser, MiB, changed, calls=400)
    assert places[-50:].count("thread") >= 48


@given(
    st.lists(
        st.tuples(
            st.sampled_from(PLACES), st.integers(0, 1 << 40), st.floats(1e-9, 1e3, allow_nan=False)
        )
    ),
    st.integers(0, 1 << 40),
)
def test_there_is_always_a_place(calls: list[tuple[Place, int, float]], nbytes: int) -> None:
    """Whatever it has learnt, and wherever a call can run, it says one of those places."""
    chooser = Chooser()
    for place, size, seconds in calls:
        chooser.learn("file.hash_file", place, size, seconds)
    for places in (PLACES, ("thread",), ("inline", "thread"), ("process", "thread")):
        assert chooser.place("file.hash_file", nbytes, places)[0] in places  # type: ignore[arg-type]


# ---- bridges


@pytest.mark.slow
async def test_results_are_the_same_everywhere() -> None:
    """Wherever a call runs, it gives what it gives elsewhere, and small ones end up inline."""
    async with open_worker_bridge(1, placement="auto") as bridge:
        assert bridge.placed.kind == "auto"
        for nbytes in (0, 100, 100 * KiB, 3 * MiB):
            data = os.urandom(nbytes)
            for _ in range(16):
                assert await bridge.crypto.hash_file(data) == hashlib.sha256(data).hexdigest()
        assert bridge.explain("crypto.hash_file", 100).kind == "inline"
        assert bridge.explain("crypto.hash_file", 3 * MiB).kind in ("thread", "process")
        with pytest.raises(ValueError, match=r"operation must be one of compression\.compress"):
            bridge.explain("hash", 1)
        with pytest.raises(ValueError, match="nbytes must be >= 0, not -1"):
            bridge.explain("crypto.hash_file", -1)


@pytest.mark.slow
async def test_inline_is_still_a_trio_call(tmp_path: Path) -> None:
    """A checkpoint, refused when closed; what is watched, or may wait, never runs there."""
    async with open_worker_bridge(1, placement="auto") as bridge:
        for _ in range(40):
            await bridge.crypto.hash_file(b"abc")
        assert bridge.explain("crypto.hash_file", 3).kind == "inline"
        with trio.CancelScope() as scope:
            scope.cancel()
            await bridge.crypto.hash_file(b"abc")
        assert scope.cancelled_caught

        seen: list[Progress] = []
        await bridge.crypto.hash_file(b"abc", on_progress=seen.append)
        assert [(p.value, p.total) for p in seen] == [(3, 3)]
        await bridge.crypto.hash_file(b"abc", timeout=10)
        with SharedCancellation() as flag:
            await bridge.crypto.hash_file(b"abc", cancellation=flag)
        path = tmp_path / "file"
        path.write_bytes(b"abc")
        assert await bridge.crypto.hash_file(path) == await bridge.crypto.hash_file(b"abc")
    with pytest.raises(trio.ClosedResourceError):
        await bridge.crypto.hash_file(b"abc")


@pytest.mark.slow
async def test_a_bridge_that_was_told_explains_itself() -> None:
    """Where it was told to run is where everything runs."""
    async with open_worker_bridge(1, placement="thread") as bridge:
        assert bridge.explain("file.hash_file", 1 << 30) == bridge.placed


async def test_auto_without_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It falls back like the others, with a warning, to threads and inline."""
    from trioipc import WorkerStartError
    from trioipc.bridge import _home

    real = _home.open_worker_pool

    def refuse(size: int | None, *, kind: str, **options: object) -> object:
        if kind == "cpu":
            raise WorkerStartError("no processes here")
        return real(size, kind=kind, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(_home, "open_worker_pool", refuse)
    with pytest.warns(FallbackWarning, match="no processes here"):
        async with open_worker_bridge(1, placement="auto") as bridge:
            for _ in range(12):
                digest = await bridge.crypto.hash_file(bytes(2 * MiB))
            assert digest == hashlib.sha256(bytes(2 * MiB)).hexdigest()
            assert bridge.explain("crypto.hash_file", 2 * MiB).kind == "thread"
