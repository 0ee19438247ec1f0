"""A step and a call become a response: events as timed chunks, or one document."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from miniagents_testing.script import Failure
from miniagents_testing.streams import HELD, TICKS_PER_SECOND, Chunk, ResponseStream
from miniagents_testing.wire.base import json_text
from miniagents_testing.wire.chat import ChatFormat
from miniagents_testing.wire.messages import MessagesFormat
from miniagents_testing.wire.responses import ResponsesFormat

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from miniagents_testing.call import API, Call
    from miniagents_testing.script import Step
    from miniagents_testing.wire.base import Event, WireFormat

__all__ = ["FORMATS", "rendered"]

FORMATS: dict[API, WireFormat] = {each.api: each for each in (ChatFormat(), ResponsesFormat(), MessagesFormat())}

_RESET = "raise ReadError: the script breaks the connection here"


def rendered(answer: Step | Failure, call: Call) -> ResponseStream:
    """The answer to the call, as the API that was called sends it: one event a chunk, or a document in one."""
    wire = FORMATS[call.api]
    if isinstance(answer, Failure):
        return _failed(wire, answer, call)
    return _streamed(wire, answer, call) if call.stream else _whole(wire, answer, call)


def _streamed(wire: WireFormat, step: Step, call: Call) -> ResponseStream:
    events = list(wire.events(step, call))
    chunks = list(_timed(wire, step, events, call))
    headers = _headers(wire, call, "text/event-stream; charset=utf-8")
    place = _place(step, events)
    match step.then:
        case Failure() as failure:
            last_words = wire.failure_events(failure, call, place)
            chunks[place:] = [Chunk.after(failure.first_wait, wire.frame(data)) for data in islice(last_words, 1)]
            chunks += [Chunk(0, wire.frame(data)) for data in last_words]
        case "truncate":
            del chunks[place:]
        case "reset":
            return ResponseStream(tuple(chunks[:place]), headers=headers, end=_RESET, complete=False)
        case "stall":
            return ResponseStream(tuple(chunks[:place]), headers=headers, end="open", complete=False)
        case "hold":
            chunks[place] = chunks[place]._replace(wait=HELD)
        case float() | int() as seconds:
            chunks[place] = chunks[place]._replace(wait=chunks[place].wait + round(seconds * TICKS_PER_SECOND))
    return ResponseStream(tuple(chunks), headers=headers)


def _timed(wire: WireFormat, step: Step, events: Sequence[Event], call: Call) -> Iterator[Chunk]:
    """All events; those that bring no token come with their neighbours, so that tokens come when the step says."""
    waits = step.waits(call.number)
    first_wait, first_token = next(waits), True
    for number, event in enumerate(events):
        wait = first_wait if number == 0 else 0.0
        if event.place == "token":
            wait += 0.0 if first_token else next(waits)
            first_token = False
        yield Chunk.after(wait, wire.frame(event.data))
    if end := wire.end():
        yield Chunk(0, end)


def _place(step: Step, events: Sequence[Event]) -> int:
    """Index of the first event behind the tokens after which `then` happens."""
    tokens = sum(event.place == "token" for event in events)  # an API may have no place for some of the step's
    after = tokens if step.after is None else min(step.after, tokens)
    sent = 0
    for index, event in enumerate(events):
        if sent == after and (sent or event.place != "open"):
            return index
        sent += event.place == "token"
    raise AssertionError("every answer has events behind its last token")


def _whole(wire: WireFormat, step: Step, call: Call) -> ResponseStream:
    """A document comes when all of it was generated; what happens in a stream after some tokens happens halfway."""
    if isinstance(step.then, Failure):
        return _failed(wire, step.then, call)
    body = json_text(wire.document(step, call))
    wait = sum(islice(step.waits(call.number), max(1, step.deltas.tokens)))
    chunks: list[Chunk] = [Chunk(0, body)]
    options: dict[str, Any] = {"headers": _headers(wire, call, "application/json")}
    half = [Chunk(0, body[: len(body) // 2])]
    match step.then:
        case "truncate":
            chunks = half
        case "reset":
            chunks = half
            options |= {"end": _RESET, "complete": False}
        case "stall":
            chunks = half
            options |= {"end": "open", "complete": False}
        case "hold":
            chunks = [Chunk(HELD, body)]
        case float() | int() as seconds:
            wait += seconds
    return ResponseStream(tuple(chunks), headers_ms=wait * 1000, **options)


def _failed(wire: WireFormat, failure: Failure, call: Call) -> ResponseStream:
    headers = _headers(wire, call, "application/json") | {name: [text] for name, text in failure.headers.items()}
    body = json_text(wire.failure(failure, call))
    return ResponseStream(
        (Chunk(0, body),), status=failure.status, reason="", headers=headers, headers_ms=failure.first_wait * 1000
    )


def _headers(wire: WireFormat, call: Call, content_type: str) -> dict[str, list[str]]:
    return {"content-type": [content_type], wire.request_id: [f"req_scripted_{call.number}"]}
