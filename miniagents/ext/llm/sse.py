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
"""

from __future__ import annotations

from typing import NamedTuple

from miniagents.errors import EventTooLargeError, StreamDecodeError

__all__ = ["DEFAULT_MAX_EVENT_BYTES", "DEFAULT_MAX_STREAM_BYTES", "SSEDecoder", "ServerSentEvent"]

DEFAULT_MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Images come as base64 in one event; this leaves room for them and still bounds memory."""
DEFAULT_MAX_STREAM_BYTES = 256 * 1024 * 1024
"""About a million tokens with all that is said around them: more is no answer, but a server that does not stop."""

_BOM = b"\xef\xbb\xbf"
_PIECE = 1024 * 1024
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
        max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES,
        max_stream_bytes: int = DEFAULT_MAX_STREAM_BYTES,
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
        self._plain = False  # nothing is pending, of no kind: the next chunk may go the short way
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
        self.bytes_fed = fed = self.bytes_fed + len(chunk)
        if fed > self.max_stream_bytes:
            raise EventTooLargeError(f"the stream is larger than {self.max_stream_bytes} bytes")
        if self._plain and chunk[-2:] == b"\n\n":
            event = self._one_event(chunk)
            if event is not None:
                return [event]
        if self._in_event and not self._skip_line_feed and b"\n" not in chunk and b"\r" not in chunk:
            self._grow_line(chunk)  # a long line goes on
            return []
        if len(chunk) > _PIECE:  # so that what is copied on the way stays small beside the limit
            return [
                event for start in range(0, len(chunk), _PIECE) for event in self._feed(chunk[start : start + _PIECE])
            ]
        return self._feed(chunk)

    def _one_event(self, chunk: bytes) -> ServerSentEvent | None:
        """The only event of a chunk that is `data: ...`, or `event: ...` and `data: ...`; None if it is anything else.

        Nearly all chunks of nearly all providers are; the rules are those of `_feed_lines`, for this one case.
        """
        if chunk.startswith(b"data: "):
            name = "message"
            start = 6
        elif chunk.startswith(b"event: "):
            end = chunk.find(b"\n")
            start = end + 7
            if chunk[end + 1 : start] != b"data: ":
                return None
            known = self._names.get(chunk[7:end])
            if known is None:
                return None  # `_feed_blocks` will learn it
            name = known
        else:
            return None
        data = chunk[start:-2]
        if b"\n" in data or b"\r" in data or not data.isascii() or len(data) >= self.max_event_bytes:
            return None
        return _new(ServerSentEvent, (data, name, self.last_event_id))

    def _feed(self, chunk: bytes) -> list[ServerSentEvent]:
        if self._at_start:
            chunk = self._without_bom(chunk)
        if self._skip_line_feed or b"\r" in chunk:
            chunk = self._with_line_feeds(chunk)
        if not chunk:
            return []
        events: list[ServerSentEvent] = []
        self._events = events
        start = 0
        if self._in_event:  # finish what the last chunk began, line by line
            blank_line = chunk.find(b"\n\n")
            start = blank_line + 2 if blank_line >= 0 else len(chunk)
            self._feed_lines(chunk[:start])
        blank_line = chunk.rfind(b"\n\n", start)
        if blank_line >= 0:
            self._feed_blocks(chunk[start:blank_line])
            start = blank_line + 2
        if start < len(chunk):
            self._feed_lines(chunk[start:])
        self._plain = not (self._in_event or self._skip_line_feed)
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

    def _feed_blocks(self, blocks: bytes) -> None:
        """Whole events, without the last blank line: nearly all that comes, so they have a short way of their own."""
        limit = self.max_event_bytes
        events = self._events
        for block in blocks.split(b"\n\n"):
            if len(block) <= limit:
                if block.startswith(b"data: ") and b"\n" not in block:
                    data = block[6:]
                    if not data.isascii():
                        data = self._valid_utf8(data)
                    events.append(ServerSentEvent(data, "message", self.last_event_id))
                    continue
                if block.startswith(b"event: "):
                    name, _, data = block.partition(b"\n")
                    if data.startswith(b"data: ") and b"\n" not in data and name.isascii():
                        data = data[6:]
                        if not data.isascii():
                            data = self._valid_utf8(data)
                        events.append(ServerSentEvent(data, self._name(name[7:]), self.last_event_id))
                        continue
            self._feed_lines(block + b"\n\n")

    def _name(self, name: bytes) -> str:
        if len(self._names) > 100:  # a stream has a dozen; this is for one that means harm
            self._names.clear()
        return self._names.setdefault(name, name.decode() or "message")

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
