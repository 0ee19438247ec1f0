"""What the wire formats of all APIs have in common: a step and a call become events, or one document."""

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
"""Unix time in all answers: recordings of the same script are the same."""

Body = dict[str, Any]


class Event(NamedTuple):
    """An event, and what it is for: a token, or one of those that come before or after tokens."""

    data: Body
    place: Literal["open", "token", "close"]


def opens(data: Body) -> Event:
    """An event that has to come before a token."""
    return Event(data, "open")


def token(data: Body) -> Event:
    """An event that brings a token."""
    return Event(data, "token")


def closes(data: Body) -> Event:
    """An event that says that something has ended."""
    return Event(data, "close")


class WireFormat(ABC):
    """One API, as its provider speaks it."""

    api: ClassVar[API]
    path: ClassVar[str]
    """How the path of its requests ends."""
    request_id: ClassVar[str]
    """The header that has the provider's id of the request."""

    @abstractmethod
    def events(self, step: Step, call: Call) -> Iterator[Event]:
        """The whole answer as a stream."""

    @abstractmethod
    def document(self, step: Step, call: Call) -> Body:
        """The whole answer at once."""

    @abstractmethod
    def failure(self, failure: Failure, call: Call) -> Body:
        """The body of an error response."""

    def failure_events(self, failure: Failure, call: Call, sent: int) -> Iterator[Body]:
        """The events that report an error after `sent` others."""
        yield self.failure(failure, call)

    def frame(self, data: Body) -> bytes:
        """An event as bytes."""
        return f"event: {data['type']}\ndata: ".encode() + json_text(data) + b"\n\n"

    def end(self) -> bytes:
        """What comes after the last event of a whole answer."""
        return b""


def usage_of(step: Step, call: Call) -> Usage:
    """What is billed: what the script says, and for the rest a count of words and tokens."""
    said = step.usage or Usage()
    input_tokens = said.input_tokens
    if input_tokens is None:
        input_tokens = len(re.findall(r"\w+", "\n".join([call.system or "", *map(str, call.messages)])))
    output_tokens = step.deltas.tokens if said.output_tokens is None else said.output_tokens
    reasoning = len(step.deltas.reasoning) if said.reasoning_tokens is None else said.reasoning_tokens
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=said.cached_tokens or 0,
        reasoning_tokens=reasoning,
        total_tokens=input_tokens + output_tokens if said.total_tokens is None else said.total_tokens,
    )


def json_text(value: Any) -> bytes:
    """JSON as providers write it: raw UTF-8, escapes only where there is no other way."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=dict)
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(value, separators=(",", ":"), default=dict).encode()
