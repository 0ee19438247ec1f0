"""Reader of recorded interactions: the prompt, the pieces of the answer, and the ending.

`read_interaction` passes the bytes of a response through the framework's own decoder and sessions, as an agent does.
Any other interaction of a cassette is read, too, such as a page or a list of models: its reading has no outcome.

A session returns the text of each event, and everything else at the end only, when it has checked it. `play` shows
reasoning, refusals and tool calls as they arrive. So this module finds them in each event itself, without checks.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from pydantic_core import from_json

from miniagents.bounds import MAX_EVENT_BYTES
from miniagents.errors import LLMError, StreamError, StreamTruncatedError
from miniagents.ext.llm._base import ANTHROPIC_ALIAS, OPENAI_ALIAS
from miniagents.ext.llm._sessions import ChatSession, MessagesSession, ResponsesSession
from miniagents.ext.llm._sessions.base import error_from_payload, repair_deep
from miniagents.ext.llm._streaming import ResponseBody
from miniagents_testing._script import SCRIPTED_ALIAS
from miniagents_testing._words import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from miniagents.ext.llm._sessions import Outcome, Session
    from miniagents.ext.llm.sse import ServerSentEvent
    from miniagents_testing.cassette import Interaction


_PROVIDERS = {"api.openai.com": "openai", "api.anthropic.com": "anthropic"}
_APIS: tuple[tuple[str, type[Session], str, bytes], ...] = (
    ("chat", ChatSession, r"/chat/completions$", rb'"object": ?"chat\.completion'),
    ("messages", MessagesSession, r"/messages$|:(?:streamRawPredict|rawPredict)$", rb'"type": ?"message(?:_start)?"'),
    ("responses", ResponsesSession, r"/responses$", rb'"type": ?"response\.|"object": ?"response"'),
)
"""For each API: its name, its session, its paths, and a pattern in the beginning of its bodies, for unknown paths."""
_SENTENCES = {
    "length": "cut at the token limit",
    "content_filter": "stopped by a content filter",
    "refusal": "the model refused to answer",
}
_OF_MODEL = frozenset({"assistant", "model"})
_DEFAULT_ALIASES = frozenset({OPENAI_ALIAS, ANTHROPIC_ALIAS, SCRIPTED_ALIAS})
"""Aliases that say nothing of the agent of a model but its provider."""
_INSTRUCTIONS = frozenset({"system", "developer"})
"""Roles of messages that say how to answer, and are no part of the conversation."""
_OF_PROMPT = ("messages", "input", "contents", "prompt", "inputs")
_OF_INSTRUCTIONS = ("system", "instructions", "systemInstruction", "system_instruction")
"""Fields of a request with its messages, and with its instructions, in the APIs of several providers."""
_PREFIXES = {"reasoning": "thinking: ", "refusal": "refusal: ", "tool": "→ "}
_SEARCHED_BYTES = 4096
_MAX_ERROR_CHARS = 300
_MAX_BODY_CHARS = 300


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a prompt."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """Model and messages of a request body; empty if the request was not to a model."""

    model: str = ""
    turns: tuple[Turn, ...] = ()
    """Messages with a text, and all that are not the model's."""
    choices: int | None = None
    """Number of answers that the request asks for, or None."""

    @property
    def last(self) -> Turn:
        """Last message that is not the model's, which the model answers; empty if there is none."""
        asked = (turn for turn in reversed(self.turns) if turn.role not in _OF_MODEL)
        return next(asked, self.turns[-1] if self.turns else Turn("", ""))


class Piece(NamedTuple):
    """Part of an answer, from one event."""

    kind: str
    """Kind: `text`, `reasoning`, `refusal`, `tool`, or `choice` for another answer than the first one."""
    part: str
    """Id of the part of the answer. Pieces of one kind and part belong together, such as those of one tool call."""
    text: str


class Ending(NamedTuple):
    """End of an interaction, in words."""

    word: str
    """Short form for a table: a finish reason, `HTTP 429`, `closed early`, ..."""
    sentence: str
    """Long form; the same as `word` if that is clear enough."""
    complete: bool
    """True if there is a complete answer, or a complete body that is not an answer of a model."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Content of one interaction."""

    provider: str
    """Name of a well-known provider, else the host of the request."""
    prompt: Prompt
    chunks: tuple[tuple[Piece, ...], ...]
    """Pieces of each chunk of the response."""
    outcome: Outcome | None
    """Answer as far as it has come; None if the body is not an answer of a model."""
    failure: str
    """Error that the provider reported in place of an answer, or of its rest; empty if there is none."""
    problem: str
    """Reason why the body cannot be read to its end, such as damage; empty if it can."""
    ending: Ending

    @property
    def model(self) -> str:
        """Model that the answer names, else the one that the request names."""
        return (self.outcome.model if self.outcome else None) or self.prompt.model

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Pieces of all chunks."""
        return tuple(piece for chunk in self.chunks for piece in chunk)


def read_interaction(interaction: Interaction) -> Reading:
    """Read an interaction. Its problems are described in the result; none is raised.

    An answer with an error status, or of an unknown API, has neither pieces nor an outcome.
    """
    prompt = read_prompt(interaction.request_body)
    answer = interaction.response
    host = _split_uri(interaction.uri).hostname or ""
    provider = _PROVIDERS.get(host, host)
    chunks: list[list[Piece]] = [[] for _ in answer.chunks]
    failure = problem = ""
    outcome = None
    session = _create_session(interaction, prompt)
    if answer.status >= 400:
        failure = f"HTTP {answer.status}: {_error_message(interaction, provider)}"
    elif session is not None:
        try:
            _feed_chunks(session, interaction, chunks)
        except StreamTruncatedError:
            pass  # `ending` describes it
        except StreamError as error:
            problem = str(error)
        except LLMError as error:
            failure = str(error)
        outcome = session.outcome()
        if chunks:
            chunks[-1] += _pieces_not_streamed(outcome, [piece for chunk in chunks for piece in chunk])
    return Reading(
        provider=provider,
        prompt=prompt,
        chunks=tuple(map(tuple, chunks)),
        outcome=outcome,
        failure=failure,
        problem=problem,
        ending=_describe_ending(interaction, outcome, failure, problem),
    )


def _create_session(interaction: Interaction, prompt: Prompt) -> Session | None:
    """Return a session that decodes the answer of an interaction; None if the request was not to a known API."""
    api = api_of(interaction)
    kind = next((kind for name, kind, _, _ in _APIS if name == api), None)
    return ChatSession(prompt.choices) if kind is ChatSession else kind() if kind else None


def api_of(interaction: Interaction) -> str:
    """Return the API of a model that answered: `chat`, `messages` or `responses`; empty if it is none of them."""
    if not interaction.uri.startswith("http"):  # a call of a function, or a conversation
        return ""
    path = _split_uri(interaction.uri).path.rstrip("/")
    beginning = interaction.response.body[:_SEARCHED_BYTES]
    by_path = (name for name, _, paths, _ in _APIS if re.search(paths, path))
    by_body = (name for name, _, _, mark in _APIS if re.search(mark, beginning))
    return next(by_path, "") or next(by_body, "")


def _feed_chunks(session: Session, interaction: Interaction, chunks: list[list[Piece]]) -> None:
    """Feed the chunks to the session, and add the pieces of each chunk to its list in `chunks`.

    Stop after the last chunk of an incomplete answer, without an error.

    Raises:
        LLMError: the error that an agent would raise for this body.
    """
    headers = interaction.response.headers
    body = ResponseBody(
        session,
        streamed=True,
        content_type=_join(headers.get("content-type", ())),
        content_encoding=_join(headers.get("content-encoding", ())) or None,
        max_event_bytes=MAX_EVENT_BYTES,
    )
    for pieces, chunk in zip(chunks, interaction.response.chunks, strict=True):
        for event in body.feed(chunk.data):
            _feed_event(session, event, pieces)
    if not interaction.response.complete:
        return
    if (text := body.close()) and chunks:
        chunks[-1].append(Piece("text", "", text))


def _feed_event(session: Session, event: ServerSentEvent, pieces: list[Piece]) -> None:
    """Feed one event to the session unless it has ended, and add its text and other pieces to `pieces`."""
    if session.ended:
        return
    text = session.feed(event)
    if text:
        pieces.append(Piece("text", "", text))
    pieces += (piece for piece in _pieces_beside_text(_read_json(event.data)) if piece.text)


def _read_json(data: bytes) -> Any:
    """Return the value of a JSON text, with U+FFFD for half a surrogate pair; None if the text cannot be read."""
    try:
        return from_json(data)
    except ValueError:  # also for half a pair, which other parsers read
        try:
            return repair_deep(json.loads(data))
        except (ValueError, RecursionError):
            return None


def _split_uri(uri: str) -> SplitResult:
    """Return the parts of a URI; all are empty if the URI is malformed."""
    try:
        return urlsplit(uri)
    except ValueError:  # brackets without an address of IPv6
        return urlsplit("")


def _pieces_not_streamed(outcome: Outcome, streamed: list[Piece]) -> list[Piece]:
    """Return pieces for the parts of the outcome that no event has shown, and for all further choices.

    If calls have streamed, a call without arguments counts as shown.
    """
    kinds = {piece.kind for piece in streamed}
    tools = "".join(piece.text for piece in streamed if piece.kind == "tool")
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


def _describe_ending(interaction: Interaction, outcome: Outcome | None, failure: str, problem: str) -> Ending:
    """Describe how an interaction ended, by the first of these: HTTP error, unreadable rest, error event, break, cut.

    `failure` is the provider's error message, `problem` says why the rest cannot be decoded; both may be empty.
    """
    answer = interaction.response
    if answer.status >= 400:
        return Ending(f"HTTP {answer.status}", failure, complete=False)
    if problem:
        return Ending("unreadable", f"the rest cannot be read: {problem}", complete=False)
    if failure:
        return Ending("error in the stream", failure, complete=False)
    if answer.end.startswith("raise "):
        error = answer.end.removeprefix("raise ").rstrip(": ")  # many errors have no message
        return Ending(f"broken: {error.partition(':')[0]}", f"the connection broke: {error}", complete=False)
    if not answer.complete:
        how = "not read to its end" if answer.end == "open" else f"{answer.end} by its reader"
        word = answer.end if answer.end == "open" else f"{answer.end} early"
        return Ending(word, f"{how}, before the answer was whole", complete=False)
    if outcome is None:
        return Ending(answer.end, answer.end, complete=True)
    if not outcome.complete:
        return Ending(
            "cut off", "the stream ends, and the provider has not said that the answer is whole", complete=False
        )
    word = outcome.finish_reason or "complete"
    return Ending(word, sentence_of(word), complete=True)


def sentence_of(finish_reason: str) -> str:
    """Return the finish reason of a whole answer in words, as far as there are clearer ones."""
    return _SENTENCES.get(finish_reason, finish_reason)


def _error_message(interaction: Interaction, provider: str) -> str:
    """Return the provider's message in a JSON error response, or the beginning of a body that is not JSON."""
    answer = interaction.response
    payload = _read_json(answer.body)
    if payload is None:
        return answer.body[:_MAX_ERROR_CHARS].decode(errors="replace").strip() or "(no body)"
    return str(error_from_payload(payload, provider=provider or "the provider", status=answer.status))


def _join(values: Iterable[str]) -> str:
    """Return the values of a header joined to one text."""
    return ", ".join(values)


def _pieces_beside_text(data: Any) -> Iterator[Piece]:
    """Yield the reasoning, refusal and tool pieces of one event, of any API; they may be empty.

    Of a chat, only those of choice 0; of other data, none.
    """
    data = _dict_or_empty(data)
    kind = data.get("type")
    if isinstance(kind, str) and kind.startswith("response."):
        yield from _responses_pieces(kind, data)
    elif kind in ("content_block_start", "content_block_delta"):
        yield from _messages_pieces(data)
    else:
        for choice in map(_dict_or_empty, _list_or_empty(data.get("choices"))):
            if not choice.get("index"):
                yield from _chat_pieces(_dict_or_empty(choice.get("delta")))


def _chat_pieces(delta: dict[str, Any]) -> Iterator[Piece]:
    """Yield the pieces of a delta of OpenAI's chat completions beside its text; some of them are empty."""
    yield Piece(
        "reasoning", "", _text_or_empty(delta.get("reasoning_content")) or _text_or_empty(delta.get("reasoning"))
    )
    yield Piece("refusal", "", _text_or_empty(delta.get("refusal")))
    for call in map(_dict_or_empty, _list_or_empty(delta.get("tool_calls"))):
        part = str(call.get("index") or 0)
        function = _dict_or_empty(call.get("function") or call.get("custom"))
        if function.get("name"):
            yield tool_piece(part, function["name"])
        yield Piece("tool", part, _text_or_empty(function.get("arguments") or function.get("input")))


def _messages_pieces(data: dict[str, Any]) -> Iterator[Piece]:
    """Yield the pieces of an event of Anthropic's messages that are not its text: reasoning and tool calls."""
    part = str(data.get("index"))
    block, delta = _dict_or_empty(data.get("content_block")), _dict_or_empty(data.get("delta"))
    if str(block.get("type")).endswith("tool_use"):
        given = block.get("input")  # usually {}: the arguments come in later events
        yield tool_piece(part, block.get("name"), json.dumps(given, ensure_ascii=False) if given else "")
    if delta.get("type") == "thinking_delta":
        yield Piece("reasoning", part, _text_or_empty(delta.get("thinking")))
    elif delta.get("type") == "input_json_delta":
        yield Piece("tool", part, _text_or_empty(delta.get("partial_json")))


def _responses_pieces(kind: str, data: dict[str, Any]) -> Iterator[Piece]:
    """Yield the pieces of an event of OpenAI's Responses beside its text: reasoning, refusals and calls."""
    part = str(data.get("output_index"))
    delta = _text_or_empty(data.get("delta"))
    if kind == "response.output_item.added":
        item = _dict_or_empty(data.get("item"))
        if item.get("type") in ("function_call", "custom_tool_call"):
            yield tool_piece(part, item.get("name"))
    elif kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
        index = data.get("summary_index") or data.get("content_index") or 0
        yield Piece("reasoning", f"{part}.{index}", delta)
    elif kind == "response.refusal.delta":
        yield Piece("refusal", part, delta)
    elif kind in ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta"):
        yield Piece("tool", part, delta)


def tool_piece(part: Any, name: Any, arguments: Any = "") -> Piece:
    """Return the first piece of a tool call, with the arguments known so far."""
    return Piece("tool", str(part), f"{name} {arguments}")


def _dict_or_empty(value: Any) -> dict[str, Any]:
    """Return a dict as it is, and an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def _list_or_empty(value: Any) -> list[Any]:
    """Return a list as it is, and an empty one for anything else."""
    return value if isinstance(value, list) else []


def _text_or_empty(value: Any) -> str:
    """Return a string as it is, and an empty one for anything else."""
    return value if isinstance(value, str) else ""


def read_prompt(body: bytes) -> Prompt:
    """Read model, number of choices and messages in a request body of any API.

    Any other body gives an empty prompt. Messages of the model without text are left out.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return Prompt()
    if not isinstance(request, dict):
        return Prompt()
    prompt = next((request[name] for name in _OF_PROMPT if request.get(name)), ())
    items = [prompt] if isinstance(prompt, (str, dict)) else list(prompt) if isinstance(prompt, (list, tuple)) else []
    # In chat completions, instructions are messages.
    instructions = content_text(next((request[name] for name in _OF_INSTRUCTIONS if request.get(name)), None))
    turns = [Turn("system", instructions)] if instructions else []
    for item in items:
        try:
            turn = _read_turn(item)
        except RecursionError:
            turn = Turn("user", "[nested too deep to be shown]")
        if has_to_be_shown(turn):
            turns.append(turn)
    choices = request.get("n", 1)  # as the APIs do
    return Prompt(str(request.get("model") or ""), tuple(turns), choices if isinstance(choices, int) else None)


def has_to_be_shown(turn: Turn) -> bool:
    """Return True unless a message is the model's and has no text, such as one with nothing but calls of tools."""
    return bool(turn.text) or turn.role not in _OF_MODEL


def _read_turn(item: Any) -> Turn:
    """Return role and text of one message, or of one item of Responses.

    The text is empty for a call of a tool and for reasoning. A bare text is the user's.

    Results of tools get the role "tool", also where the provider's message says "user".
    """
    if not isinstance(item, dict):
        return Turn("user", content_text(item))
    kind = str(item.get("type") or "message")
    if kind != "message":  # in Responses, calls of tools and their results are items beside the messages
        return Turn("tool", content_text(item.get("output"))) if kind.endswith("_output") else Turn("assistant", "")
    content = item.get("content", item.get("parts"))
    role = str(item.get("role") or "user")
    if role in _OF_MODEL and isinstance(content, list):  # beside its text are calls of tools and reasoning
        content = [part for part in content if not isinstance(part, dict) or isinstance(part.get("text"), str)]
    if isinstance(content, list) and content and all(_is_tool_result(part) for part in content):
        role = "tool"  # in Anthropic's messages, the user sends the results of tools
    return Turn(role, content_text(content))


def _is_tool_result(part: Any) -> bool:
    """Return True for a part of a message that is the result of a tool."""
    return isinstance(part, dict) and str(part.get("type") or "").endswith("tool_result")


def content_text(content: Any) -> str:
    """Return the text of a message's content, which is a string, a dict or a list, at any depth; "" for None.

    Texts of a list are joined by line ends. Parts without text, such as images, give their type in brackets.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(filter(None, map(content_text, content)))
    if not isinstance(content, dict):
        return str(content)
    for key in ("text", "content", "output", "parts"):
        if isinstance(content.get(key), (str, list)):
            return content_text(content[key])
    return f"[{content.get('type') or 'something'}]"


def agent_names(paths: Sequence[str]) -> list[str]:
    """Return a short name for each path of an agent, without what all paths begin with.

    The last agent of a path is that of a model. It is left out if it has a default alias, because it asks the model for
    the agent before it; but not if paths differ in it alone.
    """
    parts = [path.split("/") for path in paths]
    above = [each[:-1] if len(each) > 1 and each[-1] in _DEFAULT_ALIASES else each for each in parts]
    if len(set(map(tuple, above))) == len(set(paths)):
        parts = above
    named = [each for each in parts if each != [""]]
    shared = 0
    while named and all(len(each) > shared + 1 and each[shared] == named[0][shared] for each in named):
        shared += 1
    return ["/".join(each[shared:]) for each in parts]


def prefix_of(piece: Piece) -> str:
    """Return the words that stand before the first piece of a part, so that readers know its kind."""
    return f"choice {piece.part}: " if piece.kind == "choice" else _PREFIXES.get(piece.kind, "")


def excerpt_of(body: bytes, headers: Mapping[str, list[str]]) -> str:
    """Return the beginning of a body that is text; otherwise its size and type."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        kind = ", ".join(headers.get("content-type", ["no known type"]))
        return f"({counted(len(body), 'byte')}, {kind})"
    return text if len(text) <= _MAX_BODY_CHARS else f"{text[:_MAX_BODY_CHARS]}…"


class NewTurns:
    """Messages of prompts that are new since the last request of the same agent, for readers of a whole recording."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, Counter[Turn]] = defaultdict(Counter)
        """How often one prompt of an agent has had a message, by the agent's path."""
        self._instructions: set[str] = set()
        self._answers: set[str] = set()

    def take(self, agent_path: str, reading: Reading) -> tuple[Turn, ...]:
        """Return the messages of a reading's prompt that are new since the agent's earlier requests.

        See `take_places`.
        """
        turns, answer = reading.prompt.turns, None if reading.outcome is None else reading.outcome.content
        return tuple(turns[place] for place in self.take_places(agent_path, turns, answer))

    def take_places(self, agent_path: str, turns: Sequence[Turn], answer: str | None) -> tuple[int, ...]:
        """Return the places in the next prompt of messages that are new, at least of the last one that is answered.

        The beginning of an answer that the application has given is always there. Instructions are new once for all
        agents. Answers that an earlier request got are left out, so that a message of the model is one that the
        application has written for it.

        Args:
            agent_path: the agent that sends the request.
            turns: all messages of the prompt.
            answer: the text of the answer; None if there is none.
        """
        known, count = self._counts[agent_path], Counter[Turn]()
        new = set()
        for number, turn in enumerate(turns):
            count[turn] += 1
            if turn.role in _INSTRUCTIONS:
                is_new = turn.text not in self._instructions
                self._instructions.add(turn.text)
            elif turn.role in _OF_MODEL:
                is_new = count[turn] > known[turn] and turn.text.strip() not in self._answers
            else:
                is_new = count[turn] > known[turn]
            if is_new:
                new.add(number)
        known |= count
        if answer is not None:
            self._answers.add(answer.strip())
        asked = [
            number for number, turn in enumerate(turns) if turn.role not in _OF_MODEL | _INSTRUCTIONS and turn.text
        ]
        if asked and new.isdisjoint(asked):
            new.add(asked[-1])
        if turns and (turns[-1].role in _OF_MODEL or not new):  # the beginning of the answer, or instructions alone
            new.add(len(turns) - 1)
        return tuple(sorted(new))
