"""Model of a run for its picture: agents, requests with the times of their tokens, and calls of tools.

`read_run` makes it from recorded interactions. Times are ticks of 10 µs since the first request. Pauses without any
request are shortened as `play` shortens them, so that a page and `play` show the same text at the same time. `page`
makes the page; `miniagents_testing.pictures` is for users.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from miniagents.ext._terminal import TerminalFilter
from miniagents_testing._reading import NewTurns, Piece, Turn, agent_names, excerpt_of, prefix_of
from miniagents_testing._streams import TICKS_PER_SECOND, ticks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from miniagents_testing._reading import Reading
    from miniagents_testing.cassette import Interaction


LONGEST_PAUSE = TICKS_PER_SECOND
"""Ticks of a pause that are kept: the time that a user took to think is of no interest."""
_MADE_UP_WAIT = TICKS_PER_SECOND // 20


class Token(NamedTuple):
    """Moment at which more of an answer came."""

    moment: int
    """Ticks since the beginning of the run."""
    length: int
    """Length of the text of all parts that has come by then, in UTF-16 units, as JavaScript counts."""


class Part(NamedTuple):
    """Part of an answer that stands on lines of its own."""

    kind: str
    """Kind of its pieces, such as `text` or `tool`; `body` for a body that is no answer of a model."""
    text: str
    """Text with its prefix; control characters in it are visible."""


class AnswerText:
    """Text of an answer while it comes, in parts. It is the text that `play` prints, whatever the cuts."""

    def __init__(self) -> None:
        self._tokens: list[Token] = []
        self._parts: list[tuple[str, list[str]]] = []
        self._last: tuple[str, str] | None = None
        self._filter = TerminalFilter()
        self._length = 0

    def add(self, pieces: Iterable[Piece]) -> None:
        """Add the next pieces; a piece of another kind or part than the one before begins a new part."""
        for piece in pieces:
            if (piece.kind, piece.part) != self._last:
                self._append(self._filter.finish())
                self._last = piece.kind, piece.part
                self._parts.append((piece.kind, []))
                self._append(prefix_of(piece))
            self._append(self._filter.feed(piece.text))

    def mark(self, moment: int) -> None:
        """Note the moment at which all text added until now had come, as a token."""
        self._tokens.append(Token(moment, self._length))

    def finish(self) -> tuple[tuple[Part, ...], tuple[Token, ...]]:
        """Return the parts and the tokens of the whole answer."""
        self._append(self._filter.finish())
        parts = ((kind, "".join(texts)) for kind, texts in self._parts)
        return tuple(Part(kind, text) for kind, text in parts if text), tuple(self._tokens)

    def _append(self, text: str) -> None:
        """Add text to the last part; lengths are counted in UTF-16, as JavaScript does."""
        if text:
            self._parts[-1][1].append(text)
            self._length += len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2


@dataclass(frozen=True, slots=True)
class Request:
    """One request to a model, or to another server, and the answer."""

    number: int
    """Number in the recording, as `show` and `play` have it."""
    lane: str
    """Name of the agent; of a request from outside of agents, its target."""
    target: str
    """Name of the model; of another request, its method and address."""
    start: int
    end: int
    turns: tuple[Turn, ...]
    """Messages of the prompt."""
    new: frozenset[int]
    """Places in `turns` of the messages that no earlier request of the agent has shown; the others are left out."""
    parts: tuple[Part, ...]
    tokens: tuple[Token, ...]
    ending: str
    """How the answer ended, in words."""
    complete: bool
    """False for errors, and for answers that were interrupted."""
    tokens_in: int | None = None
    tokens_out: int | None = None
    """Numbers of tokens that the provider has counted; None if it has not said so."""


@dataclass(frozen=True, slots=True)
class ToolRun:
    """One call of a tool, from its request to its result."""

    name: str
    lane: str
    request: int
    """Number of the request in which the model asked for the call."""
    start: int
    end: int
    failure: str = ""
    """Error of the tool; empty if there was none, or if it is not known."""


class Pause(NamedTuple):
    """Time without any request that is shown shorter than it was."""

    at: int
    """Beginning of the pause on the page."""
    length: int
    """True length in ticks; `LONGEST_PAUSE` is shown of it."""


@dataclass(frozen=True, slots=True)
class Run:
    """Run of a program: requests in the order in which they were started, and calls of tools."""

    requests: tuple[Request, ...]
    tools: tuple[ToolRun, ...] = ()
    pauses: tuple[Pause, ...] = ()
    has_times: bool = True
    """False if no times were recorded, and those of the page are made up."""

    @property
    def lanes(self) -> tuple[str, ...]:
        """Names of the agents in the order in which they appear."""
        return tuple(dict.fromkeys(request.lane for request in self.requests))

    @property
    def end(self) -> int:
        """Ticks from the first request to the end of the last one, without what pauses were shortened by."""
        return max((0, *(request.end for request in self.requests), *(tool.end for tool in self.tools)))


class _Span(Protocol):
    """Object with a beginning and an end in time."""

    @property
    def start(self) -> float:
        """Moment of the beginning."""

    @property
    def end(self) -> float:
        """Moment of the end."""


_S = TypeVar("_S", bound=_Span)


def overlapping(spans: Iterable[_S]) -> Iterator[list[_S]]:
    """Yield spans in order of their start, in groups: each overlaps in time with the ones before it in its group."""
    group: list[_S] = []
    end = 0.0
    for span in sorted(spans, key=lambda span: span.start):
        if group and span.start >= end:
            yield group
            group = []
        group.append(span)
        end = max(end, span.end)
    if group:
        yield group


def read_run(interactions: Sequence[Interaction], readings: Sequence[Reading]) -> Run:
    """Return the run that was recorded.

    Args:
        interactions: all interactions of a recording.
        readings: of the same interactions, in the same order.
    """
    names = agent_names([interaction.agent_path for interaction in interactions])
    new = NewTurns()
    numbered = sorted(enumerate(zip(interactions, readings, names, strict=True), 1), key=_start_of)
    requests = [_read_request(number, *each, new) for number, each in numbered]
    called = {number: reading.outcome.tool_calls for number, (_, reading, _) in numbered if reading.outcome}
    tools = []
    for request, following in _with_next_of_lane(requests):
        calls = called.get(request.number, ())
        tools += [ToolRun(call.name, request.lane, request.number, request.end, following.start) for call in calls]
    run = shorten_pauses(requests, tools, requests)
    return run if run.end else _with_made_up_times(run)


def _with_made_up_times(run: Run) -> Run:
    """Return a run without times as one request after the other, each with a token every 50 ms."""
    requests, now = [], 0
    for each in run.requests:
        start, now = now, now + _MADE_UP_WAIT * (len(each.tokens) + 1)
        tokens = (Token(start + _MADE_UP_WAIT * number, token.length) for number, token in enumerate(each.tokens, 1))
        requests.append(replace(each, start=start, end=now, tokens=tuple(tokens)))
    return Run(tuple(requests), has_times=False)


def _start_of(numbered: tuple[int, tuple[Interaction, Reading, str]]) -> float:
    """Return the start of a numbered interaction in ms, as a key for sorting."""
    return numbered[1][0].started_ms


def _read_request(number: int, interaction: Interaction, reading: Reading, name: str, new: NewTurns) -> Request:
    """Return a recorded interaction as a request of the picture: its texts, the times of its tokens, and its ending.

    Args:
        number: of the request in the picture.
        interaction: as it was recorded.
        reading: the interaction as it was read.
        name: of the agent, for people.
        new: finds the messages that the agent's earlier requests did not have.
    """
    response = interaction.response
    start = ticks(interaction.started_ms)
    moment = start + ticks(response.headers_ms)
    answer = AnswerText()
    for chunk, pieces in zip(response.chunks, reading.chunks, strict=True):
        moment += chunk.wait
        answer.add(pieces)
        if pieces or reading.outcome is None:
            answer.mark(moment)
    if reading.outcome is None and not reading.failure:
        answer.add([Piece("body", "", excerpt_of(response.body, response.headers))])
    parts, tokens = answer.finish()
    turns, content = reading.prompt.turns, reading.outcome.content if reading.outcome else None
    shown = new.take_places(interaction.agent_path, turns, content)
    if not turns and interaction.request_body:
        turns, shown = (Turn("request", excerpt_of(interaction.request_body, interaction.request_headers)),), (0,)
    usage = reading.outcome.usage if reading.outcome else None
    target = reading.model or f"{interaction.method} {interaction.uri}"
    return Request(
        number=number,
        lane=name or target,
        target=target,
        start=start,
        end=moment,
        turns=turns,
        new=frozenset(shown),
        parts=parts,
        tokens=tokens,
        ending=reading.ending.sentence,
        complete=reading.ending.complete,
        tokens_in=usage.input if usage else None,
        tokens_out=usage.output if usage else None,
    )


def _with_next_of_lane(requests: Sequence[Request]) -> Iterator[tuple[Request, Request]]:
    """Yield each request with the next request of its agent that starts after its end.

    Leave out those without a next one.
    """
    lanes: defaultdict[str, list[Request]] = defaultdict(list)
    for request in requests:
        lanes[request.lane].append(request)
    for lane in lanes.values():
        starts = [request.start for request in lane]
        for number, request in enumerate(lane, 1):
            if (place := bisect_left(starts, request.end, lo=number)) < len(lane):
                yield request, lane[place]


def shorten_pauses(requests: Sequence[Request], tools: Sequence[ToolRun], busy: Sequence[Request | ToolRun]) -> Run:
    """Return a run that begins at 0, with its pauses shortened to `LONGEST_PAUSE`.

    Args:
        requests: in the order in which they were started.
        tools: calls of tools.
        busy: what was at work; the time between is a pause.
    """
    starts: list[int] = []
    shifts: list[int] = []
    pauses: list[Pause] = []
    shift = end = 0
    for group in overlapping(busy):
        start = group[0].start
        if not starts:
            shift = start
        elif (length := start - end) > LONGEST_PAUSE:
            pauses.append(Pause(end - shift, length))
            shift += length - LONGEST_PAUSE
        starts.append(start)
        shifts.append(shift)
        end = max(each.end for each in group)

    def moved(moment: int) -> int:
        """Return a moment of the recording as a moment of the page, on which pauses are shorter."""
        return moment - shifts[max(0, bisect_right(starts, moment) - 1)]

    return Run(
        tuple(
            replace(
                each,
                start=moved(each.start),
                end=moved(each.end),
                tokens=tuple(Token(moved(moment), length) for moment, length in each.tokens),
            )
            for each in requests
        ),
        tuple(replace(each, start=moved(each.start), end=moved(each.end)) for each in tools),
        tuple(pauses),
    )
