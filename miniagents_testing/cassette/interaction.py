"""One request and the stream that answered it, apart from any file and any HTTP library."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from miniagents_testing._streams import ResponseStream

__all__ = ["Interaction", "holds_terminal_event", "is_text", "kept_headers"]

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
    rb"""^data:\ ?(?:\[DONE\]|\{"type":\ ?"(?:message_stop|response\.(?:completed|failed|incomplete)|error)")
    |^event:\ ?(?:message_stop|response\.(?:completed|failed|incomplete)|error)\r?$""",
    re.MULTILINE | re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Interaction:
    """A recorded interaction."""

    method: str
    uri: str
    request_body: bytes
    response: ResponseStream
    request_headers: Mapping[str, list[str]] = field(default_factory=dict)
    started_ms: float = 0.0
    """Start of the request in ms, since the recording began."""
    agent: str = ""
    """Who asked, where the framework made the call: aliases from the outermost agent in, and which request of such an
    agent it was, as in `WRITER/OPENAI_AGENT#2`."""

    @property
    def agent_path(self) -> str:
        """Who asked, without the number."""
        return self.agent.rpartition("#")[0]


def kept_headers(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The headers that go into a cassette, by lower-case name, in order of name."""
    kept: dict[str, list[str]] = {}
    for name, value in sorted(pairs, key=lambda pair: pair[0].lower()):
        if name.lower() in KEPT_HEADERS:
            kept.setdefault(name.lower(), []).append(value)
    return kept


def holds_terminal_event(body: bytes) -> bool:
    """Whether a provider's last event is in `body`: a reader that stopped after it had everything."""
    return _TERMINAL_EVENT.search(body) is not None


def is_text(body: bytes) -> bool:
    """Whether it is UTF-8, which compressed bytes are not: gzip's second byte cannot be, and others never stay so."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True
