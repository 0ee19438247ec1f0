"""Secrets that are left in an interaction; a `Leak` names the place without showing the secret.

`plain` undoes the compression of a body chunk by chunk. `leaks_of` looks for known values in all parts of an
interaction as they would be written, in plain, JSON and percent spelling.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, quote_plus

from miniagents.errors import EventTooLargeError, StreamDecodeError
from miniagents.ext.llm.sse import inflater_for
from miniagents_testing._streams import Chunk
from miniagents_testing.cassette._bodies import Headers, header_value, plain_body
from miniagents_testing.cassette._interaction import is_text
from miniagents_testing.cassette._secrets.names import credentials_in, is_stand_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from miniagents_testing.cassette._interaction import Interaction

_GZIP = b"\x1f\x8b"
_DECODERS = {"br": "brotli", "zstd": "zstandard"}
"""Packages with which httpx2 or httpx read a compression."""


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


def leaks_of(interaction: Interaction, known: Mapping[str, str]) -> Iterator[Leak]:
    """Yield the parts of an interaction that have a known value, and bodies that cannot be decompressed.

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
