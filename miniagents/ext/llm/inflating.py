"""Compressed response bodies, inflated step by step and with a limit.

We ask for `accept-encoding: identity`; some proxies compress all the same. httpx2 inflates too, but ends silently
where the compressed stream was cut, and without any limit to what a few kilobytes may become.
"""

from __future__ import annotations

import zlib

from miniagents.errors import EventTooLargeError, StreamDecodeError
from miniagents.ext.llm.sse import DEFAULT_MAX_STREAM_BYTES

__all__ = ["MAX_RATIO", "Inflater", "inflater_for"]

MAX_RATIO = 300
"""Streams of JSON compress 5 to 50 times; gzip's own limit is about 1,000."""
_SLACK = 1024 * 1024


class Inflater:
    """Bytes of gzip or deflate in, bytes out."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self._zlib = zlib.decompressobj(wbits=31 if encoding == "gzip" else 15)
        self._head: bytes | None = b"" if encoding == "deflate" else None
        self.fed = 0
        self._given = 0

    @property
    def finished(self) -> bool:
        """Whether the compressed stream has come to its end."""
        return self._zlib.eof

    def feed(self, chunk: bytes) -> bytes:
        """What the chunk holds.

        Raises:
            StreamDecodeError: this is not what the headers say.
            EventTooLargeError: it holds suspiciously much.
        """
        self.fed += len(chunk)
        if self._head is not None:
            chunk = self._without_knowing_the_wrapper(self._head + chunk)
        result = b""
        while chunk:
            if self._zlib.eof:  # gzip files may follow one another
                self._zlib = zlib.decompressobj(wbits=31 if self.encoding == "gzip" else 15)
            room = min(DEFAULT_MAX_STREAM_BYTES, self.fed * MAX_RATIO + _SLACK) - self._given
            try:
                piece = self._zlib.decompress(chunk, room + 1)
            except zlib.error as error:
                raise StreamDecodeError(
                    f"the response is not the {self.encoding} its headers promise: {error}"
                ) from error
            self._given += len(piece)
            if len(piece) > room:
                raise EventTooLargeError(
                    f"{self.fed} bytes of {self.encoding} hold more than {self._given - 1} bytes: a decompression bomb?"
                )
            result = result + piece if result else piece
            chunk = self._zlib.unused_data
        return result

    def _without_knowing_the_wrapper(self, head: bytes) -> bytes:
        """Many servers leave out the zlib wrapper of "deflate"; its first two bytes tell (RFC 1950, section 2.2)."""
        if len(head) < 2:
            self._head = head
            return b""
        self._head = None
        if head[0] & 0x0F != 8 or int.from_bytes(head[:2], "big") % 31:
            self._zlib = zlib.decompressobj(wbits=-15)
        return head


def inflater_for(content_encoding: str | None) -> Inflater | None:
    """An inflater for a `content-encoding` header, None where the body is plain.

    Raises:
        StreamDecodeError: an encoding we did not ask for and cannot read.
    """
    names = [name.strip().lower() for name in (content_encoding or "").split(",")]
    names = [name.removeprefix("x-") for name in names if name not in ("", "identity")]
    if not names:
        return None
    if len(names) > 1 or names[0] not in ("gzip", "deflate"):
        raise StreamDecodeError(
            f"the response is compressed with {content_encoding!r}, although it was asked for uncompressed; "
            f"only gzip and deflate can be read",
            retryable=False,  # the next one would come the same way
        )
    return Inflater(names[0])
