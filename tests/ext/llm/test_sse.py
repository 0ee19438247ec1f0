"""Speed, memory and errors of the event stream decoder; `test_sse_standard.py` tests the rules of the standard."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest

from miniagents.bounds import MAX_EVENT_BYTES
from miniagents.errors import EventTooLargeError, StreamDecodeError
from miniagents.ext import llm
from miniagents.ext.llm.sse import SSEDecoder


def test_S12_decoder_returns_an_event_with_the_byte_that_ends_its_blank_line() -> None:
    """The decoder returns an event at the byte that ends its blank line, also after a CR or mixed line ends."""
    for end in (b"\n\n", b"\r\r", b"\r\n\r", b"\n\r", b"\r\n\r\n", b"\n\r\n"):
        assert [event.data for event in SSEDecoder().feed(b"data: now" + end)] == [b"now"]


def test_S6_close_discards_an_event_without_its_blank_line() -> None:
    """`close` drops an event that is not ended by a blank line, and returns True if there was one."""
    for rest in (b"data: cut", b"data: cut\n", b"event: x", b"data: \xe2\x82"):
        decoder = SSEDecoder()
        assert [event.data for event in decoder.feed(b"data: whole\n\n" + rest)] == [b"whole"]
        assert decoder.close()
    assert not SSEDecoder().close()


def test_S9_decoder_replaces_invalid_utf8_and_sets_lossy() -> None:
    """By default, bytes that are not UTF-8 become U+FFFD, and `lossy` becomes True."""
    decoder = SSEDecoder()
    (event,) = decoder.feed(b"data: a\xffb\n\n")
    assert event.data.decode() == "a\ufffdb"
    assert decoder.lossy


def test_S9_strict_decoder_raises_decode_error_when_bytes_are_not_utf8() -> None:
    """In strict mode, bytes that are not UTF-8 are a StreamDecodeError."""
    with pytest.raises(StreamDecodeError, match="not UTF-8"):
        SSEDecoder(strict=True).feed(b"data: a\xffb\n\n")


def test_decoder_returns_valid_utf8_unchanged() -> None:
    """Valid UTF-8 outside of ASCII is returned unchanged, and `lossy` stays False."""
    decoder = SSEDecoder(strict=True)
    assert decoder.feed("event: é\ndata: 日本語 😀\n\n".encode()) == [("日本語 😀".encode(), "é", "")]
    assert not decoder.lossy


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_S11_only_cr_and_lf_end_a_line(separator: str) -> None:
    """Line separators of `str.splitlines` other than CR and LF do not end a line of the decoder."""
    (event,) = SSEDecoder().feed(f"data: a{separator}b\n\n".encode())
    assert event.data == f"a{separator}b".encode()


def test_S11_no_module_of_the_agents_calls_splitlines() -> None:
    """`str.splitlines` ends lines at ten characters, so no code between bytes and text calls it."""
    sources = [path.read_text("utf-8") for path in Path(llm.__file__).parent.glob("**/*.py")]
    assert len(sources) > 10
    assert not [source for source in sources if "splitlines(" in source]


def test_S25_decoder_refuses_a_line_of_100_mb_in_bounded_memory() -> None:
    """The decoder refuses an endless line at its limit, and frees the line's memory."""
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
def test_decoder_refuses_each_form_of_a_large_event(stream: bytes) -> None:
    """The decoder refuses a long line, many lines, a long name and a long comment, at once and byte by byte."""
    for cuts in ((), range(len(stream))):
        decoder = SSEDecoder(max_event_bytes=90)
        edges = [0, *cuts, len(stream)]
        with pytest.raises(EventTooLargeError):
            for start, end in pairwise(edges):
                decoder.feed(stream[start:end])


def test_max_event_bytes_limits_each_event_alone() -> None:
    """`max_event_bytes` limits each event, so many small events may exceed it together; limits must be positive."""
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
def test_S25_decoder_refuses_a_stream_above_max_stream_bytes(chunk: bytes) -> None:
    """The decoder refuses a stream above `max_stream_bytes`, counting events, comments and incomplete lines."""
    decoder = SSEDecoder(max_stream_bytes=1000)
    for _ in range(1000 // len(chunk)):
        decoder.feed(chunk)
    with pytest.raises(EventTooLargeError, match="stream is larger than 1000 bytes"):
        for _ in range(2):
            decoder.feed(chunk)


class _CountingDecoder(SSEDecoder):
    """Decoder that counts the bytes that `_feed_lines` reads."""

    worked = 0

    def _feed_lines(self, text: bytes) -> None:
        self.worked += len(text)
        super()._feed_lines(text)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_S26_decoder_reads_each_byte_once(size: int) -> None:
    """The decoder reads each byte once, for many short lines and one long line, in chunks of any size."""
    for stream in (b"data:x\n" * 80_000 + b"\n", b"data:" + b"x" * 560_000 + b"\n\n"):
        decoder = _CountingDecoder()
        events = [event for i in range(0, len(stream), size) for event in decoder.feed(stream[i : i + size])]
        assert len(events) == 1
        assert decoder.worked <= len(stream)


def test_decoder_returns_the_same_events_when_a_chunk_is_large() -> None:
    """A chunk of megabytes gives the same events as its bytes in small chunks."""
    block = b'event: e\ndata: {"text":"' + "wörter ".encode() * 100 + b'"}\n\n'
    stream = block * 5000
    assert len(stream) > 3 * 1024 * 1024
    assert set(SSEDecoder(strict=True).feed(stream)) == set(SSEDecoder().feed(block))
