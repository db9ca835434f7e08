"""The life of a request and of a worker, as two tables.

Rule 1: every transition is here, and nowhere in an ``if``. The docs draw their diagrams from
    these tables.
Rule 2: an event that a state does not know is a bug in trioipc, and raises.

A state and an event are words; the tables map ``{state: {event: next state}}``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Literal, TypeAlias

    RequestState: TypeAlias = Literal[
        "waiting", "loading", "sent", "cancelling", "interrupting", "killing", "ended"
    ]
    RequestEvent: TypeAlias = Literal[
        "load", "send", "cancel", "interrupt", "kill", "requeue", "end"
    ]
    WorkerState: TypeAlias = Literal["starting", "idle", "busy", "leaving", "gone"]
    WorkerEvent: TypeAlias = Literal["ready", "fill", "free", "retire", "die"]

# waiting: in the queue. loading: it has a place on a worker, and its buffers are being copied to
# shared memory. sent: the worker has it. cancelling, interrupting, killing: the three rungs of
# the cancel ladder. ended: it has its outcome.
REQUEST: dict[RequestState, dict[RequestEvent, RequestState]] = {
    "waiting": {"load": "loading", "send": "sent", "cancel": "ended", "end": "ended"},
    "loading": {"send": "sent", "requeue": "waiting", "cancel": "ended", "end": "ended"},
    "sent": {"cancel": "cancelling", "requeue": "waiting", "end": "ended"},
    "cancelling": {"interrupt": "interrupting", "kill": "killing", "end": "ended"},
    "interrupting": {"interrupt": "interrupting", "kill": "killing", "end": "ended"},
    "killing": {"kill": "killing", "end": "ended"},
    "ended": {},
}

# starting: not ready yet. idle: ready, with nothing to do. busy: no place left. leaving: takes
# no new requests. gone: the process is dead and everything it held is decided.
WORKER: dict[WorkerState, dict[WorkerEvent, WorkerState]] = {
    "starting": {"ready": "idle", "retire": "leaving", "die": "gone"},
    "idle": {"fill": "busy", "retire": "leaving", "die": "gone"},
    "busy": {"fill": "busy", "free": "idle", "retire": "leaving", "die": "gone"},
    "leaving": {"free": "leaving", "retire": "leaving", "die": "gone"},
    "gone": {},
}
