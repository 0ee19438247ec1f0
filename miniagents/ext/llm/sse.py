"""Decoder of server-sent events, independent of sockets, clients and JSON.

`SSEDecoder` follows the WHATWG HTML standard, chapter "Server-sent events" (parsing and interpreting an event stream).
The events do not depend on where the bytes are cut into chunks. The time for decoding is linear in the number of bytes.

```python
decoder = SSEDecoder()
for chunk in chunks:
    for event in decoder.feed(chunk):
        print(event.event, event.data)
decoder.close()
```

`Inflater` decompresses response bodies in steps and with a limit. MiniAgents asks for `accept-encoding: identity`, but
some proxies compress all the same. httpx2 decompresses too, but without a limit, and does not report a cut stream.
"""

from __future__ import annotations

import re
import zlib
from typing import NamedTuple

from miniagents.bounds import MAX_EVENT_BYTES, MAX_INFLATION, MAX_INFLATION_FREE_BYTES, MAX_STREAM_BYTES
from miniagents.errors import EventTooLargeError, StreamDecodeError, StreamTruncatedError

__all__ = ["SSEDecoder", "ServerSentEvent"]


class Inflater:
    """Decompressor of one response body.

    Args:
        encoding: "gzip" or "deflate".
    """

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self._zlib = zlib.decompressobj(wbits=31 if encoding == "gzip" else 15)
        self._head: bytes | None = b"" if encoding == "deflate" else None
        self._bytes_in = 0
        self._bytes_out = 0

    def feed(self, chunk: bytes) -> bytes:
        """Decompress a chunk, and return the result; the body may consist of several compressed members.

        Raises:
            StreamDecodeError: the chunk is not in this encoding.
            EventTooLargeError: the decompressed body passes `MAX_STREAM_BYTES`, or its ratio to the compressed body
                passes `MAX_INFLATION`.
        """
        self._bytes_in += len(chunk)
        if self._head is not None:
            chunk = self._detect_wrapper(self._head + chunk)
        result = b""
        while chunk:
            if self._zlib.eof:  # a gzip body may consist of several members
                self._zlib = zlib.decompressobj(wbits=31 if self.encoding == "gzip" else 15)
            allowed = min(MAX_STREAM_BYTES, self._bytes_in * MAX_INFLATION + MAX_INFLATION_FREE_BYTES) - self._bytes_out
            try:
                piece = self._zlib.decompress(chunk, allowed + 1)
            except zlib.error as error:
                raise StreamDecodeError(
                    f"the response is not the {self.encoding} its headers promise: {error}"
                ) from error
            self._bytes_out += len(piece)
            if len(piece) > allowed:
                raise EventTooLargeError(
                    f"{self._bytes_in} bytes of {self.encoding} hold more than "
                    f"{self._bytes_out - 1} bytes: a decompression bomb?"
                )
            result = result + piece if result else piece
            chunk = self._zlib.unused_data
        return result

    def close(self) -> None:
        """End the body, and check that it is complete. An empty body is complete.

        Raises:
            StreamTruncatedError: the compressed body was cut before its end.
        """
        if self._bytes_in and not self._zlib.eof:
            raise StreamTruncatedError(
                f"the {self.encoding} body of the response was cut before its end, after {self._bytes_in} bytes"
            )

    def _detect_wrapper(self, head: bytes) -> bytes:
        """Choose raw deflate if the body has no zlib wrapper, and return the bytes to decompress.

        Many servers leave the wrapper out. The first two bytes show that (RFC 1950, section 2.2); until both have
        arrived, the result is empty.
        """
        if len(head) < 2:
            self._head = head
            return b""
        self._head = None
        if head[0] & 0x0F != 8 or int.from_bytes(head[:2], "big") % 31:
            self._zlib = zlib.decompressobj(wbits=-15)
        return head


def encodings_in(content_encoding: str | None) -> list[str]:
    """Return the encodings that a `content-encoding` header names, in the order in which the server applied them."""
    names = [name.strip().lower() for name in (content_encoding or "").split(",")]
    return [name.removeprefix("x-") for name in names if name not in ("", "identity")]


def inflater_for(content_encoding: str | None) -> Inflater | None:
    """Return an inflater for a `content-encoding` header, None if the body is not compressed.

    Raises:
        StreamDecodeError: the header names several encodings, or one other than gzip and deflate.
    """
    names = encodings_in(content_encoding) if content_encoding else ()
    if not names:
        return None
    if len(names) > 1 or names[0] not in ("gzip", "deflate"):
        raise StreamDecodeError(
            f"the response is compressed with {content_encoding!r}, although it was asked for uncompressed; "
            f"only gzip and deflate can be read",
            retryable=False,  # the next response would have the same encoding
        )
    return Inflater(names[0])


_BOM = b"\xef\xbb\xbf"
_MAX_STEP = 1024 * 1024
# `data: ...`, or `event: ...` and `data: ...`, then a blank line: nearly all blocks of nearly all providers. One match
# takes a third less time than decoding such a block line by line.
_usual_block = re.compile(rb"(?:event: (.*+)\n)?data: (.*+)\n\n").match
_NAMES: dict[bytes, str] = {}
"""Decoded names of events; the APIs have some fifty, and a hostile stream must not fill the memory."""
_MOST_NAMES = 200
_LONGEST_NAME = 64
_make_tuple = tuple.__new__  # the __new__ of the NamedTuple would cost as much as all else


class ServerSentEvent(NamedTuple):
    """Event of an event stream."""

    data: bytes
    """Data of the event in valid UTF-8; bytes, because JSON parsers read bytes directly."""
    event: str = "message"
    """Name of the event: the last `event:` field of its block, "message" without such a field."""
    id: str = ""
    """Last event id of the stream so far; an id stays until another one arrives."""


class SSEDecoder:
    """Incremental decoder of an event stream: call `feed` with each chunk of bytes, and `close` at the end.

    Args:
        max_event_bytes: the limit for one event in bytes: its data, its name, and its unfinished line.
        max_stream_bytes: the limit for the whole stream in bytes.
        strict: True to raise `StreamDecodeError` on invalid UTF-8. Otherwise invalid bytes become U+FFFD, and `lossy`
            becomes True.

    Raises:
        ValueError: a limit is not positive.
    """

    def __init__(
        self,
        *,
        max_event_bytes: int = MAX_EVENT_BYTES,
        max_stream_bytes: int = MAX_STREAM_BYTES,
        strict: bool = False,
    ) -> None:
        if max_event_bytes < 1 or max_stream_bytes < 1:
            raise ValueError(f"limits must be positive, not {max_event_bytes!r} and {max_stream_bytes!r}")
        self.max_event_bytes = max_event_bytes
        self.max_stream_bytes = max_stream_bytes
        self.strict = strict
        self.lossy: bool = False
        """True if bytes that are not UTF-8 were replaced."""
        self.bytes_fed: int = 0
        """Number of bytes fed so far."""
        self.retry: int | None = None
        """Value of the last valid `retry:` field in milliseconds; None if there was none."""
        self.last_event_id: str = ""
        """Id of the last finished block that had one; by the standard, an id counts when its block ends."""
        self._id = ""
        self._at_start = True
        self._start = b""  # up to two bytes that may be the beginning of a byte order mark
        self._skip_line_feed = False  # the last chunk ended with CR: LF directly after it belongs to the same line end
        self._line = bytearray()  # the unfinished line; a bytearray, because bytes + bytes would be quadratic
        self._in_event = False  # True if a line of the current event is unfinished, or a field of it has been read
        self._data: list[bytes] = []
        self._size = 0
        self._event = ""
        self._events: list[ServerSentEvent] = []

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Decode the next bytes, and return the events that end in them.

        Raises:
            EventTooLargeError: an event passed `max_event_bytes`, or the stream passed `max_stream_bytes`. The decoder
                cannot be used further.
            StreamDecodeError: an event is not UTF-8, and the decoder is strict.
        """
        size = len(chunk)
        if size > _MAX_STEP:  # so that copies of the chunk stay small in comparison with the limit
            return [
                event for start in range(0, size, _MAX_STEP) for event in self.feed(chunk[start : start + _MAX_STEP])
            ]
        self.bytes_fed = fed = self.bytes_fed + size
        if fed > self.max_stream_bytes:
            raise EventTooLargeError(f"the stream is larger than {self.max_stream_bytes} bytes")
        if self._at_start:
            chunk = self._remove_bom(chunk)
        if self._skip_line_feed or chunk.find(b"\r") >= 0:  # `in` takes twice as long here
            chunk = self._normalise_line_ends(chunk)
        self._events = events = []
        start, size = 0, len(chunk)
        if self._in_event:
            start = self._feed_block(chunk, start)  # the rest of the block that the last chunk began
        while start < size:
            block = _usual_block(chunk, start)
            if block is None or (end := block.end()) - start > self.max_event_bytes:
                start = self._feed_block(chunk, start)
                continue
            start = end
            name, data = block.groups()
            if not data.isascii():
                data = self._valid_utf8(data)
            name = "message" if name is None else _NAMES.get(name) or self._event_name(name)
            events.append(_make_tuple(ServerSentEvent, (data, name, self.last_event_id)))
        return events

    def close(self) -> bool:
        """End the stream, and discard an event without the blank line at its end, as the standard requires.

        Returns: True if such an event, or a beginning of a byte order mark, was discarded: the stream was cut there.
        """
        unfinished = self._in_event or bool(self._start)
        self._line.clear()
        self._data.clear()
        self._start = b""
        self._in_event = False
        return unfinished

    def _remove_bom(self, chunk: bytes) -> bytes:
        """Remove a byte order mark from the start of the stream; the result is empty while that is undecided."""
        chunk = self._start + chunk
        if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
            self._start = chunk
            return b""
        self._start = b""
        self._at_start = False
        return chunk.removeprefix(_BOM)

    def _normalise_line_ends(self, chunk: bytes) -> bytes:
        """Replace CR and CRLF by LF. In UTF-8, these bytes are never part of another character."""
        if self._skip_line_feed and chunk:
            self._skip_line_feed = False
            chunk = chunk.removeprefix(b"\n")
        if chunk.endswith(b"\r"):
            self._skip_line_feed = True
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _event_name(self, name: bytes) -> str:
        """Decode the name of an event, and keep the result if other streams may have it; an empty name is "message"."""
        text = self._valid_utf8(name).decode() or "message"
        if len(name) <= _LONGEST_NAME and name.isascii():
            if len(_NAMES) >= _MOST_NAMES:
                _NAMES.clear()
            _NAMES[name] = text
        return text

    def _feed_block(self, chunk: bytes, start: int) -> int:
        """Read lines up to the next blank line or the end of the chunk, and return the position behind them."""
        blank_line = chunk.find(b"\n\n", start)
        end = blank_line + 2 if blank_line >= 0 else len(chunk)
        self._feed_lines(chunk[start:end])
        return end

    def _feed_lines(self, text: bytes) -> None:
        """Process the whole lines, of which an empty one ends an event, and keep the unfinished line."""
        *lines, rest = text.split(b"\n")
        if lines and self._line:
            self._extend_line(lines[0])
            lines[0] = bytes(self._line)
            self._line.clear()
        for line in lines:
            if line:
                self._feed_line(line)
            else:
                self._dispatch()
        if rest:
            self._in_event = True
            self._extend_line(rest)

    def _extend_line(self, piece: bytes) -> None:
        """Add bytes to the unfinished line, and raise `EventTooLargeError` above the limit for one event."""
        if self._size + len(self._line) + len(piece) > self.max_event_bytes:
            raise self._event_too_large()
        self._line += piece

    def _feed_line(self, line: bytes) -> None:
        """Process one line: store its data, event name, id or time to retry; ignore comments and unknown fields.

        Raise `EventTooLargeError` above the limit for one event.
        """
        name, colon, value = line.partition(b":")
        if not name:  # a comment
            self._in_event = bool(self._data or self._event)
            return
        self._in_event = True
        if colon:
            value = value.removeprefix(b" ")
        if name == b"data":
            self._size += len(value) + 1
            if self._size > self.max_event_bytes:
                raise self._event_too_large()
            self._data.append(value)
        elif name == b"event":
            if len(value) > self.max_event_bytes:
                raise self._event_too_large()
            self._event = self._valid_utf8(value).decode()
        elif name == b"id":
            if b"\0" not in value:
                self._id = self._valid_utf8(value).decode()
        elif name == b"retry" and value.isdigit() and len(value) < 20:
            self.retry = int(value)

    def _dispatch(self) -> None:
        """End the current block: store its id as the last one, and add its event if the block has data.

        A block without data is dropped with its event name.
        """
        self.last_event_id = self._id
        if self._data:
            data = b"\n".join(self._data)
            if not data.isascii():
                data = self._valid_utf8(data)
            self._events.append(ServerSentEvent(data, self._event or "message", self.last_event_id))
            self._data.clear()
        self._size = 0
        self._event = ""
        self._in_event = False

    def _valid_utf8(self, data: bytes) -> bytes:
        """Return the bytes; replace invalid UTF-8 and set `lossy`, or in strict mode raise `StreamDecodeError`."""
        try:
            data.decode()
        except UnicodeDecodeError as error:
            if self.strict:
                raise StreamDecodeError(
                    f"an event before byte {self.bytes_fed} of the stream is not UTF-8: {error.reason}"
                ) from None
            self.lossy = True
            return data.decode(errors="replace").encode()
        return data

    def _event_too_large(self) -> EventTooLargeError:
        """Free the memory of the current event, and return the error to raise."""
        self._line = bytearray()
        self._data = []
        return EventTooLargeError(
            f"an event is larger than {self.max_event_bytes} bytes (at byte {self.bytes_fed} of the stream)"
        )
