"""Base class of the wire formats, which turn a step and a call into events or one document, and shared helpers."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from miniagents.messages import Usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miniagents_testing._script import API, Call, Failure, Step


CREATED = 1_760_000_000
"""Unix time in all answers; it is fixed, so that recordings of the same script are equal."""

Body = dict[str, Any]


class Event(NamedTuple):
    """An event and its place in the answer: it brings a token, comes before a token (`open`) or after one (`close`)."""

    data: Body
    place: Literal["open", "token", "close"]


def opening_event(data: Body) -> Event:
    """Return an event that comes before a token."""
    return Event(data, "open")


def token_event(data: Body) -> Event:
    """Return an event that brings a token."""
    return Event(data, "token")


def closing_event(data: Body) -> Event:
    """Return an event that reports the end of a part or of the answer."""
    return Event(data, "close")


class WireFormat(ABC):
    """Wire format of one API."""

    api: ClassVar[API]
    path: ClassVar[str]
    """End of the path of its requests."""
    request_id: ClassVar[str]
    """Name of the header with the provider's id of the request."""

    @abstractmethod
    def events(self, step: Step, call: Call) -> Iterator[Event]:
        """Yield the events of the complete answer."""

    @abstractmethod
    def document(self, step: Step, call: Call) -> Body:
        """Return the complete answer as one document."""

    @abstractmethod
    def failure(self, failure: Failure, call: Call) -> Body:
        """Return the body of an error response."""

    def failure_events(self, failure: Failure, call: Call, sent: int) -> Iterator[Body]:
        """Yield the events that report an error within a stream, after `sent` other events."""
        yield self.failure(failure, call)

    def frame(self, data: Body) -> bytes:
        """Return an event as bytes."""
        return f"event: {data['type']}\ndata: ".encode() + json_text(data) + b"\n\n"

    def end(self) -> bytes:
        """Return the bytes after the last event of a complete answer."""
        return b""


def usage_of(step: Step, call: Call) -> Usage:
    """Return the numbers of tokens of an answer: those in the script, or else counts of words and deltas.

    Cached tokens are 0 by default, and the total is input plus output.
    """
    given = step.usage or Usage()
    input_tokens = given.input_tokens
    if input_tokens is None:
        texts = [str(message) for message in call.messages if message.content is not None]
        input_tokens = len(re.findall(r"\w+", "\n".join([call.system or "", *texts])))
    output_tokens = step.deltas.tokens if given.output_tokens is None else given.output_tokens
    reasoning = given.reasoning_tokens
    if reasoning is None:
        reasoning = min(len(step.deltas.reasoning), output_tokens)  # a part of the output
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=given.cached_tokens or 0,
        cache_write_tokens=given.cache_write_tokens or 0,
        reasoning_tokens=reasoning,
        total_tokens=input_tokens + output_tokens if given.total_tokens is None else given.total_tokens,
    )


def cache_details(usage: Usage) -> Body:
    """Return the counts of tokens in a cache, as both APIs of OpenAI have them."""
    written = {"cache_write_tokens": usage.cache_write_tokens} if usage.cache_write_tokens else {}
    return {"cached_tokens": usage.cached_tokens, **written}


def json_text(value: Any) -> bytes:
    """Return compact JSON as raw UTF-8.

    If a text has a lone surrogate, all characters outside of ASCII are escaped.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=dict)
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return json.dumps(value, separators=(",", ":"), default=dict).encode()
