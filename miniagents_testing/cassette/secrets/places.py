"""The places of an interaction where a secret may stand, and what each is called."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import fields
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from miniagents_testing._streams import Chunk
from miniagents_testing.cassette.secrets.encodings import SEPARATOR
from miniagents_testing.cassette.secrets.plain import plain
from miniagents_testing.cassette.secrets.texts import groups, is_stream, joined, pieces_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from miniagents_testing.cassette.interaction import Interaction
    from miniagents_testing.cassette.secrets.texts import Piece

__all__ = ["Part", "Spot", "parts_of"]


class Spot(NamedTuple):
    """One text, as the pieces that it came in."""

    texts: Sequence[bytes]
    place: Callable[[int, int], str]
    """What the pieces from the first to the last of these numbers are called."""


class Part(NamedTuple):
    """A part of an interaction."""

    place: str
    data: bytes
    """All that is to be searched in it."""
    spots: Callable[[], Sequence[Sequence[Spot]]]
    """Where in it something may have been found: the first row that has it knows best."""
    undone: str = ""
    """The compression that `data` came in."""
    readable: bool = True
    """Whether `data` is what was meant."""


def parts_of(interaction: Interaction) -> Iterator[Part]:
    """All that a cassette holds of the interaction."""
    answer = interaction.response
    yield _uri(interaction.uri)
    yield from _headers("request", interaction.request_headers)
    yield _body("request", [Chunk(0, interaction.request_body)], interaction.request_headers)
    yield from _headers("response", answer.headers)
    yield _body("response", answer.chunks, answer.headers)
    yield _simple("reason of the response status", answer.reason)
    yield _simple("end of the stream", answer.end)
    for field in fields(interaction):
        value = getattr(interaction, field.name)
        if isinstance(value, str) and field.name != "uri":
            yield _simple(field.name, value)


def _simple(place: str, text: str) -> Part:
    return Part(place, _bytes(text), lambda: [[_spot(place, text)]])


def _spot(place: str, text: str) -> Spot:
    return Spot([_bytes(text)], lambda first, last: place)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _headers(whose: str, headers: Mapping[str, list[str]]) -> Iterator[Part]:
    for name, values in headers.items():
        for value in values:
            yield _simple(f"{whose} header {name}", f"{name}: {value}")


def _uri(uri: str) -> Part:
    def spots() -> list[list[Spot]]:
        parts = urlsplit(uri)
        named = {"user info": parts.netloc.rpartition("@")[0], "host": parts.hostname or "", "path": parts.path}
        row = [_spot(f"{name} of the URI", text) for name, text in named.items()]
        row += [
            _spot(f"query parameter {unquote(parameter.partition('=')[0])}", parameter)
            for parameter in parts.query.split("&")
        ]
        return [row, [_spot("URI", uri)]]

    return Part("URI", _bytes(uri), spots)


def _body(whose: str, chunks: Sequence[Chunk], headers: Mapping[str, list[str]]) -> Part:
    body = plain(chunks, headers)
    data = body.data
    rows = groups(pieces_of(data))
    ends = list(accumulate(len(chunk.data) for chunk in body.chunks))
    place = f"{whose} body"

    def spots() -> list[list[Spot]]:
        name = partial(_stream_place if is_stream(data) else _document_place, whose, ends)
        found = [
            [Spot([joined(data, [piece]) for piece in group], partial(_group_place, name, group)) for group in row]
            for row in rows
        ]
        whole = Spot([chunk.data for chunk in body.chunks], lambda first, last: _chunks(place, first + 1, last + 1))
        return [*found, [whole if len(whole.texts) > 1 else Spot([data], lambda first, last: place)]]

    # What is one literal stands in the body as well; what came in pieces, or as numbers, stands there in no other way.
    pieced = [joined(data, group) for row in rows for group in row if len(group) > 1 or group[0].form == "numbers"]
    return Part(place, SEPARATOR.join([data, *pieced]), spots, body.undone, body.readable)


def _group_place(name: Callable[[Piece, Piece], str], group: Sequence[Piece], first: int, last: int) -> str:
    return name(group[first], group[last])


def _document_place(whose: str, ends: Sequence[int], first: Piece, last: Piece) -> str:
    """`request body messages[2].content`."""
    to = f" to {last.path}" if last.path != first.path else ""
    return f"{whose} body {first.path}{to}".rstrip()


def _stream_place(whose: str, ends: Sequence[int], first: Piece, last: Piece) -> str:
    """`response deltas choices[0].delta.content, chunks 4-6`."""
    kind = "event" if first is last else "deltas"
    place = f"{whose} {kind} {first.place}".rstrip()
    return _chunks(place, bisect_right(ends, first.start) + 1, bisect_right(ends, max(last.end - 1, last.start)) + 1)


def _chunks(place: str, first: int, last: int) -> str:
    return f"{place}, chunk {first}" if first == last else f"{place}, chunks {first}-{last}"
