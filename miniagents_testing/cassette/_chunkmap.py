"""Chunk maps: one short text that says where a recorded body was cut, and how long each chunk took to come.

A map is a row of tokens, one a chunk. A token begins with a wait in ms: since the chunk before, or since the response
headers for the first chunk. After the wait stands where the chunk ends:

- nothing: where the next event ends,
- `*k`: where the k-th event from here ends,
- `/n`: n bytes further on, inside an event,
- `*k/n`: n bytes after the k-th event from here, inside the next event.

Maps count in events because such a map stays valid when a body is redacted, and because it is short: most chunks are
one event. An event is what a decoder delivers (`EventEnds`); bytes after the last event count as one more event.
In a body of lines, such as the items of a recorded call, each line is an event: see `line_ends`.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

from miniagents_testing._streams import TICKS_PER_SECOND, Chunk
from miniagents_testing._words import counted
from miniagents_testing.recut import EventEnds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


_TICKS_PER_MS = TICKS_PER_SECOND // 1000

_TOKEN = re.compile(
    r"""(?P<ms>\d{1,12})(?:\.(?P<hundredths>\d{1,2}))?
    (?:\*(?P<events>[1-9]\d{0,11}))?(?:/(?P<size>[1-9]\d{0,11}))?""",
    re.VERBOSE,
)


class ChunkMapError(ValueError):
    """Error for a text that is no chunk map, or not the map of this body."""


def event_ends(body: bytes) -> list[int]:
    """Return the places where the events of `body` end, and the end of the body; [] for an empty one."""
    ends = list(EventEnds().feed(body))
    if body and (not ends or ends[-1] != len(body)):
        ends.append(len(body))
    return ends


def line_ends(body: bytes) -> list[int]:
    """Return the places where the lines of `body` end, and the end of the body; only a line feed ends a line."""
    ends = [match.end() for match in re.finditer(b"\n", body)]
    if body and (not ends or ends[-1] != len(body)):
        ends.append(len(body))
    return ends


Ends = Callable[[bytes], list[int]]
"""Function that finds the ends of the events in a body: `event_ends`, or `line_ends` for a body of lines."""


def encode(chunks: Iterable[Chunk], ends_of: Ends = event_ends) -> str:
    """Return the chunk map of these chunks, which leaves empty chunks out; see `decode`."""
    chunks = _without_empty(chunks)
    ends = ends_of(b"".join(chunk.data for chunk in chunks))
    tokens = []
    position = passed = 0
    for wait, data in chunks:
        start, before = position, passed
        position += len(data)
        passed = bisect_right(ends, position, before)
        whole = passed - before
        inside = position - (ends[passed - 1] if whole else start)
        events = f"*{whole}" if whole > (0 if inside else 1) else ""
        tokens.append(_ms(wait) + events + (f"/{inside}" if inside else ""))
    return " ".join(tokens)


def decode(text: str, body: bytes, ends_of: Ends = event_ends) -> tuple[Chunk, ...]:
    """Cut `body` into chunks as the map says.

    Raises:
        ChunkMapError: a token cannot be read, or the map does not end where the body ends.
    """
    ends = ends_of(body)
    chunks = []
    position = 0
    for token in text.split():
        parsed = _TOKEN.fullmatch(token)
        if parsed is None:
            raise ChunkMapError(f"{token!r} is no token of a chunk map")
        ms, hundredths, events, size = parsed.groups()
        start = position
        if events or not size:
            position = _after_events(int(events or 1), position, ends)
        position += int(size or 0)
        if position > len(body):
            raise ChunkMapError(
                f"the map goes on after the end of the body ({counted(len(body), 'byte')}), at {token!r}"
            )
        chunks.append(Chunk(_ticks(ms, hundredths), body[start:position]))
    if position != len(body):
        raise ChunkMapError(f"the map ends after {position} of {counted(len(body), 'byte')} of the body")
    return tuple(chunks)


def one_event_a_chunk(body: bytes, ends_of: Ends = event_ends) -> tuple[Chunk, ...]:
    """Cut a body without a map into chunks of one event each, without waits."""
    starts = [0, *ends_of(body)]
    return tuple(Chunk(0, body[start:end]) for start, end in pairwise(starts))


def refitted(text: str, body: bytes, ends_of: Ends = event_ends) -> tuple[Chunk, ...]:
    """Cut a body that was edited after its map was made, so that its n-th event keeps the time of the map's n-th.

    Cuts inside events are dropped: such an event comes when its last byte came. Events beyond those of the map come
    together with the last event of the map. Tokens that cannot be read are skipped.
    """
    waits = []
    waited = 0
    for parsed in filter(None, map(_TOKEN.fullmatch, text.split())):
        ms, hundredths, events, size = parsed.groups()
        waited += _ticks(ms, hundredths)
        if events or not size:
            waits += [waited, *[0] * (int(events or 1) - 1)]
            waited = 0
    chunks = one_event_a_chunk(body, ends_of)
    waits += [0] * (len(chunks) - len(waits))
    return tuple(Chunk(wait, chunk.data) for wait, chunk in zip(waits, chunks, strict=False))


def _without_empty(chunks: Iterable[Chunk]) -> Sequence[Chunk]:
    """Return the chunks without the empty ones, whose waits are added to the next chunk, or dropped at the end."""
    chunks = list(chunks)
    if all(chunk.data for chunk in chunks):
        return chunks
    full = []
    waited = 0
    for chunk in chunks:
        waited += chunk.wait
        if chunk.data:
            full.append(Chunk(waited, chunk.data))
            waited = 0
    return full


def _after_events(count: int, position: int, ends: Sequence[int]) -> int:
    """Return the place where the `count`-th event after `position` ends; raise `ChunkMapError` if there are fewer."""
    last = bisect_right(ends, position) + count - 1
    if last >= len(ends):
        left = len(ends) - last + count - 1
        raise ChunkMapError(
            f"the body has {counted(left, 'more event')} after {counted(position, 'byte')}, not {count}"
        )
    return ends[last]


def _ticks(ms: str, hundredths: str | None) -> int:
    """Convert the digits of a wait, before and after the decimal point of its ms, into ticks."""
    return int(ms) * _TICKS_PER_MS + (int(hundredths.ljust(2, "0")) if hundredths else 0)


def _ms(ticks: int) -> str:
    """Return ticks as the text of a number of milliseconds, without needless zeros."""
    return repr(ticks / _TICKS_PER_MS).removesuffix(".0")  # the shortest text that gives the number back
