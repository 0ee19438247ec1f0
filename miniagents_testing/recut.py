"""The same bytes, cut elsewhere: whatever reads a stream must give the same, wherever the network has cut it.

```python
for stream in every_cut(recorded):      # all two-piece cuts, and every byte by itself
    assert message_of(stream) == message_of(recorded)
```

`byte_by_byte`, `one_event_a_chunk` and `all_at_once` make one `ResponseStream` of another: a way to play a cassette. A
chunk comes when its last byte came, so nothing arrives early, and the stream takes as long as it did.

Ends of events in a byte stream, as the framework's decoder sees them: what faults, cuts and chunk maps count by.
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

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["all_at_once", "byte_by_byte", "cut_at", "cuts", "every_cut", "one_event_a_chunk", "risky_places"]


_LINE_END = re.compile(rb"\r\n|\r|\n")
_BLANK_LINE = re.compile(rb"\n(?<=\n\n)")
"""Where lines end in LF alone, which is nearly everywhere."""


class EventEnds:
    """Finder of the places at which events are complete, in bytes that come in pieces.

    Only what a decoder delivers is an event: comments and blocks without data belong to the event after them.
    """

    def __init__(self) -> None:
        self._decoder = SSEDecoder(max_event_bytes=sys.maxsize, max_stream_bytes=sys.maxsize)
        self._is_between = False
        """Whether the last byte was the end of an event. At the start, a byte order mark may come."""

    def feed(self, data: bytes) -> Iterator[int]:
        """Yield the places in `data` right after the last byte of an event; read to the end before the next `feed`."""
        start, blocks = 0, b"\r" not in data
        ends = [found.end() for found in (_BLANK_LINE if blocks else _LINE_END).finditer(data)]
        if blocks and data.startswith(b"\n"):
            ends.insert(0, 1)
        for end in ends:
            # a block with a `data` line is an event: a quarter of what the decoder takes
            usual = self._is_between and (data.startswith(b"data:", start) or data.find(b"\ndata:", start, end) >= 0)
            self._is_between = (blocks and usual) or bool(self._decoder.feed(data[start:end]))
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
    """The stream with cuts at these places and no others.

    Args:
        stream: a response, or bytes by themselves.
        places: numbers of bytes before a cut, in any order; 0 and the length cut nothing.

    Raises:
        ValueError: a place outside of the stream.
    """
    body = stream if isinstance(stream, bytes) else stream.body
    inner = set(places)
    if outside := [place for place in inner if not 0 <= place <= len(body)]:
        raise ValueError(f"cannot cut at {min(outside)}: the stream has {len(body)} bytes")
    edges = [0, *sorted(inner - {0, len(body)}), len(body)] if body else []
    pieces = tuple(body[start:end] for start, end in pairwise(edges))
    return pieces if isinstance(stream, bytes) else replace(stream, chunks=tuple(_timed(stream, pieces)))


@overload
def cuts(stream: ResponseStream, k: int) -> Iterator[ResponseStream]: ...
@overload
def cuts(stream: bytes, k: int) -> Iterator[tuple[bytes, ...]]: ...
def cuts(stream: ResponseStream | bytes, k: int) -> Iterator[ResponseStream | tuple[bytes, ...]]:
    """Every way to cut the stream at `k` places, one after the other.

    They are many: n - 1 over k for n bytes, so 79,401 for 400 bytes and two cuts.

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
    """The stream in one piece, in two pieces in every way, and byte by byte.

    So each single place is tried: inside an event, inside a character, between CR and LF.
    """
    body = stream if isinstance(stream, bytes) else stream.body
    places = [(), *((place,) for place in range(1, len(body))), range(1, len(body))]
    return (cut_at(stream, each) for each in places)


def byte_by_byte(stream: ResponseStream) -> ResponseStream:
    """Each byte as a chunk of its own."""
    return cut_at(stream, range(len(stream.body)))


def one_event_a_chunk(stream: ResponseStream) -> ResponseStream:
    """A cut after each event and nowhere else."""
    return cut_at(stream, EventEnds().feed(stream.body))


def all_at_once(stream: ResponseStream) -> ResponseStream:
    """One chunk with everything, when the last byte has come."""
    return cut_at(stream, ())


def risky_places(body: bytes) -> list[int]:
    """Where cuts break decoders: inside characters, around line ends. For streams that are too long for every cut."""
    return [
        place
        for place in range(1, len(body))
        if body[place] & 0xC0 == 0x80 or body[place - 1] in b"\r\n" or body[place] in b"\r\n"
    ]


def _timed(stream: ResponseStream, pieces: Iterable[bytes]) -> Iterator[Chunk]:
    ends = list(accumulate(len(chunk.data) for chunk in stream.chunks))
    moments = list(accumulate(max(0, chunk.wait) for chunk in stream.chunks))
    held = [end - len(chunk.data) for end, chunk in zip(ends, stream.chunks, strict=True) if chunk.wait == HELD]
    position = now = 0
    for piece in pieces:
        start, position = position, position + len(piece)
        moment = moments[bisect_left(ends, position)]
        # bytes that are held keep back all that comes with them
        yield Chunk(HELD if any(start <= place < position for place in held) else moment - now, piece)
        now = moment
