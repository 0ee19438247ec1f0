"""One request and the stream that answered it, and the timeline of several of them.

Independent of files and of HTTP libraries.
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


_TERMINAL_EVENT = re.compile(
    rb"""^data:\ ?(?:\[DONE\]|\{"type":\ ?"(?:message_stop|response\.(?:completed|failed|incomplete)|error)")
    |^event:\ ?(?:message_stop|response\.(?:completed|failed|incomplete)|error)\r?$""",
    re.MULTILINE | re.VERBOSE,
)


OF_LINES = frozenset({"CALL", "STDIO", "WEBSOCKET"})
"""Methods of interactions that are no HTTP: their bodies are lines, and their key `stream` has version 2."""


@dataclass(frozen=True, slots=True)
class Interaction:
    """A recorded request with its response."""

    method: str
    uri: str
    request_body: bytes
    response: ResponseStream
    request_headers: Mapping[str, list[str]] = field(default_factory=dict)
    started_ms: float = 0.0
    """Start of the request, in ms since the recording began."""
    agent: str = ""
    """The agent that sent the request, as in `WRITER/OPENAI_AGENT#2`: the aliases from the outermost agent in, and the
    number of the request among those of the same aliases. Empty for a request from outside of agents."""

    @property
    def agent_path(self) -> str:
        """Aliases of the agent that sent the request and of its callers, as in `WRITER/OPENAI_AGENT`."""
        return self.agent.rpartition("#")[0]


def holds_terminal_event(body: bytes) -> bool:
    """Return True if `body` holds a provider's last event; a reader that stopped after that event missed nothing."""
    return _TERMINAL_EVENT.search(body) is not None


_FAILED_STREAMS = {
    "cut off": "stream ended before the provider said so",
    "error in the stream": "error in the stream",
}
"""Failures of streams with a status of success, by the word for their ending in a `Reading`."""


def failure_of(interaction: Interaction) -> str:
    """Return the failure of a provider or of a connection that an interaction ended with; "" if there is none.

    It is the name of the error of the connection, `status 429` and the like, or one of `_FAILED_STREAMS`. Of the
    streams, only those of the known APIs of models can fail: other ones have no event that says that they are whole. A
    stream that its reader closed has failed only if the provider had reported an error in it.
    """
    response = interaction.response
    if response.end.startswith("raise "):
        return response.end.removeprefix("raise ").partition(":")[0]
    if response.status >= 400:
        return f"status {response.status}"
    if "event-stream" not in "".join(response.headers.get("content-type", ())):
        return ""
    from miniagents_testing._reading import read_interaction  # it loads the decoders, which a replay seldom needs

    reading = read_interaction(interaction)
    word, outcome = reading.ending.word, reading.outcome
    if word == "cut off" and response.body and not (outcome and outcome.model) and not reading.pieces:
        return ""  # no event of it is one of a model, whatever its path
    return _FAILED_STREAMS.get(word, "")


def is_text(body: bytes) -> bool:
    """Return True if `body` is UTF-8; compressed bytes are not, as gzip's second byte shows."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


class Moment(NamedTuple):
    """Time at which a request started, or at which headers, a chunk or the end of its response arrived."""

    ms: float
    """Time in ms since the recording began."""
    number: int
    """Number of the interaction; the first is 1."""
    what: Literal["request", "headers", "chunk", "end"]
    data: bytes = b""
    """Bytes of a chunk; empty for all other kinds."""


def timeline(interactions: Sequence[Interaction]) -> tuple[Moment, ...]:
    """Return the moments (requests, headers, chunks, ends) of all interactions, in order of time."""
    return tuple(merge(*(_moments(number, each) for number, each in enumerate(interactions, 1))))


def ends_ms(interactions: Iterable[Interaction]) -> float:
    """Return the ms from the beginning of the recording to the end of the interaction that ended last."""
    return max((moment.ms for each in interactions for moment in _moments(0, each)), default=0.0)


def _moments(number: int, interaction: Interaction) -> Iterator[Moment]:
    """Yield the moments of one interaction in order of time: request, headers, each chunk, and the end."""
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
    """Convert ticks into ms."""
    return moment * 1000 / TICKS_PER_SECOND
