"""A response as a stream of timed chunks: what cassettes keep, scripts make, faults change, and transports play.

Everything in the workshop that answers a request speaks this one form, so each can be laid over any other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Mapping


TICKS_PER_SECOND = 100_000
"""Ticks of 10 µs; coarser ones put tokens of parallel streams out of order."""

HELD = -1
"""The wait of a chunk that comes when whoever plays the stream is told to go on. Made by scripts, never recorded."""


def ticks(ms: float) -> int:
    """Milliseconds in ticks: what is compared is whole numbers."""
    return round(ms * TICKS_PER_SECOND / 1000)


class Chunk(NamedTuple):
    """Bytes as they were read from the wire in one go."""

    wait: int
    """Ticks since the chunk before, or since the response headers; or `HELD`."""

    data: bytes

    @classmethod
    def after(cls, seconds: float, data: bytes) -> Self:
        """A chunk that comes so many seconds after the one before it."""
        return cls(round(seconds * TICKS_PER_SECOND), data)


@dataclass(frozen=True, slots=True)
class ResponseStream:
    """One HTTP response, chunk for chunk, with its times and its end; apart from any request, file and HTTP library."""

    chunks: tuple[Chunk, ...] = ()
    status: int = 200
    """0 where the connection failed before there was a response; `end` then says how."""
    reason: str = "OK"
    headers: Mapping[str, list[str]] = field(default_factory=dict)
    """By lower-case name."""
    headers_ms: float = 0.0
    """Arrival of the headers in ms, since the start of the request."""
    end: str = "eof"
    """How it ended: `eof`, `closed` or `cancelled` by the reader, `open`, or `raise <httpx class>: <message>`."""
    complete: bool = True
    """Whether the provider had said that the answer is whole."""

    @property
    def body(self) -> bytes:
        """The whole response body."""
        return b"".join(chunk.data for chunk in self.chunks)
