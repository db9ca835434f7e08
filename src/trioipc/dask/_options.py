"""What may be said about a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs

from trioipc._errors import MissingExtraError
from trioipc.pool._options import switch

try:
    from distributed import Client
except ImportError as error:
    raise MissingExtraError(
        "a pool on a Dask cluster needs the extra: pip install 'trioipc[dask]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from distributed import Security

    from trioipc.pool._endpoint import Engine
    from trioipc.pool.engines._engines import Plan


def _names(workers: Iterable[str] | None) -> tuple[str, ...] | None:
    if isinstance(workers, str):
        raise TypeError(f"workers must be an iterable of names, not the str {workers!r}")
    return None if workers is None else tuple(workers)


@final
@attrs.frozen
class DaskEngine:
    """A Dask cluster, for the ``engine`` of `trioipc.open_worker_pool` and of a bridge.

    Each request is one task of Dask's, whose scheduler gives it to the worker that is least busy;
    the pool, its clocks, its cancel ladder and its errors are the same. It may serve several pools.

    Args:
      client: A `distributed.Client` that you keep open for longer than the pool, and that is not
        ``asynchronous``; or the address of a scheduler, such as ``"tcp://10.0.0.1:8786"``, to
        which each pool then has a client of its own.
      security: Keys and certificates for an address; see `distributed.Security`.
      workers: Names or addresses of those workers that may run this pool's requests; None for any.
      resources: What each request takes of a worker's resources, as in ``{"GPU": 1}``.
      priority: Among the tasks of everybody on the cluster; higher comes first. Requests with
        ``priority="high"`` and ``"low"`` have one more, and one less.
      shared_paths: Whether a path means the same file here and on every worker. If not, built-in
        operations refuse paths, which would be looked for on whatever worker runs them.

    Raises:
      MissingExtraError: on the import of this module, without the extra ``dask``.
      TypeError, ValueError: if an argument is not as said above.
    """

    client: Client | str
    security: Security | None = attrs.field(default=None, kw_only=True)
    workers: tuple[str, ...] | None = attrs.field(
        default=None,
        kw_only=True,
        converter=_names,
    )
    resources: Mapping[str, float] | None = attrs.field(default=None, kw_only=True)
    priority: int = attrs.field(default=0, kw_only=True)
    shared_paths: bool = attrs.field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.client, Client | str):
            kind = type(self.client).__name__
            raise TypeError(f"client must be a distributed.Client or an address, not a {kind}")
        if isinstance(self.client, Client) and self.client.asynchronous:
            raise ValueError("the client must not be asynchronous: it needs a loop of its own")
        if isinstance(self.client, Client) and self.security is not None:
            raise ValueError("security is for an address; a client has its own")
        if isinstance(self.priority, bool) or not isinstance(self.priority, int):
            raise TypeError(f"priority must be an int, not {type(self.priority).__name__}")
        switch("shared_paths", self.shared_paths)

    def __str__(self) -> str:
        client = self.client
        if isinstance(client, str):
            return f"Dask at {client}"
        return f"Dask at {getattr(client.scheduler, 'address', 'no address')}"

    def make_engine(self, plan: Plan) -> Engine:
        """Make the engine of one pool; for `open_worker_pool`."""
        from trioipc.dask._engine import ClusterEngine

        return ClusterEngine(self, plan)
