"""The faults there are. Every function checks its arguments, and gives a `Fault`.

How each kind of fault works on a stream; `kinds` has the functions that make them.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, get_args

from miniagents_testing._streams import TICKS_PER_SECOND, Chunk, ResponseStream
from miniagents_testing.faults._base import Fault, Mark, Unit

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx2


class Stop(Fault):
    """The stream ends at a place, in some way, maybe with last words."""

    def __init__(self, label: str, number: int, of: Unit, *, end: str, last_words: bytes = b"") -> None:
        super().__init__(label)
        self._place = (number, of)
        self._end = end
        self._last_words = last_words

    def begin(self) -> None:
        self._mark = Mark(*self._place)

    def feed(self, chunk: Chunk) -> list[Chunk]:
        self._wait(chunk.wait)
        before, _ = self._mark.split(chunk.data)
        if not self._mark.passed:
            return self._chunks_of(before)
        self.reached = True
        self.end = self._end
        return self._chunks_of(before + self._last_words)

    def progress(self) -> str:
        return self._mark.progress()


class Stall(Fault):
    """What comes after a place comes later."""

    def __init__(self, label: str, number: int, of: Unit, ticks: int) -> None:
        super().__init__(label)
        self._place = (number, of)
        self._ticks = ticks

    def begin(self) -> None:
        self._mark = Mark(*self._place)

    def feed(self, chunk: Chunk) -> list[Chunk]:
        if self.reached:
            return [chunk]
        self._wait(chunk.wait)
        before, after = self._mark.split(chunk.data)
        said = self._chunks_of(before)
        if after:
            self.reached = True
            self._wait(self._ticks)
        return said + self._chunks_of(after)

    def progress(self) -> str:
        return self._mark.progress()


class Edit(Fault):
    """One unit, or some that follow each other, become something else; they are held until they are whole."""

    def __init__(self, label: str, at: int, of: Unit, change: Callable[[bytes], bytes], *, units: int = 1) -> None:
        super().__init__(label)
        self._place = (at, of)
        self._units = units
        self._change = change

    def begin(self) -> None:
        at, of = self._place
        self._start, self._stop = Mark(at - 1, of), Mark(at - 1 + self._units, of)
        self._held = b""

    def feed(self, chunk: Chunk) -> list[Chunk]:
        self._wait(chunk.wait)
        before, _ = self._start.split(chunk.data)
        up_to, after = self._stop.split(chunk.data)
        self._held += chunk.data[len(before) : len(up_to)]
        said = self._chunks_of(before)
        if self._stop.passed and not self.reached:
            self.reached = True
            said += self._chunks_of(self._change(self._held))
        return said + self._chunks_of(after)

    def close(self) -> list[Chunk]:
        return [] if self.reached else self._chunks_of(self._held)

    def progress(self) -> str:
        return self._stop.progress()


class DropLast(Fault):
    """Every event is held until the next one is whole."""

    def begin(self) -> None:
        self._event: list[Chunk] = []
        self._unfinished: list[Chunk] = []
        self._mark = Mark(1, "events")

    def feed(self, chunk: Chunk) -> list[Chunk]:
        said: list[Chunk] = []
        wait, data = chunk
        while data:
            piece, data = self._mark.split(data)
            self._unfinished.append(Chunk(wait, piece))
            wait = 0
            if self._mark.passed:
                said += self._event
                self._event, self._unfinished = self._unfinished, []
                self._mark = Mark(1, "events")
        return said

    def close(self) -> list[Chunk]:
        self.reached = bool(self._event)
        return []

    def progress(self) -> str:
        return "its stream was not read to its end"


class Gzip(Fault):
    """The body is compressed chunk by chunk, so that it still streams."""

    def __init__(self, label: str, missing: int) -> None:
        super().__init__(label)
        self._missing = missing

    def begin(self) -> None:
        self._compressor = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
        self._held = b""

    def head(self, stream: ResponseStream) -> ResponseStream:
        self.reached = True
        return replace(stream, headers={**stream.headers, "content-encoding": ["gzip"]})

    def feed(self, chunk: Chunk) -> list[Chunk]:
        self._wait(chunk.wait)
        if not chunk.data:
            return []
        return self._all_but_the_end(self._compressor.compress(chunk.data) + self._compressor.flush(zlib.Z_SYNC_FLUSH))

    def close(self) -> list[Chunk]:
        return self._all_but_the_end(self._compressor.flush())

    def _all_but_the_end(self, data: bytes) -> list[Chunk]:
        self._held += data
        size = max(0, len(self._held) - self._missing)
        data, self._held = self._held[:size], self._held[size:]
        return self._chunks_of(data)


class ContentType(Fault):
    """The header says something else."""

    def __init__(self, label: str, value: str) -> None:
        super().__init__(label)
        self._value = value

    def head(self, stream: ResponseStream) -> ResponseStream:
        self.reached = True
        return replace(stream, headers={**stream.headers, "content-type": [self._value]})


class Respond(Fault):
    """A response of its own."""

    def __init__(self, label: str, stream: ResponseStream) -> None:
        super().__init__(label)
        self._stream = stream

    def response(self, request: httpx2.Request | None) -> ResponseStream:
        self.reached = True
        return self._stream


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
