"""Server-sent events out of bytes: no sockets, no clients, no JSON.

The rules are those of the WHATWG HTML standard, chapter "Server-sent events" (parsing and interpreting an event
stream). What a decoder says does not depend on where the bytes were cut, and its time is linear in them, whatever
their shape.

```python
decoder = SSEDecoder()
for chunk in chunks:
    for event in decoder.feed(chunk):
        print(event.event, event.data)
decoder.close()
```

Compressed response bodies, inflated step by step and with a limit.

We ask for `accept-encoding: identity`; some proxies compress all the same. httpx2 inflates too, but ends silently
where the compressed stream was cut, and without any limit to what a few kilobytes may become.
"""

from __future__ import annotations

import re
import zlib
from typing import NamedTuple

from miniagents.bounds import MAX_EVENT_BYTES, MAX_INFLATION, MAX_INFLATION_FREE_BYTES, MAX_STREAM_BYTES
from miniagents.errors import EventTooLargeError, StreamDecodeError, StreamTruncatedError

__all__ = ["SSEDecoder", "ServerSentEvent"]


class Inflater:
    """Decompressor of one body in gzip or deflate."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self._zlib = zlib.decompressobj(wbits=31 if encoding == "gzip" else 15)
        self._head: bytes | None = b"" if encoding == "deflate" else None
        self._fed = 0
        self._given = 0

    def feed(self, chunk: bytes) -> bytes:
        """Return the bytes that the chunk holds.

        Raises:
            StreamDecodeError: the bytes are not in this encoding.
            EventTooLargeError: they hold suspiciously much.
        """
        self._fed += len(chunk)
        if self._head is not None:
            chunk = self._without_knowing_the_wrapper(self._head + chunk)
        result = b""
        while chunk:
            if self._zlib.eof:  # gzip files may follow one another
                self._zlib = zlib.decompressobj(wbits=31 if self.encoding == "gzip" else 15)
            room = min(MAX_STREAM_BYTES, self._fed * MAX_INFLATION + MAX_INFLATION_FREE_BYTES) - self._given
            try:
                piece = self._zlib.decompress(chunk, room + 1)
            except zlib.error as error:
                raise StreamDecodeError(
                    f"the response is not the {self.encoding} its headers promise: {error}"
                ) from error
            self._given += len(piece)
            if len(piece) > room:
                raise EventTooLargeError(
                    f"{self._fed} bytes of {self.encoding} hold more than "
                    f"{self._given - 1} bytes: a decompression bomb?"
                )
            result = result + piece if result else piece
            chunk = self._zlib.unused_data
        return result

    def close(self) -> None:
        """Note the end of the bytes.

        Raises:
            StreamTruncatedError: the compressed stream has not come to its end.
        """
        if self._fed and not self._zlib.eof:
            raise StreamTruncatedError(
                f"the {self.encoding} body of the response was cut before its end, after {self._fed} bytes"
            )

    def _without_knowing_the_wrapper(self, head: bytes) -> bytes:
        """Many servers leave out the zlib wrapper of "deflate"; its first two bytes tell (RFC 1950, section 2.2)."""
        if len(head) < 2:
            self._head = head
            return b""
        self._head = None
        if head[0] & 0x0F != 8 or int.from_bytes(head[:2], "big") % 31:
            self._zlib = zlib.decompressobj(wbits=-15)
        return head


def encodings_in(content_encoding: str | None) -> list[str]:
    """Return the encodings that a `content-encoding` header names, in the order in which they were applied."""
    names = [name.strip().lower() for name in (content_encoding or "").split(",")]
    return [name.removeprefix("x-") for name in names if name not in ("", "identity")]


def inflater_for(content_encoding: str | None) -> Inflater | None:
    """Return an inflater for a `content-encoding` header, None if the body is plain.

    Raises:
        StreamDecodeError: an encoding that was not asked for and cannot be read.
    """
    names = encodings_in(content_encoding)
    if not names:
        return None
    if len(names) > 1 or names[0] not in ("gzip", "deflate"):
        raise StreamDecodeError(
            f"the response is compressed with {content_encoding!r}, although it was asked for uncompressed; "
            f"only gzip and deflate can be read",
            retryable=False,  # the next one would come the same way
        )
    return Inflater(names[0])


_BOM = b"\xef\xbb\xbf"
_PIECE = 1024 * 1024
# `data: ...`, or `event: ...` and `data: ...`, and the blank line: nearly all blocks of nearly all providers. Measured,
# one match takes a third less than to look, step by step, for everything that would make a block another one.
_usual_block = re.compile(rb"(?:event: (.*+)\n)?data: (.*+)\n\n").match
_new = tuple.__new__  # of a NamedTuple, without its own __new__, which costs as much as the rest


class ServerSentEvent(NamedTuple):
    """One dispatched event."""

    data: bytes
    """Valid UTF-8. Bytes, because a JSON parser takes them as they are."""
    event: str = "message"
    """The last `event:` field of the block, "message" without one."""
    id: str = ""
    """The last event id seen in the stream so far; it stays until another one comes."""


class SSEDecoder:
    """An incremental decoder: `feed` bytes as they come, `close` at their end.

    Args:
        max_event_bytes: the size of one event (its data, its name and its unfinished line) above which
            `EventTooLargeError` is raised.
        max_stream_bytes: the same for the whole stream.
        strict: raise `StreamDecodeError` on invalid UTF-8 instead of putting U+FFFD in its place and setting `lossy`.
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
        self.lossy = False
        """Whether bytes that are not UTF-8 were replaced."""
        self.bytes_fed = 0
        self.retry: int | None = None
        """Milliseconds from the last valid `retry:` field."""
        self.last_event_id = ""
        """As the standard has it: an id counts when its block ends."""
        self._id = ""
        self._names: dict[bytes, str] = {}
        self._at_start = True
        self._start = b""  # up to two bytes of what may become a byte order mark
        self._skip_line_feed = False  # the last chunk ended with CR: a LF right after it belongs to the same line end
        self._line = bytearray()  # a line without its end; a bytearray, because bytes + bytes would be quadratic
        self._in_event = False  # a line of the current event is unfinished, or a field of it has been read
        self._data: list[bytes] = []
        self._size = 0
        self._event = ""
        self._events: list[ServerSentEvent] = []

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that end within `chunk`.

        Raises:
            EventTooLargeError: an event passed `max_event_bytes`, or the stream `max_stream_bytes`; the decoder cannot
                go on.
            StreamDecodeError: invalid UTF-8, in strict mode.
        """
        size = len(chunk)
        if size > _PIECE:  # so that what is copied on the way stays small beside the limit
            return [event for start in range(0, size, _PIECE) for event in self.feed(chunk[start : start + _PIECE])]
        self.bytes_fed = fed = self.bytes_fed + size
        if fed > self.max_stream_bytes:
            raise EventTooLargeError(f"the stream is larger than {self.max_stream_bytes} bytes")
        if self._at_start:
            chunk = self._without_bom(chunk)
        if self._skip_line_feed or chunk.find(b"\r") >= 0:  # `in` takes twice as long here
            chunk = self._with_line_feeds(chunk)
        self._events = events = []
        start, size = 0, len(chunk)
        if self._in_event:
            start = self._feed_block(chunk, start)  # finish what the last chunk began
        while start < size:
            block = _usual_block(chunk, start)
            if block is None or (end := block.end()) - start > self.max_event_bytes:
                start = self._feed_block(chunk, start)
                continue
            start = end
            name, data = block.groups()
            if not data.isascii():
                data = self._valid_utf8(data)
            name = "message" if name is None else self._names.get(name) or self._name(name)
            events.append(_new(ServerSentEvent, (data, name, self.last_event_id)))
        return events

    def close(self) -> bool:
        """Say that no more bytes will come. An event without the blank line at its end is discarded, says the standard.

        Returns: whether there was one, that is, whether the stream was cut inside an event.
        """
        unfinished = self._in_event or bool(self._start)
        self._line.clear()
        self._data.clear()
        self._start = b""
        self._in_event = False
        return unfinished

    def _without_bom(self, chunk: bytes) -> bytes:
        chunk = self._start + chunk
        if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
            self._start = chunk
            return b""
        self._start = b""
        self._at_start = False
        return chunk.removeprefix(_BOM)

    def _with_line_feeds(self, chunk: bytes) -> bytes:
        """The same lines, each ended by LF: CR and CRLF inside UTF-8 text are never a part of a character."""
        if self._skip_line_feed and chunk:
            self._skip_line_feed = False
            chunk = chunk.removeprefix(b"\n")
        if chunk.endswith(b"\r"):
            self._skip_line_feed = True
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _name(self, name: bytes) -> str:
        if len(self._names) > 100:  # a stream has a dozen; this is for one that means harm
            self._names.clear()
        return self._names.setdefault(name, self._valid_utf8(name).decode() or "message")

    def _feed_block(self, chunk: bytes, start: int) -> int:
        """Lines, to the next blank one or the end of the chunk; returns where they end."""
        blank_line = chunk.find(b"\n\n", start)
        end = blank_line + 2 if blank_line >= 0 else len(chunk)
        self._feed_lines(chunk[start:end])
        return end

    def _feed_lines(self, text: bytes) -> None:
        *lines, rest = text.split(b"\n")
        if lines and self._line:
            self._grow_line(lines[0])
            lines[0] = bytes(self._line)
            self._line.clear()
        for line in lines:
            if line:
                self._feed_line(line)
            else:
                self._dispatch()
        if rest:
            self._in_event = True
            self._grow_line(rest)

    def _grow_line(self, piece: bytes) -> None:
        if self._size + len(self._line) + len(piece) > self.max_event_bytes:
            raise self._too_large()
        self._line += piece

    def _feed_line(self, line: bytes) -> None:
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
                raise self._too_large()
            self._data.append(value)
        elif name == b"event":
            if len(value) > self.max_event_bytes:
                raise self._too_large()
            self._event = self._valid_utf8(value).decode()
        elif name == b"id":
            if b"\0" not in value:
                self._id = self._valid_utf8(value).decode()
        elif name == b"retry" and value.isdigit() and len(value) < 20:
            self.retry = int(value)

    def _dispatch(self) -> None:
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

    def _too_large(self) -> EventTooLargeError:
        self._line = bytearray()
        self._data = []
        return EventTooLargeError(
            f"an event is larger than {self.max_event_bytes} bytes (at byte {self.bytes_fed} of the stream)"
        )
