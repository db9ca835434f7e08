"""What every test is held to: it leaves nothing behind, and says nothing that nobody expects."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import pytest

from cluster import cluster
from trioipc.testing import check_leaks
from trioipc.testing._leaks import children, open_descriptors
from watched import Direct

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["children", "open_descriptors"]  # which tests ask for, too


# As they may be in a shell's background, or under nohup: tests send them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a process, a descriptor, a thread or shared memory."""
    with check_leaks():
        yield


@pytest.fixture(autouse=True)
def nothing_else_on_stderr(
    request: pytest.FixtureRequest,
    nothing_left_behind: None,  # which must not see the files that capfd captures into
) -> Iterator[None]:
    """Fail a test marked ``stderr(pattern)`` if what it and its workers print is not as expected.

    The pattern is for all of it. A suite says ``pytestmark = pytest.mark.stderr("")``, that is
    nothing; a test that expects some says what.
    """
    mark = request.node.get_closest_marker("stderr")
    if mark is None:
        yield
        return
    (pattern,) = mark.args
    capfd = request.getfixturevalue("capfd")
    yield
    text = capfd.readouterr().err
    assert re.fullmatch(pattern, text, re.DOTALL), text


@pytest.fixture(scope="session")
def cluster_address() -> Iterator[str]:
    """Have a Dask cluster of two workers, with one thread each, for all tests that want one."""
    with cluster() as address:
        yield address


@pytest.fixture
def direct() -> Direct:
    """Give a way to run operations without a pool, that notes what was asked."""
    return Direct()
