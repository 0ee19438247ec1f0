"""Bodies that came compressed, as the chunks they would have come in uncompressed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from miniagents.errors import EventTooLargeError, StreamDecodeError
from miniagents.ext.llm.sse import inflater_for
from miniagents_testing._streams import Chunk
from miniagents_testing.cassette.interaction import is_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Plain", "plain"]

_GZIP = b"\x1f\x8b"


class Plain(NamedTuple):
    """A body without its compression."""

    chunks: Sequence[Chunk]
    undone: str
    """`gzip`, `deflate` or nothing."""
    readable: bool = True
    """Whether these are all its bytes as they were meant; no, where a compression is not known, or a bomb."""

    @property
    def data(self) -> bytes:
        """The whole body."""
        return b"".join(chunk.data for chunk in self.chunks)


def plain(chunks: Sequence[Chunk], headers: Mapping[str, list[str]]) -> Plain:
    """The chunks, inflated where they are compressed, and each at its time.

    Recordings of others have bodies that are plain though a header says otherwise, and the other way round.
    """
    body = b"".join(chunk.data for chunk in chunks)
    encoding = "gzip" if body.startswith(_GZIP) else ", ".join(headers.get("content-encoding", ()))
    try:
        inflater = inflater_for(encoding)
        if inflater is None or not body:
            return Plain(chunks, "")
        return Plain([Chunk(chunk.wait, inflater.feed(chunk.data)) for chunk in chunks], inflater.encoding)
    except (StreamDecodeError, EventTooLargeError):
        return Plain(chunks, "", readable=is_text(body))
