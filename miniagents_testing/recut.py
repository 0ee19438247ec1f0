"""Cuts of a stream: the same bytes in other chunks. A reader must give the same result for each of them.

```python
for stream in every_cut(recorded):      # each pair of two pieces, and byte by byte
    assert message_of(stream) == message_of(recorded)
```

`byte_by_byte`, `one_event_a_chunk` and `all_at_once` return one new `ResponseStream` each: a way to play a cassette. A
new chunk arrives when its last byte arrived. So no byte arrives early, and the stream takes as long as before.

`EventEnds` finds the ends of events in bytes, as the framework's decoder finds them. Faults, cuts and chunk maps count
events with it.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_left
from dataclasses import replace
from itertools import accumulate, combinations, pairwise
from typing import TYPE_CHECKING, overload

from miniagents.ext.llm.sse import SSEDecoder
from miniagents_testing._streams import HELD, Chunk, ResponseStream
from miniagents_testing._words import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["all_at_once", "byte_by_byte", "cut_at", "cuts", "every_cut", "one_event_a_chunk", "risky_places"]


_LINE_END = re.compile(rb"\r\n|\r|\n")
_BLANK_LINE = re.compile(rb"\n(?<=\n\n)")
"""Blank line in bytes whose lines all end in LF, as those of nearly all streams do."""


class EventEnds:
    """Finder of the ends of events, in bytes that come in pieces.

    An event is a block that a decoder delivers. Comments and blocks without data belong to the event after them.
    """

    def __init__(self) -> None:
        self._decoder = SSEDecoder(max_event_bytes=sys.maxsize, max_stream_bytes=sys.maxsize)
        self._is_between = False
        """True if the last byte was the end of an event. False at the start, where a byte order mark may come."""

    def feed(self, data: bytes) -> Iterator[int]:
        """Yield the places in `data` right after the last byte of each event.

        Exhaust the iterator before the next `feed`.
        """
        start, only_lf = 0, b"\r" not in data
        ends = [found.end() for found in (_BLANK_LINE if only_lf else _LINE_END).finditer(data)]
        if only_lf and data.startswith(b"\n"):
            ends.insert(0, 1)
        for end in ends:
            # A block with a `data` line is an event. This look costs a quarter of the time that the decoder takes.
            has_data = self._is_between and (data.startswith(b"data:", start) or data.find(b"\ndata:", start, end) >= 0)
            self._is_between = (only_lf and has_data) or bool(self._decoder.feed(data[start:end]))
            if self._is_between:
                yield end
            start = end
        if start < len(data):
            self._is_between = False
            self._decoder.feed(data[start:])


@overload
def cut_at(stream: ResponseStream, places: Iterable[int]) -> ResponseStream: ...
@overload
def cut_at(stream: bytes, places: Iterable[int]) -> tuple[bytes, ...]: ...
def cut_at(stream: ResponseStream | bytes, places: Iterable[int]) -> ResponseStream | tuple[bytes, ...]:
    """Return the stream with cuts at these places and no others.

    Args:
        stream: a response, or the bytes of one.
        places: places of the cuts, as numbers of bytes before them, in any order; 0 and the length cut nothing.

    Raises:
        ValueError: a place lies outside of the stream.
    """
    body = stream if isinstance(stream, bytes) else stream.body
    inner = set(places)
    if outside := [place for place in inner if not 0 <= place <= len(body)]:
        raise ValueError(f"cannot cut at {min(outside)}: the stream has {counted(len(body), 'byte')}")
    edges = [0, *sorted(inner - {0, len(body)}), len(body)] if body else []
    pieces = tuple(body[start:end] for start, end in pairwise(edges))
    return pieces if isinstance(stream, bytes) else replace(stream, chunks=tuple(_timed_chunks(stream, pieces)))


@overload
def cuts(stream: ResponseStream, k: int) -> Iterator[ResponseStream]: ...
@overload
def cuts(stream: bytes, k: int) -> Iterator[tuple[bytes, ...]]: ...
def cuts(stream: ResponseStream | bytes, k: int) -> Iterator[ResponseStream | tuple[bytes, ...]]:
    """Return an iterator over all ways to cut the stream at `k` places.

    There are many of them: `math.comb(n - 1, k)` for n bytes, so 79,401 for 400 bytes and two cuts.

    Raises:
        ValueError: `k` is negative.
    """
    if k < 0:
        raise ValueError(f"cannot cut at {k} places")
    body = stream if isinstance(stream, bytes) else stream.body
    return (cut_at(stream, places) for places in combinations(range(1, len(body)), k))


@overload
def every_cut(stream: ResponseStream) -> Iterator[ResponseStream]: ...
@overload
def every_cut(stream: bytes) -> Iterator[tuple[bytes, ...]]: ...
def every_cut(stream: ResponseStream | bytes) -> Iterator[ResponseStream | tuple[bytes, ...]]:
    """Return an iterator over the stream in one piece, all its cuts into two pieces, and the stream byte by byte.

    So each place is tried: inside an event, inside a character, between CR and LF.
    """
    body = stream if isinstance(stream, bytes) else stream.body
    places = [(), *((place,) for place in range(1, len(body))), range(1, len(body))]
    return (cut_at(stream, each) for each in places)


def byte_by_byte(stream: ResponseStream) -> ResponseStream:
    """Return the stream with each byte as a chunk of its own."""
    return cut_at(stream, range(len(stream.body)))


def one_event_a_chunk(stream: ResponseStream) -> ResponseStream:
    """Return the stream with cuts after each event and nowhere else."""
    return cut_at(stream, EventEnds().feed(stream.body))


def all_at_once(stream: ResponseStream) -> ResponseStream:
    """Return the stream as one chunk, which arrives when the last byte arrived."""
    return cut_at(stream, ())


def risky_places(body: bytes) -> list[int]:
    """Return the places where cuts often break decoders: inside characters and around line ends.

    Use them for streams that are too long for `every_cut`.
    """
    return [
        place
        for place in range(1, len(body))
        if body[place] & 0xC0 == 0x80 or body[place - 1] in b"\r\n" or body[place] in b"\r\n"
    ]


def _timed_chunks(stream: ResponseStream, pieces: Iterable[bytes]) -> Iterator[Chunk]:
    """Yield a chunk for each piece of the body, at the time at which the last byte of the piece arrived."""
    ends = list(accumulate(len(chunk.data) for chunk in stream.chunks))
    moments = list(accumulate(max(0, chunk.wait) for chunk in stream.chunks))
    held_places = [end - len(chunk.data) for end, chunk in zip(ends, stream.chunks, strict=True) if chunk.wait == HELD]
    position = now = 0
    for piece in pieces:
        start, position = position, position + len(piece)
        moment = moments[bisect_left(ends, position)]
        # Bytes that wait for a release delay the whole piece that they are in.
        yield Chunk(HELD if any(start <= place < position for place in held_places) else moment - now, piece)
        now = moment
