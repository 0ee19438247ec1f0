"""The language of scripts: what a model answers, call by call.

```python
"Hello"                                                  # the answer to one call
["Hello", "Goodbye"]                                     # one step a call
[Step("Hello", gap=0.05), Failure(429), "Hello again"]
lambda call: f"You said: {call.text}"                    # any number of calls
```

Knows nothing of providers (`wire`), of agents (`scripted`) and of HTTP.

What a model was asked, once, in words that are the same for all APIs. Knows no scripts, no HTTP, no agents.
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

from miniagents import Frozen, FrozenDict
from miniagents._promising.freezing import BARE, short_repr
from miniagents.messages import AssistantMessage, Message, ToolCall, Usage, UserMessage
from miniagents_testing._streams import ResponseStream

if TYPE_CHECKING:
    from collections.abc import Iterator


API = Literal["chat", "responses", "messages"]
"""OpenAI's chat completions, OpenAI's Responses, Anthropic's messages."""

_SYSTEM_ROLES = ("system", "developer")
_CLASSES: dict[Any, type[Message]] = {"user": UserMessage, "assistant": AssistantMessage}
_NO_PARAMETERS = frozenset({"model", "messages", "input", "system", "instructions", "tools", "stream"})


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a model: a snapshot that nothing changes any more.

    Args:
        number: of the call, from 1.
        api: which API was asked.
        request: the body of the request, as it was sent.
        agents: aliases of the agent that asked and of its callers, the innermost first; empty where no agent of this
            process did.
    """

    number: int
    api: API
    request: FrozenDict[str, Any]
    agents: tuple[str, ...] = ()

    @classmethod
    def of(cls, number: int, api: API, request: Mapping[str, Any], agents: tuple[str, ...] = ()) -> Call:
        """The call that a request is.

        Raises:
            FreezeError: the request holds something that is not JSON.
        """
        return cls(number, api, FrozenDict(request), agents)

    @property
    def agent(self) -> str | None:
        """Alias of the agent that asked."""
        return self.agents[0] if self.agents else None

    @property
    def model(self) -> str:
        """The model that was asked for."""
        return str(self.request.get("model", ""))

    @property
    def stream(self) -> bool:
        """Whether a stream was asked for."""
        return bool(self.request.get("stream"))

    @property
    def messages(self) -> tuple[Message, ...]:
        """All messages but the instructions, in the provider's own form: tool calls and parts are as they were sent."""
        return tuple(_message(item) for item in self._items if item.get("role") not in _SYSTEM_ROLES)

    @property
    def system(self) -> str | None:
        """The text of the instructions, wherever the API has them."""
        messages = (item.get("content") for item in self._items if item.get("role") in _SYSTEM_ROLES)
        parts = [self.request.get("system"), self.request.get("instructions"), *messages]
        return "\n\n".join(str(Message(part)) for part in parts if part) or None

    @property
    def text(self) -> str:
        """The text of the last message; "" if there is none."""
        messages = self.messages
        return str(messages[-1]) if messages else ""

    @property
    def tools(self) -> tuple[FrozenDict[str, Any], ...]:
        """The tools that were offered, as they were sent."""
        return tuple(self.request.get("tools") or ())

    @property
    def parameters(self) -> FrozenDict[str, Any]:
        """Everything else that was asked: temperature, max_tokens, ..."""
        return FrozenDict({name: value for name, value in self.request.items() if name not in _NO_PARAMETERS})

    @property
    def _items(self) -> tuple[FrozenDict[str, Any], ...]:
        items = self.request.get("messages", self.request.get("input")) or ()
        return (FrozenDict(role="user", content=items),) if isinstance(items, str) else items

    def __str__(self) -> str:
        who = "" if self.agent is None else f" by {self.agent}"
        last = f", last message {short_repr(self.text)}" if self.messages else ""
        return f"call {self.number}{who} (api {self.api!r}, model {self.model!r}{last})"


def _message(item: Mapping[str, Any]) -> Message:
    role = item.get("role")
    kind = _CLASSES.get(role, Message)
    known = {"content"} if kind is Message else {"content", "role"}
    return kind(item.get("content"), **{name: value for name, value in item.items() if name not in known})


Cut = Literal["word", "character"] | int | Callable[[str], Sequence[str]]
"""How a text becomes deltas: by word, by character, so many characters each, or as a function says."""

Then = Literal["truncate", "reset", "stall", "hold"] | float
"""What can happen in the middle of an answer, beside a `Failure`; see `Step`."""


@dataclass(frozen=True, slots=True, repr=False)
class Failure:
    """The provider's word that it will not answer: a response with an error status, or an error within a stream.

    Args:
        status: of the response, 400 to 599; in a stream, where there is none any more, it says what error it is.
        message: the provider's explanation.
        type: the provider's word for it (`overloaded_error`, ...); by default, what it says with this status.
        headers: of the response, such as `retry-after` or `x-should-retry`.
        first_wait: seconds before the response.
    """

    status: int
    message: str = "The script says so"
    type: str | None = None
    headers: Mapping[str, str] = FrozenDict()
    first_wait: float = 0.0

    def __post_init__(self) -> None:
        if not 400 <= self.status <= 599:
            raise ValueError(f"the status of a failure is between 400 and 599, not {self.status!r}")
        object.__setattr__(
            self, "headers", FrozenDict({name.lower(): str(text) for name, text in self.headers.items()})
        )
        _check_seconds("first_wait", self.first_wait)

    def __repr__(self) -> str:
        return _as_written(self)


class ToolCallDeltas(NamedTuple):
    """A tool call as it is streamed."""

    id: str | None
    name: str
    type: str
    arguments: tuple[str, ...]


class Deltas(NamedTuple):
    """All that a model generates in a step, piece by piece, in the order in which it is sent."""

    reasoning: tuple[str, ...]
    text: tuple[str, ...]
    refusal: tuple[str, ...]
    tool_calls: tuple[ToolCallDeltas, ...]

    @property
    def tokens(self) -> int:
        """How many pieces there are."""
        arguments = sum(len(call.arguments) for call in self.tool_calls)
        return len(self.reasoning) + len(self.text) + len(self.refusal) + arguments


@dataclass(frozen=True, slots=True, repr=False)
class Step:
    """The answer to one call.

    A token is one delta of whatever is generated: reasoning, text, refusal, arguments, in this order. Seconds are those
    of the event loop's clock. What the user gives is copied: changing it later changes nothing.

    Args:
        text: a text, to be cut as `cut` says; or its deltas, one by one; or a pydantic model or dict, whose JSON is the
            text.
        tool_calls: `(name, arguments)` each, or a `ToolCall` where its id matters. Arguments are a dict, a text, or the
            fragments of one.
        reasoning: what the model thinks before it speaks; a text or its deltas.
        refusal: the words of a model that will not answer; a text or its deltas.
        finish_reason: stop, length, tool_calls, content_filter, refusal, pause, or a word of the provider's; by
            default, what fits.
        usage: tokens as billed; by default, what was sent is counted.
        cut: how texts become deltas.
        first_wait: seconds before the first token.
        gap: seconds between tokens. A sequence is gone through again and again, for a stream that is not even.
        jitter: how uneven the waits are by chance: 0.5 makes each up to 50 % longer or shorter.
        seed: of that chance. The same seed gives the same waits in the same call of a script.
        after: after how many tokens `then` happens; by default after all of them, before the end is told.
        then: what happens there. "truncate": the stream ends as if it were whole; "reset": the connection breaks;
            "stall": nothing ever comes; "hold": nothing comes until somebody calls `release()`; a number: nothing
            comes for so many seconds; a `Failure`: the provider reports an error within the stream.

    Raises:
        TypeError, ValueError: an argument that cannot work.
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
    """What is sent."""

    def __post_init__(self) -> None:
        def keep(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        deltas = Deltas(
            _pieces(self.reasoning, self.cut),
            _pieces(self.text, self.cut),
            _pieces(self.refusal, self.cut),
            tuple(_tool_call(call, self.cut) for call in self.tool_calls),
        )
        keep("deltas", deltas)
        keep("gap", self.gap if isinstance(self.gap, int | float) else tuple(self.gap) or 0.0)
        _check_seconds("first_wait", self.first_wait)
        for gap in self.gap if isinstance(self.gap, tuple) else (self.gap,):
            _check_seconds("gap", gap)
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter is a fraction between 0 and 1, not {self.jitter!r}")
        self._check_then()

    def _check_then(self) -> None:
        if self.after is not None and self.then is None:
            raise ValueError(f"after={self.after!r} needs a `then`: what happens there")
        if self.after is not None and not 0 <= self.after <= self.deltas.tokens:
            raise ValueError(f"after={self.after!r}, but the step has {self.deltas.tokens} tokens")
        if isinstance(self.then, int | float):
            _check_seconds("then", self.then)
        elif self.then not in (None, "truncate", "reset", "stall", "hold") and not isinstance(self.then, Failure):
            raise ValueError(
                f"then is 'truncate', 'reset', 'stall', 'hold', a number of seconds or a Failure, not {self.then!r}"
            )

    @classmethod
    def of_message(cls, message: Message) -> Step:
        """The step that gives this message."""
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

    @property
    def reason(self) -> str:
        """The finish reason: the given one, or what fits."""
        fitting = "refusal" if self.deltas.refusal else "tool_calls" if self.deltas.tool_calls else "stop"
        return self.finish_reason or fitting

    def waits(self, call_number: int) -> Iterator[float]:
        """Seconds before each token, without an end."""
        chance = random.Random(f"{self.seed}/{call_number}")
        gaps = self.gap if isinstance(self.gap, tuple) else (self.gap,)
        for wait in itertools.chain((self.first_wait,), itertools.cycle(gaps)):
            yield wait * (1 + self.jitter * chance.uniform(-1, 1)) if self.jitter else wait

    def __repr__(self) -> str:
        return _as_written(self)


Answer = Step | Failure | ResponseStream | Exception
"""What a call comes to: an answer, the provider's refusal, bytes that were recorded, or an error on the way."""

ScriptItem = str | Answer | BaseModel | Mapping[str, Any] | Callable[[Call], Any]
"""One step: a text, a model or dict (its JSON), a message, an exception to raise, or a function of the call."""

Script = ScriptItem | Iterable[ScriptItem]
"""One step a call, in order. A function by itself answers any number of calls."""


def script_items(script: Script) -> tuple[ScriptItem, ...] | Callable[[Call], Any]:
    """The steps of a script, checked; or the one function that answers everything.

    Raises:
        TypeError: something that cannot be a step; names it.
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
    """What an item of a script is, once no function is left to ask.

    Raises:
        TypeError: it is nothing that can be answered; `where` says where it was.
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
    return isinstance(item, type) and issubclass(item, Exception)


def _as_written(step: Step | Failure) -> str:
    """The step in Python, without what was left to its defaults."""
    first, *others = (each for each in fields(step) if each.init)
    shown = [
        f"{each.name}={short_repr(getattr(step, each.name))}"
        for each in others
        if getattr(step, each.name) != each.default
    ]
    if not shown or getattr(step, first.name) != first.default:
        shown.insert(0, short_repr(getattr(step, first.name)))
    return f"{type(step).__name__}({', '.join(shown)})"


def _check_seconds(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of seconds, not {value!r}")


def _pieces(text: str | Sequence[str] | BaseModel | Mapping[str, Any], cut: Cut) -> tuple[str, ...]:
    """The deltas of something that is said."""
    if isinstance(text, BaseModel):
        text = text.model_dump_json(by_alias=True, context=BARE if isinstance(text, Frozen) else None)
    elif isinstance(text, Mapping):
        text = json.dumps(text, ensure_ascii=False, default=dict)
    if isinstance(text, str):
        return _cut(text, cut)
    if not all(isinstance(piece, str) for piece in text):
        raise TypeError(f"the deltas of a text must be texts: {text!r:.200}")
    return tuple(text)


def _cut(text: str, cut: Cut) -> tuple[str, ...]:
    if not text:
        return ()
    if cut == "word":
        return tuple(re.findall(r"\s*\S+(?:\s+$)?|\s+", text))
    if callable(cut):
        pieces = tuple(cut(text))
        if "".join(pieces) != text:
            raise ValueError(
                f"{cut!r} must cut the text and leave it as it is, but made {pieces!r:.200} of {text!r:.200}"
            )
        return pieces
    size: Any = 1 if cut == "character" else cut
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"cut is 'word', 'character', a number of characters or a function, not {cut!r}")
    return tuple(text[start : start + size] for start in range(0, len(text), size))


def _tool_call(call: Any, cut: Cut) -> ToolCallDeltas:
    if isinstance(call, ToolCall):
        kind = getattr(call, "type", None) or "function"
        return ToolCallDeltas(call.id, call.name or "", kind, _cut(call.arguments, cut))
    if isinstance(call, tuple) and len(call) == 2 and isinstance(call[0], str):
        return ToolCallDeltas(None, call[0], "function", _pieces(call[1], cut))
    raise TypeError(f"a tool call is (name, arguments) or a ToolCall, not {call!r:.200}")
