"""Chunk maps, the short text with the sizes and times of the chunks of a body: they lose no byte, chunk or time."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from miniagents.ext.llm.sse import SSEDecoder
from miniagents_testing._streams import Chunk
from miniagents_testing.cassette._chunkmap import ChunkMapError, decode, encode, event_ends, one_event_a_chunk, refitted
from miniagents_testing.recut import EventEnds, cut_at

PIECES = st.sampled_from([b"data: x", b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", "data: é😀\n\n".encode(), b":"])
CHUNKS = st.lists(st.builds(Chunk, st.integers(0, 10**7), st.one_of(PIECES, st.binary(max_size=5))))


@given(CHUNKS)
def test_decode_returns_what_was_encoded(chunks: list[Chunk]) -> None:
    """`decode` of an encoded chunk map returns all chunks but the empty ones, each at the time at which it came."""
    body = b"".join(chunk.data for chunk in chunks)
    decoded = decode(encode(chunks), body)
    assert [chunk.data for chunk in decoded] == [chunk.data for chunk in chunks if chunk.data]
    moment, moments = 0, []
    for chunk in chunks:
        moment += chunk.wait
        if chunk.data:
            moments.append(moment)
    assert moments == [sum(chunk.wait for chunk in decoded[: number + 1]) for number in range(len(decoded))]


@given(CHUNKS, st.text(alphabet="0123456789./* x", max_size=30))
def test_decode_returns_the_whole_body_or_refuses_the_map(chunks: list[Chunk], text: str) -> None:
    """For any text as a map, `decode` returns chunks that join to the body, or raises an error."""
    body = b"".join(chunk.data for chunk in chunks)
    try:
        decoded = decode(text, body)
    except ChunkMapError:
        return
    assert b"".join(chunk.data for chunk in decoded) == body


def test_encode_writes_short_maps() -> None:
    """A chunk of one whole event has no size in the map; a part of an event or several events have one."""
    body = b"data: one\n\ndata: two\n\ndata: three\n\ndata: four\n\n"
    chunks = [Chunk(1502, body[:4]), Chunk(510, body[4:11]), Chunk(2000, body[11:35]), Chunk(0, body[35:])]
    assert encode(chunks) == "15.02/4 5.1 20*2 0"


@pytest.mark.parametrize(
    ("body", "ends"),
    [
        (b"", []),
        (b"\n", [1]),
        (b"{}", [2]),
        (b"data: 1\n\ndata: 2\n\n", [9, 18]),
        (b"data: 1\r\n\r\ndata", [11, 15]),
        (b": ping\n\ndata: 1\n\n\n: end", [17, 23]),
    ],
)
def test_event_ends_are_where_a_decoder_delivers_an_event(body: bytes, ends: list[int]) -> None:
    """`event_ends` returns the ends of the events and of the body; an event begins with the comments before it."""
    assert event_ends(body) == ends


LINES = st.sampled_from(
    [b"data: 1", b"data", b"database: 1", b"event: x", b": c", b"", b"\xef\xbb\xbfdata: 1", b" data: 1"]
)


@given(st.lists(LINES), st.sampled_from([b"\n", b"\r", b"\r\n"]), st.lists(st.integers(0, 60)))
def test_event_ends_are_the_same_however_the_bytes_are_cut(lines: list[bytes], end: bytes, places: list[int]) -> None:
    """For any lines, in any pieces, `EventEnds` finds the positions at which an SSE decoder delivers an event."""
    body = end.join(lines)
    decoder, expected, start = SSEDecoder(), [], 0
    for line in [*(line + end for line in lines[:-1]), *lines[-1:]]:
        start += len(line)
        if decoder.feed(line):
            expected.append(start)
    found, event_ends_, position = [], EventEnds(), 0
    for piece in cut_at(body, [place for place in places if place <= len(body)]):
        found += [position + place for place in event_ends_.feed(piece)]
        position += len(piece)
    if end == b"\r\n":  # a cut between the two: the event is whole before it
        found = [place + (body[place - 1 : place + 1] == end) for place in found]
    assert found == expected


@given(CHUNKS)
def test_one_event_a_chunk_keeps_all_bytes(chunks: list[Chunk]) -> None:
    """`one_event_a_chunk` returns non-empty chunks that join to the body."""
    body = b"".join(chunk.data for chunk in chunks)
    ends = event_ends(body)
    assert ends == sorted(set(ends))
    assert b"".join(chunk.data for chunk in one_event_a_chunk(body)) == body


def test_map_counts_the_events_before_a_cut_inside_an_event() -> None:
    """A map counts the events before a cut inside an event, so that these keep their times in an edited body."""
    whole, half, rest = b"data: secret\n\n", b"data: t", b"wo\n\n"
    text = encode([Chunk(100, whole + half), Chunk(200, rest)])
    assert text == "1*1/7 2"
    assert [chunk.data for chunk in decode(text, b"data: x\n\n" + half + rest)] == [b"data: x\n\n" + half, rest]
    assert [chunk.wait for chunk in refitted(text, whole + half + rest)] == [100, 200]


def test_map_fits_a_body_whose_events_change_their_size() -> None:
    """A chunk map still fits when redaction changes the sizes of whole events."""
    text = encode([Chunk(100, b"data: secret\n\n"), Chunk(200, b"data: 1\n\ndata: 2\n\n")])
    redacted = b"data: <redacted>\n\ndata: 1\n\ndata: 22\n\n"
    assert [chunk.data for chunk in decode(text, redacted)] == [redacted[:18], redacted[18:]]


@pytest.mark.parametrize("text", ["1*9", "1/99", "1", "1*0", "-1*2", "1.001*2", "1*2 1", "x"])
def test_decode_refuses_a_map_that_does_not_fit(text: str) -> None:
    """`decode` raises an error for a map that is too long or too short for the body, and for a text that is no map."""
    with pytest.raises(ChunkMapError):
        decode(text, b"data: 1\n\ndata: 2\n\n")


@given(CHUNKS, st.lists(PIECES))
@example([Chunk(0, b"\n:"), Chunk(1, b"data: x")], [b"data: x"])
def test_refitted_keeps_the_bytes_and_the_moments_of_events(chunks: list[Chunk], edited: list[bytes]) -> None:
    """`refitted` returns an edited body, one event a chunk, the n-th at the time of the original body's n-th event."""
    body, now = b"".join(chunk.data for chunk in chunks), b"".join(edited)
    refitted_ = refitted(encode(chunks), now)
    assert b"".join(chunk.data for chunk in refitted_) == now
    assert [chunk.data for chunk in refitted_] == [chunk.data for chunk in one_event_a_chunk(now)]
    moment, moments, position = 0, {}, 0
    for chunk in decode(encode(chunks), body):
        moment += chunk.wait
        position += len(chunk.data)
        moments[position] = moment
    events = event_ends(body)[: len(refitted_)]
    then = [next(moment for end, moment in moments.items() if end >= event) for event in events]
    assert [sum(chunk.wait for chunk in refitted_[: number + 1]) for number in range(len(then))] == then
