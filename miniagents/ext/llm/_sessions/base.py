"""Common base of the state machines that read the events of the provider APIs.

- `Session` is the base class of these state machines, one object for each answer.
- `Outcome` and its parts are the plain values of an answer, before they become a message.
- `error_from_payload` translates the error object of a provider into an `LLMError`.
- `SurrogateJoiner` joins the halves of surrogate pairs: JSON may write a character as two escapes, which a stream may
  cut apart.

The module is independent of sockets and clients.
"""

from __future__ import annotations

import json
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar, cast

from pydantic_core import from_json

from miniagents.errors import (
    AuthenticationFailedError,
    EmptyStreamError,
    LLMError,
    ProviderError,
    ProviderOverloadedError,
    RateLimitedError,
    RequestRejectedError,
    StreamError,
    StreamProtocolError,
    StreamTruncatedError,
)
from miniagents.ext._terminal import visible, visible_line
from miniagents.ext.llm._sessions.fields import Tokens, as_count
from miniagents.messages import ReasoningDelta, RefusalDelta, ToolCallDelta

if TYPE_CHECKING:
    from miniagents.ext.llm.sse import ServerSentEvent, SSEDecoder
    from miniagents.messages._events import StoredEvent


T = TypeVar("T")


class SurrogateJoiner:
    r"""Joiner of surrogate halves in the pieces of one text.

    `\ud83d` at the end of a piece and `\ude00` at the start of the next become one character. A lone half becomes
    U+FFFD.
    """

    __slots__ = ("half", "lossy")

    def __init__(self) -> None:
        self.half = ""
        """First half of a pair, kept until the next piece; "" if there is none."""
        self.lossy = False
        """True if a lone half was replaced."""

    def feed(self, piece: str) -> str:
        """Return the text without lone halves; a first half at the end of the piece is kept for the next piece.

        A half that is replaced by U+FFFD sets `lossy`.
        """
        if not self.half and piece.isascii():
            return piece
        if not piece:
            return ""
        piece = self.half + piece
        self.half = ""
        if "\ud800" <= piece[-1] <= "\udbff":
            self.half = piece[-1]
            piece = piece[:-1]
        whole = repair_surrogates(piece)
        self.lossy |= whole.count("\ufffd") > piece.count("\ufffd")
        return whole

    def flush(self) -> str:
        """End the text: return U+FFFD if a first half is left, else ""."""
        if not self.half:
            return ""
        self.half = ""
        self.lossy = True
        return "\ufffd"


def repair_surrogates(text: str) -> str:
    """Return the text with pairs of surrogates joined and lone surrogates replaced by U+FFFD."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def repair_deep(value: T) -> T:
    """Repair what JSON in UTF-8 cannot hold, in parsed JSON (including keys) and in the dataclasses of this module.

    That is surrogates in texts, and numbers such as NaN, which become None: servers send both, and a prompt repeats
    them. A value without them is returned as the same object, so values of other types stay untouched.
    """
    return cast("T", _repair(value)) if _may_need_repair(value) else value


_ENCODABLE = frozenset({int, bool, type(None)})
"""Types of parsed JSON that can always be encoded."""


def _may_need_repair(value: Any) -> bool:
    """Return True unless a value is made of plain containers whose texts and numbers can all be encoded.

    One loop without a call for each node: nearly all requests have nothing to repair.
    """
    nodes = [value]
    seen: set[int] = set()  # a container may contain itself, which the JSON encoder refuses later
    for node in nodes:  # grows while it is read
        kind = type(node)
        if kind is str:
            if not node.isascii() and _has_lone_surrogate(node):
                return True
        elif kind is dict or kind is list or kind is tuple:
            if id(node) not in seen:
                seen.add(id(node))
                nodes += node
                nodes += node.values() if kind is dict else ()
        elif kind is float:
            if not isfinite(node):
                return True
        elif kind not in _ENCODABLE and (isinstance(node, Mapping) or is_dataclass(node)):
            return True
    return False


def _repair(value: Any) -> Any:
    """Return the value repaired, see `repair_deep`; the same object if there is nothing to repair."""
    if isinstance(value, str):
        return repair_surrogates(value) if _has_lone_surrogate(value) else value
    if isinstance(value, float):
        return value if isfinite(value) else None
    if type(value) in (list, tuple):
        items = [_repair(item) for item in value]
        return value if all(map(operator.is_, items, value)) else type(value)(items)
    if isinstance(value, Mapping):
        pairs = [(_repair(key), _repair(item)) for key, item in value.items()]
        same = all(key is old and item is value[old] for (key, item), old in zip(pairs, value, strict=True))
        return value if same else dict(pairs)
    if is_dataclass(value) and not isinstance(value, type):
        old = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        new = {name: _repair(item) for name, item in old.items()}
        return value if all(item is old[name] for name, item in new.items()) else replace(value, **new)
    return value


def _has_lone_surrogate(text: str) -> bool:
    """Return True if UTF-8 cannot encode the text."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


# Words in `type` and `code` of the error objects of OpenAI, Azure, Anthropic and compatible servers. Other words stand
# for a failure of the provider.
_CLASS_OF_WORD: dict[str, type[LLMError]] = {
    "overloaded_error": ProviderOverloadedError,
    "overloaded": ProviderOverloadedError,
    "server_overloaded": ProviderOverloadedError,
    "service_unavailable": ProviderOverloadedError,
    "engine_overloaded": ProviderOverloadedError,
    "rate_limit_error": RateLimitedError,
    "rate_limit_exceeded": RateLimitedError,
    "rate_limited": RateLimitedError,
    "too_many_requests": RateLimitedError,
    "insufficient_quota": RateLimitedError,
    "tokens": RateLimitedError,
    "requests": RateLimitedError,
    "authentication_error": AuthenticationFailedError,
    "permission_error": AuthenticationFailedError,
    "invalid_api_key": AuthenticationFailedError,
    "invalid_request_error": RequestRejectedError,
    "invalid_request": RequestRejectedError,
    "invalid_prompt": RequestRejectedError,
    "not_found_error": RequestRejectedError,
    "model_not_found": RequestRejectedError,
    "request_too_large": RequestRejectedError,
    "billing_error": RequestRejectedError,
    "context_length_exceeded": RequestRejectedError,
    "content_policy_violation": RequestRejectedError,
    "content_filter": RequestRejectedError,
    "tool_use_failed": RequestRejectedError,
}
_NOT_RETRYABLE = frozenset({"insufficient_quota"})
"""Words for limits that waiting does not lift."""


def error_class(status: int | None) -> type[LLMError]:
    """Return the class of error that an HTTP status stands for; `ProviderError` for None and for other statuses."""
    match status:
        case 401 | 403:
            return AuthenticationFailedError
        case 429:
            return RateLimitedError
        case 503 | 529:
            return ProviderOverloadedError
        case 408 | 409:  # a timeout or a lock on the provider's side: both SDKs repeat these
            return ProviderError
        case int() if 300 <= status < 500:  # with redirects, because the client would not follow the next one either
            return RequestRejectedError
        case _:
            return ProviderError


def error_from_payload(payload: Any, *, provider: str, status: int | None = None) -> LLMError:
    """Translate an error object: `{"error": {...}}`, `{"error": "text"}`, or the inner object by itself.

    Any other value becomes the message.

    Args:
        payload: the parsed JSON.
        provider: "openai" or "anthropic".
        status: the status of the HTTP response. For a stream (2xx), the words in the object decide the class of the
            error.
    """
    error = payload.get("error") if isinstance(payload, dict) and payload.get("error") else payload
    if not isinstance(error, dict):
        error = {"message": error}
    words = [str(error[key]) for key in ("code", "type") if error.get(key) is not None and error.get(key) != "error"]
    message = error.get("message") or error.get("detail") or "the provider reported an error without a message"
    kind = next((_CLASS_OF_WORD[word] for word in words if word in _CLASS_OF_WORD), None)
    in_stream = status is None or status < 300
    if not in_stream:
        kind = error_class(status) if kind is None or error_class(status) is not ProviderError else kind
    elif kind is None:
        number = next((number for number in map(_status_in, (error.get("status_code"), *words)) if number), None)
        kind = error_class(number)
    where = " in the stream" if in_stream else ""
    label = f" ({', '.join(dict.fromkeys(words))})" if words else ""
    return kind(
        f"{provider} reported an error{where}{visible_line(label)}: {visible(str(message))}",
        provider=provider,
        status=status,
        retryable=False if _NOT_RETRYABLE.intersection(words) else None,
    )


def _status_in(word: Any) -> int | None:
    """Return the HTTP status that some servers (such as OpenRouter) send as `code`; None if this is no status."""
    text = str(word)
    return int(text) if len(text) == 3 and text.isdecimal() and text.isascii() and "400" <= text <= "599" else None


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Call of a tool that the model asks for."""

    id: str
    name: str
    arguments: str
    """Arguments as the model wrote them: usually a JSON object, which an interrupted answer may have cut; text for
    custom tools."""
    type: str = "function"
    fields: dict[str, Any] = field(default_factory=dict)
    """Further fields of the call under the provider's names; those inside of its function are under `function`."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several answers to the same request (with `n` > 1)."""

    index: int
    content: str
    finish_reason: str | None
    tool_calls: tuple[ToolUse, ...] = ()
    refusal: str | None = None
    reasoning: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    """Further fields of the message of this choice, under the provider's names."""


@dataclass(slots=True)
class Outcome:
    """Values of one answer, complete or as far as it has arrived."""

    content: str
    complete: bool
    """True if the provider has sent the end of the answer."""
    finish_reason: str | None = None
    """One of stop, length, tool_calls, content_filter, refusal, pause; the provider's word if none of these fits."""
    provider_finish_reason: str | None = None
    id: str | None = None
    model: str | None = None
    usage: Tokens | None = None
    raw_usage: dict[str, Any] | None = None
    """The provider's usage object, unchanged; the last of each number if it came in several events."""
    tool_calls: tuple[ToolUse, ...] = ()
    refusal: str | None = None
    reasoning: str | None = None
    choices: tuple[Choice, ...] = ()
    """Choices after the first one."""
    unknown_events: int = 0
    lossy: bool = False
    """True if lone surrogates, or bytes that are not UTF-8, were replaced by U+FFFD."""
    doubts: tuple[str, ...] = ()
    """Descriptions of fields that differ from the API's format without harm to the answer, with the event number."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Remaining fields of the response, under the provider's names."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Fields of a chat message that a prompt sends back, under the provider's names. `extra` holds them as well, except
    those that are equal to `reasoning`."""


_is_done_text = re.compile(r"""[\s"']*\[\s*done\s*\][^\w{\[]*""", re.IGNORECASE).fullmatch
"""Match of `[DONE]` in all its forms: some gateways add white space, quotes or punctuation, or write lower case.

Letters, digits and opening brackets behind it are no match: they may belong to another event, whose text would be lost.
"""
_MALFORMED = object()
"""Result of parsing data that are not JSON."""
_DOUBT_LENGTH = 80
"""Characters of an odd value that a doubt quotes."""


class Session(ABC):
    """State machine that reads the events of one answer, and returns its text deltas and its outcome.

    Pass each event to `feed`, or to `feed_parsed` if the SDK has parsed it; then call `close`. For an answer that was
    not streamed, call `parse` only. The joined deltas are the content of the outcome. Events after the end of the
    answer are ignored.
    """

    provider: ClassVar[str]

    def __init__(self) -> None:
        self.ended = False
        """True after the last event of the answer; later events are ignored."""
        self.events = 0
        """Number of events fed so far."""
        self.idle_events = 0
        """Number of events without progress: pings, keep-alives, empty deltas."""
        self.unknown_events = 0
        """Number of events and parts of unknown types."""
        self.withheld = ""
        """Text of the event that reported a failure; it was not delivered as a delta."""
        self.beside: list[StoredEvent] = []
        """Events of the answer beside its text, in their order; the caller gets them by `take_beside`."""
        self.decoder: SSEDecoder | None = None
        """Decoder of the events, which tells if bytes that are not UTF-8 were replaced; None for events of an SDK."""
        self._doubts: dict[str, str] = {}
        self._pieces: list[str] = []
        self._joiner: SurrogateJoiner | None = None  # made only for streams that may hold lone surrogates

    def feed(self, event: ServerSentEvent) -> str:
        """Read the next event, and return the text that it adds to the answer, often "".

        After the end, ignore the event.

        Raises:
            StreamProtocolError: the event is malformed JSON, or breaks the rules of the API.
            LLMError: the event reports a failure of the provider, which decides the class of the error.
        """
        if self.ended:
            return ""
        self.events += 1
        if event.data == b"[DONE]":
            return self._on_done()
        try:
            data = from_json(event.data)
        except ValueError as error:
            data = self._parse_unusual_event(event, error)
        if type(data) is not dict:
            return self._process_other_json(event, data)
        return self._process(data, event.event)

    def feed_parsed(self, data: dict[str, Any]) -> str:
        """Read the next event in the parsed form of an SDK, and return the text that it adds to the answer.

        For clients without server-sent events, such as Bedrock's. Raise the same errors as `feed`; after the end,
        return "".
        """
        if self.ended:
            return ""
        self.events += 1
        if self._joiner is None:  # the SDK's parser may have let lone surrogates through
            self._joiner = SurrogateJoiner()
        return self._process(data, "message")

    def close(self) -> Outcome:
        """End the stream, and return the outcome of the complete answer.

        Raises:
            EmptyStreamError: the stream had no event.
            StreamTruncatedError: the stream ended before the end of the answer.
        """
        outcome = self.outcome()
        if not outcome.complete:
            if not self.events:
                raise EmptyStreamError(f"{self.provider}: the response has no events", provider=self.provider)
            raise StreamTruncatedError(
                f"{self.provider}: the stream ended after {self.events} events, before the answer was complete",
                provider=self.provider,
            )
        return outcome

    @property
    @abstractmethod
    def is_complete(self) -> bool:
        """True if the provider has said that the answer is complete; the usage may still come."""

    @abstractmethod
    def outcome(self) -> Outcome:
        """Return the values of the answer as far as it has arrived."""

    def parse(self, body: bytes) -> Outcome:
        """Read the body of an answer that was not streamed, and return its outcome; once for each session.

        If the body reports a failure, `withheld` has the text beside it.

        Raises:
            EmptyStreamError: the body is empty.
            StreamTruncatedError: the body was cut, or the answer in it is not complete.
            StreamProtocolError: the body is malformed JSON, or breaks the rules of the API.
            LLMError: the body reports a failure of the provider.
        """
        if not body.strip():
            raise EmptyStreamError(f"{self.provider}: the response body is empty", provider=self.provider)
        self.events += 1
        try:
            data = from_json(body)
        except ValueError as error:
            if _is_incomplete(body):
                raise StreamTruncatedError(
                    f"{self.provider}: the response body was cut after {len(body)} bytes", provider=self.provider
                ) from error
            data = self._parse_lone_surrogates(body, error)
            if data is _MALFORMED:
                self._reject(f"malformed JSON ({error}): {_excerpt(body)}")
        if not isinstance(data, dict):
            self._reject(f"the response body is not a JSON object: {_excerpt(body)}")
        try:
            self._process_document(data)
        except LLMError as error:
            if not isinstance(error, StreamError):
                self.withheld = "".join(self._pieces)
            raise
        return self.close()

    @abstractmethod
    def _process(self, data: dict[str, Any], name: str) -> str:
        """Process the JSON of one event, and return the text that it adds; `name` is the event's name."""

    @abstractmethod
    def _process_document(self, data: dict[str, Any]) -> None:
        """Process the JSON of an answer that was not streamed."""

    def _on_done(self) -> str:
        """Process `[DONE]`, and return text that it releases.

        Here it does nothing: some gateways send it in the other APIs, too.
        """
        return ""

    def _append_text(self, text: str) -> str:
        """Add text to the answer, and return it; half a surrogate pair at its end waits for the next text."""
        if self._joiner is not None:
            text = self._joiner.feed(text)
        if text:
            self._pieces.append(text)
        return text

    def _note_reasoning(self, text: str) -> None:
        """Add a piece of the model's thoughts to the events beside the text."""
        if text:
            self.beside.append(ReasoningDelta(text))

    def _note_refusal(self, text: str) -> None:
        """Add a piece of a refusal to the events beside the text."""
        if text:
            self.beside.append(RefusalDelta(text))

    def _note_call(self, index: int, id_: Any = None, name: Any = None, arguments: str = "") -> None:
        """Add a piece of a call to the events beside the text, unless it is empty.

        `index` is the call's place among the calls.
        """
        if id_ or name or arguments:
            self.beside.append(ToolCallDelta(index, str(id_) if id_ else None, str(name) if name else None, arguments))

    def take_beside(self) -> list[StoredEvent]:
        """Return the events beside the text that came since the last call, and remove them from `beside`.

        Lone surrogates in them are replaced.
        """
        taken, self.beside = self.beside, []
        return taken if self._joiner is None else repair_deep(taken)

    def _flush_text(self) -> str:
        """End a text: return U+FFFD if a surrogate half is left, else ""."""
        rest = self._joiner.flush() if self._joiner is not None else ""
        if rest:
            self._pieces.append(rest)
        return rest

    @property
    def _lossy(self) -> bool:
        """True if the decoder or the joiner replaced anything by U+FFFD."""
        decoder, joiner = self.decoder, self._joiner
        return (decoder is not None and decoder.lossy) or (joiner is not None and joiner.lossy)

    def _parse_unusual_event(self, event: ServerSentEvent, refusal: ValueError) -> Any:
        """Parse the data of an event that the fast parser refuses, such as JSON with lone surrogates.

        Return None without data, and a string for `[DONE]`.

        Raises:
            StreamProtocolError: the data are malformed JSON, or too deep.
            LLMError: the data are malformed, and the name of the event is `error`.
        """
        if _is_done(event.data):
            return "[DONE]"
        value = self._parse_lone_surrogates(event.data, refusal) if event.data.strip() else None
        if value is _MALFORMED:
            if event.event == "error":
                self._raise_reported({"message": event.data.decode(errors="replace")})
            self._reject(f"malformed JSON ({refusal}): {_excerpt(event.data)}")
        return value

    def _parse_lone_surrogates(self, data: bytes, refusal: ValueError) -> Any:
        """Parse JSON with lone surrogates, which the fast parser refuses; return `_MALFORMED` for other errors."""
        try:
            if "recursion" in str(refusal):
                return _MALFORMED
            value = json.loads(data)
        except (ValueError, RecursionError):
            return _MALFORMED
        if self._joiner is None:
            self._joiner = SurrogateJoiner()
        return value

    def _process_other_json(self, event: ServerSentEvent, value: Any) -> str:
        """Process JSON that is no object: an event named `error`, `[DONE]` in quotes, or an event without content.

        Raises:
            StreamProtocolError: the value is a string or a list, which may hold text of the answer.
            LLMError: the name of the event is `error`.
        """
        if event.event == "error":
            self._raise_reported({"message": value})
        if _is_done(event.data):
            self._note_doubt("[DONE]", event.data)
            return self._on_done()
        if value and isinstance(value, str | list):
            self._reject(f"{_excerpt(event.data)} is not a JSON object")
        self._note_doubt("data", value)
        self.idle_events += 1
        return ""

    def _note_doubt(self, field: str, value: Any) -> None:
        """Note a field that differs from the API's format without harm to the answer.

        Only the first such value of each field is kept, which limits the length of the notes.
        """
        if field not in self._doubts:
            shown = repr(value)
            shown = shown if len(shown) <= _DOUBT_LENGTH else shown[:_DOUBT_LENGTH] + "..."
            self._doubts[field] = f"event {self.events}: {field} is {shown}"

    @property
    def doubts(self) -> tuple[str, ...]:
        """Descriptions of the fields that differed from the API's format, and were read or left out."""
        return tuple(self._doubts.values())

    def _raise_reported(self, payload: dict[str, Any], *, withheld: str = "") -> NoReturn:
        """Raise the error that the provider reports in an event; `withheld` is text that arrived in the same event."""
        self.withheld = withheld
        raise error_from_payload(payload, provider=self.provider, status=200)

    def _reject(self, reason: str) -> NoReturn:
        """Raise a `StreamProtocolError` for the current event."""
        raise StreamProtocolError(f"{self.provider}: event {self.events}: {reason}", provider=self.provider)

    def _read_index(self, data: dict[str, Any], key: str) -> int | None:
        """Return the index under `key`; None if it is no index. Note a doubt for all but a whole number from 0 up."""
        value = data.get(key)
        if type(value) is int and value >= 0:
            return value
        self._note_doubt(key, value)
        return as_count(value)

    def _read_usage(self, usage: Any, *keys: str) -> dict[str, Any] | None:
        """Return a usage object; return None if the value is no object.

        A value that is no object is noted as a doubt, and so is a count under `keys` that is a text or impossible.
        """
        if not isinstance(usage, dict):
            self._note_doubt("usage", usage)
            return None
        for key in keys:
            value = usage.get(key)
            if value is not None and (as_count(value) is None or type(value) is str):  # 12.0 is accepted
                self._note_doubt(key, value)
        return usage

    def _read_label(self, data: dict[str, Any], key: str) -> str:
        """Return the id or the name under `key`; a number becomes a string, with a doubt.

        The result is "" if the value is absent or null, and also for a value of another type, with a doubt.
        """
        value = data.get(key)
        if value is None or type(value) is str:
            return value or ""
        self._note_doubt(key, value)
        return str(value) if type(value) in (int, float) else ""

    def _read_side_text(self, data: dict[str, Any], key: str) -> str:
        """Return the string under `key`, such as reasoning, which is not part of the content.

        Return "" if it is absent or null, and also for a value of another type, with a doubt.
        """
        value = data.get(key)
        if value is None or type(value) is str:
            return value or ""
        self._note_doubt(key, value)
        return ""

    def _read_object(self, data: dict[str, Any], key: str) -> dict[str, Any]:
        """Return the object under `key`; null counts as an empty object, with a doubt.

        Raises:
            StreamProtocolError: the key is absent, or its value is neither an object nor null.
        """
        value = data.get(key)
        if type(value) is dict:
            return value
        if value is not None or key not in data:
            self._reject(f"{key} is {value!r}")
        self._note_doubt(key, value)
        return {}

    def _read_arguments(self, value: Any, key: str = "arguments") -> str:
        """Return the arguments of a tool as JSON text, also if the server sent a JSON value; `key` is for the doubt."""
        if value is None or type(value) is str:
            return value or ""
        self._note_doubt(key, value)
        return json_text(value)

    def _read_text(self, data: dict[str, Any], key: str) -> str:
        """Return the string under `key`, "" if it is absent or null.

        Raises:
            StreamProtocolError: the value is of another type.
        """
        value = data.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            self._reject(f"{key} is not a string but {type(value).__name__}")
        return value


def _is_done(data: bytes) -> bool:
    """Return True if these data are `[DONE]` in any of its forms."""
    return _is_done_text(data.decode(errors="replace")) is not None


def _is_incomplete(data: bytes) -> bool:
    """Return True if these data are a JSON value or the beginning of one."""
    try:
        from_json(data, allow_partial=True)
    except ValueError:
        return False
    return True


def _excerpt(data: bytes) -> str:
    """Return the beginning of unexpected data, up to 200 bytes, as a repr for an error message."""
    text = data[:200].decode(errors="replace")
    return repr(text + ("..." if len(data) > 200 else ""))


def json_text(value: Any) -> str:
    """Return a JSON value as text."""
    return json.dumps(value, ensure_ascii=False)
