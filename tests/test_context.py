"""Context variables that travel with a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

import context_jobs
from context_jobs import depth, look, look_async, secret, tenant
from trioipc import PayloadError, open_worker_pool

if TYPE_CHECKING:
    from trioipc import WorkerPool

NAMES = ("context_jobs:tenant", "context_jobs:depth")


@pytest.fixture(params=["cpu", "thread"])
async def pool(request: pytest.FixtureRequest) -> Any:
    """Open a pool whose requests take two variables along."""
    async with open_worker_pool(1, kind=request.param, context_variables=NAMES) as pool:
        yield pool


async def test_what_is_set_travels(pool: WorkerPool) -> None:
    """The caller's values, of the variables that are named and set; and no others."""
    assert await pool.run(look) == ("nobody", 0, "")
    tenant.set("us")
    secret.set("hush")
    assert await pool.run(look) == ("us", 0, "")
    depth.set(3)
    assert await pool.run(look, 1, b"2") == ("us", 3, "", 1, b"2")
    assert await pool.run(context_jobs.Shop().look, "x") == ("us", 3, "", "x")


async def test_nothing_stays(pool: WorkerPool) -> None:
    """A request sees nothing of the one before it, and sets nothing here."""
    token = tenant.set("us")
    assert await pool.run(context_jobs.look_and_set) == ("us", 0, "")
    assert tenant.get() == "us"
    tenant.reset(token)
    assert await pool.run(look) == ("nobody", 0, "")


async def test_each_caller_has_its_own() -> None:
    """Many at once, also in one process."""
    got = {}
    async with (
        open_worker_pool(1, kind="io", context_variables=NAMES) as pool,
        trio.open_nursery() as nursery,
    ):

        async def ask(name: str) -> None:
            tenant.set(name)
            got[name] = await pool.run(look_async, name)

        for number in range(10):
            nursery.start_soon(ask, str(number))
    assert got == {name: (name, 0, "", name) for name in map(str, range(10))}


async def test_big_arguments_go_beside_as_ever() -> None:
    """With or without variables."""
    tenant.set("us")
    async with open_worker_pool(1, context_variables=NAMES) as pool:
        data = bytes(1 << 20)
        assert await pool.run(look, data) == ("us", 0, "", data)
        statistics = pool.statistics().arena
        assert statistics is not None
        assert statistics.size >= 1 << 20


async def test_what_cannot_travel() -> None:
    """Is the caller's error, by what it is."""
    async with open_worker_pool(1, context_variables=NAMES) as pool:
        tenant.set(context_jobs.lock())  # type: ignore[arg-type]
        with pytest.raises(PayloadError, match=r"context_jobs:tenant, a context variable for"):
            await pool.run(look)


@pytest.mark.parametrize(
    ("names", "error", "match"),
    [
        (("context_jobs:no_such",), ValueError, "context_jobs:no_such"),
        (("no_such_module:x",), ValueError, "no_such_module"),
        (("context_jobs:not_one",), TypeError, "must be a ContextVar, not a str"),
        ("context_jobs:tenant", TypeError, "not the str"),
        ((tenant,), TypeError, "must hold names, not ContextVar"),
    ],
)
async def test_names_are_checked(names: Any, error: type[Exception], match: str) -> None:
    """Before anything starts."""
    with pytest.raises(error, match=match):
        async with open_worker_pool(1, context_variables=names):
            raise AssertionError("it opened")
