"""Wire formats of the providers: `render` turns a step of a script into the bytes of a response.

The response is made of timed chunks, or of one document. `formats` has the format of each API, `dialects` the variants
that other servers send. Independent of transports.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from miniagents_testing._script import Failure
from miniagents_testing._streams import HELD, TICKS_PER_SECOND, Chunk, ResponseStream
from miniagents_testing._wire.formats import ChatFormat, MessagesFormat, ResponsesFormat, json_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from miniagents_testing._script import API, Call, Step, Then
    from miniagents_testing._wire.formats import Event, WireFormat


__all__ = ["FORMATS", "render"]


FORMATS: dict[API, WireFormat] = {each.api: each for each in (ChatFormat(), ResponsesFormat(), MessagesFormat())}

_RESET = "raise ReadError: the script breaks the connection here"


def render(answer: Step | Failure, call: Call) -> ResponseStream:
    """Return the response to a call in the format of its API: one event in each chunk, or a document in one chunk."""
    wire = FORMATS[call.api]
    if isinstance(answer, Failure):
        return _error_response(wire, answer, call)
    return _streamed_response(wire, answer, call) if call.stream else _document_response(wire, answer, call)


def _streamed_response(wire: WireFormat, step: Step, call: Call) -> ResponseStream:
    """Return the answer of a step as a stream of events, with its waits, which ends or pauses as `then` says."""
    events = list(wire.events(step, call))
    chunks = list(_timed_chunks(wire, step, events, call))
    index = _index_of_then(step, events)
    if isinstance(step.then, Failure):
        error_events = [wire.frame(data) for data in wire.failure_events(step.then, call, index)]
        waits = [step.then.first_wait] + [0.0] * len(error_events)
        chunks[index:] = map(Chunk.after, waits, error_events)
    stream = ResponseStream(tuple(chunks), headers=_headers(wire, call, "text/event-stream; charset=utf-8"))
    return _with_then(stream, step.then, index)


def _with_then(stream: ResponseStream, then: Then | Failure | None, index: int) -> ResponseStream:
    """Return the stream with the step's event `then` (cut, reset, stall, hold or pause) before the chunk at `index`.

    None and a `Failure` change nothing.
    """
    before, chunk, after = stream.chunks[:index], stream.chunks[index], stream.chunks[index + 1 :]
    match then:
        case "truncate":
            return replace(stream, chunks=before)
        case "reset":
            return replace(stream, chunks=before, end=_RESET, complete=False)
        case "stall":
            return replace(stream, chunks=before, end="open", complete=False)
        case "hold":
            return replace(stream, chunks=(*before, Chunk(HELD, chunk.data), *after))
        case float() | int() as seconds:
            later = Chunk(chunk.wait + round(seconds * TICKS_PER_SECOND), chunk.data)
            return replace(stream, chunks=(*before, later, *after))
    return stream


def _timed_chunks(wire: WireFormat, step: Step, events: Sequence[Event], call: Call) -> Iterator[Chunk]:
    """Yield all events with the waits of the step: the first one before the first event, others before later tokens."""
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


def _index_of_then(step: Step, events: Sequence[Event]) -> int:
    """Return the index in `events` at which the step's `then` happens: after so many tokens as `after` says, or all."""
    tokens = sum(event.place == "token" for event in events)  # an API may not send all tokens of the step
    after = tokens if step.after is None else min(step.after, tokens)
    sent = 0
    for index, event in enumerate(events):
        if sent == after and (sent or event.place != "open"):
            return index
        sent += event.place == "token"
    raise AssertionError("every answer has events after its last token")


def _document_response(wire: WireFormat, step: Step, call: Call) -> ResponseStream:
    """Return the answer as one JSON document, whose headers come after the waits of all tokens.

    The event `step.then` (cut, reset, stall, hold or pause) comes after the first half of the body. If it is a
    `Failure`, return the response of this error instead.
    """
    if isinstance(step.then, Failure):
        return _error_response(wire, step.then, call)
    body = json_text(wire.document(step, call))
    half = len(body) // 2
    pieces = (body,) if step.then is None else (body[:half], body[half:])
    wait = sum(islice(step.waits(call.number), max(1, step.deltas.tokens)))
    headers = _headers(wire, call, "application/json")
    stream = ResponseStream(tuple(Chunk(0, piece) for piece in pieces), headers=headers, headers_ms=wait * 1000)
    return _with_then(stream, step.then, len(pieces) - 1)


def _error_response(wire: WireFormat, failure: Failure, call: Call) -> ResponseStream:
    """Return an error response with the status and headers of the failure."""
    headers = _headers(wire, call, "application/json") | {name: [text] for name, text in failure.headers.items()}
    body = json_text(wire.failure(failure, call))
    return ResponseStream(
        (Chunk(0, body),), status=failure.status, reason="", headers=headers, headers_ms=failure.first_wait * 1000
    )


def _headers(wire: WireFormat, call: Call, content_type: str) -> dict[str, list[str]]:
    """Return the headers of a response: its content type, and a made-up id of the request."""
    return {"content-type": [content_type], wire.request_id: [f"req_scripted_{call.number}"]}
