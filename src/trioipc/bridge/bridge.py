"""`open_worker_bridge` and `default_bridge`: the built-in operations, and where they run.

Rules:

- Where operations run is decided in `trioipc.bridge._home`.
- What the block's body raises leaves the block as itself.
- The default bridge's task never raises: an error there would end the whole program. Whoever calls
  next is told instead.
"""

from __future__ import annotations

import math
import os
import warnings
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, final, get_args

import attrs
import trio
from trio.lowlevel import RunVar

from trioipc._errors import FallbackWarning, WorkerError, WorkerStartError
from trioipc.bridge._home import OpenHome, Placement, PlacementKind, open_home
from trioipc.bridge.compression import CompressionBridge
from trioipc.bridge.crypto import CryptoBridge
from trioipc.bridge.file import FileBridge
from trioipc.bridge.network import NetworkBridge
from trioipc.pool._block import block
from trioipc.pool._options import module_names, one_of
from trioipc.pool.engines._process_engine import refuse_nested
from trioipc.worker.registry import registered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from typing import NoReturn, Protocol, TypeVar, TypeVarTuple, Unpack

    from trioipc.bridge._arguments import Options
    from trioipc.pool._instruments import Instrument
    from trioipc.pool._options import Lifespan
    from trioipc.pool.engines._engines import Elsewhere
    from trioipc.pool.pool import WorkerPool
    from trioipc.pool.scheduling._scheduler import StrategyName
    from trioipc.pool.scheduling._strategy import Strategy

    T = TypeVar("T")
    Ts = TypeVarTuple("Ts")

Fallback: TypeAlias = Literal["thread", "never"]

# Where bridges run that do not say it themselves; for an operator, and for tests.
ENVIRONMENT_VARIABLE = "TRIOIPC_PLACEMENT"


if TYPE_CHECKING:

    class Home(Protocol):
        """What a bridge asks when it is used: one that is open, or one that opens when needed."""

        @property
        def placed(self) -> Placement:
            """Where the operations run."""

        @property
        def pool(self) -> WorkerPool:
            """The pool below."""

        async def run(
            self, function: Callable[[*Ts], T], /, *args: *Ts, **options: Unpack[Options]
        ) -> T:
            """Run an operation there."""

        async def run_async(
            self, function: Callable[[*Ts], Any], /, *args: *Ts, **options: Unpack[Options]
        ) -> Any:
            """Run an asynchronous operation there."""

        def explain(self, operation: str, nbytes: int) -> Placement:
            """Say where an operation would run, and why there."""


@final
@attrs.define(eq=False, repr=False)
class WorkerBridge:
    """Files encrypted, decrypted and hashed by workers; get one from `open_worker_bridge`."""

    _home: Home
    crypto: CryptoBridge
    """AES-256-GCM, SHA-256, and keys from passwords."""
    file: FileBridge
    """SHA-256 and SHA-512; chunks; types and metadata."""
    compression: CompressionBridge
    """Gzip, deflate, brotli, zstd."""
    network: NetworkBridge
    """Connectivity, bandwidth, latency, ICE candidates."""

    def __repr__(self) -> str:
        where = "threads" if self.placed.kind == "thread" else "processes"
        return f"<WorkerBridge: on {where}>"

    @property
    def pool(self) -> WorkerPool:
        """The pool below, for functions of your own.

        Raises:
          WorkerStartError: if the bridge fell back to threads, where your functions could not be
            killed.
        """
        return self._home.pool

    @property
    def placed(self) -> Placement:
        """Where the operations run, and why there."""
        return self._home.placed

    def explain(self, operation: str, nbytes: int) -> Placement:
        """Say where a call would run now, and why there.

        With ``placement="auto"`` each call runs where calls like it have cost least: inline, which
        is for what takes at most 0.4 ms; on a thread; or in a process. Where that is not known
        yet, it is tried.

        Args:
          operation: Such as ``"crypto.encrypt_file"``.
          nbytes: How large its source is.

        Raises:
          ValueError: if there is no such operation, or ``nbytes`` is negative.
        """
        if operation not in _operations():
            names = ", ".join(_operations())
            raise ValueError(f"operation must be one of {names}, not {operation!r}")
        if nbytes < 0:
            raise ValueError(f"nbytes must be >= 0, not {nbytes}")
        return self._home.explain(operation, nbytes)


def _operations() -> list[str]:
    """Return the names of what may run in more than one place."""
    return sorted(
        f"{channel}.{name}"
        for channel, name, _ in registered()
        if channel in ("crypto", "file", "compression")
    )


def _build(home: Home) -> WorkerBridge:
    return WorkerBridge(
        home,
        CryptoBridge(home.run),
        FileBridge(home.run),
        CompressionBridge(home.run),
        NetworkBridge(home.run_async),
    )


@block
async def open_worker_bridge(
    size: int | None = None,
    *,
    placement: PlacementKind | None = None,
    fallback: Fallback = "thread",
    modules: Iterable[str] = (),
    strategy: StrategyName | Strategy = "least-busy",
    task_timeout: float = math.inf,
    queue_timeout: float = math.inf,
    start_timeout: float = 30.0,
    stall_timeout: float = math.inf,
    max_retries: int = 2,
    max_queue: float = math.inf,
    max_arena_bytes: float = 256 << 20,
    grace: float = 1.0,
    drain_timeout: float = math.inf,
    progress_interval: float = 0.05,
    name: str = "trioipc",
    min_size: int | None = None,
    spare: int = 0,
    max_requests: float = math.inf,
    max_memory: float = math.inf,
    max_age: float = math.inf,
    memory_limit: float = math.inf,
    scrub_environment: bool = False,
    forward_logs: bool = False,
    context_variables: Iterable[str] = (),
    lifespan: Lifespan | None = None,
    instruments: Iterable[Instrument] = (),
    engine: Elsewhere | None = None,
) -> AsyncIterator[WorkerBridge]:
    """Open workers that encrypt, decrypt and hash.

    All but the first two options are those of `open_worker_pool`.

    Args:
      size: How many workers; None for as many as this process has cores.
      placement: ``"process"``; or ``"thread"`` for threads of this process: nothing to start, but
        what runs cannot be killed; or ``"auto"`` to find out for each call what costs least, see
        `WorkerBridge.explain`. None takes the environment variable ``TRIOIPC_PLACEMENT``, or
        ``"process"`` where that is not set.
      fallback: ``"thread"`` to work on threads, with a `FallbackWarning`, where no worker process
        can be started; ``"never"`` to raise instead.
      modules: Modules that each worker loads, for functions of your own on ``bridge.pool``.
      strategy: Which worker takes the next request.
      task_timeout: Seconds that an operation may run, unless its call says otherwise.
      queue_timeout: Seconds that it may wait before that, likewise.
      start_timeout: Seconds that a worker may take to start.
      stall_timeout: Seconds that an operation may stand still, without any progress.
      max_retries: How often an operation is tried again after a crash.
      max_queue: How many requests may wait.
      max_arena_bytes: How many bytes of shared memory are kept warm.
      grace: Seconds for each rung of the cancel ladder.
      drain_timeout: Seconds that the block waits at its end for what is still under way.
      progress_interval: Seconds between two progress values, at least.
      name: What the workers are called.
      min_size: How many workers stay though nobody needs them; None to keep all.
      spare: How many workers are kept ready beyond those in use.
      max_requests: How many operations a worker does before another takes its place.
      max_memory: How many bytes it may grow by before that.
      max_age: For how many seconds it serves before that.
      memory_limit: How many bytes of private memory a worker may have.
      scrub_environment: Whether workers forget most of their environment.
      forward_logs: Whether what workers log is handed to the loggers of this process.
      context_variables: Names of those that travel with functions of your own.
      lifespan: Makes the context manager that each worker of ``bridge.pool`` lives in.
      instruments: Are told what happens to requests and workers.
      engine: As in `open_worker_pool`. There is no fallback then, and operations of ``network``
        stay in a process of this machine, since it is this one's network that they ask about.

    Yields:
      The bridge.

    Raises:
      ValueError: if an option is none of those that there are.
      WorkerStartError: if no worker can be started, and ``fallback`` does not help.
    """
    one_of("fallback", fallback, get_args(Fallback))
    kind: PlacementKind
    if engine is not None:
        if placement not in (None, "process"):
            raise ValueError(
                f"placement must be None or 'process' with an engine, not {placement!r}"
            )
        kind, reason, fallback = "process", f"on {engine}", "never"
    else:
        kind, reason = _placement_of(placement)
    if kind == "process" and engine is None:
        # In a process that multiprocessing has not started up yet, nothing must be opened at all:
        # threads would run the main script's work once more in each worker.
        refuse_nested()
    options: dict[str, Any] = {
        "modules": module_names(modules),
        "strategy": strategy,
        "task_timeout": task_timeout,
        "queue_timeout": queue_timeout,
        "start_timeout": start_timeout,
        "stall_timeout": stall_timeout,
        "max_retries": max_retries,
        "max_queue": max_queue,
        "max_arena_bytes": max_arena_bytes,
        "grace": grace,
        "drain_timeout": drain_timeout,
        "progress_interval": progress_interval,
        "name": name,
        "min_size": min_size,
        "spare": spare,
        "max_requests": max_requests,
        "max_memory": max_memory,
        "max_age": max_age,
        "memory_limit": memory_limit,
        "scrub_environment": scrub_environment,
        "forward_logs": forward_logs,
        "context_variables": tuple(context_variables),
        "lifespan": lifespan,
        "instruments": tuple(instruments),
        "engine": engine,
    }
    async with AsyncExitStack() as stack:
        home = await open_home(stack, size, kind, reason, fallback, options)
        if home.failure is not None:
            # 4: past this generator and two times __aenter__, to the ``async with``.
            _warn(home.failure, stacklevel=4)
        yield _build(home)


def _placement_of(placement: str | None) -> tuple[PlacementKind, str]:
    """Say where to run, and who said so."""
    given = os.environ.get(ENVIRONMENT_VARIABLE) or None
    if placement is not None:
        name, value = "placement", placement
    elif given is not None:
        name, value = ENVIRONMENT_VARIABLE, given
    else:
        return "process", "the default"
    one_of(name, value, get_args(PlacementKind))
    return cast("PlacementKind", value), f"{name} says so"


def _warn(failure: WorkerStartError, stacklevel: int) -> None:
    warnings.warn(
        f"no worker process could be started, so this bridge works on threads: {failure}",
        FallbackWarning,
        stacklevel=stacklevel + 1,
    )


# ---- the default bridge


@final
@attrs.define(eq=False)
class _DefaultHome:
    """A pool that opens when it is first asked, and lives in a system task.

    Its life: not started, then opening, open and ended, each marked by what is set.
    """

    _token: trio.lowlevel.TrioToken
    _kind: PlacementKind
    _reason: str
    _started: bool = False
    _home: OpenHome | None = None
    _error: BaseException | None = None
    _warned: bool = False
    # Whether somebody has been told of the error.
    told: bool = False
    # Set by `close`: no new requests.
    closed: bool = False
    _settled: trio.Event = attrs.Factory(trio.Event)  # open, or ended without ever being so
    _closing: trio.Event = attrs.Factory(trio.Event)
    _ended: trio.Event = attrs.Factory(trio.Event)
    _scope: trio.CancelScope = attrs.Factory(trio.CancelScope)

    @property
    def placed(self) -> Placement:
        if self._home is not None:
            return self._home.placed
        return Placement(self._kind, f"{self._reason}; nothing has been started yet")

    @property
    def pool(self) -> WorkerPool:
        self._refuse_ended()
        if self._home is None:
            raise RuntimeError(
                "the default bridge has no pool before its first operation; "
                "trioipc.run opens it for functions of your own"
            )
        return self._home.pool

    async def run(
        self, function: Callable[[*Ts], T], /, *args: *Ts, **options: Unpack[Options]
    ) -> T:
        home = await self.open()
        if home.failure is not None and not self._warned:
            self._warned = True
            _warn(home.failure, stacklevel=3)  # past this and the operation, to its caller
        return await home.run(function, *args, **options)

    async def run_async(
        self, function: Callable[[*Ts], Any], /, *args: *Ts, **options: Unpack[Options]
    ) -> Any:
        home = await self.open()
        return await home.run_async(function, *args, **options)

    def explain(self, operation: str, nbytes: int) -> Placement:
        return self.placed if self._home is None else self._home.explain(operation, nbytes)

    async def open(self) -> OpenHome:
        """Start what is not started; wait until it is open."""
        self._refuse_ended()
        if not self._started:
            if self._kind == "process":
                refuse_nested()
            self._started = True
            trio.lowlevel.spawn_system_task(self._live, name="trioipc.default_bridge")
        if self._home is None:
            await self._settled.wait()
            self._refuse_ended()
        assert self._home is not None
        return self._home

    async def _live(self) -> None:
        """Be the system task: open, stay, close. Never raises but what Trio itself throws in."""
        try:
            with self._scope:
                async with AsyncExitStack() as stack:
                    self._home = await open_home(
                        stack, None, self._kind, self._reason, "thread", _DEFAULT_OPTIONS
                    )
                    self._settled.set()
                    await self._closing.wait()
        except trio.Cancelled:  # the run ends; requests in flight have been aborted
            raise
        except BaseException as error:
            self._error = error
        finally:
            self.closed = True
            self._settled.set()
            self._ended.set()

    def _refuse_ended(self) -> None:
        if self._error is not None:
            self._tell()
        if self.closed:
            raise trio.ClosedResourceError("the default bridge is closed")
        if self._token is not trio.lowlevel.current_trio_token():
            raise RuntimeError("this default bridge belongs to another trio.run")

    def _tell(self) -> NoReturn:
        """Raise what ended the task, in a new exception: several may ask."""
        self.told = True
        if self._home is None:
            raise WorkerStartError("the default bridge could not be opened") from self._error
        raise WorkerError("the default bridge has broken") from self._error

    async def close(self) -> None:
        """Take no new requests, serve those under way, end. If cancelled, abort them."""
        self.closed = True
        if not self._started:
            await trio.lowlevel.checkpoint()
            return
        self._closing.set()
        try:
            await self._ended.wait()
        except BaseException:
            # As for a block that is left by an exception; bounded by the graces and a kill.
            self._scope.cancel()
            with trio.CancelScope(shield=True):
                await self._ended.wait()
            raise


_DEFAULT_OPTIONS: dict[str, Any] = {}

# {run: (what to ask, and the bridge that asks it)}
_default: RunVar[tuple[_DefaultHome, WorkerBridge] | None] = RunVar("trioipc_default_bridge", None)


def default_bridge() -> WorkerBridge:
    """Return the bridge of this `trio.run`, for programs that do not want to open one.

    Starts nothing: the first operation does. The workers live until the main task ends or
    `close_default_bridge`; requests that are then still in flight are aborted, and later calls
    raise `trio.ClosedResourceError`. It works on threads where no process can be started.

    If it breaks, the next call raises a `WorkerError`; after that there is a new one here.

    Raises:
      RuntimeError: outside of `trio.run`.
      ValueError: if ``TRIOIPC_PLACEMENT`` is none of those that there are.
    """
    return _known_or_new()[1]


def _known_or_new() -> tuple[_DefaultHome, WorkerBridge]:
    known = _current()
    if known is None or known[0].told:
        home = _DefaultHome(trio.lowlevel.current_trio_token(), *_placement_of(None))
        known = home, _build(home)
        _default.set(known)
    return known


async def open_default_pool() -> WorkerPool:
    """Return the pool of the default bridge, which opens if it is not open.

    Raises:
      RuntimeError: outside of `trio.run`.
      WorkerError: if it could not be opened, or has broken, or runs built-in operations only.
      trio.ClosedResourceError: after the main task's end.
    """
    return (await _known_or_new()[0].open()).pool


async def close_default_bridge() -> None:
    """Close the default bridge of this `trio.run`, as at the end of an ``async with`` block.

    Requests under way are served. The next `default_bridge` is a new one. Without an open one,
    does nothing.

    Raises:
      RuntimeError: outside of `trio.run`.

    Cancellation: a checkpoint. If cancelled, requests under way are aborted; it is closed anyway.
    """
    known = _current()
    if known is None:
        await trio.lowlevel.checkpoint()
        return
    _default.set(None)
    await known[0].close()


def _current() -> tuple[_DefaultHome, WorkerBridge] | None:
    try:
        return _default.get()
    except RuntimeError:
        raise RuntimeError("the default bridge exists only inside of trio.run") from None
