"""Interactions that others have recorded: vcrpy, pytest-recording, pydantic-ai, and what people edit by hand.

Knows the forms these have in a file that is parsed already, and no file. Nobody recorded chunks or times there, so a
body plays one event a chunk, without waits. What a client would choke on is not passed on: the headers that describe a
body as it once was on the wire, which the one in the file is not any more.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from miniagents.errors import LLMError
from miniagents.ext.llm.sse import Inflater
from miniagents_testing._streams import ResponseStream
from miniagents_testing.cassette.chunkmap import one_event_a_chunk
from miniagents_testing.cassette.interaction import Interaction, is_text
from miniagents_testing.errors import CassetteFormatError

__all__ = ["foreign_interaction"]

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
    """The encodings in order of their use, as the headers have them or the body shows."""
    names = [name.strip().lower() for value in headers.get("content-encoding", ()) for name in value.split(",")]
    encodings = [name.removeprefix("x-") for name in names if name not in ("", "identity")]
    if not encodings and body.startswith(_GZIP_MAGIC):
        content_type = ",".join(headers.get("content-type", ["text/"])).lower()
        if content_type.startswith("text/") or "json" in content_type:
            return ["gzip"]
    return encodings


def _inflated(body: bytes, encoding: str, where: str) -> bytes:
    inflater = Inflater(encoding)
    try:
        plain = inflater.feed(body)
    except LLMError as error:  # written for live responses, and right here too
        raise CassetteFormatError(f"{where}: {error}") from error
    if not inflater.finished:
        raise CassetteFormatError(f"{where}: the {encoding} body ends early, after {len(body)} bytes")
    return plain
