"""State machine for chat completions of OpenAI, Azure and compatible servers, which differ in many details.

`ChatSession` reads the chunks. `_ToolCallCollector` joins tool calls from their fragments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from pydantic_core import from_json

from miniagents.errors import LLMError
from miniagents.ext.llm._sessions.base import (
    Choice,
    Outcome,
    Session,
    ToolUse,
    json_text,
    repair_deep,
    repair_surrogates,
)
from miniagents.ext.llm._sessions.fields import (
    EMPTY,
    FieldCollector,
    Tokens,
    as_count,
    broke_off,
    count_at,
    finish_reason_of,
    merge_usage,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class _PendingCall:
    """Tool call as far as its fragments have arrived."""

    index: int | str | None
    place: int
    """Number of calls that began before this one."""
    id: str = ""
    name: str = ""
    type: str = "function"
    arguments: list[str] = field(default_factory=list)
    is_value: bool = False
    """True if the arguments came as a JSON value instead of its text."""
    fields: FieldCollector = field(default_factory=FieldCollector)

    def text(self) -> str:
        """Return the arguments so far."""
        return "".join(self.arguments)

    def is_whole(self) -> bool:
        """Return True if the arguments so far are a JSON object, so that no fragment can follow."""
        return isinstance(_parsed(self.text()), dict)


class _ToolCallCollector:
    """Collector of the fragments of tool calls, which decides to which call each fragment belongs.

    OpenAI numbers the calls, and sends id and name in the first fragment only. Ollama sends every call with index 0,
    Gemini without an index. Some servers repeat the id in every fragment, and some number the fragments instead of the
    calls. A fragment therefore continues a call in these cases:

    - It has the index of the call. A new id, or a new name after whole arguments, begins another call instead.
    - It has the id of the call. A new index with a new name, or with a name after whole arguments, begins another call.
    - It has neither id nor name, and the arguments of the last call are not whole yet.
    """

    __slots__ = ("_calls", "_last_call", "_latest")

    def __init__(self) -> None:
        self._calls: list[_PendingCall] = []
        self._latest: dict[int | str | None, _PendingCall] = {}  # latest call with an index
        self._last_call: _PendingCall | None = None

    def __bool__(self) -> bool:
        return bool(self._calls)

    def feed(self, fragment: dict[str, Any], doubt: Callable[[str, Any], None]) -> tuple[int, str, str, str]:
        """Add one item of `delta.tool_calls`; return the place of its call, and the item's own id, name and arguments.

        Args:
            fragment: the item.
            doubt: function that gets the name and the value of a field in an unexpected but harmless form.

        Raises:
            ValueError: the item cannot be a part of a tool call.
        """
        holder = "function" if fragment.get("function") else "custom"
        function = fragment.get(holder) or {}
        if not isinstance(function, dict):
            raise ValueError(f"a tool call whose function is {function!r}")  # noqa: TRY004 - wrong data, not a wrong call
        index = fragment.get("index")
        if index is not None and (type(index) is not int or index < 0):
            doubt("index of a tool call", index)
            count = as_count(index)
            index = repr(index) if count is None else count  # other values still tell the calls apart
        id_, name = _as_label(fragment.get("id")), _as_label(function.get("name"))
        arguments = function.get("arguments", function.get("input"))
        call = self._find_call(index, id_, name, bool(arguments))
        if call is None:
            call = _PendingCall(index, place=len(self._calls))
            self._calls.append(call)
        elif self._latest.get(index) is not call and index is not None:
            doubt("index of a tool call", index)
        self._latest[index] = self._last_call = call
        call.id = call.id or id_
        if name and name != call.name:
            call.name += name
        if fragment.get("type"):
            call.type = str(fragment["type"])
        if not (_CALL.issuperset(fragment) and _FUNCTION.issuperset(function)):
            call.fields.add_unnamed(fragment, _CALL)
            if more := {key: value for key, value in function.items() if key not in _FUNCTION}:
                call.fields.add(holder, more)
        if isinstance(arguments, str) and not call.is_value:
            call.arguments.append(arguments)
        elif arguments is not None and str(arguments).strip():
            doubt("arguments", arguments)
            _set_value(call, arguments)
        if not isinstance(arguments, str):
            arguments = json_text(arguments) if arguments else ""
        return call.place, id_, name, arguments

    def _find_call(self, index: int | str | None, id_: str, name: str, has_arguments: bool) -> _PendingCall | None:
        """Return the call that a fragment continues, None if the fragment begins a new call.

        The call is found by index, else by id, else it is the last one if that is unfinished.
        """
        call = self._latest.get(index)
        if call is not None:
            if id_ and call.id and id_ != call.id:
                call = None
            elif name and not id_:
                goes_on = name == call.name and bool(call.text()) and not call.is_whole()
                begins = index is None or (call.is_whole() and (has_arguments or name != call.name))
                call = None if begins and not goes_on else call
        if call is None and id_:
            call = next((known for known in self._calls if known.id == id_), None)
            if call is not None and index is not None and name and (name != call.name or call.is_whole()):
                call = None
        elif (
            call is None
            and index not in self._latest
            and self._last_call is not None
            and not self._last_call.is_whole()
        ):
            goes_on = not name or (name == self._last_call.name and bool(self._last_call.text()))
            call = self._last_call if goes_on else None
        return call

    def result(self) -> tuple[ToolUse, ...]:
        """Return the calls so far, in the order of their indexes if these differ, else in the order of arrival."""
        calls = self._calls
        indexes = [call.index for call in calls if isinstance(call.index, int)]
        if len(set(indexes)) == len(calls):
            calls = [call for _, call in sorted(zip(indexes, calls, strict=True), key=lambda pair: pair[0])]
        return tuple(ToolUse(call.id, call.name, call.text(), call.type, call.fields.whole()) for call in calls)


def _as_label(value: Any) -> str:
    """Return an id or a name as a string; "" for values other than strings and numbers."""
    return str(value) if type(value) in (str, int, float) else ""


def _parsed(text: str) -> Any:
    """Return the JSON value of the arguments of a tool call; None while they are not whole JSON."""
    try:
        return from_json(repair_surrogates(text))
    except ValueError:
        return None


def _set_value(call: _PendingCall, value: Any) -> None:
    """Set arguments that came as a JSON value, or compare further text to a value that came before.

    Raises:
        ValueError: the value contradicts the arguments so far, or text follows a value.
    """
    text = value if isinstance(value, str) else json_text(value)
    known = call.text()
    if known.strip() and not call.is_value:
        if _parsed(known) != value:
            raise ValueError(f"tool call arguments are {type(value).__name__} after {known[:80]!r}")
        text = known
    if isinstance(value, str) and _parsed(text) != _parsed(known):
        raise ValueError(f"tool call arguments go on after a whole value with {value[:80]!r}")
    call.is_value = True
    call.arguments = [text]


# keys that need no further processing: in a chunk, and below in a choice and in a delta
_TOP_LEVEL = frozenset({"choices", "usage", "id", "model", "object", "obfuscation"})
_CHOICE = frozenset({"index", "delta", "finish_reason", "logprobs", "message", "text", "usage"})
_DELTA = frozenset({"content", "role", "refusal", "tool_calls", "function_call"})
# keys of a tool call and of its function that this package names
_CALL = frozenset({"id", "type", "index", "function", "custom"})
_FUNCTION = frozenset({"name", "arguments", "input"})


class _ChoiceState:
    """State of one choice, as far as its chunks have arrived."""

    __slots__ = (
        *("begun", "extra", "fields", "finish_reason", "index", "more", "pieces", "reasoning", "refusal", "tool_calls"),
    )

    def __init__(self, index: int) -> None:
        self.index = index
        self.begun = False
        """True if a chunk with the index of this choice had a role."""
        self.pieces: list[str] = []
        self.refusal: list[str] = []
        self.reasoning: list[str] = []
        self.tool_calls = _ToolCallCollector()
        self.finish_reason: str | None = None
        self.fields = FieldCollector()
        """Fields of the message that this package does not name."""
        self.more = FieldCollector()
        """Log probabilities, and typed parts of the content that are not known."""
        self.extra: dict[str, Any] = {}
        """Fields of the choice, beside its message."""


class ChatSession(Session):
    """Session of a chat completion. It is complete after a finish reason for every choice, or after `[DONE]`.

    The content is the text of choice 0. If one choice was asked for, the indexes of choices are ignored, because some
    servers number the chunks there. An index counts only after a chunk that may begin another choice, with a role and
    without text. The following text is withheld until the first choice goes on, which proves that there are several
    choices. If the answer ends before, there was only one choice, and the withheld text is a part of it.

    Args:
        n: the number of choices that were asked for; None if it is not known.
    """

    provider: ClassVar[str] = "openai"

    def __init__(self, n: int | None = None) -> None:
        super().__init__()
        self.done_seen = False
        self._n = n or 1
        self._only_one = n == 1
        self._roles_begin_choices = True  # if a chunk with a role and without text begins a choice
        self._undecided: list[dict[str, Any]] | None = None
        """Parts of chunks that belong to other choices, or to the first one if there are no others; None if decided."""
        self._pieces_before = 0  # number of pieces when the first of these parts arrived
        self._choices: dict[int, _ChoiceState] = {}
        self._first_choice = self._get_choice(0)
        self._top_level: dict[str, Any] = {}
        self._usage: dict[str, Any] | None = None
        self._id: str | None = None
        self._model: str | None = None
        self._top_level_keys: list[str] | None = None  # keys of the last chunk whose further fields were read
        self._plain_choice_keys: list[str] = []  # keys of the last choice that had no further fields
        self._last_chunk: dict[str, Any] = {}

    def _process(self, data: dict[str, Any], name: str) -> str:
        """Process one chunk, and return the text that it adds to choice 0.

        Raises:
            LLMError: the chunk reports an error of the provider. If one of several choices fails, the text of the
                choices before it is withheld.
            StreamProtocolError: the chunk breaks the form of the API.
        """
        if list(data) != self._top_level_keys:
            self._process_top_level(data, name)
        self._last_chunk = data
        if data.get("usage") is not None:
            self._process_usage(data["usage"])
        choices = data.get("choices")
        if not choices:
            if data.get("usage") is None:
                self.idle_events += 1
            return ""
        if type(choices) is not list:
            self._reject(f"choices is {type(choices).__name__}")
        if len(choices) == 1:
            return self._process_choice(choices[0])
        text = ""
        try:
            for choice in choices:
                text += self._process_choice(choice)
        except LLMError:
            self.withheld = text + self.withheld
            raise
        return text

    def _process_choice(self, choice: Any) -> str:
        """Process a choice of a chunk, and return its text if it is the first choice, else "".

        Skip a choice that is null. Raise `LLMError` if the choice reports an error, `StreamProtocolError` if its form
        is wrong.
        """
        if type(choice) is not dict:
            if choice is not None:
                self._reject(f"a choice is {choice!r}")
            self._note_doubt("choice", choice)
            return ""
        state = self._first_choice if choice.get("index") == 0 else self._choice_for(choice)
        delta = choice.get("delta")
        if delta is None:
            delta = self._find_delta(state, choice)
        text = ""
        if delta:
            if type(delta) is not dict:
                self._reject(f"delta is {type(delta).__name__}")
            content = delta.get("content")
            if type(content) is str:
                if content:
                    text = self._process_content(state, content)
                elif len(delta) < 3:
                    self.idle_events += 1
            if len(delta) > 1 or type(content) is not str:
                text += self._process_rest_of_delta(state, delta)
                if delta.get("error"):
                    self._raise_failure_of(choice, text)
        if list(choice) != self._plain_choice_keys or choice.get("logprobs") is not None:
            self._process_rest_of_choice(state, choice, text)
        finish_reason = choice.get("finish_reason")
        if finish_reason:
            if type(finish_reason) is not str:
                self._reject(f"finish_reason is {finish_reason!r}")
            if broke_off(finish_reason):
                self._raise_failure_of(choice, text)
            state.finish_reason = finish_reason
            if state is self._first_choice:
                text += self._flush_text()
        return text

    def _find_delta(self, state: _ChoiceState, choice: dict[str, Any]) -> dict[str, Any] | None:
        """Return the text of a chunk without a delta, or its message, which is that of a whole answer.

        Return None if its message repeats what has arrived; raise `StreamProtocolError` if it has another text.
        """
        if not isinstance(choice.get("message"), dict):
            return {"content": choice["text"]} if isinstance(choice.get("text"), str) else None
        delta: dict[str, Any] = self._choice_as_chunk(choice)["delta"]
        arrived = "".join(self._pieces if state is self._first_choice else state.pieces)
        if not (arrived or state.tool_calls):
            return delta
        if isinstance(delta.get("content"), str) and delta["content"] not in ("", arrived):
            self._reject("the message of a chunk differs from the deltas before it")
        return None

    def _choice_for(self, choice: dict[str, Any]) -> _ChoiceState:
        """Return the state for a choice whose index is not 0.

        That is the state of the first choice if the index is absent, or if indexes are ignored. Raise
        `StreamProtocolError` if the index is no number, and several choices were asked for.
        """
        if choice.get("index") is None:
            return self._first_choice
        index = self._read_index(choice, "index")
        if self._only_one and not (index and self._begins_another_choice(choice)):
            if index:
                self._note_doubt("index", index)
            return self._first_choice
        if self._undecided is not None:
            self._undecided.append(choice)
            if len(self._pieces) > self._pieces_before:  # the first choice has gone on
                self._undecided = None
        if index is None:
            self._reject(f"choice index is {choice['index']!r}, and {self._n} choices were asked for")
        return self._choices.get(index) or self._get_choice(index)

    def _begins_another_choice(self, choice: dict[str, Any]) -> bool:
        """Return True if this chunk may begin a second choice; then indexes count from now on, until `_on_done`.

        Such a chunk has a role and nothing else. Before it, the first choice has got a role and text, no other index
        has come, and no chunk had a role together with text. If the first choice has not ended, later parts of other
        choices are also kept in `_undecided`.
        """
        delta = choice.get("delta")
        bare = (
            isinstance(delta, dict)
            and delta.get("role")
            and not choice.get("finish_reason")
            and all(value in EMPTY for key, value in delta.items() if key != "role")
        )
        begins = bool(
            bare
            and self._roles_begin_choices
            and self._pieces
            and self._first_choice.begun
            and "index" not in self._doubts
        )
        self._only_one = not begins
        if begins and not self._first_choice.finish_reason:
            self._undecided, self._pieces_before = [], len(self._pieces)
        return begins

    def _join_undecided(self) -> str:
        """Read the withheld parts in `_undecided` again as parts of the only choice, and return their text.

        Return "" and change no choice if nothing was withheld, or if there are several choices: the first one has gone
        on, or two have finished.
        """
        parts, self._undecided = self._undecided, None
        finished = [choice for choice in self._choices.values() if choice.finish_reason]
        if parts is None or len(self._pieces) > self._pieces_before or len(finished) > 1:
            return ""
        self._choices = {0: self._first_choice}
        self._only_one, self._roles_begin_choices = True, False
        return "".join([self._process_choice(part) for part in parts])

    def _raise_failure_of(self, choice: dict[str, Any], text: str) -> NoReturn:
        """Raise the failure that a choice reports: in the choice, its delta, its message or its finish reason.

        The error's undelivered text is `text`, which this event brought, and half a surrogate pair that was held back.
        """
        inner = [value for key in ("delta", "message") if isinstance(value := choice.get(key), dict)]
        error = next((holder["error"] for holder in (choice, *inner) if holder.get("error")), None)
        rest = self._flush_text()
        self._raise_reported(
            {"error": error or f"the answer ended with the finish reason {choice.get('finish_reason')!r}"},
            withheld=text + rest,
        )

    def _process_content(self, state: _ChoiceState, content: str) -> str:
        """Add text to a choice, and return the text if it is the first choice."""
        if state is self._first_choice:
            return self._append_text(content)
        state.pieces.append(content)
        return ""

    def _process_rest_of_delta(self, state: _ChoiceState, delta: dict[str, Any]) -> str:
        """Keep role, reasoning, refusal, calls and unknown fields of a delta; return the text of typed parts in it."""
        text = ""
        if delta.get("role"):
            state.begun = True
            # some servers send a role in every chunk
            self._roles_begin_choices = self._roles_begin_choices and not delta.get("content")
        if type(delta.get("content")) is not str and delta.get("content") is not None:
            text = self._process_parts(state, delta["content"])
        reasoning = self._read_side_text(delta, "reasoning_content")
        if not reasoning and isinstance(delta.get("reasoning"), str):  # some servers send the same under both names
            reasoning = delta["reasoning"]
        if reasoning:
            self._add_reasoning(state, reasoning)
        if delta.get("refusal"):
            state.refusal.append(self._read_text(delta, "refusal"))
            if state is self._first_choice:
                self._note_refusal(state.refusal[-1])
        if delta.get("tool_calls"):
            self._process_tool_calls(state, delta["tool_calls"])
        if delta.get("function_call"):  # the older form, with one call at most
            self._process_tool_calls(state, [{"index": 0, "function": delta["function_call"]}])
        state.fields.add_unnamed(delta, _DELTA)
        return text

    def _process_parts(self, state: _ChoiceState, parts: Any) -> str:
        """Process content in typed parts, as Mistral's reasoning models send their thinking.

        Return the text of the first choice. Unknown parts are kept. Raise `StreamProtocolError` for a part that is
        neither an object, a string nor null.
        """
        text = ""
        for part in parts if isinstance(parts, list) else [parts]:
            if isinstance(part, str):
                text += self._process_content(state, part)
            elif isinstance(part, dict) and part.get("type") == "text":
                text += self._process_content(state, self._read_text(part, "text"))
            elif isinstance(part, dict) and part.get("type") == "thinking":
                inner = part.get("thinking")
                for piece in inner if isinstance(inner, list) else [{"text": inner}]:
                    self._add_reasoning(
                        state, self._read_side_text(piece if isinstance(piece, dict) else {"text": piece}, "text")
                    )
            elif isinstance(part, dict):
                self.unknown_events += 1
                state.more.add("content_parts", [part])
            elif part is None:
                self._note_doubt("part", part)
            else:
                self._reject(f"content is {type(parts).__name__}")
        return text

    def _add_reasoning(self, state: _ChoiceState, text: str) -> None:
        """Add a piece of reasoning to a choice; one of the first choice is an event beside the text as well."""
        state.reasoning.append(text)
        if state is self._first_choice:
            self._note_reasoning(text)

    def _process_tool_calls(self, state: _ChoiceState, fragments: Any) -> None:
        """Add the fragments of tool calls in a delta to a choice; raise `StreamProtocolError` for a wrong form.

        Skip a null in the list, and accept one call without a list, both with a doubt. Pieces of calls of the first
        choice are events beside the text, too.
        """
        if type(fragments) is dict and fragments.get("function"):
            self._note_doubt("tool_calls", fragments)
            fragments = [fragments]
        if type(fragments) is not list:
            self._reject(f"tool_calls is {type(fragments).__name__}")
        for fragment in fragments:
            if fragment is None:
                self._note_doubt("tool call", fragment)
                continue
            if type(fragment) is not dict:
                self._reject(f"a tool call is {fragment!r}")
            try:
                piece = state.tool_calls.feed(fragment, self._note_doubt)
            except ValueError as error:
                self._reject(str(error))
            if state is self._first_choice:
                self._note_call(*piece)

    def _process_rest_of_choice(self, state: _ChoiceState, choice: dict[str, Any], text: str) -> None:
        """Keep the log probabilities and unknown fields of a choice beside its delta.

        Raise `LLMError` if the choice or its message reports an error; `text`, the text of this event, is kept for it.
        Later choices with the same plain keys skip this step.
        """
        message = choice.get("message")
        if choice.get("error") or (type(message) is dict and message.get("error")):
            self._raise_failure_of(choice, text)
        if choice.get("usage"):  # Moonshot
            self._process_usage(choice["usage"])
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict):
            state.more.add("logprobs", logprobs)
        if _CHOICE.issuperset(choice):
            if not ("message" in choice or "usage" in choice):  # those of a later chunk may say more
                self._plain_choice_keys = list(choice)
            return
        state.extra |= {key: value for key, value in choice.items() if key not in _CHOICE and value not in EMPTY}

    def _process_top_level(self, data: dict[str, Any], name: str) -> None:
        """Keep the fields beside the choices; called for a chunk with new keys, and for the last chunk.

        Raise `LLMError` if these fields report an error, or if the event's name is `error`.
        """
        # an `error` of null in this chunk may be an object in the next one, so the next one is read, too
        self._top_level_keys = None if "error" in data else list(data)
        if data.get("error") or name == "error" or (data.get("object") == "error" and not data.get("choices")):
            self._raise_reported(data)
        # empty strings in Azure's first chunk and in the chunks of its asynchronous filter
        self._id = self._id or self._read_label(data, "id") or None
        self._model = self._read_label(data, "model") or self._model
        if not _TOP_LEVEL.issuperset(data):
            more = {key: value for key, value in data.items() if key not in _TOP_LEVEL}
            self._top_level |= {key: value for key, value in more.items() if value not in (*EMPTY, 0)}
        groq = data.get("x_groq")
        if isinstance(groq, dict) and groq.get("usage"):
            self._process_usage(groq["usage"])

    def _process_usage(self, usage: Any) -> None:
        """Update the counts of tokens, unless the new usage is no object."""
        new = self._read_usage(usage, "prompt_tokens", "completion_tokens", "total_tokens")
        self._usage = merge_usage(self._usage, new) if new else self._usage

    def _process_document(self, data: dict[str, Any]) -> None:
        """Process each choice of an answer that was not streamed as if it were a chunk.

        Raise `LLMError` if the answer reports an error, `StreamProtocolError` if it has no choices.
        """
        choices = data.get("choices")
        if data.get("error") or data.get("object") == "error":
            self._raise_reported(data)
        if not isinstance(choices, list) or not choices:
            self._reject("the response has no choices")
        self._only_one = False
        whole = [self._choice_as_chunk(choice) for choice in choices]
        for index, choice in zip(self._choice_indexes(choices), whole, strict=True):
            self._process({**data, "choices": [{**choice, "index": index}]}, "message")
        self._on_done()

    def _choice_as_chunk(self, choice: Any) -> dict[str, Any]:
        """Convert a choice of a whole answer into the form of a chunk.

        Some servers give the message as `delta`, or its text as `text`. A missing message counts as empty if the choice
        has an error or a finish reason. Raise `StreamProtocolError` if the choice has none of these.
        """
        message = choice.get("message") if isinstance(choice, dict) else None
        if message is None and isinstance(choice, dict):
            self._note_doubt("message", message)
            message = choice.get("delta") or ({"content": choice["text"]} if choice.get("text") else None)
            if message is None and (choice.get("error") or choice.get("finish_reason")):
                message = {}
        if not isinstance(message, dict):
            self._reject("a choice without a message")
        calls = message.get("tool_calls") or []
        if isinstance(calls, list):
            calls = [{**call, "index": i} if isinstance(call, dict) else call for i, call in enumerate(calls)]
        return {**choice, "delta": {**message, "tool_calls": calls}}

    def _choice_indexes(self, choices: list[dict[str, Any]]) -> list[int]:
        """Return the indexes of the choices in one document; their positions if the indexes contradict each other."""
        positions = range(len(choices))
        indexes = [choice.get("index") for choice in choices]
        if any(index is not None for index in indexes) and sorted(map(repr, indexes)) != sorted(map(repr, positions)):
            self._note_doubt("index", indexes)
        elif None not in indexes:
            return [int(index) for index in indexes if index is not None]
        return list(positions)

    def _on_done(self) -> str:
        """Complete the answer, and return the text that was held back.

        That is the text of the parts in `_undecided`, and U+FFFD if half a surrogate pair is left.
        """
        self.done_seen = self.ended = True
        return self._join_undecided() + self._flush_text()

    def _get_choice(self, index: int) -> _ChoiceState:
        """Return the state of the choice with this index, and make it if it is new."""
        return self._choices.setdefault(index, _ChoiceState(index))

    @property
    def is_complete(self) -> bool:
        """True after a finish reason for every choice, or after `[DONE]`."""
        choices = self._choices
        return self.done_seen or (len(choices) >= self._n and all(choice.finish_reason for choice in choices.values()))

    def outcome(self) -> Outcome:
        """Return the values of the answer as far as it has arrived."""
        if self._last_chunk:
            self._process_top_level(self._last_chunk, "message")
        first, others = self._first_choice, [self._choices[index] for index in sorted(self._choices) if index]
        reasoning = "".join(first.reasoning) or None
        fields = first.fields.whole()
        extra = {**self._top_level, **first.extra, **first.more.whole()}
        extra |= {name: value for name, value in fields.items() if value != reasoning}
        outcome = Outcome(
            content="".join(self._pieces),
            complete=self.is_complete,
            finish_reason=_normalise_finish_reason(first),
            provider_finish_reason=first.finish_reason,
            id=self._id,
            model=self._model,
            usage=self._tokens(),
            raw_usage=self._usage,
            tool_calls=first.tool_calls.result(),
            refusal="".join(first.refusal) or None,
            reasoning=reasoning,
            choices=tuple(_choice_outcome(choice) for choice in others),
            unknown_events=self.unknown_events,
            lossy=self._lossy,
            doubts=self.doubts,
            extra=extra,
            fields=fields,
        )
        return outcome if self._joiner is None else repair_deep(outcome)

    def _tokens(self) -> Tokens | None:
        """Return the numbers of tokens of the usage, which servers name differently; None if there is none."""
        usage = self._usage
        if usage is None:
            return None
        details, parts = "prompt_tokens_details", "completion_tokens_details"
        return Tokens.of_parts(
            input=count_at(usage, "prompt_tokens", "input_tokens"),
            output=count_at(usage, "completion_tokens", "output_tokens"),
            # the names of OpenAI, DeepSeek, Together and LiteLLM
            cached=count_at(
                usage,
                f"{details}.cached_tokens",
                "prompt_cache_hit_tokens",
                "cached_tokens",
                "cache_read_input_tokens",
            ),
            # the names of OpenRouter and LiteLLM
            written=count_at(
                usage,
                f"{details}.cache_write_tokens",
                f"{details}.cache_creation_tokens",
                "cache_creation_input_tokens",
            ),
            reasoning=count_at(usage, f"{parts}.reasoning_tokens", "reasoning_tokens"),
            total=count_at(usage, "total_tokens"),
        )


def _normalise_finish_reason(choice: _ChoiceState) -> str | None:
    """Return the finish reason in the vocabulary of `Outcome.finish_reason`; None if there is none.

    An unknown word stays as it is. A refusal that ends with `stop`, or not at all, is `refusal`.
    """
    word = choice.finish_reason
    reason = None if word is None else finish_reason_of(word)
    return "refusal" if choice.refusal and reason in (None, "stop") else reason


def _choice_outcome(choice: _ChoiceState) -> Choice:
    """Return the values of one choice as far as they have arrived."""
    return Choice(
        index=choice.index,
        content="".join(choice.pieces),
        finish_reason=_normalise_finish_reason(choice),
        tool_calls=choice.tool_calls.result(),
        refusal="".join(choice.refusal) or None,
        reasoning="".join(choice.reasoning) or None,
        fields=choice.fields.whole(),
    )
