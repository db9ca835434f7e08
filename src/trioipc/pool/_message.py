"""What `WorkerPool.execute` may be given."""

from __future__ import annotations

from collections.abc import Mapping

from trioipc._errors import LocalProtocolError
from trioipc.pool._options import seconds
from trioipc.protocol._messages import CHANNELS, IPCMessage


def message_of(message: IPCMessage | Mapping[str, object]) -> IPCMessage:
    """Make a message of what `execute` was given."""
    if isinstance(message, IPCMessage):
        return message
    if not isinstance(message, Mapping):
        raise LocalProtocolError(f"a {type(message).__name__} is no message")
    fields = {str(key): value for key, value in message.items()}
    fields.setdefault("id", "")
    try:
        made = IPCMessage(**fields)  # type: ignore[arg-type] # checked by its validators
        if made.timeout is not None:
            seconds("timeout", made.timeout)
    except (TypeError, ValueError) as error:
        raise LocalProtocolError(f"this is no message: {error.args[0]}") from error
    if made.channel not in CHANNELS:
        raise LocalProtocolError(f"there is no channel {made.channel!r}")
    return made
