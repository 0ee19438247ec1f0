"""Redaction: secrets and what users' rules find are replaced, and secrets that are left are reported.

Only what a rule finds is replaced: every other byte of a body stays, and so does every cut between chunks.

A `Leak` names the place of a secret that is left, without showing the secret. `leaks_of` looks for known values in all
parts of an interaction as they would be written, in plain, JSON and percent spelling. `plain` undoes the compression of
a body chunk by chunk.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, quote_plus, unquote, unquote_plus, urlsplit, urlunsplit

from miniagents.errors import EventTooLargeError, StreamDecodeError
from miniagents.ext.llm._redaction import REDACTED
from miniagents.ext.llm.sse import inflater_for
from miniagents_testing._streams import Chunk
from miniagents_testing._words import counted
from miniagents_testing.cassette._bodies import Headers, Path, header_value, plain_body
from miniagents_testing.cassette._conversation import as_events, from_events, is_conversation
from miniagents_testing.cassette._headers import OF_WHOLE_BODIES, URL_IN_HEADER, HeaderRule
from miniagents_testing.cassette._interaction import is_text
from miniagents_testing.cassette._secrets.names import (
    SECRET_FIELDS,
    SECRET_NAMES,
    SHORTEST,
    FieldNames,
    credentials_in,
    is_stand_in,
    values_of_environment,
    values_of_headers,
    values_of_url,
)
from miniagents_testing.cassette._secrets.search import Edit, Search, replaced

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from miniagents_testing.cassette._interaction import Interaction


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
_HEADERS = HeaderRule()
_RULE = "a rule of the test"


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


def _literal(value: str) -> _TextRule:
    """Return a rule that replaces each occurrence of a text."""

    def edits(text: str) -> Iterator[Edit]:
        """Yield an edit for each occurrence of the text."""
        start = text.find(value)
        while start >= 0:
            yield Edit(start, start + len(value), why=_RULE, size=len(value))
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
                text = REDACTED if replacement is None else match.expand(replacement)
                yield Edit(*match.span(), text, why=_RULE, size=len(match[0]))

    return edits


def _difference(before: str, after: str) -> Iterator[Edit]:
    """Yield one edit that turns `before` into `after`, from their first to their last difference.

    Yield nothing if they are equal.
    """
    if before != after:
        start = _count_common(before, after)
        end = _count_common(reversed(before[start:]), reversed(after[start:]))
        yield Edit(start, len(before) - end, after[start : len(after) - end], _RULE, size=len(before) - end - start)


def _count_common(one: Iterable[str], other: Iterable[str]) -> int:
    """Return the number of equal characters at the start of two texts."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def edited(data: bytes, edits: Iterable[Edit]) -> bytes:
    """Return the body after these edits."""
    (chunk,) = _edited_chunks([Chunk(0, data)], edits) or [Chunk(0, b"")]
    return chunk.data


def _edited_chunks(chunks: Sequence[Chunk], edits: Iterable[Edit]) -> list[Chunk]:
    """Apply edits to the joined bytes of the chunks, and return the new chunks; the edits are sorted and apart.

    If an edit reaches over several chunks, its whole replacement goes into the chunk where the edit begins. The wait of
    a chunk that becomes empty is added to that of the next chunk, or dropped at the end.
    """
    data = b"".join(chunk.data for chunk in chunks)
    parts: list[list[bytes]] = [[] for _ in chunks]
    ends = list(accumulate(len(chunk.data) for chunk in chunks))
    position = 0
    for start, end, text, *_ in (*edits, Edit(len(data), len(data), "")):
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


class Replaced(NamedTuple):
    """A text that was replaced in a recording."""

    interaction: int
    """Number of the interaction in the cassette, from 1."""
    path: str
    """Place of the text: `request body messages[0].content`, `query parameter key`."""
    why: str
    """Name of the field, of the variable of the environment or of the shape of a key."""
    length: int
    """Number of characters that were replaced."""

    def __str__(self) -> str:
        return f"interaction {self.interaction}, {self.path}: {self.why}, {self.length} characters"


class Redacted(NamedTuple):
    """An interaction after redaction."""

    interaction: Interaction
    replaced: list[Replaced]
    """Texts that were replaced; equal ones in the same place of several events stand for one."""
    leaks: list[Leak]
    """Known values that are left; such an interaction must not be written."""


class Redaction:
    """Redaction of a recording: which texts are replaced, and by what.

    Three kinds of secrets are replaced: texts of fields, parameters and headers with the names in `fields`; known
    values; and keys of well-known shapes. Recording and replay use the same redaction, so that a redacted live request
    equals the recorded one.

    Args:
        known_values: secrets by value, also as a mapping to their names for reports. By default they are those of the
            environment: variables with a word such as KEY, TOKEN, SECRET, PASSWORD or DSN in their names, and values
            that are not made of words.
        rules: further rules of the user, for the texts of bodies and for the segments and parameters of a URI. A text
            of a stream is joined from its deltas before a rule gets it.
        fields: names of secret fields; give `[*SECRET_FIELDS, "ssn"]` to add to them.

    Raises:
        ValueError: a known value is shorter than 8 bytes, and would be found in any text; or a rule is an empty text.
        TypeError: a rule has a wrong type, or `fields` is a text.
    """

    def __init__(
        self,
        known_values: Mapping[str, str] | Iterable[str] | None = None,
        rules: Iterable[Rule] = (),
        *,
        fields: Iterable[str] = SECRET_FIELDS,
    ) -> None:
        rules = list(rules)
        self._paths = [rule.places for rule in rules if isinstance(rule, JSONPath)]
        self._rules = [_text_rule(rule) for rule in rules if not isinstance(rule, JSONPath)]
        self._names = SECRET_NAMES if fields is SECRET_FIELDS else FieldNames(fields)
        if known_values is None:
            known_values = values_of_environment()
        elif not isinstance(known_values, Mapping):
            known_values = dict.fromkeys(known_values, "a known secret")
        shortest = min(known_values, key=len, default=None)
        if shortest is not None and len(shortest.encode("utf-8", "surrogateescape")) < SHORTEST:
            size = counted(len(shortest), "character")
            raise ValueError(f"a known value of {size} would be found in texts that have no secret")
        self._by_known = self._by_form = _Scrubber(self._search({}), self._names, self._paths)
        self._known: dict[str, str] = {}
        self._know(known_values)

    def _search(self, known: Mapping[str, str]) -> Search:
        """Return a search for known values, given with their origins, and for names, shapes of keys and the rules."""
        return Search(known, self._names, self._paths, self._rules)

    def _know(self, values: Mapping[str, str]) -> None:
        """Add values to the known secrets, with their origins; a value that is known already keeps its origin."""
        if not values.keys() <= self._known.keys():
            self._known = {**values, **self._known}
            self._by_known = _Scrubber(self._search(self._known), self._names, self._paths)

    def learn(self, headers: Iterable[tuple[str, str]]) -> None:
        """Remember the secrets in the headers of a live request or response."""
        self._know(values_of_headers(headers))

    def learn_url(self, url: str) -> None:
        """Remember the secrets in the URL of a live request."""
        self._know(values_of_url(url, self._names))

    def scrub(self, interaction: Interaction, *, keep: HeaderRule | None = _HEADERS) -> Interaction:
        """Return the interaction with "[redacted]" for its secrets, with the user's rules applied; see `redact`."""
        return self.redact(interaction, keep=keep).interaction

    def redact(self, interaction: Interaction, *, keep: HeaderRule | None = _HEADERS, number: int = 0) -> Redacted:
        """Replace secrets in an interaction, apply the user's rules, and report what was replaced and what is left.

        Headers that are not recorded are dropped. Nothing else changes, not by a byte, and chunks keep their cuts and
        waits. A body that changes is stored without compression, and without headers of its length or digest.

        Args:
            interaction: as it was recorded.
            keep: rule for the headers; None if they were chosen already.
            number: of the interaction in its cassette.
        """
        if is_conversation(interaction):
            redacted = self.redact(as_events(interaction), keep=keep, number=number)
            return redacted._replace(interaction=from_events(redacted.interaction, interaction))
        scrubber, answer = self._by_known, interaction.response
        uri, edits = scrubber.uri(interaction.uri)
        found = list(_report(number, "", edits))
        request = scrubber.request(interaction.request_body, interaction.request_headers)
        found += _report(number, "request body", request.edits)
        texts = {"reason of the response status": answer.reason, "end of the stream": answer.end}
        for place, text in texts.items():
            edits = scrubber.search.in_text(text)
            texts[place] = replaced(text, edits)
            found += _report(number, place, edits)
        body = plain(answer.chunks, answer.headers)
        chunks = answer.chunks
        answer_headers: Headers = answer.headers
        if edits := scrubber.search.in_body(body.data, answer.headers):
            chunks = tuple(_edited_chunks(body.chunks, edits))
            answer_headers = _without(answer_headers, *OF_WHOLE_BODIES, *(["content-encoding"] if body.undone else []))
            found += _report(number, "response body", edits)
        request_headers = request.headers if keep is None else keep.of_request(_pairs(request.headers))
        answer_headers = answer_headers if keep is None else keep.of_response(_pairs(answer_headers))
        headers: dict[str, dict[str, list[str]]] = {"request": {}, "response": {}}
        for whose, before in (("request", request_headers), ("response", answer_headers)):
            for name, value in _pairs(before):
                clean, edits = scrubber.header(name, value)
                headers[whose].setdefault(name, []).append(clean)
                found += _report(number, f"{whose} header {name}", edits)
        response = replace(
            answer,
            headers=headers["response"],
            chunks=chunks,
            reason=texts["reason of the response status"],
            end=texts["end of the stream"],
        )
        written = replace(
            interaction, uri=uri, request_body=request.body, request_headers=headers["request"], response=response
        )
        # the name of a field may be a secret itself
        found = [each._replace(path=replaced(each.path, scrubber.search.in_text(each.path))) for each in found]
        return Redacted(written, list(dict.fromkeys(found)), self._left_in(written, interaction))

    def _left_in(self, clean: Interaction, before: Interaction) -> list[Leak]:
        """Return the leaks of a redacted interaction; only bodies that were changed are searched once more."""
        leaks = dict.fromkeys(leaks_of(clean, self._known))
        origins = set(self._known.values())
        bodies = [("request body", clean.request_body, clean.request_headers)]
        if clean.request_body == before.request_body:
            bodies.clear()
        if clean.response.chunks is not before.response.chunks:
            bodies.append(("response body", clean.response.body, clean.response.headers))
        for place, body, headers in bodies:
            edits = self._by_known.search.in_body(body, headers)
            leaks |= {Leak(place, edit.why): None for edit in edits if edit.why in origins}
        return list(leaks)

    def scrub_body(self, body: bytes) -> bytes:
        """Return a body, of which no headers are known, as it would be recorded."""
        return self.scrub_request(body, {})[0]

    def scrub_request(self, body: bytes, headers: Headers, *, known: bool = True) -> tuple[bytes, Headers]:
        """Return the body and headers of a request as they would be recorded; live requests are looked up by them.

        A compressed body that changes is stored without compression, and the header is dropped.

        Args:
            body: of the request, as it is sent.
            headers: which say how to read the body.
            known: False to leave known values in it, which another machine may not know.
        """
        request = (self._by_known if known else self._by_form).request(body, headers)
        return request.body, request.headers

    def scrub_uri(self, uri: str, *, known: bool = True) -> str:
        """Return a URI as it would be recorded; live requests are looked up by it. For `known`, see `scrub_request`."""
        return (self._by_known if known else self._by_form).uri(uri)[0]

    def leaks(self, interaction: Interaction, *, keys: bool = False) -> list[Leak]:
        """Return the places of known values; a recording with one of them must not be written.

        Args:
            interaction: as it would be written.
            keys: True to return the places of all that would be replaced, and headers that carry secrets.
        """
        found = self.redact(interaction, keep=None)
        origins = set(self._known.values())
        leaks = {Leak(each.path, each.why): None for each in found.replaced if keys or each.why in origins}
        leaks |= dict.fromkeys(found.leaks)
        if keys:
            places = {leak.place for leak in leaks}
            leaks |= {leak: None for leak in headers_with_secrets(interaction) if leak.place not in places}
        return list(leaks)


def _report(number: int, place: str, edits: Iterable[Edit]) -> Iterator[Replaced]:
    """Yield a report of each edit that has a reason; one without a reason belongs to the edit before it.

    Args:
        number: of the interaction in its cassette.
        place: the part of the interaction that was edited; each edit adds its own place.
        edits: the edits of this part.
    """
    for edit in edits:
        if edit.why:
            yield Replaced(number, f"{place} {edit.place}".strip(), edit.why, edit.size)


def _pairs(headers: Headers) -> Iterator[tuple[str, str]]:
    """Yield each value of headers after its name."""
    return ((name, value) for name, values in headers.items() for value in values)


def _without(headers: Headers, *names: str) -> Headers:
    """Return the headers without the ones that have one of `names`, which are in lower case."""
    return {name: values for name, values in headers.items() if name.lower() not in names}


class _Request(NamedTuple):
    """Body and headers of a request after redaction."""

    body: bytes
    headers: Headers
    edits: list[Edit]


class _Scrubber:
    """Redaction of requests, headers and URIs with one set of known values.

    Args:
        search: for the secrets.
        names: of secret fields.
        paths: rules of the user for places.
    """

    def __init__(self, search: Search, names: FieldNames, paths: Sequence[Path]) -> None:
        self.search = search
        self._names = names
        self._paths = paths
        self.uri = lru_cache(256)(self._uri)  # each request has one of a few URIs
        self._cached_body = lru_cache(8)(self._body)  # a request is looked up, then recorded

    def request(self, body: bytes, headers: Headers) -> _Request:
        """Return body and headers of a request after redaction, with the edits of the body."""
        content = [header_value(headers, name) for name in ("content-type", "content-encoding")]
        clean, edits, undone = self._cached_body(body, *content)
        return _Request(clean, _without(headers, "content-encoding") if undone else headers, edits)

    def _body(self, body: bytes, kind: str, encoding: str) -> tuple[bytes, list[Edit], bool]:
        """Return the body of a request after redaction, with its edits, and True if its compression is gone."""
        headers = {"content-type": [kind], "content-encoding": [encoding]}
        data = plain_body(body, headers)
        data = plain([Chunk(0, data)], {}).data  # some clients do not say that they compress
        edits = self.search.in_body(data, headers)
        return (edited(data, edits), edits, data != body) if edits else (body, edits, False)

    def header(self, name: str, value: str) -> tuple[str, list[Edit]]:
        """Return the value of a header after redaction, with its edits. URLs in it are as they would be recorded.

        A header with a secret name is replaced as a whole, unless it has a placeholder. A location is one URL, even a
        relative one.
        """
        if name in self._names:
            edits = [] if is_stand_in(value) else [Edit(0, len(value), why=name, size=len(value))]
            return replaced(value, edits), edits
        if name.lower().endswith("location"):  # also relative: the target of a redirect may be signed
            return self.uri(value)
        found: list[Edit] = []

        def clean_url(url: re.Match[str]) -> str:
            """Return a URL as it would be recorded."""
            clean, edits = self.uri(url[0])
            found.extend(edits)
            return clean

        value = URL_IN_HEADER.sub(clean_url, value)
        edits = self.search.in_text(value)
        return replaced(value, edits), [*found, *edits]

    def _uri(self, uri: str) -> tuple[str, list[Edit]]:
        """Return a URI without secrets, with the edits and their places.

        User and password are removed, and values of secret query parameters replaced. The rules are applied to each
        segment, parameter and fragment; unchanged parts keep their spelling. A URI that cannot be read is searched as a
        text.
        """
        try:
            parts = urlsplit(uri)
        except ValueError:  # a recorded address that no client can use
            edits = self.search.ruled(uri)
            return replaced(uri, edits), [edit._replace(place="URI") for edit in edits if edit.why]
        report: list[Edit] = []
        user, _, netloc = parts.netloc.rpartition("@")
        if user:
            report.append(Edit(0, 0, why="user info", place="user info of the URI", size=len(user)))

        def scrubbed(part: str, place: str, decode: Callable[[str], str], *, whole: str = "") -> str:
            """Return a part of the URI after the rules, or a placeholder if `whole` says why all of it is secret.

            `decode` undoes the part's escapes; `place` names the part in the report.
            """
            text = decode(part)
            edits = [Edit(0, len(text), why=whole, size=len(text))] if whole else self.search.ruled(text)
            report.extend(edit._replace(place=place) for edit in edits if edit.why)
            after = replaced(text, edits)
            return part if after == text else quote(after, safe="")

        parameters = []
        for parameter in parts.query.split("&"):
            name, equals, value = parameter.partition("=")
            plain_name = unquote_plus(name)
            whole = "" if is_stand_in(unquote_plus(value)) else self._secret_parameter(plain_name)
            place = f"query parameter {plain_name}"
            name = scrubbed(name, "name of a query parameter", unquote_plus)
            parameters.append(name + equals + scrubbed(value, place, unquote_plus, whole=whole))
        clean = parts._replace(
            netloc=netloc,
            path="/".join(scrubbed(each, "path of the URI", unquote) for each in parts.path.split("/")),
            query="&".join(parameters),
            fragment=scrubbed(parts.fragment, "fragment of the URI", unquote),
        )
        return (uri if clean == parts else urlunsplit(clean)), report

    def _secret_parameter(self, name: str) -> str:
        """Return the reason for which the values of a query parameter are replaced, or an empty text."""
        if self._names.in_query(name):
            return name
        return next((f"JSONPath({path.text!r})" for path in self._paths if path.covers_parameter(name)), "")


def scan(
    interactions: Iterable[Interaction],
    known_values: Mapping[str, str] | Iterable[str] | None = None,
    *,
    keys: bool = False,
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


@dataclass(frozen=True, slots=True)
class Leak:
    """A secret in a recording: its place, without its value."""

    place: str
    """Place for people to read: `request body messages[2].content`, `query parameter api_key`."""
    what: str = "a known secret"
    """Origin or kind of the secret."""
    interaction: int = 0
    """Number of the interaction in the cassette, from 1; 0 if it is not known."""

    def __str__(self) -> str:
        number = f"interaction {self.interaction}, " if self.interaction else ""
        return f"{number}{self.place}: {self.what}"


_DECODERS = {"br": "brotli", "zstd": "zstandard"}
"""Packages with which httpx2 or httpx read a compression."""


def leaks_of(interaction: Interaction, known: Mapping[str, str]) -> Iterator[Leak]:
    """Yield a leak for each spelling of a known value in each part of an interaction; equal ones may come again.

    Yield one for each body that cannot be decompressed, too.

    Args:
        interaction: as it would be written.
        known: values with their origins.
    """
    spellings = [(spelling, origin) for value, origin in known.items() for spelling in _spellings(value)]
    for place, data, headers in _parts_of(interaction):
        if data is None:
            encoding = header_value(headers, "content-encoding") or "gzip"
            missing = f" without the package {_DECODERS[encoding]}" if encoding in _DECODERS else ""
            yield Leak(place, f"compressed with {encoding} in a way that cannot be searched{missing}")
        else:
            yield from (Leak(place, origin) for spelling, origin in spellings if spelling in data)


def headers_with_secrets(interaction: Interaction) -> Iterator[Leak]:
    """Yield the headers that have the name of a secret, and a value that could be one."""
    for whose, headers in (("request", interaction.request_headers), ("response", interaction.response.headers)):
        for name, values in headers.items():
            secrets = (secret for value in values for secret in credentials_in(name, value))
            if not all(map(is_stand_in, secrets)):
                yield Leak(f"{whose} header {name}", "a header that carries secrets")


def _spellings(value: str) -> Iterable[bytes]:
    """Return the spellings of a value in plain text, in JSON and in URLs."""
    texts = {value, quote(value), quote(value, safe=""), quote_plus(value)}
    texts |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    return [text.encode("utf-8", "surrogateescape") for text in sorted(texts)]


def _parts_of(interaction: Interaction) -> Iterator[tuple[str, bytes | None, Headers]]:
    """Yield place, data and headers of all parts of an interaction that a cassette holds.

    The data is None if it is unreadable; only bodies have headers.
    """
    answer = interaction.response
    request_body = plain_body(interaction.request_body, interaction.request_headers)
    is_plain = request_body is not interaction.request_body
    bodies = {
        "request": plain([Chunk(0, request_body)], {} if is_plain else interaction.request_headers),
        "response": plain(answer.chunks, answer.headers),
    }
    for whose, headers in (("request", interaction.request_headers), ("response", answer.headers)):
        for name, values in headers.items():
            yield f"{whose} header {name}", _bytes("\n".join([name, *values])), {}
        yield f"{whose} body", bodies[whose].data if bodies[whose].readable else None, headers
    yield "reason of the response status", _bytes(answer.reason), {}
    yield "end of the stream", _bytes(answer.end), {}
    for field in fields(interaction):
        value = getattr(interaction, field.name)
        if isinstance(value, str):
            yield "URI" if field.name == "uri" else field.name, _bytes(value), {}


def _bytes(text: str) -> bytes:
    """Return a text as UTF-8, lone surrogates included."""
    return text.encode("utf-8", "surrogatepass")


_GZIP = b"\x1f\x8b"


class Plain(NamedTuple):
    """A body without its compression, in chunks."""

    chunks: Sequence[Chunk]
    data: bytes
    """The whole body."""
    undone: str
    """Compression that was undone: `gzip`, `deflate`, the header for others; or an empty text."""
    readable: bool = True
    """False if the compression is unknown, or its body inflates beyond the limit."""


def plain(chunks: Sequence[Chunk], headers: Mapping[str, list[str]]) -> Plain:
    """Inflate the chunks of a compressed body; each keeps its wait.

    The body decides together with the header: in recordings of other recorders the header may be wrong. Of br, zstd and
    several encodings at once, which are read where an HTTP client can read them, the whole body is one chunk.
    """
    body = b"".join(chunk.data for chunk in chunks)
    encoding = "gzip" if body.startswith(_GZIP) else ", ".join(headers.get("content-encoding", ()))
    try:
        inflater = inflater_for(encoding)
        if inflater is None or not body:
            return Plain(chunks, body, "")
        inflated = [Chunk(chunk.wait, inflater.feed(chunk.data)) for chunk in chunks]
        return Plain(inflated, b"".join(chunk.data for chunk in inflated), inflater.encoding)
    except (StreamDecodeError, EventTooLargeError) as error:
        decoded = body if isinstance(error, EventTooLargeError) else plain_body(body, headers)
        if decoded is body:
            return Plain(chunks, body, "", readable=is_text(body))
        return Plain([Chunk(sum(chunk.wait for chunk in chunks), decoded)], decoded, encoding)
