"""Frames of calls of agents in other processes: what a broker carries, as JSON, and back. No pickle.

The log of a call is a list of frames, `{"v": 1, "n": 7, "r": [...]}`. A frame counts if its number `n` is the next one:
of two frames with one number the first counts, and frames behind a gap wait until the worker sends what is missing. The
records of a frame:

```
claim    w: worker, h: hash of the call, lease: seconds
begin    i: number of the message, c: its class, f: fields known beforehand, tools: it may have calls of tools
text     i, p: number of tokens before these, t: tokens
event    i, p: number of tokens before it, c: class, f: fields
end      i, m: the message, j: its content is the text of its tokens
message  i, m: a message that the agent had as a whole
fail     i, e: error
closed   there are no further messages; those that have begun may go on
done     s: ok, error, cancelled, lost, unavailable; e: error, u: usage, h: hash of the call
```

Values have the form of `miniagents.values`. Unknown fields and records are ignored. A frame that would be too large is
cut into numbered parts, `{"v": 1, "n": 8, "part": [0, 3], "d": "..."}`.
"""

from __future__ import annotations

import builtins
import json
import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from miniagents import errors
from miniagents._agents.usage import Limits
from miniagents._promising.freezing import FrozenDict
from miniagents._promising.naming import FROZEN_CLASSES
from miniagents.errors import (
    INTERRUPTS,
    MiniAgentsError,
    RemoteAgentError,
    RemoteProtocolError,
    StopDialog,
    add_note,
    describe_error,
    text_of_error,
)
from miniagents.messages import (
    AnswerRestarted,
    Message,
    ReasoningDelta,
    RefusalDelta,
    ToolCallDelta,
    ToolCallReady,
)
from miniagents.values import canonical_text, decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

VERSION: Final = 1
_EVENT_CLASSES: Final = {
    each.__name__: each for each in (ReasoningDelta, RefusalDelta, ToolCallDelta, ToolCallReady, AnswerRestarted)
}
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_write: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_PART_HEAD = 200
"""Bytes that are left for the other fields of a part."""

Record = dict[str, Any]


# --- frames


class FrameWriter:
    """Writer of the numbered frames of one call.

    Args:
        limit: number of bytes that a frame may have.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.number = 0
        """Number of the last frame."""

    def write(self, records: Sequence[Record]) -> list[bytes]:
        """Return the frames with these records; there are several if one would be too large."""
        self.number += 1
        frame = _to_bytes({"v": VERSION, "n": self.number, "r": records})
        if len(frame) <= self._limit:
            return [frame]
        self.number -= 1
        if len(records) > 1:
            middle = len(records) // 2
            return self.write(records[:middle]) + self.write(records[middle:])
        slices = split_text(json.dumps(_safe(records)), self._limit)
        frames: list[bytes] = []
        for index, text in enumerate(slices):
            self.number += 1
            part = {"v": VERSION, "n": self.number, "part": [index, len(slices)], "d": text}
            frames.append(_to_bytes(part))
        return frames


def split_text(text: str, limit: int) -> list[str]:
    """Return an ASCII text in pieces, each for a frame of `limit` bytes, also if JSON escapes double its length."""
    size = max((limit - _PART_HEAD) // 2, 1)
    return [text[start : start + size] for start in range(0, len(text), size)]


def _to_bytes(frame: dict[str, Any]) -> bytes:
    """Return a frame as JSON in UTF-8; a text with lone surrogates is encoded by `_safe`."""
    try:
        return _write(frame).encode()
    except UnicodeEncodeError:  # a token with half a surrogate pair
        return _write(_safe(frame)).encode()


def _safe(value: Any) -> Any:
    """Return JSON types in which texts with lone surrogates have the form of `miniagents.values.encode`."""
    if isinstance(value, dict):
        return {key: _safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_safe(item) for item in value]
    return encode(value) if isinstance(value, str) else value


class FrameReader:
    """Reader of the log of one call: it tells which frames count, and joins parts."""

    def __init__(self) -> None:
        self.number = 0
        """Number of the last frame that counts."""
        self.has_gap = False
        """True if frames came behind a gap in the numbers, and the missing frame did not come since."""
        self.is_done = False
        """True behind the record `done`: nothing counts any more."""
        self._parts: list[str] = []

    def read(self, data: bytes) -> list[Record]:
        """Return the records of a frame; [] if the frame does not count, or if further parts of it are still to come.

        A frame counts if its number is the next one, and the call has not ended.

        Raises:
            RemoteProtocolError: the frame cannot be read.
        """
        frame = read_object(data)
        number = frame.get("n")
        if type(number) is not int:
            raise RemoteProtocolError(f"A frame of a remote call has no number: {data[:80]!r}")
        if self.is_done or number <= self.number:
            return []
        if number > self.number + 1:
            self.has_gap = True
            return []
        self.number, self.has_gap = number, False
        if "part" in frame:
            return self._join(frame, data)
        self._parts.clear()
        return self._checked(frame.get("r"), data)

    def _join(self, frame: dict[str, Any], data: bytes) -> list[Record]:
        """Keep a part of a large frame and return no records; after the last part, return those of the joined frame.

        Raises:
            RemoteProtocolError: the part, or the joined frame, cannot be read.
        """
        part, text = frame["part"], frame.get("d")
        if not (isinstance(part, list) and [type(each) for each in part] == [int, int] and isinstance(text, str)):
            raise RemoteProtocolError(f"A part of a frame of a remote call cannot be read: {data[:80]!r}")
        index, count = part
        del self._parts[index:]  # a worker that sends a frame again begins with its first part
        self._parts.append(text)
        if index + 1 < count:
            return []
        whole = "".join(self._parts)
        self._parts.clear()
        try:
            return self._checked(json.loads(whole), data)
        except (ValueError, RecursionError):
            raise RemoteProtocolError(f"Parts of a frame of a remote call are no JSON: {whole[:80]!r}") from None

    def _checked(self, records: Any, data: bytes) -> list[Record]:
        """Return records, up to the one that ends the call; raise `RemoteProtocolError` for another value."""
        if not (isinstance(records, list) and all(isinstance(each, dict) for each in records)):
            raise RemoteProtocolError(f"A frame of a remote call has no records: {data[:80]!r}")
        for index, record in enumerate(records):
            if record.get("k") == "done":
                self.is_done = True
                return records[: index + 1]
        return records


def read_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object of a frame, or of a call in a queue.

    Raises:
        RemoteProtocolError: the bytes are no JSON object, or one of another version.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise RemoteProtocolError(f"A frame of a remote call is no JSON: {data[:80]!r}") from None
    if not isinstance(value, dict):
        raise RemoteProtocolError(f"A frame of a remote call is no JSON object: {data[:80]!r}")
    if value.get("v") != VERSION:
        raise RemoteProtocolError(
            f"A frame of a remote call has version {value.get('v')!r}, and this version of miniagents reads {VERSION}: "
            f"update the processes that read before those that write"
        )
    return value


def is_id(value: object) -> bool:
    """Return True for an id of a call or of a worker, which is a part of names at the broker."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


# --- messages and events


def dump_message(message: Message, tokens: Sequence[str]) -> Record:
    """Return the fields of the record `end` for a message, without a content that its tokens have as well."""
    dump = encode(message)
    if isinstance(message.content, str) and message.content == "".join(tokens):
        dump.pop("content", None)
        return {"m": dump, "j": True}
    return {"m": dump}


def load_message(record: Record, tokens: Sequence[str]) -> Message:
    """Return the message of a record `end` or `message`.

    Raises:
        RemoteProtocolError: the record has no message that can be read.
    """
    dump = record.get("m")
    if record.get("j") and isinstance(dump, dict):
        dump = {**dump, "content": encode("".join(tokens))}
    message = load_value(dump)
    if not isinstance(message, Message):
        raise RemoteProtocolError(f"A message was expected in a frame of a remote call, not {message!r:.80}")
    return message


def load_value(value: Any) -> Any:
    """Return a decoded value; raise `RemoteProtocolError` if it cannot be decoded."""
    try:
        return decode(value)
    except (TypeError, ValueError) as error:  # errors of fields, too, which pydantic raises
        raise RemoteProtocolError(f"A value in a frame of a remote call cannot be read: {error}") from error


def load_tokens(record: Record) -> list[str]:
    """Return the tokens of a record `text`; raise `RemoteProtocolError` if it has none."""
    tokens = record.get("t")
    if not isinstance(tokens, list):
        raise RemoteProtocolError(f"Tokens were expected in a frame of a remote call, not {tokens!r:.80}")
    for token in tokens:
        if type(token) is not str:
            break
    else:
        return tokens
    decoded = load_value(tokens)
    if not all(isinstance(token, str) for token in decoded):
        raise RemoteProtocolError(f"Tokens were expected in a frame of a remote call, not {tokens!r:.80}")
    return list(decoded)


def message_class_of(name: object) -> type[Message]:
    """Return the message class of this name; `Message` if it is not known here."""
    found = FROZEN_CLASSES.find(name)
    return found if found is not None and issubclass(found, Message) else Message


def dump_event(event: Any) -> Record:
    """Return class and fields of an event of a message."""
    values = {field.name: encode(getattr(event, field.name)) for field in fields(event)}
    return {"c": type(event).__name__, "f": values}


def load_event(record: Record) -> Any | None:
    """Return the event of a record; None for an event of a class that is not known here.

    Raises:
        RemoteProtocolError: the fields are not those of the class.
    """
    cls = _EVENT_CLASSES.get(str(record.get("c")))
    if cls is None:
        return None
    values = dict(load_value(record.get("f") or {}))
    names = {field.name for field in fields(cls)}
    try:
        return cls(**{name: value for name, value in values.items() if name in names})
    except TypeError as error:
        raise RemoteProtocolError(f"An event in a frame of a remote call cannot be read: {error}") from error


# --- errors


def dump_error(error: BaseException) -> Record:
    """Return an error as JSON types: its class, its text and its notes, without traceback and causes.

    An error of a class of Python or of MiniAgents has its arguments and attributes, or its members, as well.
    """
    kind = type(error)
    dump: Record = {"type": kind.__name__, "text": encode(text_of_error(error))}
    notes = [encode(note) for note in getattr(error, "__notes__", ()) if isinstance(note, str)]
    if notes:
        dump["notes"] = notes
    if _known_class(kind.__name__) is not kind:
        dump["type"] = f"{kind.__module__}.{kind.__qualname__}"
    elif isinstance(error, BaseExceptionGroup):
        dump["text"] = encode(error.message)
        dump["errors"] = [dump_error(each) for each in error.exceptions]
    else:
        reduced: Any = error.__reduce__()  # for `OSError`, it has the name of the file, which is not in `args`
        arguments = reduced[1]
        dump["args"] = [_encodable(each) for each in arguments]
        dump["state"] = {
            name: encoded
            for name, value in vars(error).items()
            if not name.startswith("__") and (encoded := _encodable(value)) is not None
        }
    return dump


def _encodable(value: Any) -> Any:
    """Return an encoded value; None for one that cannot be encoded."""
    try:
        return encode(value)
    except (TypeError, ValueError, RecursionError):
        return None


def _known_class(name: object) -> type[BaseException] | None:
    """Return the error class of Python or of MiniAgents with this name; None if there is none that may travel."""
    if not isinstance(name, str):
        return None
    found = getattr(errors, name, None) if name in errors.__all__ else getattr(builtins, name, None)
    if isinstance(found, type) and issubclass(found, BaseException) and not issubclass(found, INTERRUPTS):
        return found
    return None


def load_error(dump: Any) -> BaseException:
    """Return the error of a dump; a `RemoteAgentError` if its class is not known here."""
    if not isinstance(dump, dict):
        return RemoteProtocolError(f"An error was expected in a frame of a remote call, not {dump!r:.80}")
    name, text = str(dump.get("type")), str(load_value(dump.get("text", "")))
    error = _load_known_error(name, text, dump)
    if error is None:
        error = RemoteAgentError(f"{name}: {text}".removesuffix(": "), type_name=name)
    for note in dump.get("notes") or ():
        add_note(error, str(load_value(note)))
    return error


def _load_known_error(name: str, text: str, dump: Record) -> BaseException | None:
    """Return an error of a known class with its text and its values.

    Return None if the class is unknown, or makes another text.
    """
    cls = _known_class(name)
    if cls is None:
        return None
    if issubclass(cls, BaseExceptionGroup):
        members = [load_error(each) for each in dump.get("errors") or ()]
        try:
            return cls(text, members)
        except (TypeError, ValueError):
            return None
    arguments = dump.get("args")
    candidates = [tuple(load_value(arguments)) if isinstance(arguments, list) else (), (text,)]
    for candidate in candidates:
        try:
            error = cls(*candidate)
        except Exception:  # it may refuse arguments in any way
            continue
        if text_of_error(error) == text:
            if issubclass(cls, (MiniAgentsError, StopDialog)):
                vars(error).update(load_value(dump.get("state") or {}))
            return error
    return None


# --- traces


def dump_trace() -> dict[str, str] | None:
    """Return the trace context of the calling code as W3C headers; None if the program does not use OpenTelemetry."""
    if "opentelemetry" not in sys.modules:
        return None
    from opentelemetry import propagate

    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers or None


@contextmanager
def continue_trace(headers: Any) -> Iterator[None]:
    """Run the block in the trace context that the headers of a call carry.

    Without OpenTelemetry in this program, or if `headers` is no dict, the block keeps its own context.
    """
    if not isinstance(headers, dict) or "opentelemetry" not in sys.modules:
        yield
        return
    from opentelemetry import context, propagate

    token = context.attach(propagate.extract(headers))
    try:
        yield
    finally:
        context.detach(token)


# --- calls


@dataclass(frozen=True)
class Call:
    """A call of an agent, as it lies in the queue."""

    id: str
    agent: str
    """The alias of the agent at the worker."""
    messages: list[Any]
    """Encoded messages."""
    arguments: dict[str, Any]
    """Encoded keyword arguments."""
    limits: dict[str, Any] | None = None
    trace: dict[str, str] | None = None
    """Trace context of the caller, see `dump_trace`."""

    @cached_property
    def hash(self) -> str:
        """Hash of agent, messages and arguments, without the id: calls with the same id must have the same hash."""
        text = canonical_text([self.agent, self.messages, self.arguments])
        return sha256(text.encode()).hexdigest()[:40]

    def to_bytes(self) -> bytes:
        """Return the call as JSON."""
        return _to_bytes({"v": VERSION, **{field.name: getattr(self, field.name) for field in fields(self)}})

    @classmethod
    def from_bytes(cls, data: bytes) -> Call:
        """Return the call of JSON; raise `RemoteProtocolError` if it cannot be read."""
        value = read_object(data)
        types = {"id": str, "agent": str, "messages": list, "arguments": dict}
        if not (is_id(value.get("id")) and all(isinstance(value.get(name), kind) for name, kind in types.items())):
            raise RemoteProtocolError(f"A remote call cannot be read: {data[:80]!r}")
        return cls(**{field.name: value.get(field.name) for field in fields(cls)})  # type: ignore[arg-type]  # checked above


def dump_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return encoded keyword arguments.

    Raises:
        TypeError: JSON and the codec of messages cannot hold one of them; the text names it.
    """
    dumped: dict[str, Any] = {}
    for name, value in arguments.items():
        try:
            dumped[name] = encode(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise TypeError(
                f"The keyword argument {name!r} of a remote agent cannot be sent to another process: "
                f"{describe_error(error)}. Give JSON types or messages, and fork clients and functions into the agent "
                f"at the worker"
            ) from None
    return dumped


def load_arguments(dumped: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments of encoded ones, with lists and dicts as JSON has them."""
    return {name: _thaw(load_value(value)) for name, value in dumped.items()}


def _thaw(value: Any) -> Any:
    """Return a value with plain lists and dicts in place of tuples and frozen ones; messages stay as they are."""
    if isinstance(value, FrozenDict):
        return {key: _thaw(item) for key, item in value.items()}
    return [_thaw(item) for item in value] if isinstance(value, tuple) else value


def dump_limits(limits: Limits | None) -> dict[str, Any] | None:
    """Return the limits that are set; None if there are none."""
    if limits is None:
        return None
    values = {field.name: getattr(limits, field.name) for field in fields(limits)}
    return {name: value for name, value in values.items() if value is not None}


def load_limits(dump: Any) -> Limits | None:
    """Return the limits of a dump, or None if it is None; raise `RemoteProtocolError` if they cannot be read."""
    if dump is None:
        return None
    known = {field.name for field in fields(Limits)}
    try:
        return Limits(**{name: value for name, value in dump.items() if name in known})
    except (AttributeError, TypeError, ValueError) as error:
        raise RemoteProtocolError(f"Limits of a remote call cannot be read: {error}") from error
