"""The event stream decoder: at once, in linear time and in bounded memory; its rules are in `test_sse_standard.py`."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest

from miniagents.bounds import MAX_EVENT_BYTES
from miniagents.errors import EventTooLargeError, StreamDecodeError
from miniagents.ext import llm
from miniagents.ext.llm.sse import SSEDecoder


def test_S12_an_event_comes_out_as_soon_as_its_blank_line_has_come() -> None:
    """No later byte is needed: neither after CR, which might be half of CRLF, nor after a mixed line end."""
    for end in (b"\n\n", b"\r\r", b"\r\n\r", b"\n\r", b"\r\n\r\n", b"\n\r\n"):
        assert [event.data for event in SSEDecoder().feed(b"data: now" + end)] == [b"now"]


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
    (event,) = SSEDecoder().feed(f"data: a{separator}b\n\n".encode())
    assert event.data == f"a{separator}b".encode()


def test_S11_nothing_that_reads_streams_splits_lines_as_python_does() -> None:
    """`str.splitlines` ends lines at ten characters; it stands nowhere on the way from bytes to text."""
    sources = [path.read_text("utf-8") for path in Path(llm.__file__).parent.glob("**/*.py")]
    assert len(sources) > 10
    assert not [source for source in sources if "splitlines(" in source]


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
    assert peak < 3 * MAX_EVENT_BYTES
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
    with pytest.raises(ValueError, match="positive"):
        SSEDecoder(max_stream_bytes=-1)


@pytest.mark.parametrize(
    "chunk", [b"data: a\n\n", b"event: e\ndata: \xc3\xa9\n\n", b": ping\n", b"\n", b"data: x\r\n\r\n", b"x"]
)
def test_S25_a_stream_that_never_ends_is_refused(chunk: bytes) -> None:
    """Events, signs of life or nothing at all: what a server may send for one answer has a limit."""
    decoder = SSEDecoder(max_stream_bytes=1000)
    for _ in range(1000 // len(chunk)):
        decoder.feed(chunk)
    with pytest.raises(EventTooLargeError, match="stream is larger than 1000 bytes"):
        for _ in range(2):
            decoder.feed(chunk)


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
