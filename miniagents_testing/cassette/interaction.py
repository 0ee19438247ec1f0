"""One request and the stream that answered it, apart from any file and any HTTP library."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from miniagents_testing.cassette.chunkmap import Chunk

__all__ = ["Interaction", "holds_terminal_event", "kept_headers"]

KEPT_HEADERS = frozenset(
    {
        "content-encoding",
        "content-type",
        "request-id",
        "retry-after",
        "retry-after-ms",
        "x-request-id",
        "x-should-retry",
    }
)
"""All that a client acts on. A list of what is kept, not of what is secret: new headers with keys in them come up."""

_TERMINAL_EVENT = re.compile(
    rb'^data: ?(?:\[DONE\]|\{"type": ?"(?:message_stop|response\.(?:completed|failed|incomplete)|error)")', re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Interaction:
    """A recorded interaction. Times are in ms, the waits of the chunks in ticks of 10 µs."""

    method: str
    uri: str
    request_body: bytes
    status: int
    reason: str
    chunks: tuple[Chunk, ...]
    request_headers: Mapping[str, list[str]] = field(default_factory=dict)
    response_headers: Mapping[str, list[str]] = field(default_factory=dict)
    started_ms: float = 0.0
    """Start of the request, since the recording began."""
    headers_ms: float = 0.0
    """Arrival of the response headers, since the start of the request."""
    end: str = "eof"
    """How it ended: `eof`, `closed` or `cancelled` by the reader, or `raise <httpx class>: <message>`."""
    complete: bool = True
    """Whether the provider had said that the answer is whole."""

    @property
    def body(self) -> bytes:
        """The whole response body."""
        return b"".join(chunk.data for chunk in self.chunks)


def kept_headers(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    """The headers that go into a cassette, by lower-case name, in order of name."""
    kept: dict[str, list[str]] = {}
    for name, value in sorted(pairs, key=lambda pair: pair[0].lower()):
        if name.lower() in KEPT_HEADERS:
            kept.setdefault(name.lower(), []).append(value)
    return kept


def holds_terminal_event(body: bytes) -> bool:
    """Whether a provider's last event is in `body`: a reader that stopped after it had everything."""
    return _TERMINAL_EVENT.search(body) is not None
