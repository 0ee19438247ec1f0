"""The same bytes, cut elsewhere."""

from __future__ import annotations

from itertools import accumulate
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents_testing._streams import HELD, Chunk, ResponseStream
from miniagents_testing.recut import (
    all_at_once,
    byte_by_byte,
    cut_at,
    cuts,
    every_cut,
    one_event_a_chunk,
    risky_places,
)

STREAM = ResponseStream(
    (Chunk(10, b"data: \xc3"), Chunk(5, b"\xa9\r"), Chunk(20, b"\n\r\ndata: 2\n\n")),
    headers={"content-type": ["text/event-stream"]},
    headers_ms=7.0,
    end="closed",
)


def arrivals(stream: ResponseStream) -> list[int]:
    """The tick at which each byte has come."""
    moments = accumulate(chunk.wait for chunk in stream.chunks)
    return [moment for moment, chunk in zip(moments, stream.chunks, strict=True) for _ in chunk.data]


@given(st.lists(st.integers(0, len(STREAM.body))))
def test_wherever_it_is_cut_the_bytes_stay_and_none_comes_early(places: list[int]) -> None:
    """Headers, end and length stay too; a chunk comes when its last byte came."""
    cut = cut_at(STREAM, places)
    assert (cut.body, cut.headers, cut.headers_ms, cut.end) == (STREAM.body, STREAM.headers, 7.0, "closed")
    assert [len(chunk.data) for chunk in cut.chunks] == [len(piece) for piece in cut_at(STREAM.body, places)]
    assert all(chunk.data for chunk in cut.chunks)
    assert all(now >= before for before, now in zip(arrivals(STREAM), arrivals(cut), strict=True))
    assert arrivals(cut)[-1] == arrivals(STREAM)[-1]


def test_every_cut_is_the_whole_each_pair_and_each_byte() -> None:
    """A body of n bytes has n + 1 of them, of a response as of bytes."""
    assert list(every_cut(b"abc")) == [(b"abc",), (b"a", b"bc"), (b"ab", b"c"), (b"a", b"b", b"c")]
    assert [[chunk.data for chunk in cut.chunks] for cut in every_cut(STREAM)] == [
        list(pieces) for pieces in every_cut(STREAM.body)
    ]
    assert list(every_cut(b"")) == [(), ()]


@pytest.mark.parametrize("k", range(4))
def test_cuts_are_all_the_ways_to_cut_at_k_places(k: int) -> None:
    """Each once."""
    found = list(cuts(STREAM, k))
    assert len(set(map(str, found))) == len(found) == comb(len(STREAM.body) - 1, k)
    assert all(len(cut.chunks) == k + 1 for cut in found)


def test_a_cassette_can_be_played_by_byte_by_event_or_at_once() -> None:
    """The three have their chunks where they say, at the moments of the last bytes."""
    assert [len(chunk.data) for chunk in byte_by_byte(STREAM).chunks] == [1] * len(STREAM.body)
    assert arrivals(byte_by_byte(STREAM)) == arrivals(STREAM)
    assert one_event_a_chunk(STREAM).chunks == (Chunk(35, b"data: \xc3\xa9\r\n\r\n"), Chunk(0, b"data: 2\n\n"))
    assert all_at_once(STREAM).chunks == (Chunk(35, STREAM.body),)


def test_bytes_that_are_held_stay_held() -> None:
    """Nothing of a chunk that waits for somebody comes before it is let go."""
    held = ResponseStream((Chunk(5, b"ab"), Chunk(HELD, b"cd"), Chunk(3, b"ef")))
    assert cut_at(held, [1, 3]).chunks == (Chunk(5, b"a"), Chunk(HELD, b"bc"), Chunk(3, b"def"))
    assert [chunk.wait for chunk in byte_by_byte(held).chunks] == [5, 0, HELD, 0, 3, 0]


def test_a_comment_is_a_part_of_the_event_after_it() -> None:
    """What a decoder gives counts as an event."""
    pieces = one_event_a_chunk(ResponseStream((Chunk(0, b": ping\n\ndata: 1\n\nretry: 5\n\ndata: 2\n\n: rest"),)))
    assert [chunk.data for chunk in pieces.chunks] == [b": ping\n\ndata: 1\n\n", b"retry: 5\n\ndata: 2\n\n", b": rest"]


def test_risky_places_are_inside_characters_and_around_line_ends() -> None:
    """Between the two bytes of é, before CR, between CR and LF, and after LF."""
    assert risky_places(b"ab\xc3\xa9c\r\nd") == [3, 5, 6, 7]


@pytest.mark.parametrize("places", [[-1], [4], [1, 9]])
def test_a_place_outside_of_the_stream_is_refused(places: list[int]) -> None:
    """At once, with the place and the length."""
    with pytest.raises(ValueError, match=f"cannot cut at {places[-1]}: the stream has 3 bytes"):
        cut_at(b"abc", places)


def test_a_negative_number_of_cuts_is_refused_at_the_call() -> None:
    """Not only when the first one is wanted."""
    with pytest.raises(ValueError, match="-1 places"):
        cuts(b"abc", -1)
