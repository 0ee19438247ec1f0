"""A cassette as a document: vcrpy's v1 format, with `response.stream` in each interaction and a checksum at the end.

This room knows no file and no path; its errors say which interaction, and `file` says of which cassette.
The digests tell damage and hand edits apart from a recording; they are no protection against somebody who means it.

Interactions that others have recorded: vcrpy, pytest-recording, pydantic-ai, and what people edit by hand.

Knows the forms these have in a file that is parsed already, and no file. Nobody recorded chunks or times there, so a
body plays one event a chunk, without waits. What a client would choke on is not passed on: the headers that describe a
body as it once was on the wire, which the one in the file is not any more.
"""

from __future__ import annotations

import base64
import hashlib
import json
import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from miniagents.errors import LLMError
from miniagents.ext.llm.sse import Inflater, encodings_in
from miniagents_testing._streams import ResponseStream
from miniagents_testing.cassette import _chunkmap as chunkmap
from miniagents_testing.cassette._chunkmap import one_event_a_chunk
from miniagents_testing.cassette._interaction import Interaction, is_text
from miniagents_testing.cassette._matching import canonical_body
from miniagents_testing.cassette._yaml import plain_data
from miniagents_testing.errors import CassetteFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from miniagents_testing._streams import Chunk


_OF_THE_CONNECTION = frozenset(
    {"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""Headers that are about the transfer of one body over one connection (RFC 9110, section 7.6.1)."""

_GZIP_MAGIC = b"\x1f\x8b\x08"


def foreign_interaction(entry: Mapping[str, Any], where: str) -> Interaction:
    """The interaction of an entry without `stream` key.

    Args:
        entry: one of the `interactions` of a cassette.
        where: file and number, for error messages.

    Raises:
        CassetteFormatError: a body is compressed and damaged, or holds suspiciously much.
        KeyError, TypeError, ValueError, AttributeError: it is no entry of a cassette.
    """
    request, response = entry["request"], entry["response"]
    status, reason = _status(response)
    headers = _headers(response.get("headers"))
    body = _without_encoding(_body(response), headers, where)
    return Interaction(
        method=request["method"],
        uri=request["uri"],
        request_body=_body(request),
        request_headers=_headers(request.get("headers")),
        response=ResponseStream(
            one_event_a_chunk(body),
            status=status,
            reason=reason,
            headers={name: values for name, values in headers.items() if name not in _OF_THE_CONNECTION},
        ),
    )


def _status(response: Mapping[str, Any]) -> tuple[int, str]:
    """Code and reason; older vcrpy wrote `status_code` where httpx was used."""
    if "status_code" in response:
        return int(response["status_code"]), ""
    return int(response["status"]["code"]), response["status"].get("message") or ""


def _headers(headers: Any) -> dict[str, list[str]]:
    """By lower-case name, each with all its values: from a mapping to one value or to a list, or from pairs."""
    found: dict[str, list[str]] = {}
    for name, values in headers.items() if isinstance(headers, Mapping) else headers or ():
        listed = values if isinstance(values, (list, tuple)) else [values]
        found.setdefault(_line(name).lower(), []).extend(map(_line, listed))
    return found


def _line(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _body(message: Mapping[str, Any]) -> bytes:
    """The body of a request or a response: text, binary, base64, parsed JSON, or none."""
    parsed = message.get("parsed_body")  # pydantic-ai: a JSON body as YAML, for people; its own bytes are gone
    if parsed is not None:
        return json.dumps(parsed, ensure_ascii=False, separators=(",", ":"), default=str).encode()
    body = message.get("body", message.get("content"))  # `content`: older vcrpy, with httpx
    if isinstance(body, Mapping):
        if "base64_string" in body:
            return base64.b64decode(body["base64_string"])
        body = body.get("string")
    if body is None:
        return b""
    return body if isinstance(body, bytes) else body.encode()


def _without_encoding(body: bytes, headers: dict[str, list[str]], where: str) -> bytes:
    """The body as it reads; `content-encoding` leaves the headers with the encoding, or stays where we cannot read it.

    The header alone decides nothing. Many recorders inflate the body and keep the header, some lose the header.
    """
    encodings = _encodings(body, headers)
    plain = body
    for encoding in reversed(encodings):
        if is_text(plain):
            break
        if encoding not in ("gzip", "deflate"):
            return body  # br, zstd: there are clients that read them
        plain = _inflated(plain, encoding, where)
    headers.pop("content-encoding", None)
    return plain


def _encodings(body: bytes, headers: Mapping[str, list[str]]) -> list[str]:
    """Return the encodings in order of their use, as the headers have them or the body shows."""
    encodings = encodings_in(",".join(headers.get("content-encoding", ())))
    if not encodings and body.startswith(_GZIP_MAGIC):
        content_type = ",".join(headers.get("content-type", ["text/"])).lower()
        if content_type.startswith("text/") or "json" in content_type:
            return ["gzip"]
    return encodings


def _inflated(body: bytes, encoding: str, where: str) -> bytes:
    inflater = Inflater(encoding)
    try:
        plain = inflater.feed(body)
        inflater.close()
    except LLMError as error:  # written for live responses, and right here too
        raise CassetteFormatError(f"{where}: {error}") from error
    return plain


FORMAT = 1
"""The `v` of everything that is ours in the file."""

NO_RESPONSE = 599
"""The status that plain vcrpy plays where there was no response; clients take it for the failure that it was."""

Entry = dict[str, Any]
"""One interaction as it stands in the file."""


def parse(text: str | bytes) -> dict[str, Any]:
    """The document in a text, once its checksum is found whole.

    Raises:
        CassetteFormatError: no cassette, or not the one that was saved.
    """
    document, misfits = parse_edited(text)
    if misfits:
        raise CassetteFormatError(
            f"{misfits[0]}. The file is damaged or was edited: record it again, take back the edit, or keep it with "
            "`python -m miniagents_testing edit --reseal`"
        )
    return document


def parse_edited(text: str | bytes) -> tuple[dict[str, Any], list[str]]:
    """The document in a text, and all that is not as it was sealed.

    Raises:
        CassetteFormatError: no cassette, or one of another format.
    """
    document = plain_data(text)
    try:
        if document["version"] != 1:  # it stands after all interactions: a file that was cut off lacks it
            raise CassetteFormatError(f"version {document['version']!r} of vcrpy's format is not known here")
        return document, list(_misfits(document["interactions"], document.get("miniagents")))
    except CassetteFormatError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CassetteFormatError(f"not a cassette: {type(error).__name__}: {error}") from error


def with_checksum(entries: Sequence[Entry], **more: Any) -> dict[str, Any]:
    """The document of these interactions, with their digests; `more` is what else vcrpy wants in it."""
    entries = [_with_digest(entry) for entry in entries]
    return {"interactions": entries, **more, "version": 1, "miniagents": _checksum(entries)}


def entry_of(interaction: Interaction) -> Entry:
    """An interaction as it stands in the file, without its digest."""
    answer = interaction.response
    stream: dict[str, Any] = {"v": FORMAT, "started_ms": round(interaction.started_ms, 2)}
    if answer.status:
        stream["headers_ms"] = round(answer.headers_ms, 2)
    # In lines, because a diff shows lines.
    stream["chunks"] = "\n".join(textwrap.wrap(chunkmap.encode(answer.chunks), 100)) + "\n"
    stream["end"] = answer.end
    if answer.end != "eof":
        stream["complete"] = answer.complete
    if interaction.agent:
        stream["agent"] = interaction.agent
    return {
        "request": {
            "method": interaction.method,
            "uri": interaction.uri,
            "body": _text(interaction.request_body),
            "headers": {name: list(values) for name, values in interaction.request_headers.items()},
        },
        "response": {
            "status": {"code": answer.status or NO_RESPONSE, "message": answer.reason},
            "headers": {name: list(values) for name, values in answer.headers.items()},
            "body": {"string": _text(answer.body)},
            "stream": stream,
        },
    }


def interaction_of(entry: Entry, where: str) -> Interaction:
    """An interaction from its place in the file; `where` is what warnings call it.

    Raises:
        CassetteFormatError: this is not the form of an interaction.
    """
    try:
        request, stream = entry["request"], entry["response"].get("stream")
        if stream is None:
            return _typed(foreign_interaction(entry, where))
        interaction = Interaction(
            method=request["method"],
            uri=request["uri"],
            request_body=_bytes(request["body"]),
            request_headers=request.get("headers") or {},
            started_ms=float(stream.get("started_ms", 0)),
            agent=stream.get("agent", ""),
            response=_StoredStream.of(entry["response"], stream, where),
        )
        return _typed(interaction)
    except CassetteFormatError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CassetteFormatError(f"{where}: not an interaction: {type(error).__name__}: {error}") from error


def _typed(interaction: Interaction) -> Interaction:
    """The interaction, if its fields are what they should be: without a checksum, YAML may hold anything anywhere."""
    answer = interaction.response
    if not isinstance(answer.status, int):
        raise TypeError(f"its status is {answer.status!r}")
    texts = [interaction.method, interaction.uri, interaction.agent, answer.reason, answer.end]
    for headers in (interaction.request_headers, answer.headers):
        for name, values in headers.items():
            if not isinstance(values, list):
                raise TypeError(f"the values of header {name} are {values!r}")
            texts += [name, *values]
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{text!r} where a text should be")
    return interaction


class _StoredStream(ResponseStream):
    """A stream out of a file: its chunks are cut when somebody first asks for them, which for most is never."""

    __slots__ = ("_map", "_stored_body", "_where")

    @classmethod
    def of(cls, response: Mapping[str, Any], stream: Mapping[str, Any], where: str) -> _StoredStream:
        end = stream.get("end", "eof")
        answered = "headers_ms" in stream or "end" not in stream
        self = object.__new__(cls)
        for name, value in {
            "status": response["status"]["code"] if answered else 0,
            "reason": response["status"]["message"] or "",
            "headers": {name.lower(): values for name, values in (response.get("headers") or {}).items()},
            "headers_ms": float(stream.get("headers_ms", 0)),
            "end": end,
            "complete": stream.get("complete", end == "eof"),
            "_stored_body": _bytes(response["body"]["string"]),
            "_map": stream.get("chunks"),
            "_where": where,
        }.items():
            object.__setattr__(self, name, value)
        return self

    def __getattr__(self, name: str) -> Any:
        """Called where a slot is empty: `chunks` until it is first read, `_stored_body` in a copy."""
        if name != "chunks":
            raise AttributeError(name)
        chunks = _chunks(self._map, self._stored_body, self._where)
        object.__setattr__(self, "chunks", chunks)
        return chunks

    def _plain(self) -> ResponseStream:
        return ResponseStream(**{each.name: getattr(self, each.name) for each in fields(self)})

    def __eq__(self, other: object) -> bool:
        """Where a stream comes from makes no difference."""
        return self._plain() == (other._plain() if isinstance(other, _StoredStream) else other)

    __hash__ = ResponseStream.__hash__

    def __repr__(self) -> str:
        return repr(self._plain())


def _chunks(text: str | None, body: bytes, where: str) -> tuple[Chunk, ...]:
    """The chunks as recorded; where their map does not fit the body, events, and never a byte less."""
    if text is not None:
        try:
            return chunkmap.decode(text, body)
        except chunkmap.ChunkMapError as error:
            warnings.warn(f"{where}: one event a chunk, because {error}", stacklevel=3)
    return chunkmap.one_event_a_chunk(body)


def _misfits(entries: list[Entry], checksum: Any) -> Iterator[str]:
    """Interactions that are not what was sealed; then, whether all are there, and in their order."""
    ours = [(number, entry) for number, entry in enumerate(entries, 1) if "stream" in entry["response"]]
    if checksum is None:
        if ours:
            yield f"its `miniagents` entry is missing, but {len(ours)} interactions are ours"
        return
    if checksum["v"] != FORMAT:
        raise CassetteFormatError(f"format {checksum['v']!r} is not known here, only {FORMAT}")
    for number, entry in ours:
        if entry["response"]["stream"].get("digest") != _digest(entry):
            yield f"interaction {number} ({entry['request']['uri']}): its digest does not fit"
    if checksum != _checksum(entries):
        yield f"{checksum['count']} interactions were sealed, {len(entries)} are here, or others"


def _checksum(entries: Sequence[Entry]) -> dict[str, Any]:
    """The entry that tells whether an interaction was added, lost, moved, or, where it is not ours, changed."""
    digests = [entry["response"].get("stream", {}).get("digest") or _digest(entry) for entry in entries]
    return {"v": FORMAT, "count": len(entries), "digest": _sha256("\n".join(digests).encode())}


def _with_digest(entry: Entry) -> Entry:
    response = entry["response"]
    if "stream" not in response:
        return entry
    stream = {name: value for name, value in response["stream"].items() if name != "digest"}
    stream["digest"] = _digest(entry)
    return {**entry, "response": {**response, "stream": stream}}


def _digest(entry: Entry) -> str:
    """Over all that a replay depends on; the volatile fields of the request body are left out."""
    request, response = entry["request"], entry["response"]
    if "stream" not in response:
        return _sha256(json.dumps(entry, sort_keys=True, default=repr).encode())
    stream = {name: value for name, value in response["stream"].items() if name != "digest"}
    body = _sha256(_bytes(response["body"]["string"]))
    covered = [
        {**request, "body": _sha256(canonical_body(_bytes(request["body"])))},
        {**response, "body": body, "stream": stream},
    ]
    return _sha256(json.dumps(covered, sort_keys=True, ensure_ascii=True, default=repr).encode("ascii"))


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _text(data: bytes) -> str | bytes:
    """Text where the bytes are UTF-8; PyYAML writes and reads no half of a surrogate pair, and neither does UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def _bytes(value: str | bytes | None) -> bytes:
    """The bytes of a body as vcrpy has it: text, binary, or nothing."""
    if value is None:
        return b""
    return value if isinstance(value, bytes) else value.encode("utf-8")
