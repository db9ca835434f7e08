"""The engine of a pool on a Dask cluster."""

from __future__ import annotations

import asyncio
import contextlib
import math
import uuid
from typing import TYPE_CHECKING, Any, TypeVar, final

import distributed.comm
import trio
from distributed import Client, Security
from distributed.utils import LoopRunner

from trioipc._errors import WorkerStartError
from trioipc.dask._lane import Lane
from trioipc.dask._link import Link
from trioipc.dask._payload import ClusterCall, prepare
from trioipc.pool._endpoint import Engine
from trioipc.pool._options import values_of
from trioipc.pool.engines._payload import function_name
from trioipc.protocol._parcel import Parcel
from trioipc.worker import _cluster
from trioipc.worker._register import NAME, Register

if TYPE_CHECKING:
    from collections.abc import Callable

    from trioipc.dask._options import DaskEngine
    from trioipc.pool._endpoint import Call, Endpoint
    from trioipc.pool.engines._engines import Plan
    from trioipc.pool.engines._inlet import Inlet

T = TypeVar("T")

# For each thread of the cluster: one request runs there while the next is on its way.
_LANES_PER_THREAD = 2
# A cluster that has no workers yet may start some when there is something to do.
_LEAST_LANES = 4
_CLOSE_SECONDS = 2.0
# How often it is looked whether the scheduler is still there, for requests notice that themselves
# unless Dask's own thread is gone.
_LOOK_SECONDS = 1.0
# A task costs some milliseconds: chunks are as long as makes that some per cent of them.
_CHUNK_SECONDS = 0.1
# Below this, events would cost more than they say.
_LEAST_INTERVAL = 0.01


@final
class ClusterEngine(Engine):
    """Sends calls to a cluster.

    Args:
      options: Which cluster, and how.
      plan: What the pool is like.
    """

    places = 1
    ranks = True
    chunk_seconds = _CHUNK_SECONDS

    def __init__(self, options: DaskEngine, plan: Plan) -> None:
        self._options = options
        self._plan = plan
        self._interval = max(plan.progress_interval, _LEAST_INTERVAL)
        # Nobody else's tasks and events begin like this.
        self._topic = f"trioipc-{plan.name}-{uuid.uuid4().hex}"
        self._lock = trio.Lock()
        self._client: Client | None = None
        # Why there will never be a worker again.
        self._lost: str | None = None
        # Whether there was none for as long as anybody waits.
        self._is_deserted = False
        self._operations: tuple[tuple[str, str, bool], ...] = ()
        self._has_nannies = True
        # Those that live.
        self.lanes: dict[Lane, None] = {}
        self.link: Link
        self.token: trio.lowlevel.TrioToken

    def __repr__(self) -> str:
        return f"<ClusterEngine: {len(self.lanes)} lanes>"

    # -- the connection -------------------------------------------------------------------------

    @property
    def is_connected(self) -> bool:
        """Whether there is a link."""
        return self._client is not None

    @property
    def has_nannies(self) -> bool:
        """Whether every worker that there was at the beginning can be killed and started anew."""
        return self._has_nannies

    async def connect(self) -> None:
        """Be connected to the scheduler.

        Raises:
          WorkerStartError: if that cannot be, or was lost.
        """
        async with self._lock:
            if self._lost is None and self._client is None:
                await self._connect()
            if self._lost is None and self._is_deserted:
                self._is_deserted = await in_thread(self.link.is_deserted)
        if self._lost is not None:
            raise WorkerStartError(self._lost)
        if self._is_deserted:
            raise WorkerStartError(self._desertion())

    def _desertion(self) -> str:
        seconds = self._plan.start_timeout
        return f"the Dask cluster has had no worker for this pool for {seconds} s (start_timeout)"

    async def _connect(self) -> None:
        self.token = trio.lowlevel.current_trio_token()
        attempt = _Attempt(self._options, self._plan)
        timeout = self._plan.start_timeout
        try:
            with trio.fail_after(timeout):
                self._client = await attempt.make()
        except WorkerStartError:  # a module could not be loaded
            raise
        except trio.TooSlowError:
            raise WorkerStartError(f"no connection to a Dask cluster within {timeout} s") from None
        except Exception as error:
            text = f"no connection to a Dask cluster: {type(error).__name__}: {error}"
            raise WorkerStartError(text) from error
        self._operations, self._has_nannies = attempt.operations, attempt.has_nannies
        self.natural_size = max(_LEAST_LANES, _LANES_PER_THREAD * attempt.threads)
        given = {name: value for name, value in attempt.terms.items() if value is not None}
        base = self._options.priority
        self.link = Link(self._client, self._topic, given, base, timeout, self._desert_soon)

    def look(self) -> None:
        """End all lanes if the scheduler is lost."""
        what = self.link.failure()
        if what is not None:
            self._lost = what
            for lane in [*self.lanes]:
                lane.lose(what)

    async def tend(self) -> None:
        """Look whether the scheduler and workers are still there, until cancelled."""
        while True:
            await trio.sleep(_LOOK_SECONDS)
            if self._client is not None:
                self.look()
                self.link.seek()

    def _desert_soon(self, keys: list[str]) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self.token.run_sync_soon(self._desert, frozenset(keys))

    def _desert(self, keys: frozenset[str]) -> None:
        """End all lanes but those of which there is still something to be heard."""
        self._is_deserted = True
        for lane in [*self.lanes]:
            if lane.waits_for() in keys or lane.waits_for() is None:
                lane.lose(self._desertion())

    async def close(self) -> None:
        """Let go of the cluster."""
        if self._client is not None:
            await trio.to_thread.run_sync(self._close, self._client)
            self._client = None

    def _close(self, client: Any) -> None:
        with contextlib.suppress(OSError):
            self.link.close()
        if client is not self._options.client:
            # It would wait longer for a scheduler that is gone.
            client.close(timeout=_CLOSE_SECONDS)

    # -- calls ----------------------------------------------------------------------------------

    def prepare(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Call:
        """Pickle a call; see `Engine.prepare`."""
        number = self.ledger.number(function, arguments)
        values = values_of(self._plan.context)
        shared_paths = self._options.shared_paths
        return prepare(function, arguments, values, number, shared_paths=shared_paths)

    def prepare_stream(
        self, inlet: Inlet, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Call:
        """Refuse it: the items of a stream go through the memory of one machine.

        Raises:
          TypeError: always.
        """
        raise TypeError(
            f"{function_name(function)} cannot be streamed from a cluster; give map() one item for "
            "each part of the work, or run() what returns a list"
        )

    def pack(
        self, call: ClusterCall, generation: int, serial: int, limit: float, left: float
    ) -> tuple[str, str, Parcel]:
        """Make a parcel of a call; return its key and its request's name as well."""
        key, name = f"{self._topic}-{generation}", f"{self._plan.name}-{serial}"
        parcel = Parcel.of(
            call.encoded,
            key,
            self._topic,
            name,
            0 if limit == math.inf else max(1, int(limit * 1e9)),
            None if left == math.inf else left,
            self._plan.modules,
            self._interval,
            len(call.log or b""),
        )
        return key, name, parcel

    def endpoint(self) -> Endpoint:
        """Make a lane."""
        return Lane(self)

    def operations(self) -> tuple[tuple[str, str, bool], ...]:
        """Return what the workers of the cluster have registered."""
        return self._operations


async def in_thread(function: Callable[[], T]) -> T:
    """Call what blocks in a thread of its own: those of the application may all wait for this pool.

    If cancelled, it is left to itself.
    """
    return await trio.to_thread.run_sync(
        function, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
    )


async def _probe(address: str, timeout: float, security: Security | None) -> None:
    """Find out whether somebody can be connected to."""
    known: Any = security or _Security()
    async with asyncio.timeout(None if timeout == math.inf else timeout):
        comm: Any = await _connect(address, timeout, **known.get_connection_args("client"))
        await comm.close()


# Few of Dask's methods have types.
_Client: Any = Client
_Security: Any = Security
_connect: Any = distributed.comm.connect  # type: ignore[attr-defined]


class _Attempt:
    """One attempt to connect, in a thread that may be left to itself."""

    def __init__(self, options: DaskEngine, plan: Plan) -> None:
        self._options = options
        self._plan = plan
        self._is_wanted = True
        self.operations: tuple[tuple[str, str, bool], ...] = ()
        self.terms = {"workers": options.workers, "resources": options.resources}
        self.threads = 0
        self.has_nannies = True

    async def make(self) -> Client:
        """Connect; if cancelled, at some time nothing is left of it."""
        try:
            client: Client = await in_thread(self._make)
            return client
        except trio.Cancelled:
            self._is_wanted = False
            raise

    def _make(self) -> Any:
        client: Any = self._options.client
        if isinstance(client, Client):
            self._set_up(client)
            return client
        timeout = self._plan.start_timeout
        # First: a client that cannot connect would leave its thread behind.
        LoopRunner().run_sync(_probe, client, timeout, self._options.security)  # type: ignore[no-untyped-call]
        made: Any = _Client(
            client,
            timeout=None if timeout == math.inf else timeout,
            security=self._options.security,
            set_as_default=False,
        )
        try:
            self._set_up(made)
        except BaseException:
            made.close()
            raise
        if not self._is_wanted:
            made.close()
        return made

    def _set_up(self, client: Any) -> None:
        """Bring the register; have modules loaded where there are workers already."""
        client.register_plugin(Register(), name=NAME)
        there, self.has_nannies = client.sync(client.scheduler.trioipc_survey, **self.terms)
        self.threads = sum(there.values())
        if there:
            self._prepare(client, [*there])

    def _prepare(self, client: Any, workers: list[str]) -> None:
        found = client.run(
            _cluster.prepare, self._plan.modules, workers=workers, on_error="return"
        ).values()
        for answer in found:
            # One that is dying as it is asked is nobody's mistake.
            if isinstance(answer, BaseException) and not isinstance(answer, OSError):
                raise answer
        self.operations = next((answer for answer in found if isinstance(answer, tuple)), ())
