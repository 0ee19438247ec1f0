"""A recorded interaction as a person sees it: who was asked what, what came back piece by piece, and how it ended.

The bytes go through the framework's own decoder and sessions, as in an agent. Whatever else is in a cassette (a page, a
list of models, a request to a web shop) is read too, as what it is: something without an answer of a model in it.

What an event adds to an answer beside its text: reasoning, refusals, tool calls, piece by piece.

A session says the text of each event, and all the rest only at the end, when it is sure. Whoever watches an answer
being written wants the rest as it comes; being sure is the session's business, so what does not fit is passed over.

What a recorded request asked: its model, and the end of its prompt, out of the JSON of any provider's API.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic_core import from_json

from miniagents.bounds import MAX_EVENT_BYTES
from miniagents.errors import LLMError, StreamError, StreamTruncatedError
from miniagents.ext.llm._sessions import ChatSession, MessagesSession, ResponsesSession
from miniagents.ext.llm._sessions.base import error_from_payload
from miniagents.ext.llm._streaming import ResponseBody

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from miniagents.ext.llm._sessions import Outcome, Session
    from miniagents.ext.llm.sse import ServerSentEvent
    from miniagents_testing.cassette import Interaction


class Piece(NamedTuple):
    """Something that was said in one go."""

    kind: str
    """`text`, `reasoning`, `refusal`, `tool`, or `choice` for an answer beside the first one."""
    part: str
    """Neighbours of one kind and part belong together, such as the name and the arguments of one tool call."""
    text: str


def tool_piece(part: Any, name: Any, arguments: Any = "") -> Piece:
    """The beginning of a tool call, or the whole."""
    return Piece("tool", str(part), f"{name} {arguments}")


def other_pieces(data: Any) -> Iterator[Piece]:
    """The pieces of one event, of any of the APIs; its text is left to the session."""
    data = _object(data)
    kind = data.get("type")
    if isinstance(kind, str) and kind.startswith("response."):
        yield from _of_responses(kind, data)
    elif kind in ("content_block_start", "content_block_delta"):
        yield from _of_messages(data)
    else:
        for choice in map(_object, _list(data.get("choices"))):
            if not choice.get("index"):
                yield from _of_chat(_object(choice.get("delta")))


def _of_chat(delta: dict[str, Any]) -> Iterator[Piece]:
    yield Piece(
        "reasoning", "", _text_or_empty(delta.get("reasoning_content")) or _text_or_empty(delta.get("reasoning"))
    )
    yield Piece("refusal", "", _text_or_empty(delta.get("refusal")))
    for call in map(_object, _list(delta.get("tool_calls"))):
        part = str(call.get("index") or 0)
        function = _object(call.get("function") or call.get("custom"))
        if function.get("name"):
            yield tool_piece(part, function["name"])
        yield Piece("tool", part, _text_or_empty(function.get("arguments") or function.get("input")))


def _of_messages(data: dict[str, Any]) -> Iterator[Piece]:
    part = str(data.get("index"))
    block, delta = _object(data.get("content_block")), _object(data.get("delta"))
    if str(block.get("type")).endswith("tool_use"):
        given = block.get("input")  # usually {}, and the arguments follow
        yield tool_piece(part, block.get("name"), json.dumps(given, ensure_ascii=False) if given else "")
    if delta.get("type") == "thinking_delta":
        yield Piece("reasoning", part, _text_or_empty(delta.get("thinking")))
    elif delta.get("type") == "input_json_delta":
        yield Piece("tool", part, _text_or_empty(delta.get("partial_json")))


def _of_responses(kind: str, data: dict[str, Any]) -> Iterator[Piece]:
    part = str(data.get("output_index"))
    delta = _text_or_empty(data.get("delta"))
    if kind == "response.output_item.added":
        item = _object(data.get("item"))
        if item.get("type") in ("function_call", "custom_tool_call"):
            yield tool_piece(part, item.get("name"))
    elif kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
        index = data.get("summary_index") or data.get("content_index") or 0
        yield Piece("reasoning", f"{part}.{index}", delta)
    elif kind == "response.refusal.delta":
        yield Piece("refusal", part, delta)
    elif kind in ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta"):
        yield Piece("tool", part, delta)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text_or_empty(value: Any) -> str:
    return value if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a prompt."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What can be said of a request body; empty where it is none of a model's."""

    model: str = ""
    turns: tuple[Turn, ...] = ()
    """What came after the model's last word: often one message of the user, sometimes several results of tools."""
    choices: int | None = None
    """How many answers were asked for, where that is said."""

    @property
    def last(self) -> Turn:
        """The message that the answer is to."""
        return self.turns[-1] if self.turns else Turn("", "")


def read_prompt(body: bytes) -> Prompt:
    """The prompt in a request body, whatever it is."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return Prompt()
    if not isinstance(request, dict):
        return Prompt()
    said = request.get("messages") or request.get("input") or request.get("prompt") or ()
    items = [said] if isinstance(said, (str, dict)) else list(said) if isinstance(said, (list, tuple)) else []
    instructions = _content_text(request.get("system") or request.get("instructions"))  # messages of their own in chats
    turns = [Turn("system", instructions)] if instructions else []
    for item in items:
        turn = _turn(item)
        if turn.role in ("assistant", "model"):
            turns.clear()
        else:
            turns.append(turn)
    choices = request.get("n")
    return Prompt(str(request.get("model") or ""), tuple(turns), choices if isinstance(choices, int) else None)


def _turn(item: Any) -> Turn:
    if not isinstance(item, dict):
        return Turn("user", _content_text(item))
    kind = str(item.get("type") or "message")
    if kind != "message":  # Responses: calls of tools and their results stand beside the messages
        result = kind.endswith("_output")
        return Turn("tool" if result else "assistant", _content_text(item.get("output") if result else item))
    content = item.get("content")
    role = str(item.get("role") or "user")
    if isinstance(content, list) and content and all(_is_tool_result(part) for part in content):
        role = "tool"  # Anthropic: the user brings them
    return Turn(role, _content_text(content))


def _is_tool_result(part: Any) -> bool:
    return isinstance(part, dict) and str(part.get("type") or "").endswith("tool_result")


def _content_text(content: Any) -> str:
    """The text of a message's content: a string, or parts of which some are no text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(filter(None, map(_content_text, content)))
    if not isinstance(content, dict):
        return str(content)
    for key in ("text", "content", "output"):
        if isinstance(content.get(key), (str, list)):
            return _content_text(content[key])
    return f"[{content.get('type') or 'something'}]"  # an image, a document


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
        max_event_bytes=MAX_EVENT_BYTES,
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
