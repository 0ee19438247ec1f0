"""One request and the stream that answered it, apart from any file and any HTTP library.

Everything that came, of all interactions of a cassette, in the order in which it came.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from heapq import merge
from typing import TYPE_CHECKING, Literal, NamedTuple

from miniagents_testing._streams import TICKS_PER_SECOND, ticks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from miniagents_testing._streams import ResponseStream


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


class Moment(NamedTuple):
    """Something that happened in a recording."""

    ms: float
    """Since the recording began."""
    number: int
    """Which interaction; the first is 1."""
    what: Literal["request", "headers", "chunk", "end"]
    data: bytes = b""
    """Of a chunk."""


def timeline(interactions: Sequence[Interaction]) -> tuple[Moment, ...]:
    """What happened, by time: of streams that ran at once, what came first stands first."""
    return tuple(merge(*(_moments(number, each) for number, each in enumerate(interactions, 1))))


def ends_ms(interactions: Iterable[Interaction]) -> float:
    """When the last of them ended, in ms since the recording began."""
    return max((moment.ms for each in interactions for moment in _moments(0, each)), default=0.0)


def _moments(number: int, interaction: Interaction) -> Iterator[Moment]:
    answer, now = interaction.response, ticks(interaction.started_ms)
    yield Moment(_ms(now), number, "request")
    now += ticks(answer.headers_ms)
    if answer.status:
        yield Moment(_ms(now), number, "headers")
    for chunk in answer.chunks:
        now += chunk.wait
        yield Moment(_ms(now), number, "chunk", chunk.data)
    yield Moment(_ms(now), number, "end")


def _ms(moment: int) -> float:
    return moment * 1000 / TICKS_PER_SECOND
