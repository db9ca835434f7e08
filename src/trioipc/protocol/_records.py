"""Log records on their way from a worker to its parent, as data in frames of their own."""

from __future__ import annotations

import json
import logging
import struct
from typing import TYPE_CHECKING, Any

from trioipc._errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Length of the body.
HEAD = struct.Struct("<I")
# A longer record is cut. Half of a pipe, so that one fits beside what has not been read yet.
RECORD_LIMIT = 32 << 10
# What a text is cut to then: six bytes of JSON for a character, and two long texts at most.
_TEXT_LIMIT = 2500

# {what of a record travels by itself: its types}
_FIELDS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "levelno": (int,),
    "pathname": (str,),
    "lineno": (int,),
    "msg": (str,),
    "funcName": (str, type(None)),
    "stack_info": (str, type(None)),
    "exc_text": (str, type(None)),
    "created": (float,),
    "thread": (int, type(None)),
    "threadName": (str, type(None)),
    "request_id": (str, type(None)),
}
_SCALARS = (type(None), bool, int, float, str)
# What every record has; what somebody has added with ``extra`` is not in it.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_formatter = logging.Formatter()


def encode_record(record: logging.LogRecord, request_id: str | None) -> bytes:
    """Write a record down, with its text made, since its arguments may be anything.

    Raises:
      TypeError: if it has what no record has.
      Exception: whatever making its text raises.
    """
    text = record.exc_text
    if record.exc_info and not text:
        text = _formatter.formatException(record.exc_info)
    extra = {
        name: value
        for name, value in vars(record).items()
        if name not in _OWN and type(value) in _SCALARS
    }
    special = {"msg": record.getMessage(), "exc_text": text, "request_id": request_id}
    known = {name: special.get(name, getattr(record, name, None)) for name in _FIELDS}
    for name, value in known.items():
        if type(value) not in _FIELDS[name]:
            raise TypeError(f"a log record whose {name} is a {type(value).__name__}")
    body = json.dumps([known, extra]).encode()
    if len(body) > RECORD_LIMIT:
        known = {name: _cut(value) for name, value in known.items()}
        body = json.dumps([known, {}]).encode()
    return HEAD.pack(len(body)) + body


def _cut(value: Any) -> Any:
    if type(value) is not str or len(value) <= _TEXT_LIMIT:
        return value
    return f"{value[:_TEXT_LIMIT]} [{len(value) - _TEXT_LIMIT} more characters]"


def split_records(data: bytes) -> Iterator[bytes]:
    """Yield the body of each whole frame in ``data``, and at last what is left.

    Raises:
      RemoteProtocolError: if a body would be longer than any that is ever sent.
    """
    at = 0
    while len(data) - at >= HEAD.size:
        (length,) = HEAD.unpack_from(data, at)
        if length > RECORD_LIMIT:
            raise RemoteProtocolError(f"a log record of {length} bytes; at most {RECORD_LIMIT}")
        end = at + HEAD.size + length
        if end > len(data):
            break
        yield data[at + HEAD.size : end]
        at = end
    yield data[at:]


def decode_record(body: bytes, pid: int | None) -> logging.LogRecord:
    """Read a record.

    Raises:
      RemoteProtocolError: if it is none.
    """
    try:
        known, extra = json.loads(body)
        found = {name: known[name] for name in _FIELDS}
        named = dict(extra)
    except Exception as error:
        raise RemoteProtocolError("a log record that is none") from error
    for name, value in found.items():
        if type(value) not in _FIELDS[name]:
            raise RemoteProtocolError(f"a log record whose {name} is a {type(value).__name__}")
    record = logging.LogRecord(
        found["name"], found["levelno"], found["pathname"], found["lineno"], found["msg"], (), None
    )
    for name, value in {**named, **found}.items():
        if type(value) not in _SCALARS or (name in _OWN and name not in _FIELDS):
            raise RemoteProtocolError("a log record with what it cannot have")
        setattr(record, name, value)
    record.msecs = record.created % 1 * 1000
    record.process = record.worker_pid = pid
    record.processName = "trioipc worker"
    return record
