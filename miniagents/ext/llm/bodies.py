"""What a response turns out to be: an event stream, one JSON document, or something else altogether."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miniagents.errors import EventTooLargeError, StreamProtocolError, StreamTruncatedError
from miniagents.ext.llm.inflating import inflater_for
from miniagents.ext.llm.sse import SSEDecoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from miniagents.ext.llm.sessions import Session
    from miniagents.ext.llm.sse import ServerSentEvent

__all__ = ["MAX_DOCUMENT_BYTES", "MAX_PAGE_BYTES", "ResponseBody"]

MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
"""Of an answer that is collected before it is parsed."""
MAX_PAGE_BYTES = 64 * 1024
"""Of something that is no answer; its beginning is enough to say so."""
_EXCERPT = 200
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
"""What the lines of an event stream begin with."""


class ResponseBody:
    """Takes the raw bytes of a successful response: `feed` gives the events in them, `close` the text that is left.

    A stream is read as it comes. Where the answer was not asked for as a stream, or the server answers with one JSON
    document all the same, the document is collected and parsed at its end. HTML and the like (a proxy's page, a wrong
    base URL) is refused.

    Args:
        session: what the events will be fed to, by the caller, and a document by us.
        streamed: whether a stream was asked for.
        content_type: the header of that name.
        content_encoding: the header of that name, None where the bytes are decoded already.
        max_event_bytes: see `SSEDecoder`.

    Raises:
        StreamDecodeError: the body is compressed in a way we cannot read.
    """

    def __init__(
        self,
        session: Session,
        *,
        streamed: bool,
        content_type: str,
        content_encoding: str | None,
        max_event_bytes: int,
    ) -> None:
        self.decoder = SSEDecoder(max_event_bytes=max_event_bytes)
        self._session = session
        session.decoder = self.decoder
        self._inflater = inflater_for(content_encoding)
        self._content_type = content_type.partition(";")[0].strip().lower()
        self._document: list[bytes] = []
        self._page = False
        self._size = 0
        self.feed: Callable[[bytes], list[ServerSentEvent]] = self._feed_first if streamed else self._feed_document
        """The events that end in these bytes. Becomes shorter once it is known what the bytes are."""

    def _feed_first(self, chunk: bytes) -> list[ServerSentEvent]:
        """The first bytes decide; the content type is wrong too often, and counts only where they say nothing."""
        plain = chunk if self._inflater is None else self._inflater.feed(chunk)
        text = plain.lstrip()
        if not text:
            return []  # so far there was nothing but white space, which is no event either
        self._page = text.startswith(b"<") or (self._content_type == "text/html" and not text.startswith(_FIELDS))
        if self._page or text.startswith((b"{", b"[")):
            self.feed = self._feed_document
            return self._collect(plain)
        self.feed = self.decoder.feed if self._inflater is None else self._feed_compressed
        return self.decoder.feed(plain)

    def _feed_compressed(self, chunk: bytes) -> list[ServerSentEvent]:
        return self.decoder.feed(chunk if self._inflater is None else self._inflater.feed(chunk))

    def _feed_document(self, chunk: bytes) -> list[ServerSentEvent]:
        return self._collect(chunk if self._inflater is None else self._inflater.feed(chunk))

    def _collect(self, plain: bytes) -> list[ServerSentEvent]:
        self._document.append(plain)
        self._size += len(plain)
        if self._page and self._size > MAX_PAGE_BYTES:
            raise self._unexpected()
        if self._size > MAX_DOCUMENT_BYTES:
            raise EventTooLargeError(f"the response is larger than {MAX_DOCUMENT_BYTES} bytes")
        return []

    def skip(self, chunk: bytes) -> None:
        """Bytes after the end of the answer; only the end of the compression still matters."""
        if self._inflater is not None:
            self._inflater.feed(chunk)

    def close(self) -> str:
        """The end of the bytes; returns the text of an answer that came as one document.

        Raises:
            StreamTruncatedError: the compressed body was cut, or the stream inside an event that was still needed.
            StreamProtocolError: this is not an answer of the provider.
            LLMError: as the session's `parse` does.
        """
        if self._inflater is not None and not self._inflater.finished and self._inflater.fed:
            raise StreamTruncatedError(f"the {self._inflater.encoding} body of the response was cut before its end")
        if self._page:
            raise self._unexpected()
        if self.feed == self._feed_document:
            return self._session.parse(b"".join(self._document)).content
        if self.decoder.close() and not self._session.outcome().complete:
            raise StreamTruncatedError(f"the stream was cut inside an event, after {self.decoder.bytes_fed} bytes")
        return ""

    def _unexpected(self) -> StreamProtocolError:
        text = b"".join(self._document)[:_EXCERPT].decode(errors="replace")
        kind = self._content_type or "without a content type"
        return StreamProtocolError(
            f"the response is not an answer of the API but a page ({kind}), which begins: {text!r}"
        )
