"""What a worker process is told to run: report to the parent, then serve it.

It imports little before it reports. The rest is loaded while the parent looks at us and gets our
descriptors ready, which saves a new pool 2 ms of its first answer.
"""

from __future__ import annotations

import gc
import os

from trioipc import __version__
from trioipc.worker._wires import Ticket, report, take_over


def retire() -> bool:
    """Tell trio-parallel that a worker which has served is not to be used again."""
    return True


def serve(ticket: Ticket) -> None:
    """Serve the parent until it closes the pipe; this is the one call a worker process gets."""
    if ticket.version != __version__:
        from trioipc._errors import WorkerStartError

        raise WorkerStartError(
            f"the worker found trioipc {__version__}, its parent is {ticket.version}"
        )
    control = report(ticket)
    # What is loaded now stays. To look through it for garbage meanwhile takes 2 ms.
    collects = gc.isenabled()
    gc.disable()
    from trioipc._errors import WorkerStartError
    from trioipc.worker._life import settle
    from trioipc.worker._orphan import (
        die_with_parent,
        keep_descriptors_private,
        leave_the_end_to_the_parent,
        unblock_ctrl_c,
    )
    from trioipc.worker._serve import Server
    from trioipc.worker._stacks import tell_stacks

    server_type = Server
    if ticket.kind == "io":
        from trioipc.worker._serve_io import IoServer

        server_type = IoServer

    wires = take_over(control, logs=ticket.log_levels is not None)
    try:
        tell_stacks(wires.stacks)
        die_with_parent()
        leave_the_end_to_the_parent()
        unblock_ctrl_c()
        keep_descriptors_private()
        settle(ticket)
        server = server_type(ticket, wires)
        if collects:
            gc.enable()
        if wires.logs is not None and ticket.log_levels is not None:
            from trioipc.worker._logs import forward_logs

            forward_logs(wires.logs, ticket.log_levels, server.dropped())
        try:
            server.prepare()
            server.run()
        except WorkerStartError as error:
            from trioipc.worker._answer import make_portable

            make_portable(error)
            raise
        except OSError:
            # A function has closed our descriptors, or has forked and its child has come back:
            # there is nobody to talk to.
            os._exit(1)
    finally:
        wires.close()
