"""What the state machines of the provider APIs have in common."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from pydantic_core import from_json

from miniagents.errors import EmptyStreamError, StreamProtocolError, StreamTruncatedError
from miniagents.ext.llm.sessions.error_objects import error_from_payload
from miniagents.ext.llm.sessions.surrogates import SurrogateJoiner

if TYPE_CHECKING:
    from miniagents.ext.llm.sessions.outcome import Outcome
    from miniagents.ext.llm.sse import ServerSentEvent, SSEDecoder

__all__ = ["Session"]


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
        self.decoder: SSEDecoder | None = None
        """Where the events come from: it knows whether bytes that are no UTF-8 were replaced by U+FFFD."""
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
            data = self._from_unusual_json(event.data, error)
        if type(data) is not dict:
            self._reject(f"{_shown(event.data)} is not a JSON object")
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
        if not isinstance(data, dict):
            self._reject(f"the response body is not a JSON object: {_shown(body)}")
        self._take_whole(data)
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

    def _say(self, text: str) -> str:
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

    def _from_unusual_json(self, data: bytes, refusal: ValueError) -> Any:
        """What the fast parser refuses and JSON allows: surrogate halves that stand alone. Deep nesting stays out."""
        try:
            if "recursion" in str(refusal):
                raise refusal
            value = json.loads(data)
        except (ValueError, RecursionError):
            self._reject(f"malformed JSON ({refusal}): {_shown(data)}")
        if self._joiner is None:
            self._joiner = SurrogateJoiner()
        return value

    def _error(self, payload: dict[str, Any]) -> NoReturn:
        raise error_from_payload(payload, provider=self.provider, status=200)

    def _reject(self, what: str) -> NoReturn:
        raise StreamProtocolError(f"{self.provider}: event {self.events}: {what}", provider=self.provider)

    def _index(self, data: dict[str, Any], key: str) -> int:
        """An index that must be there."""
        value = data.get(key)
        if type(value) is not int or value < 0:  # bool and float too are not what an index may be
            self._reject(f"{key} is {value!r}")
        return value

    def _check_counts(self, usage: Any, *keys: str) -> dict[str, Any]:
        """A usage object whose numbers are numbers of tokens."""
        if type(usage) is not dict:
            self._reject(f"usage is {usage!r}")
        for key in keys:
            if usage.get(key) is not None and _count(usage[key]) is None:
                self._reject(f"{key} is {usage[key]!r}, not a number of tokens")
        return usage

    @staticmethod
    def _count(usage: Any, *path: str) -> int | None:
        """A number of tokens, or None where there is none."""
        for key in path:
            usage = usage.get(key) if isinstance(usage, dict) else None
        return _count(usage)

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
    if type(value) is float and value.is_integer():  # some write 12.0
        return int(value)
    return value if type(value) is int and value >= 0 else None
