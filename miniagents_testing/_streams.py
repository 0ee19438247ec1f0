"""A response as a stream of timed chunks. Cassettes keep it, scripts make it, faults change it, transports play it.

All parts of the testing kit that answer a request use this one form, so any of them can be combined.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Mapping


TICKS_PER_SECOND = 100_000
"""A tick is 10 µs long: longer ones put tokens of parallel streams out of order."""

HELD = -1
"""Wait of a chunk that arrives when the `Gate` of the player is released. Scripts make it; it is never recorded."""


def ticks(ms: float) -> int:
    """Convert milliseconds to ticks. Ticks are whole numbers, so times can be compared exactly."""
    return round(ms * TICKS_PER_SECOND / 1000)


class Chunk(NamedTuple):
    """Bytes as they were read from the wire in one go."""

    wait: int
    """Ticks since the chunk before, for the first one since the response headers; or `HELD`."""

    data: bytes

    @classmethod
    def after(cls, seconds: float, data: bytes) -> Self:
        """Create a chunk that arrives `seconds` after the one before it."""
        return cls(round(seconds * TICKS_PER_SECOND), data)


@dataclass(frozen=True, slots=True)
class ResponseStream:
    """One HTTP response, chunk for chunk, with its times and its end.

    Independent of requests, files and HTTP libraries.
    """

    chunks: tuple[Chunk, ...] = ()
    status: int = 200
    """Status code; 0 if the connection failed before there was a response, as `end` then describes."""
    reason: str = "OK"
    headers: Mapping[str, list[str]] = field(default_factory=dict)
    """Values of the headers, by name in lower case."""
    headers_ms: float = 0.0
    """Arrival of the headers, in milliseconds since the start of the request."""
    end: str = "eof"
    """End of the stream: `eof`, `closed` or `cancelled` by the reader, `open`, or `raise <httpx class>: <message>`.

    A stream that is `open` neither sends more bytes nor ends.
    """
    complete: bool = True
    """True if the provider has marked the answer as complete."""

    @property
    def body(self) -> bytes:
        """The whole response body."""
        return b"".join(chunk.data for chunk in self.chunks)
