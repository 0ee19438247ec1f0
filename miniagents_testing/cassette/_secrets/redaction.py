"""Redaction: keys, known values and what users' rules find are replaced, and secrets that are left are reported.

Only what a rule finds is replaced: every other byte of a body stays, and so does every cut between chunks.
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
from urllib.parse import quote, quote_plus, unquote, unquote_plus, urlsplit, urlunsplit

from miniagents.ext.llm._redaction import REDACTED
from miniagents_testing._streams import Chunk
from miniagents_testing.cassette._bodies import Headers, plain_body, texts_of
from miniagents_testing.cassette._frames import as_events, from_events, is_conversation
from miniagents_testing.cassette._headers import OF_WHOLE_BODIES, URL_IN_HEADER, HeaderRule
from miniagents_testing.cassette._paths import Path
from miniagents_testing.cassette._secrets.leaks import SEARCH_FOR_KEYS, leaks_of, plain, search_for, suspicions
from miniagents_testing.cassette._secrets.names import is_secret_name, keys_in, known_secrets
from miniagents_testing.cassette._secrets.texts import SHORTEST, Piece, groups, is_stream, joined, pieces_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from miniagents_testing._streams import ResponseStream
    from miniagents_testing.cassette._interaction import Interaction
    from miniagents_testing.cassette._secrets.leaks import Leak


class Edit(NamedTuple):
    """Replacement of the range from `start` to `end` by `text`."""

    start: int
    end: int
    text: str = REDACTED


class JSONPath:
    """Rule for the texts at a path of a body, an event or a query, and below the path.

    Args:
        path: as for `Matching.ignore`: `messages[*].content.email`, `**.email` at any depth, `?email` of the query. In
            events, an element with a field `index` has that number.

    Raises:
        ValueError: the path cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.places = Path(path)

    def __repr__(self) -> str:
        return f"JSONPath({self.path!r})"


Rule = str | re.Pattern[str] | tuple[re.Pattern[str], str] | JSONPath | Callable[[str], str]
"""A text; a regular expression, also with a replacement as in `re.sub`; a path; a function from text to text.

All but paths get each text of a body, ids and types too. What a function changes in a stream, from the first change to
the last, moves to the delta in which the change begins.
"""

_TextRule = Callable[[str], Iterable[Edit]]


def _key_rules(known_values: Iterable[str]) -> list[_TextRule]:
    """Return the rules that replace texts with the form of a key, and each known value."""
    return [_keys, *(_literal(value) for value in known_values)]


def _text_rule(rule: str | re.Pattern[str] | tuple[re.Pattern[str], str] | Callable[[str], str]) -> _TextRule:
    """Make a text rule of a user's rule.

    Raises:
        ValueError: the rule is an empty text.
        TypeError: it is no rule.
    """
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


def replaced(text: str, rules: Iterable[_TextRule]) -> str:
    """Return the text with the edits of all rules, which are all found in the unchanged text."""
    edits = merged(chain.from_iterable(rule(text) for rule in rules))
    ends = [0, *(edit.end for edit in edits)]
    kept = [text[end : edit.start] + edit.text for end, edit in zip(ends, edits, strict=False)]
    return "".join(kept) + text[ends[-1] :]


def merged(edits: Iterable[Edit]) -> list[Edit]:
    """Sort edits, and join overlapping edits into one with the first text that is not empty."""
    result: list[Edit] = []
    for edit in sorted(edits):
        if result and edit.start < result[-1].end:
            last = result[-1]
            result[-1] = Edit(last.start, max(last.end, edit.end), last.text or edit.text)
        else:
            result.append(edit)
    return result


def _keys(text: str) -> Iterator[Edit]:
    """Yield an edit for each key in a text."""
    return (Edit(start, end) for start, end in keys_in(text))


def _literal(value: str) -> _TextRule:
    """Return a rule that replaces each occurrence of a text."""

    def edits(text: str) -> Iterator[Edit]:
        """Yield an edit for each occurrence of the text."""
        start = text.find(value)
        while start >= 0:
            yield Edit(start, start + len(value))
            start = text.find(value, start + len(value))

    return edits


def _pattern(pattern: re.Pattern[str], replacement: str | None) -> _TextRule:
    """Return a rule that replaces the matches of a pattern, except empty ones, by "[redacted]" or by `replacement`.

    A `replacement` may refer to groups of the match.
    """

    def edits(text: str) -> Iterator[Edit]:
        """Yield an edit for each match that is not empty."""
        for match in pattern.finditer(text):
            if match.end() > match.start():
                yield Edit(*match.span(), REDACTED if replacement is None else match.expand(replacement))

    return edits


def _difference(before: str, after: str) -> Iterator[Edit]:
    """Yield the edit that turns `before` into `after`; yield nothing if they are equal."""
    if before != after:
        start = _count_common(before, after)
        end = _count_common(reversed(before[start:]), reversed(after[start:]))
        yield Edit(start, len(before) - end, after[start : len(after) - end])


def _count_common(one: Iterable[str], other: Iterable[str]) -> int:
    """Return the number of equal characters at the start of two texts."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


_UNIT = re.compile(rb'\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\["\\/bfnrt]')
"""Escape of one character in a JSON string."""
_SURROGATES = re.compile("[\ud800-\udfff]")


def _body_edits(
    data: bytes, *, keys: Sequence[_TextRule], rules: Sequence[_TextRule], paths: Sequence[Path]
) -> list[Edit]:
    """Return the edits of a body, as ranges of bytes.

    Args:
        data: the body.
        keys: rules for texts, names of fields, and lines of events that are no data. Numbers and syntax are not
            changed: a replacement there would make the JSON unreadable.
        rules: of the user, for each text by itself. On the whole body they could break the syntax of JSON, or match
            from one message of a prompt into the next.
        paths: of texts that are replaced as a whole.
    """
    text = data.decode("utf-8", "surrogateescape")
    has_keys = any(True for rule in keys for _ in rule(text))
    pieces = pieces_of(data, everything=has_keys)
    apart, through = groups(pieces)
    edits: list[Edit] = []
    for piece in pieces if has_keys else ():  # a field that is equal in each event is no text in pieces
        edits += _group_edits(data, [piece], keys)
    for group in apart:
        edits += _group_edits(data, group, rules if _is_verbatim(data, group) else [*keys, *rules])
    for group in through:
        edits += _group_edits(data, group, keys)
    if paths:
        edits += _path_edits(data, apart, (), paths)
    return merged(edits)


def _path_edits(
    data: bytes, texts: Iterable[Sequence[Piece]], outer: tuple[str, ...], paths: Sequence[Path]
) -> list[Edit]:
    """Return the edits that replace the texts at some paths, also inside texts that are JSON themselves.

    Args:
        data: the body, or the JSON inside a text of a body.
        texts: of the data, each as the pieces in which it came.
        outer: place of the data in the whole body.
        paths: of texts that are replaced as a whole.
    """
    by_index = is_stream(data)
    edits: list[Edit] = []
    for pieces in texts:
        if pieces[0].form != "json":
            continue
        place = (*outer, *pieces[0].steps(by_index=by_index))
        if any(path.covers(place) for path in paths):
            edits += [_edit(piece, piece.start, piece.end, REDACTED) for piece in pieces if piece.end > piece.start]
        elif any(path.leads_below(place) for path in paths):
            edits += _group_edits(data, pieces, [partial(_edits_inside, place=place, paths=paths)])
    return edits


def _edits_inside(text: str, place: tuple[str, ...], paths: Sequence[Path]) -> Iterator[Edit]:
    """Yield the edits of a text that is JSON itself, such as the arguments of a tool call; none for other texts."""
    if text.lstrip()[:1] not in ("{", "["):
        return
    data = _SURROGATES.sub("?", text).encode()
    position = character = 0
    for edit in merged(_path_edits(data, groups(pieces_of(data))[0], place, paths)):
        start = character + len(data[position : edit.start].decode())
        character = start + len(data[edit.start : edit.end].decode())
        position = edit.end
        yield Edit(start, character, edit.text)


def _form_edits(data: bytes, headers: Headers, paths: Sequence[Path]) -> Iterator[Edit]:
    """Yield the edits that replace the texts at some paths in a form or multipart, also inside those that are JSON."""
    for text in texts_of(data, headers):
        if text.start == text.end:
            continue
        if any(path.covers(text.place) for path in paths):
            after = REDACTED
        elif any(path.leads_below(text.place) for path in paths):
            found = data[text.start : text.end].decode("utf-8", "surrogateescape")
            before = unquote_plus(found, errors="surrogateescape") if text.is_encoded else found
            after = replaced(before, [partial(_edits_inside, place=text.place, paths=paths)])
            if after == before:
                continue
        else:
            continue
        yield Edit(text.start, text.end, quote_plus(after, errors="surrogateescape") if text.is_encoded else after)


def edited(data: bytes, edits: Iterable[Edit]) -> bytes:
    """Return the body after these edits."""
    (chunk,) = _edited_chunks([Chunk(0, data)], edits) or [Chunk(0, b"")]
    return chunk.data


def _edited_chunks(chunks: Sequence[Chunk], edits: Iterable[Edit]) -> list[Chunk]:
    """Return the chunks after edits of their joined bytes.

    A cut inside a replaced range moves behind the replacement. The wait of a chunk that becomes empty is added to that
    of the next chunk.
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


def _redacted_uri(uri: str, rules: Sequence[_TextRule], paths: Sequence[Path]) -> str:
    """Return the URI without user and password, with the rules applied to each segment, parameter and fragment.

    Parameters at one of the paths are replaced as a whole.
    """
    parts = urlsplit(uri)
    path = "/".join(_respelled(segment, unquote, rules) for segment in parts.path.split("/"))
    query = "&".join(_scrubbed_parameter(parameter, rules, paths) for parameter in parts.query.split("&"))
    fragment = _respelled(parts.fragment, unquote, rules)
    scrubbed = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=path, query=query, fragment=fragment)
    return uri if scrubbed == parts else urlunsplit(scrubbed)


def _scrubbed_parameter(parameter: str, rules: Sequence[_TextRule], paths: Sequence[Path]) -> str:
    """Return a query parameter after the rules; a value of a secret name, or at a path, is replaced as a whole."""
    name, equals, value = parameter.partition("=")
    decoded = unquote_plus(name)
    if value and (is_secret_name(decoded) or any(path.covers_parameter(decoded) for path in paths)):
        return name + equals + quote(REDACTED)
    return _respelled(name, unquote_plus, rules) + equals + _respelled(value, unquote_plus, rules)


def _respelled(part: str, decode: Callable[[str], str], rules: Sequence[_TextRule]) -> str:
    """Return a part of a URI with the rules applied to its decoded text; unchanged parts keep their spelling."""
    before = decode(part)
    after = replaced(before, rules)
    return part if after == before else quote(after, safe="")


def _is_verbatim(data: bytes, group: Sequence[Piece]) -> bool:
    """Return True if the text is in the body in one piece and without escapes, so that `keys` have found it there."""
    (piece, *more) = group
    return not more and piece.form != "numbers" and data.find(b"\\", piece.start, piece.end) < 0


def _group_edits(data: bytes, group: Sequence[Piece], rules: Sequence[_TextRule]) -> Iterator[Edit]:
    """Yield the edits of the text of these pieces; a replacement that spans several goes into the first."""
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
    """Return an edit of the body for a replacement in the text of a piece, escaped as the piece requires.

    A piece of numbers is removed as a whole, without the replacement.
    """
    match piece.form:
        case "numbers":  # numbers that were left would still show a part of the secret
            return Edit(piece.start, piece.end, "")
        case "json" | "name":
            inside = json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "backslashreplace")
            return Edit(start, end, inside.decode())
        case _:
            return Edit(start, end, text)


def _decoded(data: bytes, *, escaped: bool) -> tuple[str, list[tuple[int, int]]]:
    """Return the text of bytes, and a list that maps it back: pairs of character and byte positions.

    Each pair begins a stretch in which characters are stored as they are, without JSON escapes.
    """
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
    """Convert sorted edits of a text into edits of the bytes that it was decoded from; `marks` come from `_decoded`."""
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


_NO_HEADERS: Headers = {}
_HEADERS = HeaderRule()


def _pairs(headers: Headers) -> Iterator[tuple[str, str]]:
    """Yield each value of headers after its name."""
    return ((name, value) for name, values in headers.items() for value in values)


class Redaction:
    """Redaction of a recording: which texts are replaced, and by what.

    Recording and replay use the same redaction, so that a redacted live request equals the recorded one.

    Args:
        known_values: secrets by value; those of the environment by default, see `known_secrets`.
        rules: further rules of the user, for the texts of bodies and for the segments and parameters of a URI. A text
            of a stream is joined from its deltas before a rule gets it.

    Raises:
        ValueError: a known value is shorter than 8 bytes, and would be found in any text; or a rule is an empty text.
        TypeError: a rule has a wrong type.
    """

    def __init__(self, known_values: Iterable[str] | None = None, rules: Iterable[Rule] = ()) -> None:
        rules = list(rules)
        self._paths = [rule.places for rule in rules if isinstance(rule, JSONPath)]
        self._rules = [_text_rule(rule) for rule in rules if not isinstance(rule, JSONPath)]
        self._known = known_secrets(os.environ) if known_values is None else set(known_values)
        shortest = min(self._known, key=len, default=None)
        if shortest is not None and len(shortest.encode("utf-8", "surrogateescape")) < SHORTEST:
            raise ValueError(f"a known value of {len(shortest)} characters would be found in texts that have no secret")
        self._know(self._known)

    def learn(self, headers: Iterable[tuple[str, str]]) -> None:
        """Remember the secrets in the headers of a live request or response."""
        new = {value for value in known_secrets({}, headers) - self._known if REDACTED not in value}  # of a replay
        if new:
            self._know(self._known | new)

    def _know(self, values: set[str]) -> None:
        """Make the rules and searches for these known values."""
        self._known = values
        in_order = sorted(values, key=lambda value: (-len(value), value))
        self._searches = [search_for(value) for value in in_order]
        self._keys = _key_rules(in_order)
        # cached, because each request has one of a few URIs
        self._scrubbed_uri = lru_cache(256)(
            partial(_redacted_uri, rules=[*self._keys, *self._rules], paths=self._paths)
        )

    def scrub(self, interaction: Interaction, *, keep: HeaderRule | None = _HEADERS) -> Interaction:
        """Return the interaction with "[redacted]" for known values and keys, with the user's rules applied.

        Headers that are not recorded are dropped. Nothing else changes, not by a byte, and chunks keep their cuts and
        waits. Secrets in encodings other than those of JSON and URIs stay, and `leaks` finds them.

        Args:
            interaction: as it was recorded.
            keep: rule for the headers; None if they were chosen already.
        """
        if is_conversation(interaction):
            return from_events(self.scrub(as_events(interaction), keep=keep), interaction)
        response = interaction.response
        body, headers = self.scrub_request(interaction.request_body, interaction.request_headers)
        return replace(
            interaction,
            uri=self.scrub_uri(interaction.uri),
            request_body=body,
            request_headers=self._headers(headers if keep is None else keep.of_request(_pairs(headers))),
            response=replace(
                self._response(response, keep),
                reason=self._text(response.reason),
                end=self._text(response.end),
            ),
        )

    def scrub_body(self, body: bytes) -> bytes:
        """Return a body without headers as it would be recorded."""
        return edited(body, self._edits(body))

    def scrub_request(self, body: bytes, headers: Headers) -> tuple[bytes, Headers]:
        """Return the body and headers of a request as they would be recorded; live requests are looked up by them.

        A compressed body that changes is stored without compression, and the header is dropped.
        """
        plain = plain_body(body, headers)
        edits = self._edits(plain, headers)
        if not edits:
            return body, headers
        if plain is not body:
            headers = {name: values for name, values in headers.items() if name.lower() != "content-encoding"}
        return edited(plain, edits), headers

    def scrub_uri(self, uri: str) -> str:
        """Return a URI as it would be recorded; live requests are looked up by it."""
        return self._scrubbed_uri(uri)

    def leaks(self, interaction: Interaction, *, keys: bool = False) -> list[Leak]:
        """Return the places of known values, in any encoding; a recording with one of them must not be written.

        Args:
            interaction: as it would be written.
            keys: True to find also values that look like secrets.
        """
        if is_conversation(interaction):
            interaction = as_events(interaction)
        if not keys:
            return leaks_of(interaction, self._searches)
        return [*leaks_of(interaction, [*self._searches, SEARCH_FOR_KEYS]), *suspicions(interaction)]

    def _edits(self, body: bytes, headers: Headers = _NO_HEADERS) -> list[Edit]:
        """Return the edits of a body by the keys, the known values and the user's rules."""
        edits = _body_edits(body, keys=self._keys, rules=self._rules, paths=self._paths)
        return merged([*edits, *_form_edits(body, headers, self._paths)]) if self._paths else edits

    def _text(self, text: str) -> str:
        """Return a text with keys and known values replaced."""
        return replaced(text, self._keys)

    def _headers(self, headers: Headers) -> dict[str, list[str]]:
        """Return the headers with keys and known values replaced, and URLs as they would be recorded."""
        return {name: [self._header(name, value) for value in values] for name, values in headers.items()}

    def _header(self, name: str, value: str) -> str:
        """Return the value of a header as `_headers` does."""
        if name.lower().endswith("location"):  # also relative: the target of a redirect may be signed
            return self.scrub_uri(value)
        return self._text(URL_IN_HEADER.sub(lambda url: self.scrub_uri(url[0]), value))

    def _response(self, response: ResponseStream, keep: HeaderRule | None) -> ResponseStream:
        """Return the response with its body redacted; a compressed body that changes is stored without compression."""
        headers = self._headers(response.headers if keep is None else keep.of_response(_pairs(response.headers)))
        body = plain(response.chunks, response.headers)
        edits = self._edits(body.data)
        if not edits:
            return replace(response, headers=headers)
        if body.undone:
            headers.pop("content-encoding", None)
        for name in OF_WHOLE_BODIES:
            headers.pop(name, None)
        return replace(response, headers=headers, chunks=tuple(_edited_chunks(body.chunks, edits)))


def scan(
    interactions: Iterable[Interaction], known_values: Iterable[str] | None = None, *, keys: bool = False
) -> list[Leak]:
    """Return the leaks of a whole recording; each has the number of its interaction.

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
