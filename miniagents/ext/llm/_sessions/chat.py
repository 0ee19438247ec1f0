"""Chat completions: OpenAI, Azure, and the many servers that speak the same language with accents of their own.

Tool calls of a chat completion, put together from fragments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from pydantic_core import from_json

from miniagents.errors import LLMError
from miniagents.ext.llm._sessions.base import Choice, Outcome, Session, Tokens, ToolUse, json_text, mend_deep

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class _Draft:
    index: int | None
    id: str = ""
    name: str = ""
    type: str = "function"
    arguments: list[str] = field(default_factory=list)
    is_value: bool = False
    """Whether the arguments came as a value in place of its text."""

    def text(self) -> str:
        return "".join(self.arguments)

    def is_whole(self) -> bool:
        """Return whether nothing can follow: the arguments so far are a JSON object."""
        return isinstance(_parsed(self.text()), dict)


class ToolCallCollector:
    """Collector that finds out which call a fragment belongs to.

    OpenAI numbers the calls and gives id and name in the first fragment only. Others send every call with index 0
    (Ollama), without an index (Gemini), or the id in every fragment; and some count the fragments in the place of the
    calls. So: the same index is the same call, unless it comes with a new id or after whole arguments with a new name;
    so is the same id, and a fragment with neither id nor name, under whatever index, unless the arguments are whole.
    """

    __slots__ = ("_drafts", "_last", "_latest")

    def __init__(self) -> None:
        self._drafts: list[_Draft] = []
        self._latest: dict[int | None, _Draft] = {}  # the call that is open under an index
        self._last: _Draft | None = None

    def __bool__(self) -> bool:
        return bool(self._drafts)

    def feed(self, fragment: dict[str, Any], doubt: Callable[[str, Any], None]) -> None:
        """Take one item of `delta.tool_calls`.

        Args:
            fragment: the item.
            doubt: is told the name and the value of a field that is odd, and does no harm.

        Raises:
            ValueError: this cannot be a part of a tool call.
        """
        function = fragment.get("function") or fragment.get("custom") or {}
        if not isinstance(function, dict):
            raise ValueError(f"a tool call whose function is {function!r}")  # noqa: TRY004 - wrong data, not a wrong call
        index = fragment.get("index")
        if index is not None and (type(index) is not int or index < 0):
            doubt("index of a tool call", index)
            index = int(index) if isinstance(index, str) and index.isdecimal() else None
        id_, name = _label(fragment.get("id")), _label(function.get("name"))
        arguments = function.get("arguments", function.get("input"))
        draft = self._find(index, id_, name, bool(arguments))
        if draft is None:
            draft = _Draft(index)
            self._drafts.append(draft)
        elif self._latest.get(index) is not draft and index is not None:
            doubt("index of a tool call", index)
        self._latest[index] = self._last = draft
        draft.id = draft.id or id_
        if name and name != draft.name:
            draft.name += name
        if fragment.get("type"):
            draft.type = str(fragment["type"])
        if isinstance(arguments, str) and not draft.is_value:
            draft.arguments.append(arguments)
        elif arguments is not None and str(arguments).strip():
            doubt("arguments", arguments)
            _take_value(draft, arguments)

    def _find(self, index: int | None, id_: str, name: str, more: bool) -> _Draft | None:
        """Return the call that a fragment goes on with, None where it begins one; `more`: it has arguments."""
        draft = self._latest.get(index)
        if draft is not None:
            if id_ and draft.id and id_ != draft.id:
                draft = None
            elif name and not id_:
                goes_on = name == draft.name and bool(draft.text()) and not draft.is_whole()
                begins = index is None or (draft.is_whole() and (more or name != draft.name))
                draft = None if begins and not goes_on else draft
        if draft is None and id_:
            draft = next((known for known in self._drafts if known.id == id_), None)
            if draft is not None and index is not None and name and (name != draft.name or draft.is_whole()):
                draft = None
        elif draft is None and index not in self._latest and self._last is not None and not self._last.is_whole():
            goes_on = not name or (name == self._last.name and bool(self._last.text()))
            draft = self._last if goes_on else None
        return draft

    def result(self) -> tuple[ToolUse, ...]:
        """The calls so far, in the order of their indexes where they have different ones, else in that of arrival."""
        drafts = self._drafts
        indexes = [draft.index for draft in drafts if draft.index is not None]
        if len(set(indexes)) == len(drafts):
            drafts = [draft for _, draft in sorted(zip(indexes, drafts, strict=True), key=lambda pair: pair[0])]
        return tuple(ToolUse(draft.id, draft.name, draft.text(), draft.type) for draft in drafts)


def _label(value: Any) -> str:
    """Return an id or a name; ids that are numbers become texts, 0 too."""
    return str(value) if type(value) in (str, int, float) else ""


def _parsed(text: str) -> Any:
    try:
        return from_json(text)
    except ValueError:
        return None


def _take_value(draft: _Draft, value: Any) -> None:
    """Take arguments that came as a value, or beside one: a value is whole, so that nothing can be added to it."""
    text = value if isinstance(value, str) else json_text(value)
    known = draft.text()
    if known.strip() and not draft.is_value:
        if _parsed(known) != value:
            raise ValueError(f"tool call arguments are {type(value).__name__} after {known[:80]!r}")
        text = known
    if isinstance(value, str) and _parsed(text) != _parsed(known):
        raise ValueError(f"tool call arguments go on after a whole value with {value[:80]!r}")
    draft.is_value = True
    draft.arguments = [text]


_FINISH_REASONS = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "refusal",
}
_TOP_LEVEL = frozenset({"choices", "usage", "id", "model", "object", "obfuscation"})
_CHOICE = frozenset({"index", "delta", "finish_reason", "logprobs", "message", "text"})
_EMPTY: tuple[Any, ...] = (None, "", [], {})
_DELTA = frozenset(
    {"content", "role", "refusal", "reasoning_content", "reasoning", "tool_calls", "function_call", "audio"}
)


class _Choice:
    """What one of the choices has come to."""

    __slots__ = ("begun", "extra", "finish_reason", "index", "pieces", "reasoning", "refusal", "tool_calls")

    def __init__(self, index: int) -> None:
        self.index = index
        self.begun = False
        """Whether a chunk under its own index gave its role."""
        self.pieces: list[str] = []
        self.refusal: list[str] = []
        self.reasoning: list[str] = []
        self.tool_calls = ToolCallCollector()
        self.finish_reason: str | None = None
        self.extra: dict[str, Any] = {}


class ChatSession(Session):
    """A chat completion, complete with a finish reason for every choice or `[DONE]`. Its content is that of choice 0.

    Where one choice was asked for, there is one, whatever index its chunks have: some servers count the chunks there.
    Only a chunk that begins another choice, with a role and no text, is believed.

    Args:
        n: how many choices were asked for; None where that is not known.
    """

    provider: ClassVar[str] = "openai"

    def __init__(self, n: int | None = None) -> None:
        super().__init__()
        self.done_seen = False
        self._n = n or 1
        self._only_one = n == 1
        self._may_open = True  # whether a role without text begins a choice
        self._choices: dict[int, _Choice] = {}
        self._first = self._choice(0)
        self._top: dict[str, Any] = {}
        self._usage: dict[str, Any] | None = None
        self._id: str | None = None
        self._model: str | None = None
        self._shape: list[str] | None = None  # keys of the last chunk whose further fields were looked at
        self._plain_choice: list[str] = []  # keys of the last choice that had no further fields
        self._last: dict[str, Any] = {}

    def _take(self, data: dict[str, Any], name: str) -> str:
        if list(data) != self._shape:
            self._take_top_level(data, name)
        self._last = data
        if data.get("usage") is not None:
            self._take_usage(data["usage"])
        choices = data.get("choices")
        if not choices:
            if data.get("usage") is None:
                self.idle_events += 1
            return ""
        if type(choices) is not list:
            self._reject(f"choices is {type(choices).__name__}")
        if len(choices) == 1:
            return self._take_choice(choices[0])
        text = ""
        try:
            for choice in choices:
                text += self._take_choice(choice)
        except LLMError:
            self.withheld = text + self.withheld
            raise
        return text

    def _take_choice(self, choice: Any) -> str:
        if type(choice) is not dict:
            if choice is not None:
                self._reject(f"a choice is {choice!r}")
            self._doubt("choice", choice)
            return ""
        state = self._first if choice.get("index") == 0 else self._state_of(choice)
        delta = choice.get("delta")
        text = ""
        if delta:
            if type(delta) is not dict:
                self._reject(f"delta is {type(delta).__name__}")
            content = delta.get("content")
            if type(content) is str:
                if content:
                    text = self._take_content(state, content)
                elif len(delta) < 3:
                    self.idle_events += 1
            if len(delta) > 1 or type(content) is not str:
                text += self._take_rest_of_delta(state, delta)
                if delta.get("error"):
                    self._fail(choice, text)
        finish_reason = choice.get("finish_reason")
        if finish_reason:
            if type(finish_reason) is not str:
                self._reject(f"finish_reason is {finish_reason!r}")
            if finish_reason.lower() == "error":
                self._fail(choice, text)
            state.finish_reason = finish_reason
            if state is self._first:
                text += self._finish_text()
        if list(choice) != self._plain_choice or choice.get("logprobs") is not None:
            self._take_rest_of_choice(state, choice, text)
        return text

    def _state_of(self, choice: dict[str, Any]) -> _Choice:
        """Return the state of a choice whose index is not 0."""
        if choice.get("index") is None:
            return self._first
        index = self._index(choice, "index")
        if self._only_one and not (index and self._opens_another(choice)):
            if index:
                self._doubt("index", index)
            return self._first
        if index is None:
            self._reject(f"choice index is {choice['index']!r}, and {self._n} choices were asked for")
        return self._choices.get(index) or self._choice(index)

    def _opens_another(self, choice: dict[str, Any]) -> bool:
        """Return whether this chunk begins a choice beside the first; from then on indexes are believed.

        It has a role and nothing else, and all before it had the index of the first choice, which has said something.
        """
        delta = choice.get("delta")
        bare = (
            isinstance(delta, dict)
            and delta.get("role")
            and all(value in _EMPTY for key, value in delta.items() if key != "role")
        )
        opens = bool(bare and self._may_open and self._pieces and self._first.begun and "index" not in self._doubts)
        self._only_one = not opens
        return opens

    def _fail(self, choice: dict[str, Any], text: str) -> NoReturn:
        """Raise the failure that a choice reports, in itself, in its delta or message, or by its finish reason."""
        inner = [value for key in ("delta", "message") if isinstance(value := choice.get(key), dict)]
        error = next((holder["error"] for holder in (choice, *inner) if holder.get("error")), None)
        rest = self._finish_text()
        self._error({"error": error or "the answer ended with the finish reason 'error'"}, withheld=text + rest)

    def _take_content(self, state: _Choice, content: str) -> str:
        if state is self._first:
            return self._append_text(content)
        state.pieces.append(content)
        return ""

    def _take_rest_of_delta(self, state: _Choice, delta: dict[str, Any]) -> str:
        """All that is not plain text; most chunks have none of it."""
        text = ""
        if delta.get("role"):
            state.begun = True
            self._may_open = self._may_open and not delta.get("content")  # a role in every chunk begins nothing
        if type(delta.get("content")) is not str and delta.get("content") is not None:
            text = self._take_parts(state, delta["content"])
        reasoning = self._aside(delta, "reasoning_content")
        if not reasoning and isinstance(delta.get("reasoning"), str):  # some send the same under both names
            reasoning = delta["reasoning"]
        if reasoning:
            state.reasoning.append(reasoning)
        if delta.get("refusal"):
            state.refusal.append(self._text(delta, "refusal"))
        if delta.get("tool_calls"):
            self._take_tool_calls(state, delta["tool_calls"])
        if delta.get("function_call"):  # what tool calls were before there were several
            self._take_tool_calls(state, [{"index": 0, "function": delta["function_call"]}])
        if isinstance(delta.get("audio"), dict):
            _add_audio(state.extra.setdefault("audio", {}), delta["audio"])
        for key, value in delta.items():
            if key not in _DELTA and value not in _EMPTY:
                _add_field(state.extra, key, value)
        return text

    def _take_parts(self, state: _Choice, parts: Any) -> str:
        """Content in typed parts (Mistral's reasoning models send thinking so)."""
        text = ""
        for part in parts if isinstance(parts, list) else [parts]:
            if isinstance(part, str):
                text += self._take_content(state, part)
            elif isinstance(part, dict) and part.get("type") == "text":
                text += self._take_content(state, self._text(part, "text"))
            elif isinstance(part, dict) and part.get("type") == "thinking":
                inner = part.get("thinking")
                for piece in inner if isinstance(inner, list) else [{"text": inner}]:
                    state.reasoning.append(self._aside(piece if isinstance(piece, dict) else {"text": piece}, "text"))
            elif isinstance(part, dict):
                self.unknown_events += 1
                _add_field(state.extra, "content_parts", [part])
            elif part is None:
                self._doubt("part", part)
            else:
                self._reject(f"content is {type(parts).__name__}")
        return text

    def _take_tool_calls(self, state: _Choice, fragments: Any) -> None:
        if type(fragments) is dict and fragments.get("function"):
            self._doubt("tool_calls", fragments)
            fragments = [fragments]
        if type(fragments) is not list:
            self._reject(f"tool_calls is {type(fragments).__name__}")
        for fragment in fragments:
            if fragment is None:
                self._doubt("tool call", fragment)
                continue
            if type(fragment) is not dict:
                self._reject(f"a tool call is {fragment!r}")
            try:
                state.tool_calls.feed(fragment, self._doubt)
            except ValueError as error:
                self._reject(str(error))

    def _take_rest_of_choice(self, state: _Choice, choice: dict[str, Any], text: str) -> None:
        if choice.get("error"):
            self._fail(choice, text)
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict):
            known = state.extra.setdefault("logprobs", {})
            for key, value in logprobs.items():
                _add_field(known, key, value)
        if _CHOICE.issuperset(choice):
            self._plain_choice = list(choice)
            return
        for key, value in choice.items():
            if key not in _CHOICE and value not in _EMPTY:
                state.extra[key] = value

    def _take_top_level(self, data: dict[str, Any], name: str) -> None:
        """Fields beside the choices; looked at when a chunk has other keys than the one before, and at the end."""
        self._shape = None if "error" in data else list(data)  # null in one chunk, it may be an error in the next
        if data.get("error") or name == "error" or (data.get("object") == "error" and not data.get("choices")):
            self._error(data)
        # Azure's first chunk has empty strings for these, and chunks of its asynchronous filter too
        self._id = self._id or self._label(data, "id") or None
        self._model = self._label(data, "model") or self._model
        for key, value in data.items():
            if key not in _TOP_LEVEL and value not in (None, "", [], {}, 0):
                self._top[key] = value
        groq = data.get("x_groq")
        if isinstance(groq, dict) and groq.get("usage"):
            self._take_usage(groq["usage"])

    def _take_usage(self, usage: Any) -> None:
        self._usage = self._counts(usage, "prompt_tokens", "completion_tokens", "total_tokens") or self._usage

    def _take_whole(self, data: dict[str, Any]) -> None:
        choices = data.get("choices")
        if data.get("error") or data.get("object") == "error":
            self._error(data)
        if not isinstance(choices, list) or not choices:
            self._reject("the response has no choices")
        self._only_one = False
        whole = [self._whole_choice(choice) for choice in choices]
        for index, choice in zip(self._indexes(choices), whole, strict=True):
            self._take({**data, "choices": [{**choice, "index": index}]}, "message")
        self._on_done()

    def _whole_choice(self, choice: Any) -> dict[str, Any]:
        """Return a choice of an answer that was not streamed, as a chunk would have it."""
        message = choice.get("message") if isinstance(choice, dict) else None
        if message is None and isinstance(choice, dict) and (choice.get("error") or choice.get("finish_reason")):
            self._doubt("message", message)
            message = {}
        if not isinstance(message, dict):
            self._reject("a choice without a message")
        calls = message.get("tool_calls") or []
        if isinstance(calls, list):
            calls = [{**call, "index": i} if isinstance(call, dict) else call for i, call in enumerate(calls)]
        return {**choice, "delta": {**message, "tool_calls": calls}}

    def _indexes(self, choices: list[dict[str, Any]]) -> list[int]:
        """Return the indexes of the choices in one document; where they contradict each other, their places."""
        places = range(len(choices))
        told = [choice.get("index") for choice in choices]
        if any(index is not None for index in told) and sorted(map(repr, told)) != sorted(map(repr, places)):
            self._doubt("index", told)
        elif None not in told:
            return [int(index) for index in told if index is not None]
        return list(places)

    def _on_done(self) -> str:
        self.done_seen = self.ended = True
        return self._finish_text()

    def _choice(self, index: int) -> _Choice:
        return self._choices.setdefault(index, _Choice(index))

    def outcome(self) -> Outcome:
        """The answer as far as it has come."""
        if self._last:
            self._take_top_level(self._last, "message")
        first, others = self._first, [self._choices[index] for index in sorted(self._choices) if index]
        finished = all(choice.finish_reason for choice in self._choices.values()) and len(self._choices) >= self._n
        word = first.finish_reason
        extra = {**self._top, **first.extra}
        if "audio" in first.extra:
            extra["audio"] = _joined_audio(first.extra["audio"])
        outcome = Outcome(
            content="".join(self._pieces),
            complete=self.done_seen or finished,
            finish_reason=_normalised(first),
            provider_finish_reason=word,
            id=self._id,
            model=self._model,
            usage=self._tokens(),
            raw_usage=self._usage,
            tool_calls=first.tool_calls.result(),
            refusal="".join(first.refusal) or None,
            reasoning="".join(first.reasoning) or None,
            choices=tuple(_as_choice(choice) for choice in others),
            unknown_events=self.unknown_events,
            lossy=self._lossy,
            doubts=self.doubts,
            extra=extra,
        )
        return outcome if self._joiner is None else mend_deep(outcome)

    def _tokens(self) -> Tokens | None:
        usage = self._usage
        if usage is None:
            return None
        # the last two are the names of DeepSeek and of Together
        cached = (("prompt_tokens_details", "cached_tokens"), ("prompt_cache_hit_tokens",), ("cached_tokens",))
        return Tokens(
            input=self._count(usage, "prompt_tokens"),
            output=self._count(usage, "completion_tokens"),
            cached=next((count for path in cached if (count := self._count(usage, *path)) is not None), None),
            reasoning=self._count(usage, "completion_tokens_details", "reasoning_tokens"),
            total=self._count(usage, "total_tokens"),
        )


def _normalised(choice: _Choice) -> str | None:
    word = choice.finish_reason
    reason = None if word is None else _FINISH_REASONS.get(word, word)
    return "refusal" if choice.refusal and reason in (None, "stop") else reason


def _as_choice(choice: _Choice) -> Choice:
    return Choice(
        index=choice.index,
        content="".join(choice.pieces),
        finish_reason=_normalised(choice),
        tool_calls=choice.tool_calls.result(),
        refusal="".join(choice.refusal) or None,
        reasoning="".join(choice.reasoning) or None,
    )


def _add_field(fields: dict[str, Any], key: str, value: Any) -> None:
    """A field we do not know: lists grow (annotations, reasoning details), of anything else the last one stays."""
    if isinstance(value, list) and isinstance(fields.get(key, []), list):
        fields.setdefault(key, []).extend(value)
    else:
        fields[key] = value


def _add_audio(audio: dict[str, Any], delta: dict[str, Any]) -> None:
    for key, value in delta.items():
        if key in ("data", "transcript"):
            audio.setdefault(key, []).append(value)  # joined in the outcome
        elif value is not None:
            audio[key] = value


def _joined_audio(audio: dict[str, Any]) -> dict[str, Any]:
    return {key: "".join(map(str, value)) if isinstance(value, list) else value for key, value in audio.items()}
