"""Redaction that refuses: what can be replaced is replaced, and what is still there is named.

What is to be replaced in a text: keys, known values, and what users add.

Replacing what the rules find, and nothing else: every other byte of a body stays, and so does every cut.
"""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from itertools import accumulate, chain, takewhile
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote, unquote_plus, urlsplit, urlunsplit

from miniagents.ext.llm._redaction import REDACTED
from miniagents_testing._streams import Chunk
from miniagents_testing.cassette._interaction import kept_headers
from miniagents_testing.cassette._secrets.leaks import SEARCH_FOR_KEYS, leaks_of, plain, search_for, suspicions
from miniagents_testing.cassette._secrets.names import is_secret_name, keys_in, known_secrets
from miniagents_testing.cassette._secrets.texts import SHORTEST, Piece, groups, joined, pieces_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from miniagents_testing._streams import ResponseStream
    from miniagents_testing.cassette._interaction import Interaction
    from miniagents_testing.cassette._secrets.leaks import Leak


class Edit(NamedTuple):
    """Put `text` where `start` to `end` is."""

    start: int
    end: int
    text: str = REDACTED


class JSONPath:
    """The texts at a path of a JSON body or event, and below it.

    Args:
        path: names with dots between them, `[3]` for one element and `[*]` for all: `messages[*].content.email`. What
            stands inside a string (the arguments of a tool call) has no path. Elements that say their own `index`
            are counted by it.
    """

    def __init__(self, path: str) -> None:
        if not re.fullmatch(r"(?:[^.\[\]]+|\[(?:\d+|\*)\])(?:\.[^.\[\]]+|\[(?:\d+|\*)\])*", path):
            raise ValueError(f"not a JSON path of names, [n] and [*]: {path!r}")
        self.path = path
        self._pattern = re.compile(re.escape(path).replace(r"\[\*\]", r"\[\d+\]") + r"(?:[.\[].*)?", re.DOTALL)

    def __repr__(self) -> str:
        return f"JSONPath({self.path!r})"

    def covers(self, path: str) -> bool:
        """Whether the text at `path` is one of these."""
        return self._pattern.fullmatch(path) is not None


Rule = str | re.Pattern[str] | tuple[re.Pattern[str], str] | JSONPath | Callable[[str], str]
"""A text; a regular expression, also with a replacement as `re.sub` has it; a path; a function from text to text.

All but paths see each text of a body, ids and types too. What a function changes in a stream, from the first change to
the last, comes with the delta where it begins.
"""

TextRule = Callable[[str], Iterable[Edit]]


def key_rules(known_values: Iterable[str]) -> list[TextRule]:
    """Whatever looks like a key, and the values that are known."""
    return [_keys, *(_literal(value) for value in known_values)]


def text_rule(rule: str | re.Pattern[str] | tuple[re.Pattern[str], str] | Callable[[str], str]) -> TextRule:
    """The edits that a rule of a user asks for."""
    match rule:
        case str():
            if not rule:
                raise ValueError("a rule that is an empty text would be found everywhere")
            return _literal(rule)
        case re.Pattern():
            return _pattern(rule, None)
        case (re.Pattern() as pattern, str(replacement)):
            return _pattern(pattern, replacement)
        case _ if callable(rule):
            return lambda text: _difference(text, rule(text))
    raise TypeError(f"a rule is a text, a pattern, (pattern, replacement), a JSONPath or a function, not {rule!r}")


def replaced(text: str, rules: Iterable[TextRule]) -> str:
    """The text after all rules, which all look at it as it was."""
    edits = merged(chain.from_iterable(rule(text) for rule in rules))
    ends = [0, *(edit.end for edit in edits)]
    kept = [text[end : edit.start] + edit.text for end, edit in zip(ends, edits, strict=False)]
    return "".join(kept) + text[ends[-1] :]


def merged(edits: Iterable[Edit]) -> list[Edit]:
    """The edits in order; those that overlap as one, with the first text that is any."""
    result: list[Edit] = []
    for edit in sorted(edits):
        if result and edit.start < result[-1].end:
            last = result[-1]
            result[-1] = Edit(last.start, max(last.end, edit.end), last.text or edit.text)
        else:
            result.append(edit)
    return result


def _keys(text: str) -> Iterator[Edit]:
    return (Edit(start, end) for start, end in keys_in(text))


def _literal(value: str) -> TextRule:
    def edits(text: str) -> Iterator[Edit]:
        start = text.find(value)
        while start >= 0:
            yield Edit(start, start + len(value))
            start = text.find(value, start + len(value))

    return edits


def _pattern(pattern: re.Pattern[str], replacement: str | None) -> TextRule:
    def edits(text: str) -> Iterator[Edit]:
        for match in pattern.finditer(text):
            if match.end() > match.start():
                yield Edit(*match.span(), REDACTED if replacement is None else match.expand(replacement))

    return edits


def _difference(before: str, after: str) -> Iterator[Edit]:
    """One edit, from the first to the last character that differs."""
    if before != after:
        start = _alike(before, after)
        end = _alike(reversed(before[start:]), reversed(after[start:]))
        yield Edit(start, len(before) - end, after[start : len(after) - end])


def _alike(one: Iterable[str], other: Iterable[str]) -> int:
    """How many characters at the start are the same."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


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


class Redaction:
    """What must not be in a recording, and what stands in its place.

    Recording and replay use the same redaction, so that a live request, scrubbed, is the one that was recorded.

    Args:
        known_values: secrets by value; those of the environment by default, see `known_secrets`.
        rules: what users want to be replaced besides: in the texts of bodies (those of a stream as a whole, however
            they were cut), and in the segments and parameters of a URI.

    Raises:
        ValueError: a known value is shorter than 8 bytes, and would be found anywhere; or a rule makes no sense.
        TypeError: a rule is none.
    """

    def __init__(self, known_values: Iterable[str] | None = None, rules: Iterable[Rule] = ()) -> None:
        rules = list(rules)
        self._paths = [rule for rule in rules if isinstance(rule, JSONPath)]
        self._rules = [text_rule(rule) for rule in rules if not isinstance(rule, JSONPath)]
        self._known = known_secrets(os.environ) if known_values is None else set(known_values)
        shortest = min(self._known, key=len, default=None)
        if shortest is not None and len(shortest.encode("utf-8", "surrogateescape")) < SHORTEST:
            raise ValueError(f"a known value of {len(shortest)} characters would be found in texts that have no secret")
        self._know(self._known)

    def learn(self, headers: Iterable[tuple[str, str]]) -> None:
        """See the headers of a live request or response; the secrets in them are known from now on."""
        new = known_secrets({}, headers) - self._known
        if new:
            self._know(self._known | new)

    def _know(self, values: set[str]) -> None:
        self._known = values
        in_order = sorted(values, key=lambda value: (-len(value), value))
        self._searches = [search_for(value) for value in in_order]
        self._keys = key_rules(in_order)
        # The same few come with each request.
        self._scrubbed_uri = lru_cache(256)(partial(scrubbed_uri, rules=[*self._keys, *self._rules]))

    def scrub(self, interaction: Interaction) -> Interaction:
        """The interaction without headers that nobody needs, and with "[redacted]" for known values, keys and rules.

        Nothing else changes, not by a byte. Chunks keep their cuts and waits. What is hidden in an encoding other than
        that of JSON or of a URI stays, for `leaks` to find.
        """
        response = interaction.response
        return replace(
            interaction,
            uri=self.scrub_uri(interaction.uri),
            request_body=self.scrub_body(interaction.request_body),
            request_headers=self._headers(interaction.request_headers),
            response=replace(
                self._response(response),
                reason=self._text(response.reason),
                end=self._text(response.end),
            ),
        )

    def scrub_body(self, body: bytes) -> bytes:
        """A body as it would be recorded; for a live request, before it is looked up."""
        return edited(body, self._edits(body))

    def scrub_uri(self, uri: str) -> str:
        """A URI as it would be recorded; for a live request, before it is looked up."""
        return self._scrubbed_uri(uri)

    def leaks(self, interaction: Interaction, *, keys: bool = False) -> list[Leak]:
        """Where a known value stands, in any encoding; a recording with one of these must not be written.

        Args:
            interaction: as it would be written.
            keys: find also what only looks like a secret.
        """
        if not keys:
            return leaks_of(interaction, self._searches)
        return [*leaks_of(interaction, [*self._searches, SEARCH_FOR_KEYS]), *suspicions(interaction)]

    def _edits(self, body: bytes) -> list[Edit]:
        return body_edits(body, keys=self._keys, rules=self._rules, paths=self._paths)

    def _text(self, text: str) -> str:
        return replaced(text, self._keys)

    def _headers(self, headers: Mapping[str, list[str]]) -> dict[str, list[str]]:
        return kept_headers([(name, self._text(value)) for name, values in headers.items() for value in values])

    def _response(self, response: ResponseStream) -> ResponseStream:
        """The response with its body scrubbed, and then uncompressed."""
        headers = self._headers(response.headers)
        body = plain(response.chunks, response.headers)
        edits = self._edits(body.data)
        if not edits:
            return replace(response, headers=headers)
        if body.undone:
            headers.pop("content-encoding", None)
        return replace(response, headers=headers, chunks=tuple(edited_chunks(body.chunks, edits)))


def scan(
    interactions: Iterable[Interaction], known_values: Iterable[str] | None = None, *, keys: bool = False
) -> list[Leak]:
    """The leaks of a whole recording; each says the number of its interaction.

    Args:
        interactions: of the recording, in their order.
        known_values: as for `Redaction`.
        keys: as for `Redaction.leaks`.

    Raises:
        ValueError: as `Redaction` does.
    """
    redaction = Redaction(known_values)
    return [
        replace(leak, interaction=number)
        for number, interaction in enumerate(interactions, 1)
        for leak in redaction.leaks(interaction, keys=keys)
    ]
