"""Recuts of a stream: the same bytes in other chunks."""

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
    """Return the tick at which each byte arrives."""
    moments = accumulate(chunk.wait for chunk in stream.chunks)
    return [moment for moment, chunk in zip(moments, stream.chunks, strict=True) for _ in chunk.data]


@given(st.lists(st.integers(0, len(STREAM.body))))
def test_cut_stream_has_the_same_bytes_and_none_arrives_earlier(places: list[int]) -> None:
    """`cut_at` keeps bytes, headers and end of a stream, and no byte arrives earlier than before."""
    cut = cut_at(STREAM, places)
    assert (cut.body, cut.headers, cut.headers_ms, cut.end) == (STREAM.body, STREAM.headers, 7.0, "closed")
    assert [len(chunk.data) for chunk in cut.chunks] == [len(piece) for piece in cut_at(STREAM.body, places)]
    assert all(chunk.data for chunk in cut.chunks)
    assert all(now >= before for before, now in zip(arrivals(STREAM), arrivals(cut), strict=True))
    assert arrivals(cut)[-1] == arrivals(STREAM)[-1]


def test_every_cut_yields_the_whole_all_pairs_and_single_bytes() -> None:
    """`every_cut` yields a body whole, cut in two at each place, and byte by byte, for a stream as for bytes."""
    assert list(every_cut(b"abc")) == [(b"abc",), (b"a", b"bc"), (b"ab", b"c"), (b"a", b"b", b"c")]
    assert [[chunk.data for chunk in cut.chunks] for cut in every_cut(STREAM)] == [
        list(pieces) for pieces in every_cut(STREAM.body)
    ]
    assert list(every_cut(b"")) == [(), ()]


@pytest.mark.parametrize("k", range(4))
def test_cuts_yields_each_choice_of_k_places_once(k: int) -> None:
    """`cuts` yields all ways to cut the stream at k places, each once."""
    found = list(cuts(STREAM, k))
    assert len(set(map(str, found))) == len(found) == comb(len(STREAM.body) - 1, k)
    assert all(len(cut.chunks) == k + 1 for cut in found)


def test_recuts_by_byte_by_event_and_all_at_once_have_the_stated_chunks() -> None:
    """The three recuts have chunks of one byte, one event, or the whole body, which arrive with their last bytes."""
    assert [len(chunk.data) for chunk in byte_by_byte(STREAM).chunks] == [1] * len(STREAM.body)
    assert arrivals(byte_by_byte(STREAM)) == arrivals(STREAM)
    assert one_event_a_chunk(STREAM).chunks == (Chunk(35, b"data: \xc3\xa9\r\n\r\n"), Chunk(0, b"data: 2\n\n"))
    assert all_at_once(STREAM).chunks == (Chunk(35, STREAM.body),)


def test_cut_delays_a_piece_when_it_contains_held_bytes() -> None:
    """When a recut chunk contains bytes of a held chunk, it is held as well."""
    held = ResponseStream((Chunk(5, b"ab"), Chunk(HELD, b"cd"), Chunk(3, b"ef")))
    assert cut_at(held, [1, 3]).chunks == (Chunk(5, b"a"), Chunk(HELD, b"bc"), Chunk(3, b"def"))
    assert [chunk.wait for chunk in byte_by_byte(held).chunks] == [5, 0, HELD, 0, 3, 0]


def test_comment_belongs_to_the_event_after_it() -> None:
    """`one_event_a_chunk` puts a comment or a block without data into the chunk of the next event."""
    pieces = one_event_a_chunk(ResponseStream((Chunk(0, b": ping\n\ndata: 1\n\nretry: 5\n\ndata: 2\n\n: rest"),)))
    assert [chunk.data for chunk in pieces.chunks] == [b": ping\n\ndata: 1\n\n", b"retry: 5\n\ndata: 2\n\n", b": rest"]


def test_risky_places_are_inside_characters_and_around_line_ends() -> None:
    """`risky_places` returns the places inside a multi-byte character and around CR and LF."""
    assert risky_places(b"ab\xc3\xa9c\r\nd") == [3, 5, 6, 7]


@pytest.mark.parametrize("places", [[-1], [4], [1, 9]])
def test_cut_at_refuses_a_place_outside_of_the_stream(places: list[int]) -> None:
    """`cut_at` raises a `ValueError` with the place and the length for a place outside of the stream."""
    with pytest.raises(ValueError, match=f"cannot cut at {places[-1]}: the stream has 3 bytes"):
        cut_at(b"abc", places)


def test_cuts_refuses_a_negative_number_at_the_call() -> None:
    """`cuts` raises a `ValueError` for a negative number when it is called, not when it is iterated."""
    with pytest.raises(ValueError, match="-1 places"):
        cuts(b"abc", -1)
