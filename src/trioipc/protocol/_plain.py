"""Values as data: what the built-in operations send home, and nothing that could run.

A worker that parses hostile bytes may be taken over by them. What it sends is therefore read as
JSON, in which an object with one key stands for what JSON does not have:

- ``{"t": [...]}`` a tuple, ``{"d": [[key, value], ...]}`` a dict; an array is a list;
- ``{"b": hex}`` bytes, ``{"a": hex}`` a bytearray, ``{"m": hex}`` a memoryview; with a number in
  the place of the hex, what is at that place beside the frame;
- ``{"r": [name, fields...]}`` a record, ``{"e": {...}}`` an exception.

Guarantees, whatever is decoded:

- Nothing is imported, called or made but what is in `_RECORDS` and `_ERRORS`, and these are made
  of data.
- It takes time and memory in proportion to its length, and ends with a value or with a
  RemoteProtocolError.
"""

from __future__ import annotations

import importlib
import os
import sysconfig
import traceback
from functools import cache
from typing import TYPE_CHECKING, Any

from trioipc._errors import RemoteProtocolError
from trioipc.protocol._codec import (
    BESIDE,
    OUT_OF_BAND,
    PICKLE_BESIDE,
    PICKLE_LIMIT,
    PLACES_LIMIT,
    VIEW,
    Encoded,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from trioipc.protocol._codec import Buffer

_SCALARS = frozenset((type(None), bool, int, float, str))
# {type: its tag}
_TAGS: dict[type, str] = {bytes: "b", bytearray: "a", memoryview: "m"}
_MAKERS: dict[str, type] = {tag: kind for kind, tag in _TAGS.items()}

# {name of a record: its module}
_RECORDS = dict.fromkeys(
    ("Bandwidth", "ConnectivityResult", "IceCandidate", "IceResult", "Latency"),
    "trioipc.builtin._probe",
)
# Where exceptions may come from. Each is an Exception of that very module.
_ERRORS = frozenset(
    ("builtins", "cryptography.exceptions", "socket", "struct", "trioipc._errors", "zlib")
)

# What is kept of an exception: so many frames, causes and notes.
_FRAMES = 100
_CAUSES = 16
_NOTES = 16
# Lines of a file, as far as we believe it.
_LINES = 1_000_000


def encode_plain(value: object) -> Encoded:
    """Write ``value`` down; big buffers stay out of the body.

    Raises:
      TypeError: if it, or something in it, is not data. The type is named.
      RecursionError: if it is too deep.
    """
    import json  # not before it is needed: a worker gets ready without

    buffers: list[Buffer] = []
    body = json.dumps(_lower(value, buffers)).encode()
    kinds = [VIEW] * len(buffers)
    if len(body) > PICKLE_LIMIT:
        return Encoded(b"", BESIDE | PICKLE_BESIDE, (*buffers, body), (*kinds, VIEW))
    return Encoded(body, BESIDE if buffers else 0, buffers, kinds)


def decode_plain(rest: Buffer, flags: int, views: Sequence[memoryview]) -> Any:
    """Read what `encode_plain` wrote, or what somebody else did.

    Args:
      rest: The body behind its table.
      flags: The frame's flags.
      views: What is at the places of the table.

    Raises:
      RemoteProtocolError: if it is anything else.
    """
    import json

    try:
        if flags & PICKLE_BESIDE:
            *views, rest = views
        # A copy: who sent it may still write to it.
        return _lift(json.loads(bytes(rest)), views)
    except RemoteProtocolError:
        raise
    except Exception as error:  # no JSON, or too deep, or such as no constructor takes
        text = f"a built-in operation answered with what is no data ({type(error).__name__})"
        raise RemoteProtocolError(text) from error


# -- down to JSON


def _lower(value: Any, buffers: list[Buffer]) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind in _TAGS:
        return {_TAGS[kind]: _lower_buffer(value, buffers)}
    if kind is list:
        return _lower_items(value, buffers)
    if kind is tuple:
        return {"t": _lower_items(value, buffers)}
    if kind is dict:
        return {"d": [_lower_items(pair, buffers) for pair in value.items()]}
    if _RECORDS.get(kind.__name__) == kind.__module__:
        fields = [getattr(value, field.name) for field in kind.__attrs_attrs__]
        return {"r": [kind.__name__, *_lower_items(fields, buffers)]}
    if isinstance(value, Exception):
        return {"e": _lower_error(value, buffers, _CAUSES)}
    raise TypeError(f"{kind.__module__}.{kind.__qualname__} is no plain data")


def _lower_items(items: Any, buffers: list[Buffer]) -> list[Any]:
    if _SCALARS.issuperset(map(type, items)):
        return [*items]
    return [_lower(item, buffers) for item in items]


def _lower_buffer(value: Buffer, buffers: list[Buffer]) -> str | int:
    if len(value) < OUT_OF_BAND or len(buffers) >= PLACES_LIMIT:
        return bytes(value).hex()
    buffers.append(value)
    return len(buffers) - 1


def _lower_error(error: BaseException, buffers: list[Buffer], depth: int) -> dict[str, Any]:
    kind = type(error)
    if not _is_error(kind):
        raise TypeError(f"{kind.__module__}.{kind.__qualname__} is no plain exception")
    ours = kind.__module__ == "trioipc._errors"
    arguments = error.args if ours else error.__reduce__()[1]
    state = {name: value for name, value in vars(error).items() if not name.startswith("__")}
    lowered: dict[str, Any] = {
        "type": [kind.__module__, kind.__qualname__],
        "args": _lower_items(arguments, buffers),
        "state": {name: _lower(value, buffers) for name, value in state.items()},
        "notes": [str(note) for note in getattr(error, "__notes__", ())][:_NOTES],
        "frames": _frames_of(error),
    }
    for name in ("__cause__", "__context__"):
        other = getattr(error, name)
        if other is not None and depth and not (name == "__context__" and error.__cause__):
            try:
                lowered[name] = _lower_error(other, buffers, depth - 1)
            except TypeError:
                text = "".join(traceback.format_exception(other)).rstrip()
                lowered["notes"].append(f"trioipc: its cause could not travel:\n{text}")
    lowered["suppress"] = error.__suppress_context__
    return lowered


def _frames_of(error: BaseException) -> list[tuple[str, int, str]]:
    frames = traceback.walk_tb(error.__traceback__)
    found = [(frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in frames]
    return found[-_FRAMES:]


# -- up from JSON, which anybody may have written


def _lift(value: Any, views: Sequence[memoryview]) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is list:
        return _lift_items(value, views)
    if len(value) != 1:
        raise RemoteProtocolError(f"an object of {len(value)} keys stands for nothing")
    ((tag, content),) = value.items()
    if tag in _MAKERS:
        return _lift_buffer(_MAKERS[tag], content, views)
    lift = _LIFTERS.get(tag)
    if lift is None:
        raise RemoteProtocolError("an object with an unknown key stands for nothing")
    return lift(content, views)


def _lift_items(items: list[Any], views: Sequence[memoryview]) -> list[Any]:
    if _SCALARS.issuperset(map(type, items)):
        return items
    return [_lift(item, views) for item in items]


def _lift_buffer(make: type, content: Any, views: Sequence[memoryview]) -> Any:
    if type(content) is str:
        return make(bytes.fromhex(content))
    if type(content) is not int or not 0 <= content < len(views):
        raise RemoteProtocolError("a buffer is at a place that there is not")
    view = views[content]
    return view if make is memoryview else make(view)


def _lift_tuple(content: Any, views: Sequence[memoryview]) -> tuple[Any, ...]:
    return tuple(_lift_items(_as(list, content), views))


def _lift_dict(content: Any, views: Sequence[memoryview]) -> dict[Any, Any]:
    return dict(_lift_items(_as(list, pair), views) for pair in _as(list, content))


def _lift_record(content: Any, views: Sequence[memoryview]) -> Any:
    name, *fields = _as(list, content)
    if name not in _RECORDS:
        raise RemoteProtocolError("a record of a kind that there is not")
    kind = getattr(importlib.import_module(_RECORDS[name]), name)
    return kind(*_lift_items(fields, views))


def _lift_error(content: Any, views: Sequence[memoryview], depth: int = _CAUSES) -> Exception:
    found = _as(dict, content)
    module, name = _as(list, found["type"])
    kind = _error_type(_as(str, module), _as(str, name))
    arguments = _lift_items(_as(list, found["args"]), views)
    error = kind(*arguments)
    for attribute, value in _as(dict, found["state"]).items():
        if attribute.startswith("__"):
            raise RemoteProtocolError("an exception that would be told what it is made of")
        error.__dict__[attribute] = _lift(value, views)
    for note in _as(list, found["notes"]):
        error.add_note(_as(str, note))
    for attribute in ("__cause__", "__context__"):
        if attribute in found and depth:
            setattr(error, attribute, _lift_error(found[attribute], views, depth - 1))
    error.__suppress_context__ = _as(bool, found["suppress"])
    return error.with_traceback(_traceback_of(_as(list, found["frames"])))


def _as(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise RemoteProtocolError(f"expected a {kind.__name__}, not a {type(value).__name__}")
    return value


_LIFTERS: dict[str, Callable[[Any, Sequence[memoryview]], Any]] = {
    "t": _lift_tuple,
    "d": _lift_dict,
    "r": _lift_record,
    "e": _lift_error,
}


def _is_error(kind: type) -> bool:
    try:
        return _error_type(kind.__module__, kind.__qualname__) is kind
    except RemoteProtocolError:
        return False


@cache
def _error_type(module: str, name: str) -> type[Exception]:
    """Find an exception that may travel."""
    kind = vars(importlib.import_module(module)).get(name) if module in _ERRORS else None
    if not isinstance(kind, type) or not issubclass(kind, Exception):
        raise RemoteProtocolError("an exception of a kind that may not travel")
    return kind


def _traceback_of(frames: list[Any]) -> TracebackType | None:
    """Make a traceback that shows where an exception was raised.

    Whoever shows it will open the files that it names. So these are files of programs, and no
    pipes, devices, or what is nobody's business.
    """
    from tblib import Traceback

    chain = None
    for frame in reversed(frames[-_FRAMES:]):
        name, line, function = _as(list, frame)
        if type(line) is not int or not 0 < line <= _LINES or not _is_code(_as(str, name)):
            continue
        code = {"co_filename": name, "co_name": _as(str, function)}
        shown = {"f_globals": {"__name__": "?"}, "f_code": code, "f_lineno": line}
        chain = {"tb_frame": shown, "tb_lineno": line, "tb_next": chain}
    made: TracebackType | None = Traceback.from_dict(chain).as_traceback() if chain else None
    return made


def _is_code(name: str) -> bool:
    return (
        name.startswith(_code_folders())
        and name.endswith(".py")
        and "\0" not in name
        and os.path.normpath(name) == name
    )


@cache
def _code_folders() -> tuple[str, ...]:
    """Return where we, the standard library and installed packages are."""
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    paths = sysconfig.get_paths()
    known = [ours, *(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))]
    return tuple(folder + os.sep for folder in known)
