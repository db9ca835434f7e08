"""Who waits for which answer."""

from __future__ import annotations

import pytest

from trioipc import LocalProtocolError
from trioipc.protocol._correlator import Correlator


def test_each_id_is_answered_once() -> None:
    """The first answer finds who waits, the second nobody."""
    correlator: Correlator[str] = Correlator()
    correlator.expect("a", "Ann", 0.0)
    correlator.expect("b", "Bob", 1.0)
    assert correlator.find("b") == "Bob"
    assert correlator.answer("b", 2.0) == "Bob"
    assert correlator.answer("b", 2.0) is None
    assert correlator.find("b") is None
    assert correlator.waiting() == ["Ann"]
    assert repr(correlator) == "<Correlator: 1 pending, 1 answered>"


def test_an_id_is_waited_for_once() -> None:
    """A second request of that id is refused, until the first is over."""
    correlator: Correlator[str] = Correlator()
    correlator.expect("a", "Ann", 0.0)
    with pytest.raises(LocalProtocolError, match="'a' is already under way"):
        correlator.expect("a", "Bob", 0.0)
    correlator.forget("a")
    correlator.expect("a", "Bob", 0.0)
    assert correlator.answer("a", 0.0) == "Bob"


def test_nobody_waits_for_no_id() -> None:
    """A message without one answers nothing."""
    correlator: Correlator[str] = Correlator()
    assert correlator.find(None) is None
    assert correlator.answer(None, 0.0) is None


def test_statistics() -> None:
    """Ages of those that wait, the average of those that were answered; forgotten ones in none."""
    correlator: Correlator[str] = Correlator()
    empty = correlator.statistics(9.0)
    assert (empty.pending_requests, empty.average_response_time) == (0, 0.0)
    assert empty.oldest_request_age == 0.0
    for number, since in enumerate((0.0, 1.0, 2.0, 3.0)):
        correlator.expect(str(number), "somebody", since)
    correlator.answer("0", 4.0)
    correlator.answer("1", 2.0)
    correlator.forget("3")
    statistics = correlator.statistics(10.0)
    assert statistics.pending_requests == 1
    assert statistics.average_response_time == pytest.approx(2.5)
    assert statistics.oldest_request_age == pytest.approx(8.0)
