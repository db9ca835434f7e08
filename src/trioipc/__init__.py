"""Run work in worker processes as if it were any other Trio call.

General layout: the public names live in the modules below and are loaded on first use (PEP 562), so
that a worker process, which imports this package too, never loads Trio.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from trioipc import chunks as chunks
    from trioipc import progress as progress
    from trioipc import sizing as sizing
    from trioipc import timeouts as timeouts
    from trioipc._errors import ChunkError as ChunkError
    from trioipc._errors import DataError as DataError
    from trioipc._errors import FallbackWarning as FallbackWarning
    from trioipc._errors import IPCError as IPCError
    from trioipc._errors import LocalProtocolError as LocalProtocolError
    from trioipc._errors import MissingExtraError as MissingExtraError
    from trioipc._errors import OperationNotFoundError as OperationNotFoundError
    from trioipc._errors import OutputTooLargeError as OutputTooLargeError
    from trioipc._errors import PayloadError as PayloadError
    from trioipc._errors import PoisonedRequestError as PoisonedRequestError
    from trioipc._errors import ProtocolError as ProtocolError
    from trioipc._errors import RemoteProtocolError as RemoteProtocolError
    from trioipc._errors import RequestCancelledError as RequestCancelledError
    from trioipc._errors import RequestExitError as RequestExitError
    from trioipc._errors import RequestInterrupt as RequestInterrupt
    from trioipc._errors import RequestTimeoutError as RequestTimeoutError
    from trioipc._errors import SharedStateError as SharedStateError
    from trioipc._errors import TrailingDataError as TrailingDataError
    from trioipc._errors import TruncatedDataError as TruncatedDataError
    from trioipc._errors import WorkerCrashedError as WorkerCrashedError
    from trioipc._errors import WorkerError as WorkerError
    from trioipc._errors import WorkerStartError as WorkerStartError
    from trioipc.bridge._arguments import WrittenFile as WrittenFile
    from trioipc.bridge._home import Placement as Placement
    from trioipc.bridge._run import run as run
    from trioipc.bridge.bridge import WorkerBridge as WorkerBridge
    from trioipc.bridge.bridge import close_default_bridge as close_default_bridge
    from trioipc.bridge.bridge import default_bridge as default_bridge
    from trioipc.bridge.bridge import open_worker_bridge as open_worker_bridge
    from trioipc.bridge.crypto import Encrypted as Encrypted
    from trioipc.bridge.file import ChunkedFile as ChunkedFile
    from trioipc.bridge.file import ChunkMetadata as ChunkMetadata
    from trioipc.bridge.file import FileHash as FileHash
    from trioipc.bridge.file import FileMetadata as FileMetadata
    from trioipc.bridge.file import FileType as FileType
    from trioipc.builtin._probe import Bandwidth as Bandwidth
    from trioipc.builtin._probe import ConnectivityResult as ConnectivityResult
    from trioipc.builtin._probe import IceCandidate as IceCandidate
    from trioipc.builtin._probe import IceResult as IceResult
    from trioipc.builtin._probe import Latency as Latency
    from trioipc.memory.state import SharedCancellation as SharedCancellation
    from trioipc.memory.state import SharedCounter as SharedCounter
    from trioipc.memory.state import SharedFlag as SharedFlag
    from trioipc.memory.state import SharedProgress as SharedProgress
    from trioipc.memory.state import is_shared_memory_available as is_shared_memory_available
    from trioipc.pool._instruments import Instrument as Instrument
    from trioipc.pool._instruments import RequestEnd as RequestEnd
    from trioipc.pool._instruments import RequestRecord as RequestRecord
    from trioipc.pool._opening import open_worker_pool as open_worker_pool
    from trioipc.pool._progress import Progress as Progress
    from trioipc.pool._request import PoolRequest as PoolRequest
    from trioipc.pool._statistics import ArenaStatistics as ArenaStatistics
    from trioipc.pool._statistics import Histogram as Histogram
    from trioipc.pool._statistics import OperationStatistics as OperationStatistics
    from trioipc.pool._statistics import PoolStatistics as PoolStatistics
    from trioipc.pool._statistics import RequestTimes as RequestTimes
    from trioipc.pool._statistics import WorkerInfo as WorkerInfo
    from trioipc.pool.ipc import IPCProtocol as IPCProtocol
    from trioipc.pool.ipc import Worker as Worker
    from trioipc.pool.ipc import open_worker as open_worker
    from trioipc.pool.pool import WorkerPool as WorkerPool
    from trioipc.pool.scheduling._strategy import CostWeightedStrategy as CostWeightedStrategy
    from trioipc.pool.scheduling._strategy import RequestView as RequestView
    from trioipc.pool.scheduling._strategy import StickyStrategy as StickyStrategy
    from trioipc.pool.scheduling._strategy import Strategy as Strategy
    from trioipc.pool.scheduling._strategy import WorkerView as WorkerView
    from trioipc.protocol._correlator import ProtocolStatistics as ProtocolStatistics
    from trioipc.protocol._messages import IPCMessage as IPCMessage
    from trioipc.protocol._messages import IPCProgress as IPCProgress
    from trioipc.protocol._messages import IPCReady as IPCReady
    from trioipc.protocol._messages import IPCRequest as IPCRequest
    from trioipc.protocol._messages import IPCResponse as IPCResponse
    from trioipc.worker.registry import operation as operation
    from trioipc.worker.request import CurrentRequest as CurrentRequest
    from trioipc.worker.request import current_request as current_request

__version__ = "0.1.0"

# {module: the public names that live there}
_HOMES = {
    "trioipc._errors": (
        "ChunkError",
        "DataError",
        "FallbackWarning",
        "IPCError",
        "LocalProtocolError",
        "MissingExtraError",
        "OperationNotFoundError",
        "OutputTooLargeError",
        "PayloadError",
        "PoisonedRequestError",
        "ProtocolError",
        "RemoteProtocolError",
        "RequestCancelledError",
        "RequestExitError",
        "RequestInterrupt",
        "RequestTimeoutError",
        "SharedStateError",
        "TrailingDataError",
        "TruncatedDataError",
        "WorkerCrashedError",
        "WorkerError",
        "WorkerStartError",
    ),
    "trioipc.bridge._arguments": ("WrittenFile",),
    "trioipc.bridge._home": ("Placement",),
    "trioipc.bridge._run": ("run",),
    "trioipc.bridge.bridge": (
        "WorkerBridge",
        "close_default_bridge",
        "default_bridge",
        "open_worker_bridge",
    ),
    "trioipc.bridge.crypto": ("Encrypted",),
    "trioipc.bridge.file": ("ChunkMetadata", "ChunkedFile", "FileHash", "FileMetadata", "FileType"),
    "trioipc.builtin._probe": (
        "Bandwidth",
        "ConnectivityResult",
        "IceCandidate",
        "IceResult",
        "Latency",
    ),
    "trioipc.memory.state": (
        "SharedCancellation",
        "SharedCounter",
        "SharedFlag",
        "SharedProgress",
        "is_shared_memory_available",
    ),
    "trioipc.pool._instruments": ("Instrument", "RequestEnd", "RequestRecord"),
    "trioipc.pool._progress": ("Progress",),
    "trioipc.pool._request": ("PoolRequest",),
    "trioipc.pool._statistics": (
        "ArenaStatistics",
        "Histogram",
        "OperationStatistics",
        "PoolStatistics",
        "RequestTimes",
        "WorkerInfo",
    ),
    "trioipc.pool.scheduling._strategy": (
        "CostWeightedStrategy",
        "RequestView",
        "StickyStrategy",
        "Strategy",
        "WorkerView",
    ),
    "trioipc.pool.ipc": ("IPCProtocol", "Worker", "open_worker"),
    "trioipc.pool._opening": ("open_worker_pool",),
    "trioipc.pool.pool": ("WorkerPool",),
    "trioipc.protocol._correlator": ("ProtocolStatistics",),
    "trioipc.protocol._messages": (
        "IPCMessage",
        "IPCProgress",
        "IPCReady",
        "IPCRequest",
        "IPCResponse",
    ),
    "trioipc.worker.registry": ("operation",),
    "trioipc.worker.request": ("CurrentRequest", "current_request"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_SUBMODULES = ("chunks", "progress", "sizing", "timeouts")

__all__ = ["__version__", *_SUBMODULES, *_HOME_OF]  # compared with the above by a test


if not TYPE_CHECKING:  # or any name would be right

    def __getattr__(name: str) -> object:
        import importlib

        if name in _SUBMODULES:
            return importlib.import_module(f"{__name__}.{name}")
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOME_OF[name]), name)
        globals()[name] = value  # so that it is looked up here only once
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
