"""The faults there are. Every function checks its arguments, and gives a `Fault`."""

from __future__ import annotations

import json
import math
from http import HTTPStatus
from typing import TYPE_CHECKING, get_args

from miniagents_testing._streams import TICKS_PER_SECOND, Chunk, ResponseStream
from miniagents_testing.faults.base import Fault, Mark, Unit
from miniagents_testing.faults.machines import ContentType, DropLast, Edit, Gzip, Respond, Stall, Stop

if TYPE_CHECKING:
    from collections.abc import Callable

# --- streams that end, or wait


def cut(*, after: int, of: Unit = "events") -> Fault:
    """The stream ends there as if it were whole."""
    return Stop(*_place("cut", "after", after, of), end="eof")


def reset(*, after: int, of: Unit = "events", message: str = "Connection reset by peer") -> Fault:
    """The connection breaks there: the reader gets `httpx2.ReadError`."""
    return Stop(*_place("reset", "after", after, of), end=f"raise ReadError: {message}")


def stall(seconds: float = math.inf, *, after: int = 1, of: Unit = "events") -> Fault:
    """Nothing comes there for so long; by default for ever."""
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, not {seconds!r}")
    place = _place(f"stall of {seconds:g} s,", "after", after, of)
    return Stop(*place, end="open") if seconds == math.inf else Stall(*place, round(seconds * TICKS_PER_SECOND))


def error_event(
    *, at: int, kind: str = "server_error", message: str = "The server had an error while answering"
) -> Fault:
    """In place of event `at` comes an error, and then the stream ends; in a form that all APIs understand.

    Args:
        at: number of the event, from 1.
        kind: the provider's word, such as `overloaded_error` or `rate_limit_error`.
        message: the provider's explanation.
    """
    event = b"event: error\ndata: " + _error(kind, message) + b"\n\n"
    label, at, of = _place(kind, "at", at, "events")
    return Stop(label, at - 1, of, end="eof", last_words=event)


# --- streams that say something else


def edit(change: Callable[[bytes], bytes], *, at: int, of: Unit = "events") -> Fault:
    """Unit `at` is what `change` makes of it; an event comes with the blank line at its end."""
    return Edit(*_place("edit", "at", at, of), change)


def malformed(*, at: int) -> Fault:
    """The JSON of event `at` breaks off."""
    return Edit(*_place("malformed", "at", at, "events"), lambda event: b'data: {"id": "malformed", \n\n')


def duplicate(*, at: int, of: Unit = "events") -> Fault:
    """Unit `at` comes twice."""
    return Edit(*_place("duplicate", "at", at, of), lambda unit: unit + unit)


def drop(*, at: int, of: Unit = "events") -> Fault:
    """Unit `at` never comes."""
    return Edit(*_place("drop", "at", at, of), lambda unit: b"")


def swap(*, at: int) -> Fault:
    """Event `at` comes after the one that should follow it."""

    def change(both: bytes) -> bytes:
        first, second = Mark(1, "events").split(both)
        return second + first

    return Edit(*_place("swap", "at", at, "events"), change, units=2)


def drop_last_event() -> Fault:
    """The last event never comes, whichever it is; on the way, every other one waits until the next one is there."""
    return DropLast("drop of the last event")


def gzipped(*, missing: int = 0) -> Fault:
    """The body comes compressed, though nobody asked for it.

    Args:
        missing: bytes that lack at its end. The last 8 are checksum and size (RFC 1952): the text is whole without.
    """
    if missing < 0:
        raise ValueError(f"missing must be a number of bytes, not {missing!r}")
    return Gzip(f"gzip with {missing} bytes missing", missing)


def content_type(value: str) -> Fault:
    """The header says that the body is something else."""
    return ContentType(f"content type {value!r}", value)


# --- other responses altogether; whoever would have answered is not asked


def respond(stream: ResponseStream) -> Fault:
    """This response, whatever was asked."""
    return Respond(f"response with status {stream.status}", stream)


def error_status(status: int, *, kind: str = "server_error", message: str = "", **headers: str) -> Fault:
    """An error of the provider, with a body that both SDKs can read.

    Args:
        status: of the response, from 400 on.
        kind: the provider's word.
        message: the provider's explanation.
        headers: of the response, with `_` for `-`.
    """
    if not 400 <= status <= 599:
        raise ValueError(f"status must be that of an error, 400 to 599, not {status!r}")
    headers = {"content_type": "application/json", **headers}
    return _answer(f"status {status} ({kind})", _error(kind, message or kind), status=status, **headers)


def rate_limit(*, retry_after: float | None = None, at: int | None = None) -> Fault:
    """Too many requests: a response with status 429, or, with `at`, an error in place of that event.

    Args:
        retry_after: seconds the provider asks to wait.
        at: number of the event, from 1.
    """
    kind, message = "rate_limit_error", "Too many requests"
    if at is not None:
        if retry_after is not None:
            raise ValueError("retry_after is a header: it cannot come in the middle of a stream (at=)")
        return error_event(at=at, kind=kind, message=message)
    if retry_after is None:
        return error_status(429, kind=kind, message=message)
    if retry_after == round(retry_after):
        return error_status(429, kind=kind, message=message, retry_after=f"{retry_after:.0f}")
    return error_status(429, kind=kind, message=message, retry_after_ms=f"{retry_after * 1000:g}")


def overloaded(*, at: int | None = None) -> Fault:
    """No capacity: a response with status 529, or, with `at`, an error in place of that event."""
    if at is not None:
        return error_event(at=at, kind="overloaded_error", message="Overloaded")
    return error_status(529, kind="overloaded_error", message="Overloaded")


def html_page(*, status: int = 200) -> Fault:
    """A page for people, as a proxy in the way sends it."""
    page = b"<!DOCTYPE html>\n<html><head><title>Please sign in</title></head><body>Please sign in</body></html>\n"
    return _answer("HTML page", page, status=status, content_type="text/html")


def empty() -> Fault:
    """A successful stream without a byte in it."""
    return _answer("empty stream", b"", status=200, content_type="text/event-stream")


def refuse() -> Fault:
    """No response at all: the connection is refused."""
    return Respond("refused connection", ResponseStream(status=0, end="raise ConnectError: Connection refused"))


def _place(what: str, name: str, number: int, of: Unit) -> tuple[str, int, Unit]:
    """What to call it, and a place that can be, or an error that names the argument."""
    least = 0 if name == "after" else 1
    if type(number) is not int or number < least:
        raise ValueError(f"{name} must be a number of {of} from {least} on, not {number!r}")
    if of not in get_args(Unit):
        raise ValueError(f"of must be one of {', '.join(get_args(Unit))}, not {of!r}")
    return f"{what} {name} {of.removesuffix('s')} {number}", number, of


def _answer(label: str, body: bytes, *, status: int, **headers: str) -> Fault:
    named = {name.lower().replace("_", "-"): [value] for name, value in headers.items()}
    reason = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
    return Respond(label, ResponseStream((Chunk(0, body),), status=status, reason=reason, headers=named))


def _error(kind: str, message: str) -> bytes:
    """An error object in which both SDKs and all our sessions find kind and message."""
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()
