"""The fault matrix: faults of an answer x APIs of the providers x consumers of the answer.

A row is a fault with its expected outcome, for all APIs or for single ones. A cell is one row with one API and one
consumer, which is a way to use the answer. Each cell sends one prompt through a real SDK, in virtual time, and `check`
compares what the consumer got with the outcome. Above all, a message that is not marked as interrupted or lossy must
have the text of the script.
"""

from __future__ import annotations

import inspect
import json
import re
import traceback
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import httpx2
import pytest

from miniagents.errors import (
    AuthenticationFailedError,
    ConnectionFailedError,
    EmptyStreamError,
    LLMError,
    PromiseCancelledError,
    ProviderError,
    ProviderOverloadedError,
    RateLimitedError,
    RequestRejectedError,
    StreamBrokenError,
    StreamDecodeError,
    StreamProtocolError,
    StreamStalledError,
    StreamTruncatedError,
)
from miniagents_testing import Failure, faults, recut
from miniagents_testing._script import Then
from miniagents_testing._streams import Chunk, ResponseStream
from miniagents_testing.faults import Fault, every_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from miniagents_testing._script import API
    from tests.faults.conftest import Answer, Kit, Seen, Wire

    Overlay = Callable[[ResponseStream], ResponseStream]

CONSUMERS = ("await", "stream", "break", "cancel", "two readers", "never read", "drop")
APIS: tuple[API, ...] = ("chat", "responses", "messages")

# --- outcomes of an answer


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Expected outcome of an answer with a fault: message or error, number of requests, and times."""

    tokens: tuple[int | str, ...] = (1, 2, 3, 4)
    """Expected tokens; a number is a token of the script, and 0 all of its tokens as one."""
    error: type[Exception] | None = None
    """Class of the error after the tokens; None if the message is complete."""
    says: str = ""
    """Pattern that must be found in the error."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Expected fields of the message."""
    requests: int = 1
    """Number of requests."""
    wait: tuple[float, float] = (0, 0)
    """Seconds until the last request, minimum and maximum."""
    first: float = 0
    """Seconds from the last request to the first token."""
    last: float | None = 3
    """Seconds from the last request to the end; None if the end comes before the next token would."""

    @property
    def at_once(self) -> bool:
        """True if the answer ends before a consumer has time to cancel it."""
        return self.requests == 1 and not self.tokens and not self.last


def complete(*tokens: int | str, first: float = 0, last: float = 3, **fields: Any) -> Outcome:
    """Return the outcome of a complete message with these fields; by default it has the script's tokens."""
    return Outcome(tokens=tokens or (1, 2, 3, 4), first=first, last=last, fields=fields)


def fails(
    error: type[Exception], after: int = 0, *, says: str = "", first: float = 0, last: float | None = None
) -> Outcome:
    """Return the outcome of an answer that fails with this error, whose `partial` has the first `after` tokens."""
    return Outcome(tokens=tuple(range(1, after + 1)), error=error, says=says, first=first, last=last)


truncated = partial(fails, StreamTruncatedError)
broken = partial(fails, StreamBrokenError)
stalled = partial(fails, StreamStalledError)
undecodable = partial(fails, StreamDecodeError)
refused = partial(fails, StreamProtocolError)
failed = partial(fails, ProviderError)
overloaded = partial(fails, ProviderOverloadedError)
limited = partial(fails, RateLimitedError)
rejected = partial(fails, RequestRejectedError)
denied = partial(fails, AuthenticationFailedError)


def later(outcome: Outcome, at_least: float = 0.375, at_most: float | None = None, *, requests: int = 2) -> Outcome:
    """Return an outcome whose last request comes after so many seconds, by default those of the agent's first wait."""
    if at_most is None:
        at_most = 0.5 if at_least == 0.375 else at_least
    return replace(outcome, requests=requests, wait=(at_least, at_most))


def retried(*wait: float, requests: int = 2) -> Outcome:
    """Return the outcome of a failed request and a retry with a complete answer, after the given wait."""
    return later(complete(), *wait, requests=requests)


def gives_up(outcome: Outcome, at_least: float = 1.125, at_most: float = 1.5) -> Outcome:
    """Return an outcome that an agent gets after three requests, the most it sends, and the waits between them."""
    return later(outcome, at_least, at_most, requests=3)


# --- the form of the table


@dataclass(frozen=True)
class Row:
    """A fault of an answer, and the expected outcome."""

    ids: str
    """Ids of rows in docs/maintainers/faults.md."""
    what: str
    """Description of the fault."""
    make: Callable[[Answer], Any]
    """Function that makes the fault; see `made` of `Cell`."""
    outcome: Outcome
    others: dict[str, Outcome | None]
    """Other outcomes by API; None if an API has no such fault."""
    settings: dict[str, Any]
    """Settings of the agent."""


def row(ids: str, what: str, make: Callable[[Answer], Any], outcome: Outcome, **others: Any) -> Row:
    """Return a row.

    Args:
        ids: ids of rows in docs/maintainers/faults.md.
        what: description of the fault.
        make: function that makes the fault.
        outcome: expected outcome.
        others: other outcomes by the name of an API, and `stream=` of the agent.
    """
    settings = {name: others.pop(name) for name in ("stream",) if name in others}
    return Row(ids, what, make, outcome, others, settings)


CHAT: dict[str, None] = {"responses": None, "messages": None}
RESPONSES: dict[str, None] = {"chat": None, "messages": None}
MESSAGES: dict[str, None] = {"chat": None, "responses": None}
"""Arguments of `row` for a fault of one API only."""


def cells(rows: list[Row]) -> pytest.MarkDecorator:
    """Parametrize a test with each row, API and consumer."""
    return pytest.mark.parametrize(
        ("row", "api", "consumer"),
        [
            pytest.param(row, api, consumer, id=f"{row.ids} {row.what}-{api}-{consumer}")
            for row in rows
            for api in APIS
            if row.others.get(api, row.outcome) is not None
            for consumer in CONSUMERS
        ],
    )


# --- faults without a function in the testing kit


def before(extra: bytes, *, at: int) -> Fault:
    """Return a fault that inserts these bytes before event `at`."""
    return faults.edit(lambda event: extra + event, at=at)


def instead(text: bytes, *, at: int) -> Fault:
    """Return a fault that replaces event `at` by these bytes."""
    return faults.edit(lambda event: text, at=at)


def always(fault: Fault) -> Fault:
    """Return a fault that applies to the answer of each request, not only of the first one."""
    return fault.on(every_request)


def everywhere(old: bytes, new: bytes) -> Overlay:
    """Return a fault that replaces bytes in each chunk."""
    return lambda stream: replace(
        stream, chunks=tuple(Chunk(wait, data.replace(old, new)) for wait, data in stream.chunks)
    )


def keep_alive(data: bytes, *, seconds: int, after: int) -> Overlay:
    """Return a fault that inserts these bytes after event `after`, once a second for so many seconds."""

    def change(stream: ResponseStream) -> ResponseStream:
        extra = (Chunk.after(1, data),) * seconds
        return replace(stream, chunks=(*stream.chunks[:after], *extra, *stream.chunks[after:]))

    return change


def close_connection(*, after: int) -> Overlay:
    """Return a fault that closes the connection in the middle of the body, after so many chunks."""
    end = "raise RemoteProtocolError: peer closed connection without sending complete message body"
    return lambda stream: replace(stream, chunks=stream.chunks[:after], end=end, complete=False)


def encoding(name: str) -> Overlay:
    """Return a fault that sets a `content-encoding` header, though the body is not encoded in that way."""
    return lambda stream: replace(stream, headers={**stream.headers, "content-encoding": [name]})


def twice(stream: ResponseStream) -> ResponseStream:
    """Return a stream with the whole answer twice in one body."""
    return replace(stream, chunks=stream.chunks * 2)


def document(value: Any) -> Fault:
    """Return a response with a JSON document and status 200, instead of a stream."""
    headers = {"content-type": ["application/json"]}
    return faults.respond(ResponseStream((Chunk(0, json.dumps(value).encode()),), headers=headers))


COMMENT = b": still there\n\n"
UNKNOWN = b'event: mystery\ndata: {"type": "mystery", "object": "mystery"}\n\n'
NO_EVENTS = b"retry: 5\n\nid: 7\n\nevent: x\n\n\n"
AZURE = b'data: {"id":"","object":"","model":"","choices":[],"prompt_filter_results":[{"prompt_index":0}]}\n\n'
BARE_ERROR = b'event: error\ndata: {"type": "error", "code": "server_error", "message": "Oh"}\n\n'
FAILED = b"""event: response.failed
data: {"type": "response.failed", "response": {"error": {"code": "server_error", "message": "Oh"}}}

"""
ERROR_DOCUMENT = {"error": {"type": "server_error", "message": "Oh"}}
SMILEY = "😀".encode()
LOSSY = (1, " \ufffd\u2028\x85", 3, 4)
"""The tokens without the smiley."""
UNKNOWABLE = ("S18", "S19")
"""Events that come twice, never or in another order: a decoder notices it only in Responses, which number them."""

# --- the table

ENDS = [
    # a stream that ends before its final event is no message
    row("S1", "cut before the first event", lambda a: faults.cut(after=0), retried()),
    row("S1", "cut before the first token", lambda a: faults.cut(after=a.head), retried()),
    row("S1", "cut after two tokens", lambda a: faults.cut(after=a.token(2)), truncated(2)),
    row("S1", "cut after all tokens", lambda a: faults.cut(after=a.token(4)), truncated(4)),
    row("S1", "cut before the final event", lambda a: faults.cut(after=a.final - 1), truncated(4)),
    row("S1", "truncated by the script", lambda a: [a.step(after=2, then="truncate")], truncated(2)),
    row("S1", "cut every time", lambda a: always(faults.cut(after=a.head)), gives_up(truncated())),
    row(
        "S1",
        "one piece, cut",
        lambda a: [a.step(then="truncate")],
        later(complete(0, first=3), 3.375, 3.5),
        stream=False,
    ),
    row("S2", "cut after the final event", lambda a: faults.cut(after=a.final), complete()),
    row("S2", "no last event", lambda a: faults.drop_last_event(), complete(first=1), responses=truncated(4, first=1)),
    row("S4", "empty", lambda a: faults.empty(), retried()),
    row("S4", "empty every time", lambda a: always(faults.empty()), gives_up(fails(EmptyStreamError))),
    row("S4", "one piece, empty", lambda a: faults.empty(), later(complete(0, first=3)), stream=False),
    # an end within an event, and within a character
    row("S5", "cut in the first event", lambda a: faults.cut(after=20, of="bytes"), retried()),
    row(
        "S5", "cut in a token", lambda a: faults.cut(after=a.offset("aus"), of="bytes"), truncated(2, says=r"\d+ bytes")
    ),
    row("S6", "cut in the end", lambda a: faults.cut(after=a.size - 1, of="bytes"), complete(), responses=truncated(4)),
    row("S10", "cut in a character", lambda a: faults.cut(after=a.offset("😀") + 2, of="bytes"), truncated(1)),
    # a connection that is lost
    row("S33", "reset before the first token", lambda a: faults.reset(after=a.head), retried()),
    row("S33", "reset after two tokens", lambda a: faults.reset(after=a.token(2)), broken(2)),
    row("S33", "reset in a token", lambda a: faults.reset(after=a.offset("aus"), of="bytes"), broken(2)),
    row("S33", "reset after all tokens", lambda a: faults.reset(after=a.token(4)), broken(4)),
    row("S33", "reset after the final event", lambda a: faults.reset(after=a.final), complete()),
    row("S33", "reset by the script", lambda a: [a.step(after=3, then="reset")], broken(3)),
    row("S33", "reset every time", lambda a: always(faults.reset(after=1)), gives_up(broken())),
    row("S33", "connection closed", lambda a: close_connection(after=a.token(2)), broken(2)),
    row(
        "S33",
        "one piece, reset",
        lambda a: [a.step(then="reset")],
        later(complete(0, first=3), 3.375, 3.5),
        stream=False,
    ),
    # a connection without further bytes, or without content in them
    row("S34", "stall before the first token", lambda a: faults.stall(after=a.head), retried(20.375, 20.5)),
    row("S34", "stall after two tokens", lambda a: faults.stall(after=a.token(2)), stalled(2, last=21)),
    row("S34", "stall in a token", lambda a: faults.stall(after=a.offset("aus"), of="bytes"), stalled(2, last=21)),
    row("S34", "stall that ends in time", lambda a: faults.stall(10, after=a.token(2)), complete(last=12)),
    row("S34", "stalled by the script", lambda a: [a.step(after=2, then="stall")], stalled(2, last=21)),
    row("S34", "stalled at once", lambda a: [a.step(after=0, then="stall")], retried(20.375, 20.5)),
    row("S34", "held by the script", lambda a: [a.step(after=2, then="hold")], stalled(2, last=21)),
    row("S34", "stall every time", lambda a: always(faults.stall()), gives_up(stalled(last=20), 41.125, 41.5)),
    row(
        "S34",
        "stall after the final event",
        lambda a: faults.stall(after=a.final),
        complete(last=23),
        responses=complete(last=4),
    ),
    row("S13", "comments for ever", lambda a: keep_alive(COMMENT, seconds=90, after=a.token(2)), stalled(2, last=21)),
    row("S13", "comments for a while", lambda a: keep_alive(COMMENT, seconds=15, after=a.token(2)), complete(last=18)),
    row("P17", "pings for ever", lambda a: keep_alive(a.ping, seconds=90, after=a.token(2)), stalled(2, last=21)),
    # bytes after the complete answer
    row("S20", "held open", lambda a: faults.stall(after=a.last), complete(last=4)),
    row("S20", "two answers in one", lambda a: twice, complete(last=4)),
]

BYTES = [
    # other cuts and line ends
    row("S7", "byte by byte", lambda a: recut.byte_by_byte, complete()),
    row("S7", "all at once", lambda a: recut.all_at_once, complete(first=3)),
    row("S8", "byte order mark", lambda a: before(b"\xef\xbb\xbf", at=1), complete()),
    row("S12", "other line ends", lambda a: everywhere(b"\n\n", b"\r\n\r"), complete()),
    row("S12", "mixed line ends", lambda a: everywhere(b"\n\n", b"\n\r\n"), complete()),
    row("S14 S15", "blocks without data", lambda a: before(NO_EVENTS, at=a.token(2)), complete()),
    # no UTF-8: Responses repeat the complete text, so that a difference shows
    row("S9", "no UTF-8", lambda a: everywhere(SMILEY, b"\xf0\x9f"), complete(*LOSSY, lossy=True)),
    row(
        "S9",
        "no UTF-8 once",
        lambda a: a.replace(a.token(2), SMILEY, b"\xff"),
        complete(*LOSSY, lossy=True),
        responses=replace(refused(), tokens=LOSSY),
    ),
    # compressed, although the request did not allow it
    row("S27", "compressed", lambda a: faults.gzipped(), complete()),
    row("S27", "compressed, no checksum", lambda a: faults.gzipped(missing=8), truncated(4, first=1)),
    row("S27", "compressed, a byte missing", lambda a: faults.gzipped(missing=1), truncated(4)),
    row(
        "S27", "compressed, cut", lambda a: (faults.gzipped(), faults.cut(after=a.token(2), of="chunks")), truncated(2)
    ),
    row("S27", "compressed, cut at first", lambda a: (faults.gzipped(), faults.cut(after=5, of="bytes")), retried()),
    row(
        "S27",
        "one piece, compressed, cut",
        lambda a: faults.gzipped(missing=9),
        later(complete(0, first=3), 3.375, 3.5),
        stream=False,
    ),
    row(
        "S28",
        "compression that breaks",
        lambda a: (faults.gzipped(), faults.edit(lambda data: b"\xff" * 9, at=a.token(3), of="chunks")),
        undecodable(2),
    ),
    row("S28", "no compression", lambda a: encoding("gzip"), gives_up(undecodable())),
    row("S28", "unknown compression", lambda a: encoding("br"), undecodable()),
    # responses that are no streams
    row("S30", "page", lambda a: faults.html_page(), refused(says="Please sign in")),
    row("S30", "one piece, page", lambda a: faults.html_page(), refused(says="Please sign in"), stream=False),
    row("S30", "called a page", lambda a: faults.content_type("text/html"), complete()),
    row("S30", "called JSON", lambda a: faults.content_type("application/json"), complete()),
    row("S30", "error document", lambda a: document(ERROR_DOCUMENT), retried()),
    row("S30", "another document", lambda a: document({"hello": "there"}), refused()),
]

EVENTS = [
    row("S11", "no fault", lambda a: [a.step()], complete(finish_reason="stop")),
    row("S11", "one piece, no fault", lambda a: [a.step()], complete(0, first=3, finish_reason="stop"), stream=False),
    # invalid events
    row("S16", "malformed at first", lambda a: faults.malformed(at=1), refused(says="malformed JSON")),
    row("S16", "malformed token", lambda a: faults.malformed(at=a.token(3)), refused(2, says="malformed JSON")),
    row("S16", "malformed at last", lambda a: faults.malformed(at=a.last), refused(4, says="malformed JSON")),
    row("S17", "text", lambda a: instead(b'data: "text"\n\n', at=a.token(3)), refused(2)),
    row("S17", "list", lambda a: instead(b"data: [5]\n\n", at=a.token(3)), refused(2)),
    row("S35", "null", lambda a: before(b"data: null\n\n", at=a.token(3)), complete()),
    row("S35", "[DONE] in quotes", lambda a: instead(b"data: ' [done] '\n\n", at=a.last), complete(), **CHAT),
    row("S21", "[DONE] and more", lambda a: instead(b"data: [DONE]xyz\n\n", at=a.last), refused(4)),
    row("S36", "impossible index", lambda a: a.replace(a.token(3), b'index":0', b'index":-1'), complete()),
    # unknown events
    row("S22", "unknown at first", lambda a: before(UNKNOWN, at=1), complete(finish_reason="stop")),
    row("S22", "unknown before a token", lambda a: before(UNKNOWN, at=a.token(3)), complete(finish_reason="stop")),
    row("S22", "unknown at last", lambda a: before(UNKNOWN, at=a.last), complete(finish_reason="stop")),
    row(
        "S23", "unknown delta", lambda a: before(a.unknown_delta, at=a.token(3)), complete(unknown_events=1), **MESSAGES
    ),
    # events twice, never, or in another order
    row("S18", "token twice", lambda a: faults.duplicate(at=a.token(2)), complete(1, 2, 2, 3, 4), responses=complete()),
    row("S18", "first event twice", lambda a: faults.duplicate(at=1), complete(), messages=refused()),
    row("S18", "final event twice", lambda a: faults.duplicate(at=a.final), complete()),
    row("S18", "last event twice", lambda a: faults.duplicate(at=a.last), complete()),
    row("S19", "token lost", lambda a: faults.drop(at=a.token(2)), complete(1, 3, 4), responses=refused(1, last=3)),
    row("S19", "first event lost", lambda a: faults.drop(at=1), complete(), messages=refused()),
    row("S19", "final event lost", lambda a: faults.drop(at=a.final), complete(), responses=truncated(4)),
    row(
        "S19",
        "tokens swapped",
        lambda a: faults.swap(at=a.token(2)),
        complete(1, 3, 2, 4),
        responses=refused(1, last=3),
    ),
    # variants of servers
    row("S3", "no finish reason", lambda a: a.without_reason, complete(finish_reason=None), responses=None),
    row("P4 P13", "limit", lambda a: [a.step(finish_reason="length")], complete(finish_reason="length")),
    row("P7", "no choices at first", lambda a: before(AZURE, at=1), complete(), **CHAT),
    row("P8", "no role", lambda a: a.replace(1, b'"role":"assistant",', b""), complete(role="assistant"), **CHAT),
    row("P9", "no delta", lambda a: a.replace(1, b'"delta":', b'"delta":null,"_":'), complete(), **CHAT),
]

WORDS = [
    # an error in the middle of a stream
    row("P1 P2", "overloaded", lambda a: faults.overloaded(at=a.token(3)), overloaded(2)),
    row("P1 P2", "rate limit", lambda a: faults.rate_limit(at=a.token(3)), limited(2)),
    row("P1 P2", "server error", lambda a: faults.error_event(at=a.token(3)), failed(2)),
    row("P1 P2", "rejected", lambda a: faults.error_event(at=a.token(4), kind="invalid_request_error"), rejected(3)),
    row("P1 P2", "error after all tokens", lambda a: faults.error_event(at=a.final), failed(4)),
    row("P1 P2", "error at last", lambda a: faults.error_event(at=a.last), failed(4)),
    row("P1 P2", "overloaded by the script", lambda a: [a.step(after=2, then=Failure(529))], overloaded(2)),
    row("P1 P2", "server error of the script", lambda a: [a.step(after=3, then=Failure(500))], failed(3)),
    row("P3", "event called error", lambda a: instead(BARE_ERROR, at=a.token(3)), failed(2, says="Oh")),
    row("P4", "failed response", lambda a: instead(FAILED, at=a.token(3)), failed(2, says="Oh"), **RESPONSES),
    # an error before the first token
    row("P5", "overloaded at first", lambda a: faults.overloaded(at=1), retried()),
    row("P5", "overloaded before a token", lambda a: faults.overloaded(at=a.head + 1), retried()),
    row("P5", "overloaded every time", lambda a: always(faults.overloaded(at=1)), gives_up(overloaded())),
    row("P5", "rejected at first", lambda a: faults.error_event(at=1, kind="invalid_request_error"), rejected()),
    # statuses
    row("P14", "status 408", lambda a: faults.error_status(408), retried()),
    row("P14", "status 409", lambda a: faults.error_status(409), retried()),
    row("P14", "status 500", lambda a: faults.error_status(500), retried()),
    row("P14", "status 502, page", lambda a: faults.html_page(status=502), retried()),
    row("P14", "status 503", lambda a: [Failure(503)], retried()),
    row("P14", "status 504", lambda a: [Failure(504)], retried()),
    row("P14", "status 529", lambda a: faults.overloaded(), retried()),
    row("P14", "status 400", lambda a: [Failure(400)], rejected(says="400")),
    row("P14", "status 403", lambda a: [Failure(403)], denied(says="403")),
    row("P14", "status 404", lambda a: [Failure(404)], rejected(says="404")),
    row("P14", "status 413", lambda a: [Failure(413)], rejected(says="413")),
    row("P14", "status 422", lambda a: [Failure(422)], rejected(says="422")),
    row(
        "P20", "status 401, echoed key", lambda a: faults.error_status(401, message=a.key), denied(says=r"\[redacted\]")
    ),
    # retries that the provider asks for or forbids
    row("P14", "status 429", lambda a: faults.rate_limit(), retried()),
    row("P14", "in 2 s", lambda a: faults.rate_limit(retry_after=2), retried(2)),
    row("P14", "in 0.25 s", lambda a: faults.rate_limit(retry_after=0.25), retried(0.25)),
    row("P14 P15", "in an hour", lambda a: faults.rate_limit(retry_after=3600), retried(60)),
    row("P14", "in nan s", lambda a: faults.error_status(503, retry_after="nan"), retried()),
    row("P14", "in 7 s, by the script", lambda a: [Failure(503, headers={"Retry-After": "7"})], retried(7)),
    row("P14", "in 2 s, every time", lambda a: always(faults.rate_limit(retry_after=2)), gives_up(limited(), 4, 4)),
    row("P14", "in 60 s, always", lambda a: always(faults.rate_limit(retry_after=60)), gives_up(limited(), 120, 120)),
    row("P14", "never", lambda a: faults.error_status(503, x_should_retry="false"), overloaded()),
    row("P14", "never, by its word", lambda a: faults.error_status(429, kind="insufficient_quota"), limited()),
    row("P14", "status 400, again", lambda a: faults.error_status(400, x_should_retry="true"), retried()),
    # several faults in a row
    row(
        "P14",
        "two",
        lambda a: (faults.overloaded(), faults.rate_limit(retry_after=5).on(2)),
        retried(5.375, 5.5, requests=3),
    ),
    row("P16", "two, one late", lambda a: (faults.refuse(), faults.cut(after=a.token(2)).on(2)), later(truncated(2))),
    # no response
    row("S33", "refused", lambda a: faults.refuse(), retried()),
    row("S33", "refused every time", lambda a: always(faults.refuse()), gives_up(fails(ConnectionFailedError))),
    row("S33", "no connection in time", lambda a: [httpx2.ConnectTimeout("")], retried()),
    row("S33", "connection closed at first", lambda a: [httpx2.RemoteProtocolError("Server disconnected")], retried()),
    row("S33", "bug in a transport", lambda a: [ZeroDivisionError("oh")], fails(ZeroDivisionError)),
]

# --- the cells


@cells(ENDS)
def test_S1_S2_S4_S5_S6_S10_S13_S20_S33_S34_P17_streams_that_end(
    row: Row, api: API, consumer: str, kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    """When a stream ends early, never or oddly, consumers get an error with the text so far, or a whole message."""
    check(row, api, consumer, kit, caplog)


@cells(BYTES)
def test_S7_S8_S9_S12_S14_S15_S27_S28_S30_same_events_in_other_bytes(
    row: Row, api: API, consumer: str, kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    """Other cuts, line ends and compression give consumers the right message; unreadable bytes give an error."""
    check(row, api, consumer, kit, caplog)


@cells(EVENTS)
def test_S3_S11_S16_S17_S18_S19_S21_S22_S23_S35_S36_P4_P7_P8_P9_P13_unknown_repeated_or_invalid_events(
    row: Row, api: API, consumer: str, kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    """Unknown, repeated or invalid events give consumers the right message, or an error where the API reveals them."""
    check(row, api, consumer, kit, caplog)


@cells(WORDS)
def test_P1_P2_P3_P4_P5_P14_P15_P16_P20_S33_failures_of_providers(
    row: Row, api: API, consumer: str, kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    """A provider's failure gives consumers a typed error, after retries if it comes before the first token."""
    check(row, api, consumer, kit, caplog)


def check(row: Row, api: API, consumer: str, kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    """Run a cell, and check its message or error, requests, times, text, secrets and logs against the row."""
    outcome = row.others.get(api) or row.outcome
    cell = kit.Cell(api, consumer, row.make(kit.answer_of(api)), **row.settings)
    seen = cell.run()
    tokens = tuple(text_of(token, kit) for token in outcome.tokens)
    if consumer == "drop":
        assert (seen.tokens, seen.message, seen.error) == (None, None, None)
        assert cell.wire.requests <= 1
    elif consumer == "break" and tokens:
        assert (seen.tokens, seen.message, seen.error) == (tokens[:1], None, None)
    elif consumer == "cancel" and not outcome.at_once:
        came = tokens[:1] if outcome.wait[0] + outcome.first < kit.EARLY else ()
        assert seen.tokens == came
        assert type(seen.error) is PromiseCancelledError
        assert seen.error.partial.content == "".join(came)
        assert cell.wire.requests == 1
    else:
        assert seen.tokens in (None, tokens)
        check_end(outcome, tokens, seen)
        check_times(outcome, cell.wire, seen.at)
    check_text(row, api, seen, kit)
    check_secrets_and_logs(seen, caplog, kit)


def text_of(token: int | str, kit: Kit) -> str:
    """Return the text of a token by its number in the script, of all tokens for 0, or a given text unchanged."""
    if isinstance(token, str):
        return token
    return kit.TOKENS[token - 1] if token else "".join(kit.TOKENS)


def check_end(outcome: Outcome, tokens: tuple[str, ...], seen: Seen) -> None:
    """Check that the consumer got the expected message, or the expected error with its partial message."""
    if outcome.error is None:
        assert seen.error is None
        assert seen.message.content == "".join(tokens)
        assert not seen.message.interrupted
        assert {name: getattr(seen.message, name, None) for name in outcome.fields} == outcome.fields
        return
    assert type(seen.error) is outcome.error
    assert re.search(outcome.says, str(seen.error))
    if isinstance(seen.error, LLMError):
        assert seen.error.partial.content == "".join(tokens)
        assert seen.error.partial.interrupted
        assert seen.error.delivered_any == bool(tokens)


def check_times(outcome: Outcome, wire: Wire, at: float) -> None:
    """Check the number of requests, the time of the last one, and the time from there to the end."""
    assert wire.requests == outcome.requests
    at_least, at_most = outcome.wait
    assert at_least <= wire.last_request_at <= at_most
    seconds = round(at - wire.last_request_at, 3)
    if outcome.last is None:
        assert max(len(outcome.tokens) - 1, 0) <= seconds <= len(outcome.tokens)
    else:
        assert seconds == outcome.last


def check_text(row: Row, api: API, seen: Seen, kit: Kit) -> None:
    """Check that a message has the script's text, or a beginning of it if it is marked as interrupted."""
    script = "".join(kit.TOKENS)
    message = seen.message or getattr(seen.error, "partial", None)
    if message is None or getattr(message, "lossy", False) or (row.ids in UNKNOWABLE and api != "responses"):
        return
    assert message.content == script or message.interrupted
    assert script.startswith(message.content)


def check_secrets_and_logs(seen: Seen, caplog: pytest.LogCaptureFixture, kit: Kit) -> None:
    """Check that no error shows the key, no log line has the prompt, and asyncio logs nothing."""
    error = "".join(traceback.format_exception(seen.error)) if seen.error else ""
    assert kit.KEY not in error + repr(seen.error) + caplog.text
    assert kit.PROMPT not in caplog.text
    assert {record.name for record in caplog.records} <= {"miniagents.llm", "httpx2"}


# --- the matrix itself

TESTS = [test for name, test in list(globals().items()) if re.match(r"test_[SP]\d", name)]


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.__name__.split("_")[-1])
def test_names_of_matrix_tests_have_the_ids_of_their_rows(test: Any) -> None:
    """Each test of the matrix has in its name the ids of all its rows in docs/maintainers/faults.md, and no others."""
    assert set(re.findall(r"[SP]\d+", test.__name__)) == {
        each for row, *_ in cells_of(test) for each in row.ids.split()
    }


def test_matrix_has_all_faults_and_at_least_900_cells() -> None:
    """The rows use each fault of the testing kit and each value of `Step.then`, and make at least 900 cells."""
    assert sum(len(cells_of(test)) for test in TESTS) >= 900
    source = Path(__file__).read_text("utf-8")
    functions = {name: kind for name in faults.__all__ if inspect.isfunction(kind := getattr(faults, name))}
    kinds = {name for name, kind in functions.items() if kind.__annotations__["return"] == "Fault"}
    assert {name for name in kinds if f"faults.{name}(" not in source} == set()
    assert {end for end in get_args(get_args(Then)[0]) if f'then="{end}"' not in source} == set()


def cells_of(test: Any) -> list[Any]:
    """Return row, API and consumer of each cell of a test."""
    (mark,) = test.pytestmark
    return [parameters.values for parameters in mark.args[1]]
