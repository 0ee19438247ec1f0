"""A cassette as a document: vcrpy's v1 format, with `response.stream` in each interaction and a checksum at the end.

The digests show damage and edits by hand; they are no protection against an attacker, who can compute them too.

Interactions of other recorders (vcrpy, pytest-recording, pydantic-ai, edits by hand) are read as well. They have
neither chunks nor times, so a body plays one event a chunk, without waits. Headers that describe the body as it was on
the wire are left out: they do not describe the body in the file, and clients would fail on them.

This module is independent of files and paths. Its errors name the interaction; the caller adds the cassette.
"""

from __future__ import annotations

import base64
import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import fields
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from miniagents.errors import LLMError
from miniagents.ext.llm.sse import Inflater, encodings_in
from miniagents_testing._streams import ResponseStream
from miniagents_testing._words import counted
from miniagents_testing.cassette import _chunkmap as chunkmap
from miniagents_testing.cassette._chunkmap import one_event_a_chunk
from miniagents_testing.cassette._headers import HOP_BY_HOP
from miniagents_testing.cassette._interaction import OF_LINES, Interaction, is_text
from miniagents_testing.cassette._yaml import plain_data
from miniagents_testing.errors import CassetteFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from miniagents_testing._streams import Chunk


_GZIP_MAGIC = b"\x1f\x8b\x08"
_REASONS = {int(status): status.phrase for status in HTTPStatus}


def foreign_interaction(entry: Mapping[str, Any], where: str) -> Interaction:
    """Return the interaction of an entry that another recorder wrote, and that has no key `stream`.

    Args:
        entry: one of the `interactions` of a cassette.
        where: file and number, for error messages.

    Raises:
        CassetteFormatError: a compressed body is damaged, or inflates to suspiciously much.
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
            headers={name: values for name, values in headers.items() if name not in (*HOP_BY_HOP, "content-length")},
        ),
    )


def _status(response: Mapping[str, Any]) -> tuple[int, str]:
    """Return status code and reason of a response; older vcrpy wrote `status_code` alone where httpx was used."""
    if "status_code" in response:
        code = int(response["status_code"])
        return code, _REASONS.get(code, "")
    return int(response["status"]["code"]), response["status"].get("message") or ""


def _headers(headers: Any) -> dict[str, list[str]]:
    """Return all values by lower-case name, of a mapping to one value or to a list, or of pairs."""
    found: dict[str, list[str]] = {}
    for name, values in headers.items() if isinstance(headers, Mapping) else headers or ():
        listed = values if isinstance(values, (list, tuple)) else [values]
        found.setdefault(_header_text(name).lower(), []).extend(map(_header_text, listed))
    return found


def _header_text(value: Any) -> str:
    """Return a header's value as text; bytes are read as Latin-1."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _body(message: Mapping[str, Any]) -> bytes:
    """Return the body of a request or a response: text, binary, base64 or parsed JSON as bytes; b"" for no body."""
    parsed = message.get("parsed_body")  # pydantic-ai: a JSON body as YAML; its original bytes are lost
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
    """Undo the compression of a body, and drop `content-encoding`; change nothing if an encoding is not known.

    Header and body decide together: many recorders inflate the body and keep the header, some lose the header. A
    damaged body raises `CassetteFormatError`, which names the interaction by `where`.
    """
    encodings = _encodings(body, headers)
    plain = body
    for encoding in reversed(encodings):
        if is_text(plain) or (encoding == "gzip" and not plain.startswith(_GZIP_MAGIC)):
            break
        if encoding not in ("gzip", "deflate"):
            return body  # br, zstd: some clients read them
        plain = _inflated(plain, encoding, where)
    headers.pop("content-encoding", None)
    return plain


def _encodings(body: bytes, headers: Mapping[str, list[str]]) -> list[str]:
    """Return the encodings of the header `content-encoding`, in the order in which they were applied.

    Without the header, a body of text or JSON that begins like gzip counts as gzip.
    """
    encodings = encodings_in(",".join(headers.get("content-encoding", ())))
    if not encodings and body.startswith(_GZIP_MAGIC):
        content_type = ",".join(headers.get("content-type", ["text/"])).lower()
        if content_type.startswith("text/") or "json" in content_type:
            return ["gzip"]
    return encodings


def _inflated(body: bytes, encoding: str, where: str) -> bytes:
    """Return the decompressed body; `encoding` is how it is compressed.

    A body that does not fit raises CassetteFormatError, which names `where`.
    """
    inflater = Inflater(encoding)
    try:
        plain = inflater.feed(body)
        inflater.close()
    except LLMError as error:  # its message fits live responses and recorded ones
        raise CassetteFormatError(f"{where}: {error}") from error
    return plain


_FORMAT = 1
"""Version (`v`) of the checksum."""

_ENDS = {1: chunkmap.event_ends, 2: chunkmap.line_ends}
"""How the chunk map counts, by the version (`v`) of the key `stream`."""

_NO_RESPONSE = 599
"""Status that plain vcrpy plays where there was no response; clients take 599 for a failure of the server."""

_Entry = dict[str, Any]
"""One interaction as it stands in the file."""


def parse(text: str | bytes) -> dict[str, Any]:
    """Parse the text of a cassette, and check its checksum.

    Raises:
        CassetteFormatError: the text is no cassette, or differs from the one that was saved.
    """
    document, mismatches = parse_edited(text)
    if mismatches:
        raise CassetteFormatError(
            f"is damaged or was edited: {mismatches[0]}. Record it again, take back the edit, or keep it "
            "with `miniagents-testing edit --reseal`"
        )
    return document


def parse_edited(text: str | bytes) -> tuple[dict[str, Any], list[str]]:
    """Parse the text of a cassette; return the document, and a line for each part that does not fit its checksum.

    Raises:
        CassetteFormatError: the text is no cassette, was cut off, or is one of another format.
    """
    document = plain_data(text)
    if document is None:
        raise CassetteFormatError("is no cassette: it is empty")
    if not isinstance(document, dict) or not isinstance(document.get("interactions"), list):
        raise CassetteFormatError("is no cassette: it has no list of interactions")
    if "version" not in document:  # it stands after all interactions
        raise CassetteFormatError("is no cassette: its end is missing, so it was cut off")
    if document["version"] != 1:
        raise CassetteFormatError(f"has version {document['version']!r} of vcrpy's format; only 1 is known here")
    try:
        return document, list(_mismatches(document["interactions"], document.get("miniagents")))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, CassetteFormatError):
            raise
        raise CassetteFormatError(f"is no cassette: an interaction lacks {_what_is_missing(error)}") from error


def _what_is_missing(error: Exception) -> str:
    """Return words for what an interaction lacks: the key that a `KeyError` names, or else its form."""
    return f"the key {error}" if isinstance(error, KeyError) else f"its form ({error})"


def with_checksum(entries: Sequence[_Entry], **more: Any) -> dict[str, Any]:
    """Make a document of these interactions, with their digests and a checksum; `more` are further keys of vcrpy."""
    entries = [_with_digest(entry) for entry in entries]
    return {"interactions": entries, **more, "version": 1, "miniagents": _checksum(entries)}


def entry_of(interaction: Interaction) -> _Entry:
    """Return an interaction as the dict that the file stores, without its digest, which the caller adds.

    An interaction without a response gets the status 599, which clients take for a failure.
    """
    answer = interaction.response
    version = 2 if interaction.method in OF_LINES else 1
    stream: dict[str, Any] = {"v": version, "started_ms": round(interaction.started_ms, 2)}
    if answer.status:
        stream["headers_ms"] = round(answer.headers_ms, 2)
    stream["chunks"] = _wrapped(chunkmap.encode(answer.chunks, _ENDS[version]))
    stream["end"] = answer.end
    if answer.end != "eof":
        stream["complete"] = answer.complete
    if interaction.agent:
        stream["agent"] = _stored(interaction.agent)
    return {
        "request": {
            "method": _stored(interaction.method),
            "uri": _stored(interaction.uri),
            "body": _text(interaction.request_body),
            "headers": _stored_headers(interaction.request_headers),
        },
        "response": {
            "status": {"code": answer.status or _NO_RESPONSE, "message": _stored(answer.reason)},
            "headers": _stored_headers(answer.headers),
            "body": {"string": _text(answer.body)},
            "stream": stream,
        },
    }


def _stored(text: str) -> str | bytes:
    """Return a text as the file has it: one with lone surrogates, which readers of YAML refuse, as bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def _restored(stored: Any) -> Any:
    """Return the text that `_stored` has made bytes of; other values stay."""
    return stored.decode("utf-8", "surrogatepass") if isinstance(stored, bytes) else stored


def _stored_headers(headers: Mapping[str, Sequence[str]]) -> dict[str | bytes, list[str | bytes]]:
    """Return headers as the file has them."""
    return {_stored(name): [*map(_stored, values)] for name, values in headers.items()}


def _restored_headers(stored: Mapping[Any, Any] | None) -> dict[Any, Any]:
    """Return headers of a file, with their texts restored; values that are no list stay, for the error about them."""
    return {
        _restored(name): [*map(_restored, values)] if isinstance(values, list) else values
        for name, values in (stored or {}).items()
    }


def _wrapped(words: str, width: int = 100) -> str:
    """Return words in lines of at most `width` characters, because a diff shows lines.

    Each word is shorter than that.
    """
    lines = []
    start = 0
    while len(words) - start > width:
        end = words.rindex(" ", start, start + width + 1)
        lines.append(words[start:end])
        start = end + 1
    return "\n".join([*lines, words[start:], ""])


def interaction_of(entry: _Entry, where: str) -> Interaction:
    """Make an interaction of an entry, also of one that another recorder made; `where` names it in warnings and errors.

    Raises:
        CassetteFormatError: the entry has not the form of an interaction.
    """
    try:
        request, stream = entry["request"], entry["response"].get("stream")
        if stream is None:
            return _check_types(foreign_interaction(entry, where))
        interaction = Interaction(
            method=_restored(request["method"]),
            uri=_restored(request["uri"]),
            request_body=_bytes(request["body"]),
            request_headers=_restored_headers(request.get("headers")),
            started_ms=float(stream.get("started_ms", 0)),
            agent=_restored(stream.get("agent", "")),
            response=_StoredStream.of(entry["response"], stream, where),
        )
        return _check_types(interaction)
    except CassetteFormatError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CassetteFormatError(f"{where}: it lacks {_what_is_missing(error)}") from error


def _check_types(interaction: Interaction) -> Interaction:
    """Return the interaction if its fields have the right types: an entry without checksum may hold anything.

    Raises:
        TypeError: the status, a header or a text is of another type.
    """
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
    """Stream of a file whose chunks are cut when they are first read; most streams of a file are never read."""

    __slots__ = ("_ends_of", "_map", "_stored_body", "_where")

    @classmethod
    def of(cls, response: Mapping[str, Any], stream: Mapping[str, Any], where: str) -> _StoredStream:
        """Make a stream of the `response` of an entry and of its `stream` key.

        The status is 0 if no answer was recorded. `where` names the entry in warnings about its chunk map.
        """
        end = stream.get("end", "eof")
        answered = "headers_ms" in stream or "end" not in stream
        chunk_map = stream.get("chunks")
        if not isinstance(chunk_map, (str, type(None))):
            raise CassetteFormatError(
                f"{where}: its chunk map is {chunk_map!r:.80}, no text. Put it in quotes, or delete it"
            )
        self = object.__new__(cls)
        for name, value in {
            "status": response["status"]["code"] if answered else 0,
            "reason": _restored(response["status"]["message"] or ""),
            "headers": {name.lower(): values for name, values in _restored_headers(response.get("headers")).items()},
            "headers_ms": float(stream.get("headers_ms", 0)),
            "end": end,
            "complete": stream.get("complete", end == "eof"),
            "_stored_body": _bytes(response["body"]["string"]),
            "_map": chunk_map,
            "_ends_of": ends_of(stream, where),
            "_where": where,
        }.items():
            object.__setattr__(self, name, value)
        return self

    def __getattr__(self, name: str) -> Any:
        """Cut the chunks on their first read. Python calls this for an empty slot; in a copy all slots are empty."""
        if name != "chunks":
            raise AttributeError(name)
        chunks = _chunks(self._map, self._stored_body, self._ends_of, self._where)
        object.__setattr__(self, "chunks", chunks)
        return chunks

    def _plain(self) -> ResponseStream:
        """Return a `ResponseStream` with the same fields, its chunks cut."""
        return ResponseStream(**{each.name: getattr(self, each.name) for each in fields(self)})

    def __eq__(self, other: object) -> bool:
        """Return True for a stream with the same fields, whether it was read from a file or made in code."""
        return self._plain() == (other._plain() if isinstance(other, _StoredStream) else other)

    __hash__ = ResponseStream.__hash__

    def __repr__(self) -> str:
        return repr(self._plain())


def ends_of(stream: Mapping[str, Any], where: str) -> chunkmap.Ends:
    """Return the function by which the chunk map of a key `stream` counts.

    Raises:
        CassetteFormatError: the version of the key is not known; the message begins with `where`.
    """
    version = stream.get("v", 1)
    if version not in _ENDS:
        raise CassetteFormatError(
            f"{where}: its stream has version {version!r}, and this version of the testing kit reads "
            f"{' and '.join(map(str, _ENDS))}. Install a newer one"
        )
    return _ENDS[version]


def _chunks(text: str | None, body: bytes, ends_of: chunkmap.Ends, where: str) -> tuple[Chunk, ...]:
    """Return the body cut as the chunk map `text` says; warn and cut after each event if the map does not fit.

    If `text` is None, cut after each event. The warning names the interaction by `where`.
    """
    if text is not None:
        try:
            return chunkmap.decode(text, body, ends_of)
        except chunkmap.ChunkMapError as error:
            warnings.warn(
                f"{where}: played one event a chunk, because its chunk map does not fit: {error}", stacklevel=3
            )
    return chunkmap.one_event_a_chunk(body, ends_of)


def _mismatches(entries: list[_Entry], checksum: Any) -> Iterator[str]:
    """Yield a line for each interaction whose digest is wrong, and one if interactions are lost, new or moved.

    Without a checksum, yield one if there are interactions of this kit. Raise `CassetteFormatError` for an unknown
    format.
    """
    ours = [(number, entry) for number, entry in enumerate(entries, 1) if "stream" in entry["response"]]
    if checksum is None:
        if ours:
            have = counted(len(ours), "interaction has", "interactions have")
            yield f"its key `miniagents` is missing, but {have} a key `stream`"
        return
    if checksum["v"] != _FORMAT:
        raise CassetteFormatError(f"has checksums of format {checksum['v']!r}; only {_FORMAT} is known here")
    for number, entry in ours:
        if entry["response"]["stream"].get("digest") != _digest(entry):
            yield f"interaction {number} ({entry['request']['uri']}): its digest does not fit"
    if checksum != _checksum(entries):
        known = counted(checksum["count"], "interaction")
        yield f"its checksum is of {known}, and does not fit the {len(entries)} in the file"


def _checksum(entries: Sequence[_Entry]) -> dict[str, Any]:
    """Return the checksum of a cassette: the number of its interactions, and a hash of all their digests.

    So it shows added, lost and moved interactions, and changes in those of other recorders.
    """
    digests = [entry["response"].get("stream", {}).get("digest") or _digest(entry) for entry in entries]
    return {"v": _FORMAT, "count": len(entries), "digest": _sha256("\n".join(digests).encode())}


def _with_digest(entry: _Entry) -> _Entry:
    """Return the entry with its digest in `stream`; return an entry of another recorder unchanged."""
    response = entry["response"]
    if "stream" not in response:
        return entry
    stream = {name: value for name, value in response["stream"].items() if name != "digest"}
    stream["digest"] = _digest(entry)
    return {**entry, "response": {**response, "stream": stream}}


def _digest(entry: _Entry) -> str:
    """Return the hash of all parts of an entry that a replay depends on, without volatile fields of the request.

    An entry of another recorder is hashed as a whole.
    """
    request, response = entry["request"], entry["response"]
    if "stream" not in response:
        return _sha256(json.dumps(entry, sort_keys=True, default=repr).encode())
    stream = {name: value for name, value in response["stream"].items() if name != "digest"}
    body = _sha256(_bytes(response["body"]["string"]))
    covered = [
        {**_with_names(request), "body": _sha256(_body_to_hash(_bytes(request["body"])))},
        {**_with_names(response), "body": body, "stream": stream},
    ]
    return _sha256(json.dumps(covered, sort_keys=True, ensure_ascii=True, default=repr).encode("ascii"))


def _with_names(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a request or an answer with the names of its headers as texts: a name in JSON cannot be bytes."""
    headers = message.get("headers")
    return {**message, "headers": _restored_headers(headers)} if headers else message


_FIELDS_NOT_HASHED = ("metadata", "user", "prompt_cache_key", "safety_identifier", "stream_options")


def _body_to_hash(body: bytes) -> bytes:
    """Return a JSON object in one spelling without the fields that are not hashed; any other body as it is.

    This never changes, whatever `Matching` compares: the digests of all files of format 1 depend on it.
    """
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(parsed, dict):
        return body
    hashed = {name: value for name, value in parsed.items() if name not in _FIELDS_NOT_HASHED}
    return json.dumps(hashed, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def _sha256(data: bytes) -> str:
    """Return the SHA-256 of data, with the name of the algorithm before it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _text(data: bytes) -> str | bytes:
    """Return bytes that are UTF-8 as `str`, and all others unchanged, as YAML can store both."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def _bytes(value: str | bytes | None) -> bytes:
    """Return a body in a cassette, which is text, bytes or None, as bytes."""
    if value is None:
        return b""
    return value if isinstance(value, bytes) else value.encode("utf-8")
