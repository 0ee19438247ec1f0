"""What the state machines of the provider APIs have in common.

Halves of characters outside the basic plane, which JSON may spell as two escapes that a stream then cuts apart.

A provider's error object, wherever it stands, as one of our errors.

What a provider's answer came to: plain values, before they become a message.
"""

from __future__ import annotations

import json
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
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

if TYPE_CHECKING:
    from miniagents.ext.llm.sse import ServerSentEvent, SSEDecoder


T = TypeVar("T")


class SurrogateJoiner:
    r"""Joins `\ud83d` at the end of one piece to `\ude00` at the start of the next; what stays alone becomes U+FFFD."""

    __slots__ = ("half", "lossy")

    def __init__(self) -> None:
        self.half = ""
        """The first half that waits for its second."""
        self.lossy = False

    def feed(self, piece: str) -> str:
        """What of the text can be said now: all but a first half at its end."""
        if not self.half and piece.isascii():
            return piece
        if not piece:
            return ""
        piece = self.half + piece
        self.half = ""
        if "\ud800" <= piece[-1] <= "\udbff":
            self.half = piece[-1]
            piece = piece[:-1]
        whole = mend(piece)
        self.lossy |= whole.count("\ufffd") > piece.count("\ufffd")
        return whole

    def flush(self) -> str:
        """The end of the text."""
        if not self.half:
            return ""
        self.half = ""
        self.lossy = True
        return "\ufffd"


def mend(text: str) -> str:
    """The text with pairs of surrogates joined and lone ones replaced."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def mend_deep(value: T) -> T:
    """The same for every string in parsed JSON (keys too) and in our own plain values.

    What needs no mending is the same object after it, so that values of other types are not touched.
    """
    return cast("T", _mended(value))


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return mend(value) if _is_broken(value) else value
    if type(value) in (list, tuple):
        items = [_mended(item) for item in value]
        return value if all(map(operator.is_, items, value)) else type(value)(items)
    if isinstance(value, Mapping):
        pairs = [(_mended(key), _mended(item)) for key, item in value.items()]
        same = all(key is old and item is value[old] for (key, item), old in zip(pairs, value, strict=True))
        return value if same else dict(pairs)
    if is_dataclass(value) and not isinstance(value, type):
        old = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        new = {name: _mended(item) for name, item in old.items()}
        return value if all(item is old[name] for name, item in new.items()) else replace(value, **new)
    return value


def _is_broken(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


# `type` and `code` words of OpenAI, Azure, Anthropic and their relatives; what is not here is a failure of the
# provider's own
_WORDS: dict[str, type[LLMError]] = {
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
_HOPELESS = frozenset({"insufficient_quota"})
"""A limit that does not go away by waiting."""


def error_class(status: int | None) -> type[LLMError]:
    """The error an HTTP status stands for."""
    match status:
        case 401 | 403:
            return AuthenticationFailedError
        case 429:
            return RateLimitedError
        case 503 | 529:
            return ProviderOverloadedError
        case 408 | 409:  # a timeout or a lock on the provider's side: both SDKs repeat these
            return ProviderError
        case int() if 300 <= status < 500:  # a redirect that the client does not follow leads nowhere again
            return RequestRejectedError
        case _:
            return ProviderError


def error_from_payload(payload: Any, *, provider: str, status: int | None = None) -> LLMError:
    """Read an error object: `{"error": {...}}`, `{"error": "text"}`, or the inner object by itself.

    Args:
        payload: the parsed JSON.
        provider: "openai" or "anthropic".
        status: status of the HTTP response; that of a stream (2xx) leaves it to the words in the object.
    """
    error = payload.get("error") if isinstance(payload, dict) and payload.get("error") else payload
    if not isinstance(error, dict):
        error = {"message": error}
    words = [str(error[key]) for key in ("code", "type") if error.get(key) is not None and error.get(key) != "error"]
    message = error.get("message") or error.get("detail") or "the provider reported an error without a message"
    kind = next((_WORDS[word] for word in words if word in _WORDS), None)
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
        retryable=False if _HOPELESS.intersection(words) else None,
    )


def _status_in(word: Any) -> int | None:
    """An HTTP status that stands where a word is expected (OpenRouter and others: `"code": 429`)."""
    text = str(word)
    return int(text) if len(text) == 3 and text.isdecimal() and text.isascii() and "400" <= text <= "599" else None


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool the model wants to be run, collected whole."""

    id: str
    name: str
    arguments: str
    """As the model wrote them: usually a JSON object, cut short where the answer was; text for custom tools."""
    type: str = "function"


@dataclass(frozen=True, slots=True)
class Tokens:
    """What was billed, in tokens, as the provider counts them; None where it does not say."""

    input: int | None = None
    """The prompt; at OpenAI all of it, at Anthropic what was neither read from a cache nor written to one."""
    output: int | None = None
    """All that was generated, including reasoning."""
    cached: int | None = None
    """What was read from a cache: a part of `input` at OpenAI, beside it at Anthropic."""
    reasoning: int | None = None
    """The part of `output` spent on reasoning."""
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several answers to the same request (`n` > 1)."""

    index: int
    content: str
    finish_reason: str | None
    tool_calls: tuple[ToolUse, ...] = ()
    refusal: str | None = None
    reasoning: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer, whole or as far as it came."""

    content: str
    complete: bool
    """Whether the provider said that this is all."""
    finish_reason: str | None = None
    """stop, length, tool_calls, content_filter, refusal, pause; a word of the provider's where none of these fits."""
    provider_finish_reason: str | None = None
    id: str | None = None
    model: str | None = None
    usage: Tokens | None = None
    raw_usage: dict[str, Any] | None = None
    tool_calls: tuple[ToolUse, ...] = ()
    refusal: str | None = None
    reasoning: str | None = None
    choices: tuple[Choice, ...] = ()
    """The choices after the first one."""
    unknown_events: int = 0
    lossy: bool = False
    """Whether half characters of the provider's, or bytes that are no UTF-8, were replaced by U+FFFD."""
    doubts: tuple[str, ...] = ()
    """Fields that were not as the API says, and cost nothing of the answer, each with the number of its event."""
    extra: dict[str, Any] = field(default_factory=dict)
    """The provider's remaining fields, under the provider's names."""


_is_done = re.compile(rb"""[\s"']*\[\s*done\s*\][\s"']*""", re.IGNORECASE).fullmatch
"""`[DONE]` as some gateways write it: with white space, in quotes, in lower case."""
_is_integer = re.compile(r"\s*-?[0-9]{1,18}(\.0*)?\s*").fullmatch
_MALFORMED = object()
"""Stands for what is no JSON."""
_SHOWN = 80
"""Characters of an odd value that a doubt quotes."""


class Session(ABC):
    """One answer of a provider: events in, text deltas out, an outcome at the end.

    Feed it decoded events (`feed`), or an SDK's parsed ones (`feed_parsed`); then `close` it. For an answer that was
    not streamed: `parse`. The deltas put together are the outcome's content. Whatever comes after the end of the
    answer is ignored.
    """

    provider: ClassVar[str]

    def __init__(self) -> None:
        self.ended = False
        """Whether the provider's last word was read; what follows is absorbed."""
        self.events = 0
        """Events fed so far."""
        self.idle_events = 0
        """How many of them were only signs of life: pings, keep-alives, empty deltas."""
        self.unknown_events = 0
        self.withheld = ""
        """Text of the event that reported a failure; no reader has got it."""
        self.decoder: SSEDecoder | None = None
        """Where the events come from: it knows whether bytes that are no UTF-8 were replaced by U+FFFD."""
        self._doubts: dict[str, str] = {}
        self._pieces: list[str] = []
        self._joiner: SurrogateJoiner | None = None  # only for streams that were seen to hold half characters

    def feed(self, event: ServerSentEvent) -> str:
        """Take the next event.

        Returns: the text it adds to the answer, often none ("").

        Raises:
            StreamProtocolError: malformed JSON, or what the API does not allow here.
            LLMError: the provider reports a failure; its class tells which.
        """
        if self.ended:
            return ""
        self.events += 1
        if event.data == b"[DONE]":
            return self._on_done()
        try:
            data = from_json(event.data)
        except ValueError as error:
            data = self._from_odd_data(event, error)
        if type(data) is not dict:
            return self._take_no_object(event, data)
        return self._take(data, event.event)

    def feed_parsed(self, data: dict[str, Any]) -> str:
        """Take an event that somebody else has decoded (for clients that do not speak server-sent events)."""
        if self.ended:
            return ""
        self.events += 1
        if self._joiner is None:  # whoever decoded this may have let half characters through
            self._joiner = SurrogateJoiner()
        return self._take(data, "message")

    def close(self) -> Outcome:
        """The end of the stream.

        Raises:
            EmptyStreamError: there was not a single event.
            StreamTruncatedError: the provider has not said that the answer is complete.
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

    @abstractmethod
    def outcome(self) -> Outcome:
        """The answer as far as it has come."""

    def parse(self, body: bytes) -> Outcome:
        """A whole answer that was not streamed; a session parses one.

        Raises: as `feed` and `close` do.
        """
        if not body.strip():
            raise EmptyStreamError(f"{self.provider}: the response body is empty", provider=self.provider)
        self.events += 1
        try:
            data = from_json(body)
        except ValueError as error:
            if _is_cut(body):
                raise StreamTruncatedError(
                    f"{self.provider}: the response body was cut after {len(body)} bytes", provider=self.provider
                ) from error
            data = self._from_unusual_json(body, error)
            if data is _MALFORMED:
                self._reject(f"malformed JSON ({error}): {_shown(body)}")
        if not isinstance(data, dict):
            self._reject(f"the response body is not a JSON object: {_shown(body)}")
        try:
            self._take_whole(data)
        except LLMError as error:
            if not isinstance(error, StreamError):
                self.withheld = "".join(self._pieces)
            raise
        return self.close()

    @abstractmethod
    def _take(self, data: dict[str, Any], name: str) -> str:
        """Take one event's JSON; `name` is what the event was called."""

    @abstractmethod
    def _take_whole(self, data: dict[str, Any]) -> None:
        """Take the body of an answer that was not streamed."""

    def _on_done(self) -> str:
        """`[DONE]`, which belongs to chat completions; gateways put it after streams of the other APIs too."""
        return ""

    def _append_text(self, text: str) -> str:
        """Note text of the answer, and return what of it can be delivered."""
        if self._joiner is not None:
            text = self._joiner.feed(text)
        if text:
            self._pieces.append(text)
        return text

    def _finish_text(self) -> str:
        """The text is over: a half character that still waits for its other half is delivered as U+FFFD."""
        rest = self._joiner.flush() if self._joiner is not None else ""
        if rest:
            self._pieces.append(rest)
        return rest

    @property
    def _lossy(self) -> bool:
        return any(part is not None and part.lossy for part in (self.decoder, self._joiner))

    def _from_odd_data(self, event: ServerSentEvent, refusal: ValueError) -> Any:
        """Read an event that the fast parser refuses; the result is None where it holds nothing.

        Raises:
            StreamProtocolError: malformed JSON.
            LLMError: the event is called `error`.
        """
        if _is_done(event.data):
            return "[DONE]"
        value = self._from_unusual_json(event.data, refusal) if event.data.strip() else None
        if value is _MALFORMED:
            if event.event == "error":
                self._error({"message": event.data.decode(errors="replace")})
            self._reject(f"malformed JSON ({refusal}): {_shown(event.data)}")
        return value

    def _from_unusual_json(self, data: bytes, refusal: ValueError) -> Any:
        """Read what the fast parser refuses and JSON allows: lone surrogates. Deep nesting stays out."""
        try:
            if "recursion" in str(refusal):
                return _MALFORMED
            value = json.loads(data)
        except (ValueError, RecursionError):
            return _MALFORMED
        if self._joiner is None:
            self._joiner = SurrogateJoiner()
        return value

    def _take_no_object(self, event: ServerSentEvent, value: Any) -> str:
        """Take an event that is JSON, but no object: an error by its name, `[DONE]` in quotes, or a sign of life."""
        if event.event == "error":
            self._error({"message": value})
        if _is_done(event.data):
            self._doubt("[DONE]", event.data)
            return self._on_done()
        if value and isinstance(value, str | list):  # these may hold text of the answer
            self._reject(f"{_shown(event.data)} is not a JSON object")
        self._doubt("data", value)
        self.idle_events += 1
        return ""

    def _doubt(self, field: str, value: Any) -> None:
        """Note a field that is not what the API says, and whose value costs nothing of the answer.

        Of each field the first such value is kept, so that a long stream of them stays a short note.
        """
        if field not in self._doubts:
            shown = repr(value)
            shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
            self._doubts[field] = f"event {self.events}: {field} is {shown}"

    @property
    def doubts(self) -> tuple[str, ...]:
        """Fields that were not as the API says, and were read or left out."""
        return tuple(self._doubts.values())

    def _error(self, payload: dict[str, Any], *, withheld: str = "") -> NoReturn:
        """Raise the failure that the provider reports; `withheld` is text that came in the same event."""
        self.withheld = withheld
        raise error_from_payload(payload, provider=self.provider, status=200)

    def _reject(self, what: str) -> NoReturn:
        raise StreamProtocolError(f"{self.provider}: event {self.events}: {what}", provider=self.provider)

    def _index(self, data: dict[str, Any], key: str) -> int | None:
        """Return an index, None where there is none that can be; anything but a plain int is doubted."""
        value = data.get(key)
        if type(value) is int and value >= 0:
            return value
        self._doubt(key, value)
        return _count(value)

    def _counts(self, usage: Any, *keys: str) -> dict[str, Any] | None:
        """Return a usage object without the counts that cannot be numbers of tokens; None where it is no object."""
        if not isinstance(usage, dict):
            self._doubt("usage", usage)
            return None
        counts: dict[str, Any] = usage
        for key in keys:
            value = counts.get(key)
            count = _count(value)
            if value is not None and (count is None or type(value) is str):  # 12.0 is a number of tokens
                self._doubt(key, value)
                counts = {**counts, key: count}
        return counts

    @staticmethod
    def _count(usage: Any, *path: str) -> int | None:
        """A number of tokens, or None where there is none."""
        for key in path:
            usage = usage.get(key) if isinstance(usage, dict) else None
        return _count(usage)

    def _label(self, data: dict[str, Any], key: str) -> str:
        """Return an id or a name beside the text, "" where there is none; a number becomes a text."""
        value = data.get(key)
        if value is None or type(value) is str:
            return value or ""
        self._doubt(key, value)
        return str(value) if type(value) in (int, float) else ""

    def _aside(self, data: dict[str, Any], key: str) -> str:
        """Return text that stands beside the answer; what is no string is doubted, and left out."""
        value = data.get(key)
        if value is None or type(value) is str:
            return value or ""
        self._doubt(key, value)
        return ""

    def _object(self, data: dict[str, Any], key: str) -> dict[str, Any]:
        """Return an object; null, which holds nothing, is doubted and counts as an empty one."""
        value = data.get(key)
        if type(value) is dict:
            return value
        if value is not None or key not in data:
            self._reject(f"{key} is {value!r}")
        self._doubt(key, value)
        return {}

    def _json_arguments(self, value: Any, key: str = "arguments") -> str:
        """Return a tool's arguments as JSON text, also where they came as a value."""
        if value is None or type(value) is str:
            return value or ""
        self._doubt(key, value)
        return json_text(value)

    def _text(self, data: dict[str, Any], key: str) -> str:
        """A string that may be absent or null."""
        value = data.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            self._reject(f"{key} is not a string but {type(value).__name__}")
        return value


def _is_cut(data: bytes) -> bool:
    """Whether JSON that cannot be parsed lacks nothing but its end."""
    try:
        from_json(data, allow_partial=True)
    except ValueError:
        return False
    return True


def _shown(data: bytes) -> str:
    """The beginning of something unexpected, for an error message."""
    text = data[:200].decode(errors="replace")
    return repr(text + ("..." if len(data) > 200 else ""))


def _count(value: Any) -> int | None:
    if type(value) is str and _is_integer(value):  # some write "12"
        value = int(value.partition(".")[0])
    if type(value) is float and value.is_integer():  # some write 12.0
        value = int(value)
    return value if type(value) is int and value >= 0 else None


def json_text(value: Any) -> str:
    """Return a JSON value as text."""
    return json.dumps(value, ensure_ascii=False)
