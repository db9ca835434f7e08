"""The tables of `trioipc.protocol._lifecycle` are sound."""

from __future__ import annotations

from typing import Any

import pytest

from trioipc.protocol._lifecycle import REQUEST, WORKER

TABLES: list[tuple[dict[Any, dict[Any, Any]], str, str]] = [
    (REQUEST, "waiting", "ended"),
    (WORKER, "starting", "gone"),
]


@pytest.mark.parametrize(("table", "first", "last"), TABLES)
def test_every_state_can_be_reached_and_left(
    table: dict[str, dict[str, str]], first: str, last: str
) -> None:
    """From the first one, every state can be reached, and from each the last one."""
    for start in table:
        seen = {start}
        todo = [start]
        while todo:
            for state in table[todo.pop()].values():
                assert state in table
                if state not in seen:
                    seen.add(state)
                    todo.append(state)
        assert last in seen
        if start == first:
            assert seen == set(table)


@pytest.mark.parametrize(("table", "first", "last"), TABLES)
def test_the_end_is_the_end(table: dict[str, dict[str, str]], first: str, last: str) -> None:
    """Nothing leads out of the last state, and nothing back to the first of a worker."""
    assert table[last] == {}
    assert [state for state, events in table.items() if not events] == [last]


@pytest.mark.parametrize(
    ("table", "state", "event"),
    [
        (REQUEST, "ended", "end"),
        (REQUEST, "waiting", "kill"),
        (REQUEST, "sent", "send"),
        (WORKER, "gone", "ready"),
        (WORKER, "idle", "ready"),
        (WORKER, "starting", "fill"),
    ],
)
def test_what_cannot_happen_raises(
    table: dict[str, dict[str, str]], state: str, event: str
) -> None:
    """An event that a state does not know is a bug, and not ignored."""
    with pytest.raises(KeyError):
        table[state][event]
