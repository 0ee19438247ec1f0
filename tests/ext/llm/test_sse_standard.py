"""The event stream decoder and the rules of the WHATWG standard, case by case and with random streams.

The cases have the names of the `eventsource/format-*` family of the web platform tests, with other streams.
"""

from __future__ import annotations

import random
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents.ext.llm.openai import create_openai_agent
from miniagents.ext.llm.sse import SSEDecoder
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.conftest import Effort
    from tests.ext.llm.conftest import Kit

Event = tuple[str, str, str]
"""Data, name and last id of an event."""


def decode(stream: bytes, cuts: Iterable[int] = ()) -> list[Event]:
    """Return the events of a stream that is split at these positions."""
    decoder = SSEDecoder()
    events: list[Event] = []
    start = 0
    for end in [*cuts, len(stream)]:
        events += [(event.data.decode(), event.event, event.id) for event in decoder.feed(stream[start:end])]
        start = end
    decoder.close()
    return events


def by_the_standard(stream: bytes) -> list[Event]:
    """Return the events of a stream by the standard's algorithm, step by step over the whole text."""
    text = stream.decode(errors="replace").removeprefix("\ufeff")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]
    events, buffer, kind, last_id = [], "", "", ""
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if buffer:
                events.append((buffer[:-1], kind or "message", last_id))
            buffer = kind = ""
        elif name == "data":
            buffer += value + "\n"
        elif name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            last_id = value
    return events


def plain_events(*texts: str, event: str = "message", id: str = "") -> list[Event]:  # noqa: A002 - as the field is called
    """Return events that differ in their data only."""
    return [(text, event, id) for text in texts]


LONG = "x" * 3000

VECTORS: dict[str, tuple[str, list[Event]]] = {
    "bom": ("\ufeffdata:1\n\n\ufeffdata:2\n\ndata:3\n\n", plain_events("1", "3")),
    "bom-2": ("\ufeff\ufeffdata:1\n\ndata:2\n\n", plain_events("2")),
    "comments": (
        f":\r:\0\n: a\r\n\ndata:1\r:{LONG}\ndata:2\n:data:no\r\ndata:3\n:{LONG}\rdata:4\n::\n\n",
        plain_events("1\n2\n3\n4"),
    ),
    "data-before-final-empty-line": ("retry:7\ndata:1\n\nid:2\nevent:e\ndata:2\n", plain_events("1")),
    "field-data": ("data:\n\ndata\ndata\n\ndata\n\ndata:x\n\n", plain_events("", "\n", "", "x")),
    "field-event": (
        "event:e\ndata:1\n\ndata:2\n\nevent:e\nevent:f\ndata:3\n\nevent:e\n\ndata:4\n\n",
        [*plain_events("1", event="e"), *plain_events("2"), *plain_events("3", event="f"), *plain_events("4")],
    ),
    "field-event-empty": (
        "event: \ndata:1\n\nevent\ndata:2\n\nevent:e\nevent:\ndata:3\n\n",
        plain_events("1", "2", "3"),
    ),
    "field-id": ("id:1\ndata:a\n\nid: 2\n\ndata:b\n\n", [*plain_events("a", id="1"), *plain_events("b", id="2")]),
    "field-id-2": ("id:é…\ndata:a\n\ndata:b\n\n\n\ndata:c\n\n", plain_events("a", "b", "c", id="é…")),
    "field-id-3": ("id:1\ndata:a\n\nid\ndata:b\n\n", [*plain_events("a", id="1"), *plain_events("b")]),
    "field-id-null": ("id:1\ndata:a\n\nid:\0\nid:2\0\nid:\0003\ndata:b\n\n", plain_events("a", "b", id="1")),
    "field-parsing": (
        "data:\0\rdata:  1\nDATA:no\ndata\0:no\r\n\0data:no\nda-ta:no\rdata_\n data:no\ndata :no\ndata:\ndata::2\n\n",
        plain_events("\0\n 1\n\n:2"),
    ),
    "field-retry": ("retry:0100\ndata:1\n\n", plain_events("1")),
    "field-retry-bogus": ("retry:100\nretry:1e3\nretry:-1\nretry: +2\nretry:٣\ndata:1\n\n", plain_events("1")),
    "field-retry-empty": ("retry:100\nretry\nretry:\ndata:1\n\n", plain_events("1")),
    "field-unknown": (
        "data:1\nfoo:bar\njust some text\n:yes\nevents:e\nids:1\nretries:1\ndata:2\n\n",
        plain_events("1\n2"),
    ),
    "leading-space": ("data:\t1\rdata: \ndata:  2\ndata:\u00a03\n\n", plain_events("\t1\n\n 2\n\u00a03")),
    "newlines": ("data:1\r\ndata\ndata:2\r\n\rdata:3\n\r\ndata:4\r\r\n", plain_events("1\n\n2", "3", "4")),
    "null-character": ("data:\0\n\n\0\n\ndata:a\0b\n\n", plain_events("\0", "a\0b")),
    "utf-8": (
        "event:…\ndata:ok…\n\ndata:日本 😀\u2028\u0085\ufeff\n\n",
        [*plain_events("ok…", event="…"), *plain_events("日本 😀\u2028\u0085\ufeff")],
    ),
}


@pytest.mark.parametrize(("stream", "expected"), VECTORS.values(), ids=VECTORS.keys())
def test_S6_S8_S11_S14_S15_decoder_follows_the_standard(stream: str, expected: list[Event]) -> None:
    """The decoder gives the standard's events for each known stream, whole, byte by byte, and split in two anywhere."""
    data = stream.encode()
    assert by_the_standard(data) == expected
    assert decode(data) == expected
    assert decode(data, range(len(data))) == expected
    for cut in range(0, len(data), 1 if len(data) < 1000 else 97):
        assert decode(data, [cut]) == expected


@pytest.mark.parametrize(
    ("name", "retry", "last_id"),
    [
        ("data-before-final-empty-line", 7, ""),
        ("field-retry", 100, ""),
        ("field-retry-bogus", 100, ""),
        ("field-retry-empty", 100, ""),
        ("field-id-2", None, "é…"),
        ("field-id-3", None, ""),
    ],
)
def test_S14_S15_decoder_keeps_the_last_retry_time_and_event_id(name: str, retry: int | None, last_id: str) -> None:
    """The decoder keeps the last valid `retry`, and takes over an event id at the end of the event's block."""
    decoder = SSEDecoder()
    decoder.feed(VECTORS[name][0].encode())
    assert (decoder.retry, decoder.last_event_id) == (retry, last_id)


@pytest.mark.parametrize(
    "content_type", ["text/event-stream;", "text/event-stream;charset=windows-1252", "x bogus", "text/x-event-stream"]
)
async def test_S30_agent_reads_a_stream_as_utf8_with_any_content_type(content_type: str, kit: Kit) -> None:
    """An agent reads an event stream as UTF-8, whatever content type and charset the server names."""
    wire = kit.Wire(kit.Reply(kit.chat("é…"), headers={"content-type": content_type}))
    async with MiniAgents():
        (message,) = await create_openai_agent("m", async_client=wire.openai()).trigger("Hello")
    assert message.content == "é…"


BLOCKS = [
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"\n\r\n", b":", b" ", b"\0", b"\xef\xbb\xbf", b"\xff", b"\xe2\x82"),
    *(b"\xac", b"data: a", b"data:b", b"data", b"data:  two blanks", b"event: x", b"event:", b"event", b": comment"),
    *(b"id: 3", b"id", b"id: \0", b"retry: 10", b"unknown: y", b"data: \xe2\x82\xac\n\n", b"event: e\ndata: {}\n\n"),
    *(
        b"data: a\xffb\n\n",
        b"event: e\ndata: \xe2\x82\n\n",
        b"event: \xc3\ndata: {}\n\n",
        b"data: \xf0\x9f\x98\x80",
        b'data: {"text": "plain"}\n\n',
        b"event: e\r\ndata: {}\r\n\r\n",
    ),
]
streams = st.lists(st.sampled_from(BLOCKS), max_size=14).map(b"".join)


@given(stream=streams, seed=st.data())
def test_S7_decoder_returns_the_events_of_the_standard_when_cut_anywhere(stream: bytes, seed: st.DataObject) -> None:
    """Any stream, split anywhere, gives the events of the standard's algorithm for the whole text."""
    cuts = seed.draw(st.lists(st.integers(0, len(stream)), max_size=6).map(sorted))
    expected = by_the_standard(stream)
    assert decode(stream, cuts) == expected
    assert decode(stream, range(len(stream))) == expected


def test_S7_S9_decoder_returns_the_events_of_the_standard_for_any_bytes(effort: Effort) -> None:
    """Random streams, with bytes changed, lost and added, and split anywhere, give the events of the standard."""
    rng = random.Random(20_260)
    for number in range(effort(50_000, ci=50_000, nightly=2_000_000)):
        blocks = rng.choices(BLOCKS, k=rng.randrange(14))
        stream = bytearray(b"".join(blocks))
        for _ in range(rng.choice((0, 0, 1, 3))):
            where = rng.randrange(len(stream) + 1)
            stream[where : where + rng.randrange(2)] = rng.randbytes(rng.randrange(2))
        cuts = sorted(rng.choices(range(len(stream) + 1), k=rng.randrange(4)))
        if number % 2:  # whole blocks in each chunk, as servers send them
            cuts = list(accumulate(map(len, blocks[:-1])))
        expected: Any = by_the_standard(bytes(stream))
        assert decode(bytes(stream), cuts) == expected, f"stream {number}: {bytes(stream)!r}, split at {cuts}"
