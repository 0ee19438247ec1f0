"""Kinds of faults: the classes that change a stream, and the public functions that check arguments and make faults."""

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


class _Stop(Fault):
    """Fault that ends the stream at a place with a given end, and optional last bytes before it."""

    def __init__(self, label: str, number: int, of: Unit, *, end: str, last_bytes: bytes = b"") -> None:
        super().__init__(label)
        self._place = (number, of)
        self._end = end
        self._last_bytes = last_bytes

    def begin(self) -> None:
        """Set up the search for the place, for one response."""
        self._mark = Mark(*self._place)

    def feed(self, chunk: Chunk) -> list[Chunk]:
        """Pass bytes on up to the place; there add the last bytes and end the stream."""
        self._wait(chunk.wait)
        before, _ = self._mark.split(chunk.data)
        if not self._mark.passed:
            return self._chunks_of(before)
        self.reached = True
        self.end = self._end
        return self._chunks_of(before + self._last_bytes)

    def progress(self) -> str:
        """Return words that say how far the stream was read."""
        return self._mark.progress()


class _Stall(Fault):
    """Fault that delays all bytes after a place."""

    def __init__(self, label: str, number: int, of: Unit, ticks: int) -> None:
        super().__init__(label)
        self._place = (number, of)
        self._ticks = ticks

    def begin(self) -> None:
        """Set up the search for the place, for one response."""
        self._mark = Mark(*self._place)

    def feed(self, chunk: Chunk) -> list[Chunk]:
        """Pass bytes on; the first ones after the place wait for the stall, too."""
        if self.reached:
            return [chunk]
        self._wait(chunk.wait)
        before, after = self._mark.split(chunk.data)
        chunks = self._chunks_of(before)
        if after:
            self.reached = True
            self._wait(self._ticks)
        return chunks + self._chunks_of(after)

    def progress(self) -> str:
        """Return words that say how far the stream was read."""
        return self._mark.progress()


class _Edit(Fault):
    """Fault that replaces one or more consecutive units; they are held until they are complete."""

    def __init__(self, label: str, at: int, of: Unit, change: Callable[[bytes], bytes], *, units: int = 1) -> None:
        super().__init__(label)
        self._place = (at, of)
        self._units = units
        self._change = change

    def begin(self) -> None:
        """Set up the search for the first and the last unit, for one response."""
        at, of = self._place
        self._start, self._stop = Mark(at - 1, of), Mark(at - 1 + self._units, of)
        self._held = b""

    def feed(self, chunk: Chunk) -> list[Chunk]:
        """Pass bytes on, but hold those of the units to replace; return their replacement when they are complete."""
        self._wait(chunk.wait)
        before, _ = self._start.split(chunk.data)
        up_to, after = self._stop.split(chunk.data)
        self._held += chunk.data[len(before) : len(up_to)]
        chunks = self._chunks_of(before)
        if self._stop.passed and not self.reached:
            self.reached = True
            chunks += self._chunks_of(self._change(self._held))
        return chunks + self._chunks_of(after)

    def close(self) -> list[Chunk]:
        """Return the bytes of units that the stream did not complete, unchanged."""
        return [] if self.reached else self._chunks_of(self._held)

    def progress(self) -> str:
        """Return words that say how far the stream was read."""
        return self._stop.progress()


class _DropLast(Fault):
    """Fault that drops the last event; it holds each event until the next one is complete."""

    def begin(self) -> None:
        """Forget the events of an earlier response."""
        self._event: list[Chunk] = []
        self._unfinished: list[Chunk] = []
        self._mark = Mark(1, "events")

    def feed(self, chunk: Chunk) -> list[Chunk]:
        """Hold back the chunks of the newest event; return the held ones once the event after them is complete."""
        chunks: list[Chunk] = []
        wait, data = chunk
        while data:
            piece, data = self._mark.split(data)
            self._unfinished.append(Chunk(wait, piece))
            wait = 0
            if self._mark.passed:
                chunks += self._event
                self._event, self._unfinished = self._unfinished, []
                self._mark = Mark(1, "events")
        return chunks

    def close(self) -> list[Chunk]:
        """Return nothing, which drops the chunks of the last event."""
        self.reached = bool(self._event)
        return []

    def progress(self) -> str:
        """Return words that say that the stream was not read to its end."""
        return "its stream was not read to its end"


class _Gzip(Fault):
    """Fault that compresses the body chunk by chunk, so that the body still streams, and may drop its last bytes."""

    def __init__(self, label: str, missing: int) -> None:
        super().__init__(label)
        self._missing = missing

    def begin(self) -> None:
        """Set up the compression of one response."""
        self._compressor = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
        self._held = b""

    def head(self, stream: ResponseStream) -> ResponseStream:
        """Return the response with the header `content-encoding: gzip`."""
        self.reached = True
        return replace(stream, headers={**stream.headers, "content-encoding": ["gzip"]})

    def feed(self, chunk: Chunk) -> list[Chunk]:
        """Return the chunk in compressed form, so that a reader can decompress it at once."""
        self._wait(chunk.wait)
        if not chunk.data:
            return []
        return self._without_end(self._compressor.compress(chunk.data) + self._compressor.flush(zlib.Z_SYNC_FLUSH))

    def close(self) -> list[Chunk]:
        """Return the end of the compressed body without the missing bytes."""
        return self._without_end(self._compressor.flush())

    def _without_end(self, data: bytes) -> list[Chunk]:
        """Add bytes to those that are held, and return all but the last `missing` ones.

        These are dropped if the stream ends here.
        """
        self._held += data
        size = max(0, len(self._held) - self._missing)
        data, self._held = self._held[:size], self._held[size:]
        return self._chunks_of(data)


class _ContentType(Fault):
    """Fault that replaces the `content-type` header."""

    def __init__(self, label: str, value: str) -> None:
        super().__init__(label)
        self._value = value

    def head(self, stream: ResponseStream) -> ResponseStream:
        """Return the response with the new header `content-type`."""
        self.reached = True
        return replace(stream, headers={**stream.headers, "content-type": [self._value]})


class _Respond(Fault):
    """Fault that replaces the whole response."""

    def __init__(self, label: str, stream: ResponseStream) -> None:
        super().__init__(label)
        self._stream = stream

    def response(self, request: httpx2.Request | None) -> ResponseStream:
        """Return the response that stands in place of the provider's."""
        self.reached = True
        return self._stream


# --- streams that end, or wait


def cut(*, after: int, of: Unit = "events") -> Fault:
    """End the stream after some units as if it were complete.

    Args:
        after: number of units before the end, from 0.
        of: unit of `after`.
    """
    return _Stop(*_place("cut", "after", after, of), end="eof")


def reset(*, after: int, of: Unit = "events", message: str = "Connection reset by peer") -> Fault:
    """Break the connection after some units of the body: the reader gets `httpx2.ReadError`.

    Args:
        after: number of units before the error, from 0.
        of: unit of `after`.
        message: message of the error.
    """
    return _Stop(*_place("reset", "after", after, of), end=f"raise ReadError: {message}")


def stall(seconds: float = math.inf, *, after: int = 1, of: Unit = "events") -> Fault:
    """Pause the stream after some units.

    Args:
        seconds: length of the pause; by default it never ends.
        after: number of units before the pause, from 0.
        of: unit of `after`.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, not {seconds!r}")
    place = _place(f"stall of {seconds:g} s,", "after", after, of)
    return _Stop(*place, end="open") if seconds == math.inf else _Stall(*place, round(seconds * TICKS_PER_SECOND))


def error_event(
    *, at: int, kind: str = "server_error", message: str = "The server had an error while answering"
) -> Fault:
    """Replace event `at` by an error, in a form that agents of all APIs understand, and end the stream.

    Args:
        at: number of the event, from 1.
        kind: the provider's name for the error, such as `overloaded_error` or `rate_limit_error`.
        message: the provider's explanation.
    """
    event = b"event: error\ndata: " + _error(kind, message) + b"\n\n"
    label, at, of = _place(kind, "at", at, "events")
    return _Stop(label, at - 1, of, end="eof", last_bytes=event)


# --- streams with other content


def edit(change: Callable[[bytes], bytes], *, at: int, of: Unit = "events") -> Fault:
    """Replace unit `at` by the result of a function.

    Args:
        change: gets the bytes of the unit, of an event with the blank line at its end, and returns other bytes.
        at: number of the unit, from 1.
        of: kind of the unit.
    """
    return _Edit(*_place("edit", "at", at, of), change)


def malformed(*, at: int) -> Fault:
    """Replace event `at`, from 1, by one whose JSON is incomplete."""
    return _Edit(*_place("malformed", "at", at, "events"), lambda event: b'data: {"id": "malformed", \n\n')


def duplicate(*, at: int, of: Unit = "events") -> Fault:
    """Send unit `at`, from 1, twice."""
    return _Edit(*_place("duplicate", "at", at, of), lambda unit: unit + unit)


def drop(*, at: int, of: Unit = "events") -> Fault:
    """Leave unit `at`, from 1, out."""
    return _Edit(*_place("drop", "at", at, of), lambda unit: b"")


def swap(*, at: int) -> Fault:
    """Send event `at`, from 1, after the event that should follow it."""

    def change(both: bytes) -> bytes:
        """Return two events in the opposite order."""
        first, second = Mark(1, "events").split(both)
        return second + first

    return _Edit(*_place("swap", "at", at, "events"), change, units=2)


def drop_last_event() -> Fault:
    """Leave the last event out. Each other event is delayed until the next one is complete."""
    return _DropLast("drop of the last event")


def gzipped(*, missing: int = 0) -> Fault:
    """Compress the body, even if the request does not allow it.

    Args:
        missing: number of bytes to drop at its end. The last 8 are checksum and size (RFC 1952), not text.
    """
    if missing < 0:
        raise ValueError(f"missing must be a number of bytes, not {missing!r}")
    return _Gzip(f"gzip with {missing} bytes missing", missing)


def content_type(value: str) -> Fault:
    """Replace the `content-type` header."""
    return _ContentType(f"content type {value!r}", value)


# --- responses in place of the provider's; no request is sent


def respond(stream: ResponseStream) -> Fault:
    """Answer with this response in place of the provider's; no request is sent."""
    return _Respond(f"response with status {stream.status}", stream)


def error_status(status: int, *, kind: str = "server_error", message: str = "", **headers: str) -> Fault:
    """Answer with an error of the provider, whose body both SDKs can read.

    Args:
        status: status of the response, 400 to 599.
        kind: the provider's name for the error.
        message: the provider's explanation.
        headers: headers of the response, with `_` for `-`.
    """
    if not 400 <= status <= 599:
        raise ValueError(f"status must be that of an error, 400 to 599, not {status!r}")
    headers = {"content_type": "application/json", **headers}
    return _respond(f"status {status} ({kind})", _error(kind, message or kind), status=status, **headers)


def rate_limit(*, retry_after: float | None = None, at: int | None = None) -> Fault:
    """Report too many requests: with a response of status 429, or with an error in place of event `at`.

    Args:
        retry_after: seconds that the provider asks the client to wait.
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
    """Report an overload: with a response of status 529, or with an error in place of event `at`, from 1."""
    if at is not None:
        return error_event(at=at, kind="overloaded_error", message="Overloaded")
    return error_status(529, kind="overloaded_error", message="Overloaded")


def html_page(*, status: int = 200) -> Fault:
    """Answer with an HTML page of this status, as a proxy between client and provider sends it."""
    page = b"<!DOCTYPE html>\n<html><head><title>Please sign in</title></head><body>Please sign in</body></html>\n"
    return _respond("HTML page", page, status=status, content_type="text/html")


def empty() -> Fault:
    """Answer with a successful stream without any bytes."""
    return _respond("empty stream", b"", status=200, content_type="text/event-stream")


def refuse() -> Fault:
    """Refuse the connection: the client gets `httpx2.ConnectError`, and no response."""
    return _Respond("refused connection", ResponseStream(status=0, end="raise ConnectError: Connection refused"))


def _place(what: str, name: str, number: int, of: Unit) -> tuple[str, int, Unit]:
    """Check a place in a stream, and return the label of the fault and the place.

    Args:
        what: the fault in words, for its label.
        name: the argument of the public function that gives the place: "after" counts from 0, "at" from 1.
        number: the number of units of the place.
        of: the unit.

    Raises:
        ValueError: the number or the unit is wrong; the message names the argument.
    """
    least = 0 if name == "after" else 1
    if type(number) is not int or number < least:
        raise ValueError(f"{name} must be a number of {of} from {least} on, not {number!r}")
    if of not in get_args(Unit):
        raise ValueError(f"of must be one of {', '.join(get_args(Unit))}, not {of!r}")
    return f"{what} {name} {of.removesuffix('s')} {number}", number, of


def _respond(label: str, body: bytes, *, status: int, **headers: str) -> Fault:
    """Return the fault that replaces a response by this body, status and headers."""
    named = {name.lower().replace("_", "-"): [value] for name, value in headers.items()}
    reason = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
    return _Respond(label, ResponseStream((Chunk(0, body),), status=status, reason=reason, headers=named))


def _error(kind: str, message: str) -> bytes:
    """Return an error object in which both SDKs and all sessions of the framework find kind and message."""
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()
