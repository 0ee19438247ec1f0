"""Search for secrets in an interaction; a `Leak` names the place without showing the secret.

`plain` undoes the compression of a body chunk by chunk. `_parts_of` lists the parts of an interaction, each with its
places and their names. `leaks_of` and `suspicions` search the parts.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, fields
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from miniagents.errors import EventTooLargeError, StreamDecodeError
from miniagents.ext.llm.sse import inflater_for
from miniagents_testing._streams import Chunk
from miniagents_testing.cassette._interaction import is_text
from miniagents_testing.cassette._secrets.names import holds_key, is_secret_name, is_telling, known_secrets
from miniagents_testing.cassette._secrets.texts import SEPARATOR, decodings, groups, is_stream, joined, named, pieces_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from miniagents_testing.cassette._interaction import Interaction
    from miniagents_testing.cassette._secrets.texts import Piece


_GZIP = b"\x1f\x8b"


class Plain(NamedTuple):
    """A body without its compression, in chunks."""

    chunks: Sequence[Chunk]
    undone: str
    """Compression that was undone: `gzip`, `deflate`, or an empty text."""
    readable: bool = True
    """False if the compression is unknown, or its body inflates beyond the limit."""

    @property
    def data(self) -> bytes:
        """The whole body."""
        return b"".join(chunk.data for chunk in self.chunks)


def plain(chunks: Sequence[Chunk], headers: Mapping[str, list[str]]) -> Plain:
    """Inflate the chunks of a compressed body; each keeps its wait.

    The body decides together with the header: in recordings of other recorders the header may be wrong.
    """
    body = b"".join(chunk.data for chunk in chunks)
    encoding = "gzip" if body.startswith(_GZIP) else ", ".join(headers.get("content-encoding", ()))
    try:
        inflater = inflater_for(encoding)
        if inflater is None or not body:
            return Plain(chunks, "")
        return Plain([Chunk(chunk.wait, inflater.feed(chunk.data)) for chunk in chunks], inflater.encoding)
    except (StreamDecodeError, EventTooLargeError):
        return Plain(chunks, "", readable=is_text(body))


class _Spot(NamedTuple):
    """A text in the pieces in which it came, with the names of its places."""

    texts: Sequence[bytes]
    place: Callable[[int, int], str]
    """Names the place of the pieces from one number to another."""


class _Part(NamedTuple):
    """A part of an interaction to search, such as a header or a body."""

    place: str
    data: bytes
    """Bytes to search."""
    spots: Callable[[], Sequence[Sequence[_Spot]]]
    """Makes rows of texts to locate a finding in; the first row with the finding names its place best."""
    undone: str = ""
    """Compression that `data` came in."""
    readable: bool = True
    """False if the compression could not be undone."""


def _parts_of(interaction: Interaction) -> Iterator[_Part]:
    """Yield all parts of an interaction that a cassette holds."""
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


def _simple(place: str, text: str) -> _Part:
    """Return the part of an interaction that is one text, whose only place has this name."""
    return _Part(place, _bytes(text), lambda: [[_spot(place, text)]])


def _spot(place: str, text: str) -> _Spot:
    """Return a text that came in one piece, with the name of its place."""
    return _Spot([_bytes(text)], lambda first, last: place)


def _bytes(text: str) -> bytes:
    """Return a text as UTF-8, lone surrogates included."""
    return text.encode("utf-8", "surrogatepass")


def _headers(whose: str, headers: Mapping[str, list[str]]) -> Iterator[_Part]:
    """Yield a part for each value of a header."""
    for name, values in headers.items():
        for value in values:
            yield _simple(f"{whose} header {name}", f"{name}: {value}")


def _uri(uri: str) -> _Part:
    """Return the part of an interaction that is its URI, whose places are components and parameters."""

    def spots() -> list[list[_Spot]]:
        """Return two rows of texts: the components and query parameters of the URI, then the URI as a whole."""
        parts = urlsplit(uri)
        named = {"user info": parts.netloc.rpartition("@")[0], "host": parts.hostname or "", "path": parts.path}
        row = [_spot(f"{name} of the URI", text) for name, text in named.items()]
        row += [
            _spot(f"query parameter {unquote(parameter.partition('=')[0])}", parameter)
            for parameter in parts.query.split("&")
        ]
        return [row, [_spot("URI", uri)]]

    return _Part("URI", _bytes(uri), spots)


def _body(whose: str, chunks: Sequence[Chunk], headers: Mapping[str, list[str]]) -> _Part:
    """Make a part of a body, whose places are its texts, each joined from its pieces, and then its chunks."""
    body = plain(chunks, headers)
    data = body.data
    rows = groups(pieces_of(data))
    ends = list(accumulate(len(chunk.data) for chunk in body.chunks))
    place = f"{whose} body"

    def spots() -> list[list[_Spot]]:
        """Return the groups of texts that are searched together, in rows; the last row is the whole body in chunks."""
        name = partial(_stream_place if is_stream(data) else _document_place, whose, ends)
        found = [
            [_Spot([joined(data, [piece]) for piece in group], partial(_group_place, name, group)) for group in row]
            for row in rows
        ]
        whole = _Spot([chunk.data for chunk in body.chunks], lambda first, last: _chunks(place, first + 1, last + 1))
        return [*found, [whole if len(whole.texts) > 1 else _Spot([data], lambda first, last: place)]]

    # A text of one piece is in the body itself; a text in pieces or in numbers is only found once it is joined.
    pieced = [joined(data, group) for row in rows for group in row if len(group) > 1 or group[0].form == "numbers"]
    return _Part(place, SEPARATOR.join([data, *pieced]), spots, body.undone, body.readable)


def _group_place(name: Callable[[Piece, Piece], str], group: Sequence[Piece], first: int, last: int) -> str:
    """Return the name of the place of the pieces from number `first` to number `last` of a group."""
    return name(group[first], group[last])


def _document_place(whose: str, ends: Sequence[int], first: Piece, last: Piece) -> str:
    """Return the name of a place in a JSON document, such as `request body messages[2].content`."""
    to = f" to {last.path}" if last.path != first.path else ""
    return f"{whose} body {first.path}{to}".rstrip()


def _stream_place(whose: str, ends: Sequence[int], first: Piece, last: Piece) -> str:
    """Return the name of a place in a stream, such as `response deltas choices[0].delta.content, chunks 4-6`."""
    kind = "event" if first is last else "deltas"
    place = f"{whose} {kind} {first.place}".rstrip()
    return _chunks(place, bisect_right(ends, first.start) + 1, bisect_right(ends, max(last.end - 1, last.start)) + 1)


def _chunks(place: str, first: int, last: int) -> str:
    """Return the name of a place with the numbers of its chunks after it."""
    return f"{place}, chunk {first}" if first == last else f"{place}, chunks {first}-{last}"


_STAND_IN = re.compile(r"redact|dummy|fake|mock|test|example|placeholder|filtered|scrub|x{4}|\*{3}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Leak:
    """A secret in a recording: its place, without its value."""

    place: str
    """Place for people to read: `request body messages[2].content`, `query parameter api_key`."""
    encoding: str = "plain"
    """Encodings of the secret, the outermost first: `base64`, `gzip, percent-encoded twice`."""
    what: str = "a known secret"
    """Kind of the secret."""
    interaction: int = 0
    """Number of the interaction in the cassette, from 1; 0 if it is not known."""

    def __str__(self) -> str:
        number = f"interaction {self.interaction}, " if self.interaction else ""
        encoding = "" if self.encoding == "plain" else f" ({self.encoding})"
        return f"{number}{self.place}: {self.what}{encoding}"


class Search(NamedTuple):
    """A kind of secret to search for, with the function that finds it in a text."""

    what: str
    """Kind of the secret, for a `Leak`."""
    holds: Callable[[bytes], object]
    """Tells if a text without encodings holds the secret."""


SEARCH_FOR_KEYS = Search("what looks like a key", holds_key)


def search_for(known_value: str) -> Search:
    """Make the search for a value that is known to be secret."""
    value = known_value.encode("utf-8", "surrogateescape")
    if b" " not in value:
        return Search("a known secret", lambda text: value in text)
    in_a_form = value.replace(b" ", b"+")
    return Search("a known secret", lambda text: value in text or in_a_form in text)


def leaks_of(interaction: Interaction, searches: Sequence[Search]) -> list[Leak]:
    """Return the places of all secrets that are found, each place once, and bodies that cannot be decompressed."""
    found: dict[Leak, None] = {}
    for part in _parts_of(interaction):
        if not part.readable:
            found[Leak(part.place, what="compressed in a way that cannot be searched")] = None
        found |= dict.fromkeys(_leaks_in(part, searches))
    return list(found)


def suspicions(interaction: Interaction) -> Iterator[Leak]:
    """Yield headers, passwords and parameters that have the name of a secret, and a value that could be one."""
    for whose, headers in (("request", interaction.request_headers), ("response", interaction.response.headers)):
        for name, values in headers.items():
            secrets = known_secrets({}, [(name, value) for value in values])
            if any(map(_is_real, secrets)):
                yield Leak(f"{whose} header {name}", what="a header that carries secrets")
    parts = urlsplit(interaction.uri)
    if parts.password and _is_real(parts.password):
        yield Leak("user info of the URI", what="a password")
    for name, value in parse_qsl(parts.query):
        if is_secret_name(name) and _is_real(value):
            yield Leak(f"query parameter {name}", what="a parameter that carries secrets")


def _is_real(value: str) -> bool:
    """Return True if a value looks like a secret, and not like a stand-in such as `redacted` or `test`."""
    return is_telling(value) and _STAND_IN.search(value) is None


def _leaks_in(part: _Part, searches: Sequence[Search]) -> Iterator[Leak]:
    """Yield the leaks of a part: search the whole part first, and only then locate the secrets that were found.

    A place whose name holds a secret is named by its part only.
    """
    pending = list(_first_found(part.data, searches))
    for row in part.spots():
        if not pending:
            return
        placed: set[Search] = set()
        for spot in row:
            found = _first_found(b"".join(spot.texts), pending)
            placed |= found.keys()
            for search, names in found.items():
                if search is SEARCH_FOR_KEYS and len(found) > 1:
                    continue  # a known secret looks like a key, too
                place = spot.place(*_narrowed(spot.texts, search))
                if _first_found(place.encode("utf-8", "replace"), searches):
                    place = part.place  # the name of the place is the secret itself
                yield Leak(place, named((part.undone, *names) if part.undone else names), search.what)
        pending = [search for search in pending if search not in placed]


def _first_found(text: bytes, searches: Iterable[Search]) -> dict[Search, tuple[str, ...]]:
    """Return the searches that match the text or a decoding of it, each with the encodings that had to be undone.

    Of several decodings, the one with the fewest encodings counts.
    """
    pending = list(searches)
    found: dict[Search, tuple[str, ...]] = {}
    for names, view in decodings(text):
        if not pending:
            break
        for search in [search for search in pending if search.holds(view)]:
            found[search] = names
            pending.remove(search)
    return found


def _narrowed(texts: Sequence[bytes], search: Search) -> tuple[int, int]:
    """Return the numbers of the first and last of the texts in which the secret begins and ends, by binary search."""

    def holds(first: int, end: int) -> bool:
        """Return True if the secret is found in the texts from `first` up to `end`."""
        return bool(_first_found(b"".join(texts[first:end]), [search]))

    end = bisect_left(range(1, len(texts)), True, key=lambda end: holds(0, end)) + 1
    first = bisect_left(range(1, end), True, key=lambda first: not holds(first, end))
    return first, end - 1
