"""The event stream decoder: what the WHATWG standard says, at every cut, in linear time and bounded memory."""

# ruff: noqa: N802 - the names carry the rows of the fault catalogue

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents.errors import EventTooLargeError, StreamDecodeError
from miniagents.ext.llm.sse import DEFAULT_MAX_EVENT_BYTES, ServerSentEvent, SSEDecoder


def decode(stream: bytes, *cuts: int, strict: bool = False) -> list[ServerSentEvent]:
    """The events of a stream that comes cut at these places."""
    decoder = SSEDecoder(strict=strict)
    edges = [0, *sorted(cuts), len(stream)]
    events = [event for i in range(len(edges) - 1) for event in decoder.feed(stream[edges[i] : edges[i + 1]])]
    decoder.close()
    return events


def data(stream: bytes) -> list[bytes]:
    """What the events say."""
    return [event.data for event in decode(stream)]


def by_the_standard(stream: bytes) -> list[tuple[bytes, str, str]]:
    """The standard's algorithm, step by step over the whole text; slow, and obviously the same."""
    text = stream.decode(errors="replace").removeprefix("\ufeff")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]
    events, buffer, kind, last_id = [], "", "", ""
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if buffer:
                events.append((buffer[:-1].encode(), kind or "message", last_id))
            buffer = kind = ""
        elif name == "data":
            buffer += value + "\n"
        elif name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            last_id = value
    return events


PIECES = [
    *(
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\r\n\r\n",
        b"\n\r\n",
        b":",
        b" ",
        b"\0",
        b"\xef\xbb\xbf",
        b"\xff",
        b"\xe2\x82",
        b"\xac",
    ),
    *(
        b"data: a",
        b"data:b",
        b"data",
        b"data:  two blanks",
        b"event: x",
        b"event:",
        b"event",
        b": comment",
        b"id: 3",
        b"id",
    ),
    *(
        b"id: \0",
        b"retry: 10",
        b"unknown: y",
        b"data: \xe2\x82\xac\n\n",
        b"event: e\ndata: {}\n\n",
        b"data: \xf0\x9f\x98\x80",
    ),
]
streams = st.lists(st.sampled_from(PIECES), max_size=14).map(b"".join)


@given(stream=streams, seed=st.data())
def test_S7_events_are_those_of_the_standard_wherever_the_bytes_are_cut(stream: bytes, seed: st.DataObject) -> None:
    """Any stream, cut anywhere, gives what the standard's own algorithm gives for the whole text."""
    cuts = seed.draw(st.lists(st.integers(0, len(stream)), max_size=6))
    expected = by_the_standard(stream)
    assert [tuple(event) for event in decode(stream, *cuts)] == expected
    assert [tuple(event) for event in decode(stream, *range(len(stream)))] == expected


def test_S8_one_leading_byte_order_mark_is_dropped() -> None:
    """A byte order mark at the start is no part of the first field name; any other one is."""
    assert data(b"\xef\xbb\xbfdata: 1\n\n\xef\xbb\xbfdata: 2\n\ndata: 3\n\n") == [b"1", b"3"]
    assert data(b"\xef\xbb\xbf\xef\xbb\xbfdata: 1\n\ndata: 2\n\n") == [b"2"]


def test_lines_end_with_lf_cr_or_crlf_also_mixed() -> None:
    """The three line ends mean the same, in one stream too."""
    assert data(b"data: 1\n\ndata: 2\r\rdata: 3\r\n\r\ndata: 4\r\ndata: 5\r\n\n") == [b"1", b"2", b"3", b"4\n5"]


def test_S12_an_event_comes_out_as_soon_as_its_blank_line_has_come() -> None:
    """No later byte is needed: neither after CR, which might be half of CRLF, nor after a mixed line end."""
    for end in (b"\n\n", b"\r\r", b"\r\n\r", b"\n\r", b"\r\n\r\n", b"\n\r\n"):
        assert [event.data for event in SSEDecoder().feed(b"data: now" + end)] == [b"now"]


def test_several_data_lines_are_joined_by_line_feeds() -> None:
    """Every `data` line adds a line, an empty one too, and a field without a colon has an empty value."""
    assert data(b"data: a\ndata:b\ndata:\ndata\ndata: c\n\n") == [b"a\nb\n\n\nc"]
    assert data(b"data\n\ndata:\n\n") == [b"", b""]


def test_only_one_blank_after_the_colon_is_dropped() -> None:
    """Further white space belongs to the value."""
    assert data(b"data:  two\n\ndata:\tone tab\n\ndata: trailing \n\n") == [b" two", b"\tone tab", b"trailing "]


@pytest.mark.parametrize(
    "block", [b"id: 7", b"retry: 100", b"event: x", b": keep-alive", b"unknown: z", b"datax: 1", b" data: 1"]
)
def test_S14_a_block_without_data_is_no_event(block: bytes) -> None:
    """A block of other fields or comments is ignored, and its event name does not reach the next one."""
    assert decode(block + b"\n\ndata: next\n\n")[0][:2] == (b"next", "message")


def test_S15_an_id_stays_until_the_next_one_and_needs_no_data() -> None:
    """Ids stick; extra blank lines after them are no events; an id with a null character is ignored."""
    events = decode(b"id: 1\n\n\n\ndata: a\n\nid: x\0y\ndata: b\n\nid\ndata: c\n\n")
    assert [(event.data, event.id) for event in events] == [(b"a", "1"), (b"b", "1"), (b"c", "")]


def test_retry_is_kept_when_it_is_a_number() -> None:
    """`retry` counts only if it is all digits."""
    decoder = SSEDecoder()
    decoder.feed(b"retry: 1500\n\nretry: 1.5\n\nretry: -2\n\nretry:\n\n")
    assert decoder.retry == 1500


def test_S6_a_last_event_without_its_blank_line_is_discarded() -> None:
    """The end of the stream ends no event; `close` tells that one was under way."""
    for rest in (b"data: cut", b"data: cut\n", b"event: x", b"data: \xe2\x82"):
        decoder = SSEDecoder()
        assert [event.data for event in decoder.feed(b"data: whole\n\n" + rest)] == [b"whole"]
        assert decoder.close()
    assert not SSEDecoder().close()


def test_S9_invalid_utf8_becomes_replacement_characters_and_is_told() -> None:
    """By default bytes that are not UTF-8 are replaced, and the decoder says so."""
    decoder = SSEDecoder()
    (event,) = decoder.feed(b"data: a\xffb\n\n")
    assert event.data.decode() == "a\ufffdb"
    assert decoder.lossy


def test_S9_invalid_utf8_is_an_error_in_strict_mode() -> None:
    """Who wants no replacement gets a typed error instead."""
    with pytest.raises(StreamDecodeError, match="not UTF-8"):
        SSEDecoder(strict=True).feed(b"data: a\xffb\n\n")


def test_text_outside_ascii_is_not_lossy() -> None:
    """Proper UTF-8 comes through as it is."""
    decoder = SSEDecoder(strict=True)
    assert decoder.feed("event: é\ndata: 日本語 😀\n\n".encode()) == [("日本語 😀".encode(), "é", "")]
    assert not decoder.lossy


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_S11_other_line_separators_do_not_end_a_line(separator: str) -> None:
    """Only CR and LF do; what `str.splitlines` takes for line ends stands in the middle of JSON strings."""
    assert data(f"data: a{separator}b\n\n".encode()) == [f"a{separator}b".encode()]


def test_S25_a_line_of_100_mb_is_refused_in_bounded_memory() -> None:
    """The limit holds while the line still grows, and what was kept is let go."""
    chunk = b"x" * 65536
    decoder = SSEDecoder()
    decoder.feed(b"data: ")
    tracemalloc.start()
    try:
        with pytest.raises(EventTooLargeError, match="16777216 bytes"):
            for _ in range(100 * 16):
                decoder.feed(chunk)
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * DEFAULT_MAX_EVENT_BYTES
    assert left < 1024 * 1024


@pytest.mark.parametrize(
    "stream",
    [
        b"data: " + b"x" * 100 + b"\n\n",
        b"data: x\n" * 100 + b"\n",
        b"event: " + b"x" * 100 + b"\n\n",
        b":" + b"x" * 100,
    ],
    ids=["line", "many lines", "name", "comment"],
)
def test_the_limit_holds_for_every_shape_and_every_cut(stream: bytes) -> None:
    """A long line, many lines, a long name and an endless comment are refused, whole or byte by byte."""
    for cuts in ((), range(len(stream))):
        decoder = SSEDecoder(max_event_bytes=90)
        edges = [0, *cuts, len(stream)]
        with pytest.raises(EventTooLargeError):
            for start, end in pairwise(edges):
                decoder.feed(stream[start:end])


def test_the_limit_is_for_one_event_not_for_the_stream() -> None:
    """Many small events, and comments for ever, pass any limit."""
    decoder = SSEDecoder(max_event_bytes=16)
    assert len(decoder.feed(b"data: 123456789\n\n" * 50)) == 50
    assert len(decoder.feed(b": keep-alive\n" * 500 + b"data: x\n\n")) == 1
    with pytest.raises(ValueError, match="positive"):
        SSEDecoder(max_event_bytes=0)


class _CountingDecoder(SSEDecoder):
    """Counts the bytes that the line path works on."""

    worked = 0

    def _feed_lines(self, text: bytes) -> None:
        self.worked += len(text)
        super()._feed_lines(text)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_S26_the_work_is_linear_whatever_the_shape(size: int) -> None:
    """80,000 tiny lines in one event, and one long line, are looked at once, however small the chunks."""
    for stream in (b"data:x\n" * 80_000 + b"\n", b"data:" + b"x" * 560_000 + b"\n\n"):
        decoder = _CountingDecoder()
        events = [event for i in range(0, len(stream), size) for event in decoder.feed(stream[i : i + size])]
        assert len(events) == 1
        assert decoder.worked <= len(stream)


def test_a_large_chunk_is_taken_in_small_steps() -> None:
    """A whole recording may be fed at once: the events are the same, and nothing is cut at the steps."""
    block = b'event: e\ndata: {"text":"' + "wörter ".encode() * 100 + b'"}\n\n'
    stream = block * 5000
    assert len(stream) > 3 * 1024 * 1024
    assert set(SSEDecoder(strict=True).feed(stream)) == set(SSEDecoder().feed(block))
