"""Replacing what the rules find, and nothing else: every other byte of a body stays, and so does every cut."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from itertools import accumulate, chain
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, unquote_plus, urlsplit, urlunsplit

from miniagents.ext.llm._redaction import REDACTED
from miniagents_testing._streams import Chunk
from miniagents_testing.cassette.secrets.patterns import is_secret_name
from miniagents_testing.cassette.secrets.rules import Edit, merged, replaced
from miniagents_testing.cassette.secrets.texts import Piece, groups, joined, pieces_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from miniagents_testing.cassette.secrets.rules import JSONPath, TextRule

__all__ = ["body_edits", "edited", "edited_chunks", "scrubbed_uri"]

_UNIT = re.compile(rb'\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\["\\/bfnrt]')
"""What stands for one character in a JSON string, where it is not the character itself."""


def body_edits(
    data: bytes, *, keys: Sequence[TextRule], rules: Sequence[TextRule], paths: Sequence[JSONPath]
) -> list[Edit]:
    """What is to be replaced in a body, by its bytes.

    Args:
        data: the body.
        keys: hold for texts, names of fields, and lines beside the data of events. What stands in numbers or in the
            syntax itself is left: nothing could be put in its place.
        rules: hold for each text: they may be anything, and would tear up the syntax of JSON, or reach from one
            message of a prompt into the next.
        paths: of texts that are replaced as they are.
    """
    text = data.decode("utf-8", "surrogateescape")
    stands_there = any(True for rule in keys for _ in rule(text))
    pieces = pieces_of(data, everything=stands_there)
    apart, through = groups(pieces)
    edits: list[Edit] = []
    for piece in pieces if stands_there else ():  # a field that is the same in each event is no text in pieces
        edits += _group_edits(data, [piece], keys)
    for group in apart:
        edits += _group_edits(data, group, rules if _is_verbatim(data, group) else [*keys, *rules])
    for group in through:
        edits += _group_edits(data, group, keys)
    if paths:
        for piece in pieces:
            if piece.form == "json" and piece.end > piece.start and any(path.covers(piece.path) for path in paths):
                edits.append(_edit(piece, piece.start, piece.end, REDACTED))
    return merged(edits)


def edited(data: bytes, edits: Iterable[Edit]) -> bytes:
    """The body after these edits."""
    (chunk,) = edited_chunks([Chunk(0, data)], edits) or [Chunk(0, b"")]
    return chunk.data


def edited_chunks(chunks: Sequence[Chunk], edits: Iterable[Edit]) -> list[Chunk]:
    """The chunks after edits of their joined bytes.

    A cut inside of what is replaced comes after the replacement. The wait of a chunk of which nothing is left is added
    to that of the next.
    """
    data = b"".join(chunk.data for chunk in chunks)
    parts: list[list[bytes]] = [[] for _ in chunks]
    ends = list(accumulate(len(chunk.data) for chunk in chunks))
    position = 0
    for start, end, text in (*edits, Edit(len(data), len(data), "")):
        while position < start:  # copy, chunk by chunk
            number = bisect_right(ends, position)
            stop = min(start, ends[number])
            parts[number].append(data[position:stop])
            position = stop
        if text:
            parts[bisect_right(ends, start)].append(text.encode("utf-8", "surrogateescape"))
        position = end
    result: list[Chunk] = []
    waited = 0
    for chunk, part in zip(chunks, parts, strict=True):
        waited += chunk.wait
        if new := b"".join(part):
            result.append(Chunk(waited, new))
            waited = 0
    return result


def scrubbed_uri(uri: str, rules: Sequence[TextRule]) -> str:
    """The URI without user and password, and with the rules laid over each segment and parameter."""
    parts = urlsplit(uri)
    path = "/".join(_respelled(segment, unquote, rules) for segment in parts.path.split("/"))
    query = "&".join(_scrubbed_parameter(parameter, rules) for parameter in parts.query.split("&"))
    fragment = _respelled(parts.fragment, unquote, rules)
    scrubbed = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=path, query=query, fragment=fragment)
    return uri if scrubbed == parts else urlunsplit(scrubbed)


def _scrubbed_parameter(parameter: str, rules: Sequence[TextRule]) -> str:
    name, equals, value = parameter.partition("=")
    if value and is_secret_name(unquote_plus(name)):
        return name + equals + quote(REDACTED)
    return _respelled(name, unquote_plus, rules) + equals + _respelled(value, unquote_plus, rules)


def _respelled(part: str, decode: Callable[[str], str], rules: Sequence[TextRule]) -> str:
    """A part of a URI after the rules; spelled as before where they change nothing."""
    before = decode(part)
    after = replaced(before, rules)
    return part if after == before else quote(after, safe="")


def _is_verbatim(data: bytes, group: Sequence[Piece]) -> bool:
    """Whether the text stands in the body as it is and in one piece, where `keys` have seen it."""
    (piece, *more) = group
    return not more and piece.form != "numbers" and data.find(b"\\", piece.start, piece.end) < 0


def _group_edits(data: bytes, group: Sequence[Piece], rules: Sequence[TextRule]) -> Iterator[Edit]:
    """What the rules replace in the text of these pieces; what runs over several goes into the first."""
    if not rules:
        return
    text, marks = _decoded(joined(data, group), escaped=group[0].form in ("json", "name"))
    found = merged(chain.from_iterable(rule(text) for rule in rules))
    if not found:
        return
    lengths = [len(joined(data, [piece])) for piece in group]
    ends = list(accumulate(lengths))
    for start, end, replacement in _in_bytes(text, marks, found):
        number = bisect_right(ends, start)
        while start < end:
            piece, first = group[number], ends[number] - lengths[number]
            if lengths[number]:
                yield _edit(
                    piece, piece.start + start - first, piece.start + min(end, ends[number]) - first, replacement
                )
                replacement = ""
            start = ends[number]
            number += 1


def _edit(piece: Piece, start: int, end: int, text: str) -> Edit:
    """An edit as it is written in the body."""
    match piece.form:
        case "numbers":  # a part of them would be the secret still
            return Edit(piece.start, piece.end, "")
        case "json" | "name":
            inside = json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "backslashreplace")
            return Edit(start, end, inside.decode())
        case _:
            return Edit(start, end, text)


def _decoded(data: bytes, *, escaped: bool) -> tuple[str, list[tuple[int, int]]]:
    """The text, and at which characters and which bytes the stretches begin that stand there as they are."""
    if not escaped or b"\\" not in data:
        return data.decode("utf-8", "surrogateescape"), [(0, 0)]
    parts: list[str] = []
    marks = [(0, 0)]
    length = position = 0
    for unit in _UNIT.finditer(data):
        parts += [data[position : unit.start()].decode("utf-8", "surrogateescape"), json.loads(b'"%b"' % unit[0])]
        marks.append((length + len(parts[-2]), unit.start()))
        length += len(parts[-2]) + 1
        position = unit.end()
        marks.append((length, position))
    parts.append(data[position:].decode("utf-8", "surrogateescape"))
    return "".join(parts), marks


def _in_bytes(text: str, marks: Sequence[tuple[int, int]], edits: Iterable[Edit]) -> Iterator[Edit]:
    """Edits of a text, in order, as edits of the bytes that it was decoded from."""
    character = byte = 0
    for start, end, replacement in edits:
        where = []
        for position in (start, end):
            near = marks[bisect_right(marks, position, key=lambda mark: mark[0]) - 1]
            character, byte = max((character, byte), near)  # go on from the last position, or from a later mark
            byte += len(text[character:position].encode("utf-8", "surrogateescape"))
            character = position
            where.append(byte)
        yield Edit(where[0], where[1], replacement)
