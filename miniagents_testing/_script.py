"""Scripts of a model: the answers that it gives, call by call, and the calls that it gets.

```python
"Hello"                                                  # the answer to one call
["Hello", "Goodbye"]                                     # one step a call
[Step("Hello", gap=0.05), Failure(429), "Hello again"]
lambda call: f"You said: {call.text}"                    # any number of calls
```

`Call` is a request to the model in terms that all APIs share; `Step` and `Failure` are answers; `script_items` checks a
script. Independent of wire formats (`_wire`), of agents (`_scripted`) and of HTTP.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from miniagents import Frozen, FrozenDict
from miniagents._promising.freezing import BARE, short_repr
from miniagents.acting._output import OUTPUT_TOOL
from miniagents.errors import names_its_arguments
from miniagents.messages import AssistantMessage, Message, ToolCall, ToolMessage, Usage, UserMessage
from miniagents_testing._streams import ResponseStream
from miniagents_testing._words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator


SCRIPTED_ALIAS = "SCRIPTED_AGENT"
"""Alias of an agent of a scripted model that is given none."""
API = Literal["chat", "responses", "messages"]
"""Name of an API: OpenAI's chat completions, OpenAI's Responses, Anthropic's messages."""

_SYSTEM_ROLES = ("system", "developer")
_CLASSES_BY_ROLE: dict[Any, type[Message]] = {"user": UserMessage, "assistant": AssistantMessage}
_NO_PARAMETERS = frozenset({"model", "messages", "input", "system", "instructions", "tools", "stream"})


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a model, as an immutable snapshot.

    Args:
        number: number of the call, from 1.
        api: the API that was called.
        request: the body of the request, as it was sent.
        agents: aliases of the agent that sent the request and of its callers, the innermost first; empty if no agent of
            this process sent it.
    """

    number: int
    api: API
    request: FrozenDict[str, Any]
    agents: tuple[str, ...] = ()

    @classmethod
    def of(cls, number: int, api: API, request: Mapping[str, Any], agents: tuple[str, ...] = ()) -> Call:
        """Return the call that stands for a request, which is frozen; the arguments are those of the class.

        Raises:
            FreezeError: the request holds a value that is not JSON.
        """
        return cls(number, api, FrozenDict(request), agents)

    @property
    def agent(self) -> str | None:
        """Alias of the agent that sent the request, or None."""
        return self.agents[0] if self.agents else None

    @property
    def model(self) -> str:
        """Name of the model in the request; "" if there is none."""
        return str(self.request.get("model", ""))

    @property
    def stream(self) -> bool:
        """True if the request asks for a stream."""
        return bool(self.request.get("stream"))

    @property
    def messages(self) -> tuple[Message, ...]:
        """All messages but the instructions, in the provider's own form: tool calls and parts are as they were sent."""
        return tuple(_message_of(item) for item in self._items if item.get("role") not in _SYSTEM_ROLES)

    @property
    def system(self) -> str | None:
        """Text of the instructions, from each place where an API may have them; None if there are none."""
        messages = (item.get("content") for item in self._items if item.get("role") in _SYSTEM_ROLES)
        parts = [self.request.get("system"), self.request.get("instructions"), *messages]
        return "\n\n".join(str(Message(part)) for part in parts if part) or None

    @property
    def text(self) -> str:
        """Text of the last message, or of the results of tools in it if it has no other text; "" if there is none."""
        item = next((item for item in reversed(self._items) if item.get("role") not in _SYSTEM_ROLES), None)
        if item is None:
            return ""
        text, results = str(_message_of(item)), _results_in(item)
        if not results or (text and item.get("role") == "user"):
            return text
        return "\n".join(str(Message(content)) for _, content, _ in results)

    @property
    def tool_results(self) -> tuple[ToolMessage, ...]:
        """Results of tools behind the last answer, in the order of the request, in the same form for all APIs.

        Empty if the last answer had no calls, or if the user has spoken since.
        """
        names: dict[str, str] = {}
        results: list[ToolMessage] = []
        for item in self._items:
            names.update(_calls_in(item))
            found = [
                ToolMessage(content, tool_call_id=id_, name=names.get(id_), is_error=is_error)
                for id_, content, is_error in _results_in(item)
            ]
            # Chat completions and Responses have an item for each result; Anthropic's turn may end in the user's words.
            results = [*results, *found] if found and item.get("role") != "user" else found
        return tuple(results)

    @property
    def tools(self) -> tuple[FrozenDict[str, Any], ...]:
        """Tools that the request offers, as they were sent."""
        return tuple(self.request.get("tools") or ())

    @property
    def output_schema(self) -> FrozenDict[str, Any] | None:
        """JSON schema of the output that the request asks for, as text or as a call; None if it asks for none."""
        tool = self._output_tool
        if tool is not None:
            schema = (tool.get("function") or tool).get("parameters", tool.get("input_schema"))
        else:
            formats = [(self.request.get(name) or {}).get("format") for name in ("text", "output_config")]
            formats.append((self.request.get("response_format") or {}).get("json_schema"))
            schema = next((each.get("schema") for each in formats if each), None)
        return schema if isinstance(schema, FrozenDict) else None

    @property
    def _output_tool(self) -> FrozenDict[str, Any] | None:
        """The tool by whose call the model gives its output; None if there is none."""
        return next((each for each in self.tools if (each.get("function") or each).get("name") == OUTPUT_TOOL), None)

    @property
    def parameters(self) -> FrozenDict[str, Any]:
        """All other fields of the request: temperature, max_tokens, ..."""
        return FrozenDict({name: value for name, value in self.request.items() if name not in _NO_PARAMETERS})

    @property
    def _items(self) -> tuple[FrozenDict[str, Any], ...]:
        """Messages of the request; an input that is only a text counts as one message of the user."""
        items = self.request.get("messages", self.request.get("input")) or ()
        return (FrozenDict(role="user", content=items),) if isinstance(items, str) else items

    def __str__(self) -> str:
        by_agent = "" if self.agent is None else f" by {self.agent}"
        last = f", last message {short_repr(self.text)}" if self.messages else ""
        return f"call {self.number}{by_agent} (api {self.api!r}, model {self.model!r}{last})"


def _message_of(item: Mapping[str, Any]) -> Message:
    """Return the message that an item of a request stands for."""
    role = item.get("role")
    cls = _CLASSES_BY_ROLE.get(role, Message)
    known = {"content"} if cls is Message else {"content", "role"}
    return cls(item.get("content"), **{name: value for name, value in item.items() if name not in known})


def _parts_of(item: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    """Return the parts of a message's content that have this `type`."""
    content = item.get("content")
    parts = content if isinstance(content, tuple) else ()
    return [part for part in parts if isinstance(part, Mapping) and part.get("type") == kind]


def _calls_in(item: Mapping[str, Any]) -> dict[str, str]:
    """Return the name of each call in an item of a request, by its id; empty without any."""
    calls = [
        (call.get("id"), call.get("function") or call.get("custom") or {}) for call in item.get("tool_calls") or ()
    ]
    calls += [(part.get("id"), part) for part in _parts_of(item, "tool_use")]
    if item.get("type") in ("function_call", "custom_tool_call"):
        calls.append((item.get("call_id"), item))
    return {str(id_): str(call.get("name") or "") for id_, call in calls}


def _results_in(item: Mapping[str, Any]) -> list[tuple[str, Any, bool]]:
    """Return id, content and True for an error of each result in an item of a request; [] without any."""
    if item.get("role") == "tool":
        return [(str(item.get("tool_call_id")), item.get("content"), False)]
    if item.get("type") in ("function_call_output", "custom_tool_call_output"):
        return [(str(item.get("call_id")), item.get("output"), False)]
    blocks = _parts_of(item, "tool_result") if item.get("role") == "user" else []
    return [(str(block.get("tool_use_id")), block.get("content"), bool(block.get("is_error"))) for block in blocks]


def ids_of_calls_and_results(call: Call) -> tuple[list[str], list[str]]:
    """Return the ids of all calls of tools in a request, and those of all results, each in the order of the request."""
    calls = [id_ for item in call._items for id_ in _calls_in(item)]
    return calls, [id_ for item in call._items for id_, *_ in _results_in(item)]


Cut = Literal["word", "character"] | int | Callable[[str], Sequence[str]]
"""Rule by which a text is cut into deltas: word, character, a number of characters, or a function that cuts."""

Then = Literal["truncate", "reset", "stall", "hold"] | float
"""Event in the middle of an answer, other than a `Failure`; see `Step`."""


@names_its_arguments
@dataclass(frozen=True, slots=True, repr=False)
class Failure:
    """Error that the provider reports: a response with an error status, or an error event within a stream.

    Args:
        status: status of the response, 400 to 599; within a stream it selects the kind of error only.
        message: the provider's explanation.
        type: the provider's name for the error (`overloaded_error`, ...); by default, its name for this status.
        headers: headers of the response, such as `retry-after` or `x-should-retry`.
        first_wait: seconds before the response.

    Raises:
        TypeError: `status` is no int.
        ValueError: `status` or `first_wait` is out of range.
    """

    status: int
    message: str = "The script says so"
    type: str | None = None
    headers: Mapping[str, str] = FrozenDict()
    first_wait: float = 0.0

    def __post_init__(self) -> None:
        status: Any = self.status
        if not isinstance(status, int):
            raise TypeError(f"the status of a failure must be an int from 400 to 599, not {self.status!r}")
        if not 400 <= self.status <= 599:
            raise ValueError(f"the status of a failure must be between 400 and 599, not {self.status!r}")
        object.__setattr__(
            self, "headers", FrozenDict({name.lower(): str(text) for name, text in self.headers.items()})
        )
        _check_seconds("first_wait", self.first_wait)

    def __repr__(self) -> str:
        return _source_of(self)


class ToolCallDeltas(NamedTuple):
    """Tool call whose arguments are cut into deltas."""

    id: str | None
    name: str
    type: str
    arguments: tuple[str, ...]


class Deltas(NamedTuple):
    """Deltas of all that a model generates in a step, in the order in which they are sent."""

    reasoning: tuple[str, ...]
    text: tuple[str, ...]
    refusal: tuple[str, ...]
    tool_calls: tuple[ToolCallDeltas, ...]

    @property
    def tokens(self) -> int:
        """Number of deltas, those of arguments included."""
        arguments = sum(len(call.arguments) for call in self.tool_calls)
        return len(self.reasoning) + len(self.text) + len(self.refusal) + arguments


@names_its_arguments
@dataclass(frozen=True, slots=True, repr=False)
class Step:
    """Answer to one call.

    A token is one delta of reasoning, text, refusal or arguments; tokens are sent in this order. Seconds are those of
    the event loop's clock. Arguments are copied: later changes to them have no effect.

    Args:
        text: a text, which `cut` cuts into deltas; or its deltas as a sequence; or a pydantic model or dict, whose JSON
            is the text.
        tool_calls: `(name, arguments)` each, or a `ToolCall` where its id matters. Arguments are a dict, a text, or a
            sequence of fragments of a text.
        reasoning: reasoning of the model, a text or its deltas.
        refusal: the model's refusal to answer, a text or its deltas.
        finish_reason: stop, length, tool_calls, content_filter, refusal, pause, or another word of the provider; by
            default, it is derived from the other arguments.
        usage: billed tokens; by default, the tokens that were sent are counted.
        cut: rule by which texts are cut into deltas: "word", "character", a number of characters, or a function.
        first_wait: seconds before the first token.
        gap: seconds between tokens. A sequence is repeated without end, for a stream with uneven waits.
        jitter: random share of the waits, 0 to 1: 0.5 makes each wait up to 50 % longer or shorter.
        seed: seed of `jitter`. The same seed gives the same waits in the same call of a script.
        after: number of tokens after which `then` happens; by default all of them, before the end of the answer.
        then: event at that place. "truncate": the stream ends as if it were complete; "reset": the connection breaks;
            "stall": no further byte comes; "hold": no byte comes until the test calls `release()`; a number: a pause
            of so many seconds; a `Failure`: the provider reports an error within the stream.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument is out of range or contradicts another one.
    """

    text: str | Sequence[str] | BaseModel | Mapping[str, Any] = ""
    _: KW_ONLY
    tool_calls: Sequence[ToolCall | tuple[str, str | Sequence[str] | Mapping[str, Any]]] = ()
    reasoning: str | Sequence[str] = ""
    refusal: str | Sequence[str] = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    cut: Cut = "word"
    first_wait: float = 0.0
    gap: float | Sequence[float] = 0.0
    jitter: float = 0.0
    seed: int = 0
    after: int | None = None
    then: Then | Failure | None = None
    deltas: Deltas = field(init=False, compare=False)
    """All deltas that are sent."""

    def __post_init__(self) -> None:
        def set_field(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        deltas = Deltas(
            _deltas_of(self.reasoning, self.cut),
            _deltas_of(self.text, self.cut),
            _deltas_of(self.refusal, self.cut),
            tuple(_tool_call_deltas(call, self.cut) for call in self.tool_calls),
        )
        set_field("deltas", deltas)
        set_field("gap", self.gap if isinstance(self.gap, int | float | str) else tuple(self.gap) or 0.0)
        _check_seconds("first_wait", self.first_wait)
        for gap in self.gap if isinstance(self.gap, tuple) else (self.gap,):
            _check_seconds("gap", gap)
        jitter: Any = self.jitter
        if not isinstance(jitter, int | float) or not 0 <= jitter <= 1:
            raise ValueError(f"jitter must be a fraction between 0 and 1, not {self.jitter!r}")
        self._check_then()

    def _check_then(self) -> None:
        """Raise `ValueError` if `then` is no known ending, pause or failure, or `after` exceeds the tokens of the step.

        `after` without `then` is refused, too.
        """
        if self.after is not None and self.then is None:
            raise ValueError(f"after={self.after!r} needs a `then`: the event that happens after so many tokens")
        if self.after is not None and not 0 <= self.after <= self.deltas.tokens:
            raise ValueError(f"after={self.after!r}, but the step has {counted(self.deltas.tokens, 'token')}")
        if isinstance(self.then, int | float):
            _check_seconds("then", self.then)
        elif self.then not in (None, "truncate", "reset", "stall", "hold") and not isinstance(self.then, Failure):
            raise ValueError(
                "then must be 'truncate', 'reset', 'stall', 'hold', a number of seconds or a Failure, "
                f"not {self.then!r}"
            )

    @classmethod
    def of_message(cls, message: Message) -> Step:
        """Return the step whose answer becomes this message; one that is no `AssistantMessage` gives its text only.

        It takes over text, calls, reasoning, refusal, finish reason and usage.
        """
        if not isinstance(message, AssistantMessage):
            return cls(str(message))
        return cls(
            str(message) if message.content is not None else "",
            tool_calls=message.tool_calls,
            reasoning=message.reasoning or "",
            refusal=message.refusal or "",
            finish_reason=message.finish_reason,
            usage=message.usage,
        )

    @classmethod
    def of_output(cls, value: Any, **settings: Any) -> Callable[[Call], Step]:
        """Return an item of a script that answers with an output in the way in which the request asks for it.

        That is a text or a call of the output's tool; a value that is no object stands under `value`. A request without
        an output raises `ValueError`.

        Args:
            value: the output, any value that pydantic can write as JSON.
            settings: further arguments of the step.
        """

        def answer(call: Call) -> Step:
            """Return the output as a text, or as a call of the output's tool if the request has that tool.

            An output that is no object stands under `value` where the schema asks for it. Raise `ValueError` if the
            request asks for no output.
            """
            schema = call.output_schema
            if schema is None:
                raise ValueError(f"{call} asks for no output, which Step.of_output answers")
            output = to_jsonable_python(value, by_alias=True, round_trip=True)  # without computed fields
            if schema.get("properties", {}).keys() == {"value"} and not (
                isinstance(output, dict) and "value" in output
            ):
                output = {"value": output}
            if call._output_tool is None:
                return cls(output, **settings)
            return cls(tool_calls=[(OUTPUT_TOOL, output)], **settings)

        return answer

    @property
    def reason(self) -> str:
        """Finish reason: the given one, or one that is derived from the deltas."""
        derived = "refusal" if self.deltas.refusal else "tool_calls" if self.deltas.tool_calls else "stop"
        return self.finish_reason or derived

    def waits(self, call_number: int) -> Iterator[float]:
        """Yield the seconds before each token, without an end; the same call number gives the same jitter."""
        generator = random.Random(f"{self.seed}/{call_number}")
        gaps = self.gap if isinstance(self.gap, tuple) else (self.gap,)
        for wait in itertools.chain((self.first_wait,), itertools.cycle(gaps)):
            yield wait * (1 + self.jitter * generator.uniform(-1, 1)) if self.jitter else wait

    def __repr__(self) -> str:
        return _source_of(self)


Answer = Step | Failure | ResponseStream | Exception
"""Result of a call: an answer, an error of the provider, a recorded response, or an exception to raise."""

_ScriptItem = str | Answer | BaseModel | Mapping[str, Any] | Callable[[Call], Any]
"""Item of a script: a text, a model or dict (its JSON), a message, an exception to raise, or a function of the call."""

Script = _ScriptItem | Iterable[_ScriptItem]
"""One item, or one for each call, in order. A function by itself answers any number of calls."""


def script_items(script: Script) -> tuple[_ScriptItem, ...] | Callable[[Call], Any]:
    """Check a script and return its steps, or the one function that answers all calls.

    Raises:
        TypeError: an item cannot be a step; the message says which one.
    """
    if callable(script) and not _is_exception_class(script):
        return script
    single: Any = isinstance(script, str | Answer | BaseModel | Mapping) or not isinstance(script, Iterable)
    items: Iterable[Any] = (script,) if single else script  # type: ignore[assignment]  # iterable, as just checked
    return tuple(
        item if callable(item) and not _is_exception_class(item) else as_answer(item, f"step {number}")
        for number, item in enumerate(items, 1)
    )


def as_answer(item: Any, where: str) -> Answer:
    """Turn an item of a script that is no function into an answer; a class of exceptions makes an exception.

    Args:
        item: an item of a script, or the return value of a function in it.
        where: place of the item in the script, for the message of the error.

    Raises:
        TypeError: the item cannot be an answer.
    """
    if isinstance(item, Answer):
        return item
    if isinstance(item, Message):
        return Step.of_message(item)
    if isinstance(item, str | BaseModel | Mapping):
        return Step(item)
    if _is_exception_class(item):
        return item()  # type: ignore[no-any-return]  # a class of exceptions makes one
    raise TypeError(
        f"{where} must be a text, a Step, a Failure, an exception, a model or dict, a message, a ResponseStream or a "
        f"function of the call, not {item!r:.200}"
    )


def _is_exception_class(item: Any) -> bool:
    """Return True if an item of a script is a class of exceptions."""
    return isinstance(item, type) and issubclass(item, Exception)


def _source_of(step: Step | Failure) -> str:
    """Return the Python expression that makes this step, without arguments that have their defaults."""
    first, *others = (each for each in fields(step) if each.init)
    shown = [
        f"{each.name}={short_repr(getattr(step, each.name))}"
        for each in others
        if getattr(step, each.name) != each.default
    ]
    if not shown or getattr(step, first.name) != first.default:
        shown.insert(0, short_repr(getattr(step, first.name)))
    return f"{type(step).__name__}({', '.join(shown)})"


def _check_seconds(name: str, value: Any) -> None:
    """Raise `ValueError`, with the argument's `name`, unless its value is a finite number from 0 up."""
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of seconds, not {value!r}")


def _deltas_of(text: str | Sequence[str] | BaseModel | Mapping[str, Any], cut: Cut) -> tuple[str, ...]:
    """Return the deltas of a text, of deltas, or of a value whose JSON is the text.

    Raise `TypeError` for other deltas.
    """
    if isinstance(text, BaseModel):
        text = text.model_dump_json(by_alias=True, context=BARE if isinstance(text, Frozen) else None)
    elif isinstance(text, Mapping):
        text = json.dumps(text, ensure_ascii=False, default=dict)
    if isinstance(text, str):
        return _cut_text(text, cut)
    if not all(isinstance(piece, str) for piece in text):
        raise TypeError(f"the deltas of a text must be texts: {text!r:.200}")
    return tuple(text)


def _cut_text(text: str, cut: Cut) -> tuple[str, ...]:
    """Cut a text into deltas by words, by characters, by a size or by a function; an empty text has none.

    Raises:
        ValueError: the function's pieces do not join to the text, or `cut` is another value.
    """
    if not text:
        return ()
    if cut == "word":
        return tuple(re.findall(r"\s*\S+(?:\s+$)?|\s+", text))
    if callable(cut):
        pieces = tuple(cut(text))
        if "".join(pieces) != text:
            raise ValueError(
                f"the pieces that {cut!r} returns must join to the text, but are {pieces!r:.200} for {text!r:.200}"
            )
        return pieces
    size: Any = 1 if cut == "character" else cut
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"cut must be 'word', 'character', a number of characters or a function, not {cut!r}")
    return tuple(text[start : start + size] for start in range(0, len(text), size))


def _tool_call_deltas(call: Any, cut: Cut) -> ToolCallDeltas:
    """Return the deltas of a tool call that is given as `(name, arguments)` or as a `ToolCall`.

    Raise `TypeError` for others.
    """
    if isinstance(call, ToolCall):
        kind = getattr(call, "type", None) or "function"
        return ToolCallDeltas(call.id, call.name or "", kind, _cut_text(call.arguments, cut))
    if isinstance(call, tuple) and len(call) == 2 and isinstance(call[0], str):
        return ToolCallDeltas(None, call[0], "function", _deltas_of(call[1], cut))
    raise TypeError(f"a tool call must be (name, arguments) or a ToolCall, not {call!r:.200}")
