"""A cluster of Dask's as what executes a pool's requests: ``open_worker_pool(engine=...)``.

With the extra ``dask``; `trioipc` itself never loads this.
"""

from trioipc.dask._options import DaskEngine

__all__ = ["DaskEngine"]
