"""A recorded interaction as a person sees it: who was asked what, what came back piece by piece, and how it ended.

The bytes go through the framework's own decoder and sessions, as in an agent. Whatever else is in a cassette (a page, a
list of models, a request to a web shop) is read too, as what it is: something without an answer of a model in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic_core import from_json

from miniagents.errors import LLMError, StreamError, StreamTruncatedError
from miniagents.ext.llm._sessions import ChatSession, MessagesSession, ResponsesSession
from miniagents.ext.llm._sessions.base import error_from_payload
from miniagents.ext.llm._streaming import ResponseBody
from miniagents.ext.llm.sse import DEFAULT_MAX_EVENT_BYTES
from miniagents_testing.cassette.pieces import Piece, other_pieces, tool_piece
from miniagents_testing.cassette.prompt import Prompt, read_prompt

if TYPE_CHECKING:
    from collections.abc import Iterable

    from miniagents.ext.llm._sessions import Outcome, Session
    from miniagents.ext.llm.sse import ServerSentEvent
    from miniagents_testing.cassette._interaction import Interaction

__all__ = ["Ending", "Reading", "read"]

_PROVIDERS = {"api.openai.com": "openai", "api.anthropic.com": "anthropic"}
_APIS: tuple[tuple[type[Session], str, bytes], ...] = (
    (ChatSession, r"/chat/completions$", rb'"object": ?"chat\.completion'),
    (MessagesSession, r"/messages$|:(?:streamRawPredict|rawPredict)$", rb'"type": ?"message(?:_start)?"'),
    (ResponsesSession, r"/responses$", rb'"type": ?"response\.|"object": ?"response"'),
)
"""Each API: its session, its paths, and what its bodies begin with where the path says nothing."""
_SENTENCES = {
    "length": "cut at the token limit",
    "content_filter": "stopped by a content filter",
    "refusal": "the model refused to answer",
}
_BEGINNING = 4096
_EXCERPT = 300


class Ending(NamedTuple):
    """How an interaction ended."""

    word: str
    """For a table: a finish reason, `HTTP 429`, `closed early`, ..."""
    sentence: str
    """For a person; the same as the word where that says it all."""
    whole: bool
    """Whether there is an answer, and all of it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One interaction, read."""

    provider: str
    """Its name where it is well known, else the host."""
    prompt: Prompt
    chunks: tuple[tuple[Piece, ...], ...]
    """What each chunk of the response has said."""
    outcome: Outcome | None
    """The answer as far as it came; None where the body is none of a model's."""
    failure: str
    """What the provider reported in place of an answer, or of the rest of one."""
    problem: str
    """Why the body cannot be read to its end: it is damaged, or not what it should be."""
    ending: Ending

    @property
    def model(self) -> str:
        """The model as it calls itself, else as it was asked for."""
        return (self.outcome.model if self.outcome else None) or self.prompt.model

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All that was said."""
        return tuple(piece for chunk in self.chunks for piece in chunk)


def read(interaction: Interaction) -> Reading:
    """Read an interaction; whatever is wrong with it is said in the result."""
    prompt = read_prompt(interaction.request_body)
    answer = interaction.response
    host = urlsplit(interaction.uri).hostname or ""
    provider = _PROVIDERS.get(host, host)
    chunks: list[list[Piece]] = [[] for _ in answer.chunks]
    failure = problem = ""
    outcome = None
    session = _session(interaction, prompt)
    if answer.status >= 400:
        failure = f"HTTP {answer.status}: {_error_message(interaction, provider)}"
    elif session is not None:
        try:
            _feed(session, interaction, chunks)
        except StreamTruncatedError:
            pass  # the ending says it
        except StreamError as error:
            problem = str(error)
        except LLMError as error:
            failure = str(error)
        outcome = session.outcome()
        if chunks:
            chunks[-1] += _not_said_yet(outcome, [piece for chunk in chunks for piece in chunk])
    return Reading(
        provider=provider,
        prompt=prompt,
        chunks=tuple(map(tuple, chunks)),
        outcome=outcome,
        failure=failure,
        problem=problem,
        ending=_ending(interaction, outcome, failure, problem),
    )


def _session(interaction: Interaction, prompt: Prompt) -> Session | None:
    """A new session for the API that was used; None where it was none that we know."""
    path = urlsplit(interaction.uri).path.rstrip("/")
    beginning = interaction.response.body[:_BEGINNING]
    kind = next((kind for kind, paths, _ in _APIS if re.search(paths, path)), None) or next(
        (kind for kind, _, mark in _APIS if re.search(mark, beginning)), None
    )
    return ChatSession(prompt.choices) if kind is ChatSession else kind() if kind else None


def _feed(session: Session, interaction: Interaction, chunks: list[list[Piece]]) -> None:
    """Put what each chunk says in its place.

    Raises:
        LLMError: as an agent would.
    """
    headers = interaction.response.headers
    body = ResponseBody(
        session,
        streamed=True,
        content_type=_joined(headers.get("content-type", ())),
        content_encoding=_joined(headers.get("content-encoding", ())) or None,
        max_event_bytes=DEFAULT_MAX_EVENT_BYTES,
    )
    for pieces, chunk in zip(chunks, interaction.response.chunks, strict=True):
        for event in body.feed(chunk.data):
            _take(session, event, pieces)
    if not interaction.response.complete:
        return
    if (text := body.close()) and chunks:
        chunks[-1].append(Piece("text", "", text))


def _take(session: Session, event: ServerSentEvent, pieces: list[Piece]) -> None:
    if session.ended:
        return
    text = session.feed(event)
    if text:
        pieces.append(Piece("text", "", text))
    if event.data.startswith(b"{"):
        pieces += (piece for piece in other_pieces(from_json(event.data, allow_inf_nan=True)) if piece.text)


def _not_said_yet(outcome: Outcome, said: list[Piece]) -> list[Piece]:
    """What the outcome has and no piece had: it was not streamed, or in a way of its own."""
    kinds = {piece.kind for piece in said}
    tools = "".join(piece.text for piece in said if piece.kind == "tool")
    rest = [
        tool_piece(call.id, call.name, call.arguments)
        for call in outcome.tool_calls
        if not tools or (call.arguments not in tools and call.arguments != "{}")
    ]
    for kind, text in (("reasoning", outcome.reasoning), ("refusal", outcome.refusal)):
        if text and kind not in kinds:
            rest.append(Piece(kind, "", text))
    return rest + [
        Piece("choice", str(choice.index), choice.content or choice.refusal or "") for choice in outcome.choices
    ]


def _ending(interaction: Interaction, outcome: Outcome | None, failure: str, problem: str) -> Ending:
    answer = interaction.response
    if answer.status >= 400:
        return Ending(f"HTTP {answer.status}", failure, whole=False)
    if problem:
        return Ending("unreadable", f"the rest cannot be read: {problem}", whole=False)
    if failure:
        return Ending("error in the stream", failure, whole=False)
    if answer.end.startswith("raise "):
        error = answer.end.removeprefix("raise ").rstrip(": ")  # many have no message
        return Ending(f"broken: {error.partition(':')[0]}", f"the connection broke: {error}", whole=False)
    if not answer.complete:
        how = "not read to its end" if answer.end == "open" else f"{answer.end} by its reader"
        word = answer.end if answer.end == "open" else f"{answer.end} early"
        return Ending(word, f"{how}, before the answer was whole", whole=False)
    if outcome is None:
        return Ending(answer.end, answer.end, whole=True)
    if not outcome.complete:
        return Ending("cut off", "the stream ends, and the provider has not said that the answer is whole", whole=False)
    word = outcome.finish_reason or "complete"
    return Ending(word, _SENTENCES.get(word, word), whole=True)


def _error_message(interaction: Interaction, provider: str) -> str:
    answer = interaction.response
    try:
        payload: Any = from_json(answer.body)
    except ValueError:
        return answer.body[:_EXCERPT].decode(errors="replace").strip() or "(no body)"
    return str(error_from_payload(payload, provider=provider or "the provider", status=answer.status))


def _joined(values: Iterable[str]) -> str:
    return ", ".join(values)
