"""The file: a plain vcrpy v1 cassette in YAML, with `response.stream` in each interaction and a seal at the end.

The digests tell damage and hand edits apart from a recording; they are no protection against somebody who means it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from miniagents_testing.cassette import chunkmap
from miniagents_testing.cassette.foreign import foreign_interaction
from miniagents_testing.cassette.interaction import Interaction
from miniagents_testing.cassette.matching import canonical_body
from miniagents_testing.cassette.yaml_text import yaml_text
from miniagents_testing.errors import CassetteFormatError
from miniagents_testing.streams import Chunk, ResponseStream

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FORMAT", "load", "save"]

FORMAT = 1
"""The `v` of everything that is ours in the file."""

# libyaml is in every wheel of PyYAML; where somebody built it without, files read the same, 10 times slower.
_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def save(path: str | os.PathLike[str], interactions: Sequence[Interaction]) -> None:
    """Write a cassette in one step: whoever reads meanwhile, or after a crash, has the old file or the new one."""
    entries = [_entry(interaction) for interaction in interactions]
    for entry in entries:
        entry["response"]["stream"]["digest"] = _digest(entry)
    text = yaml_text({"interactions": entries, "version": 1, "miniagents": _seal(entries)})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str]) -> tuple[Interaction, ...]:
    """The interactions of a cassette, in the order in which their requests were started.

    What others recorded has no `stream` keys; its bodies are played one event a chunk, without waits.

    Raises:
        CassetteFormatError: no cassette, or not the one that was saved.
        OSError: the file cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        # vcrpy's other form; a JSON string may hold an emoji as two escapes, which YAML refuses.
        document = json.loads(text) if text.startswith("{") else yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CassetteFormatError(f"{path}: not readable as YAML or JSON in UTF-8: {error}") from error
    try:
        entries = document["interactions"]
        if document["version"] != 1:  # it stands after all interactions: a file that was cut off lacks it
            raise CassetteFormatError(f"{path}: version {document['version']!r} of vcrpy's format is not known here")
        _check_seal(path, document, entries)
        return tuple(_interaction(entry, f"{path}, interaction {number}") for number, entry in enumerate(entries, 1))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, CassetteFormatError):
            raise
        raise CassetteFormatError(f"{path}: not a cassette: {type(error).__name__}: {error}") from error


def _check_seal(path: str | os.PathLike[str], document: dict[str, Any], entries: list[dict[str, Any]]) -> None:
    """Raise where the file is not what was saved."""
    seal = document.get("miniagents")
    ours = [number for number, entry in enumerate(entries, 1) if "stream" in entry["response"]]
    if seal is None:
        if ours:
            raise CassetteFormatError(
                f"{path}: its `miniagents` entry is missing, but {len(ours)} interactions are ours"
            )
        return
    if seal["v"] != FORMAT:
        raise CassetteFormatError(f"{path}: format {seal['v']!r} is not known here, only {FORMAT}")
    for number in ours:
        entry = entries[number - 1]
        if entry["response"]["stream"].get("digest") != _digest(entry):
            uri = entry["request"]["uri"]
            raise CassetteFormatError(
                f"{path}, interaction {number} ({uri}): its digest does not fit; the file is damaged or was edited. "
                "Record it again, or take back the edit"
            )
    if seal != _seal(entries):
        raise CassetteFormatError(
            f"{path}: {seal['count']} interactions were sealed, {len(entries)} are here, or others"
        )


def _seal(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The entry that tells whether an interaction was added, lost or moved."""
    digests = [entry["response"].get("stream", {}).get("digest", "") for entry in entries]
    return {"v": FORMAT, "count": len(entries), "digest": _sha256("\n".join(digests).encode())}


def _digest(entry: dict[str, Any]) -> str:
    """Over all that a replay depends on; the volatile fields of the request body are left out."""
    request, response = entry["request"], entry["response"]
    stream = {name: value for name, value in response["stream"].items() if name != "digest"}
    sealed = [
        {**request, "body": canonical_body(_bytes(request["body"])).hex()},
        {**response, "body": _bytes(response["body"]["string"]).hex(), "stream": stream},
    ]
    return _sha256(json.dumps(sealed, sort_keys=True, ensure_ascii=True).encode("ascii"))


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _entry(interaction: Interaction) -> dict[str, Any]:
    """An interaction as it stands in the file, without its digest."""
    answer = interaction.response
    stream: dict[str, Any] = {
        "v": FORMAT,
        "started_ms": round(interaction.started_ms, 2),
        "headers_ms": round(answer.headers_ms, 2),
        # In lines, because a diff shows lines.
        "chunks": "\n".join(textwrap.wrap(chunkmap.encode(answer.chunks), 100)) + "\n",
        "end": answer.end,
    }
    if answer.end != "eof":
        stream["complete"] = answer.complete
    return {
        "request": {
            "method": interaction.method,
            "uri": interaction.uri,
            "body": _text(interaction.request_body),
            "headers": {name: list(values) for name, values in interaction.request_headers.items()},
        },
        "response": {
            "status": {"code": answer.status, "message": answer.reason},
            "headers": {name: list(values) for name, values in answer.headers.items()},
            "body": {"string": _text(answer.body)},
            "stream": stream,
        },
    }


def _interaction(entry: dict[str, Any], where: str) -> Interaction:
    """An interaction from its place in the file."""
    request, response = entry["request"], entry["response"]
    if "stream" not in response:
        return foreign_interaction(entry, where)
    stream = response["stream"]
    body = _bytes(response["body"]["string"])
    end = stream.get("end", "eof")
    return Interaction(
        method=request["method"],
        uri=request["uri"],
        request_body=_bytes(request["body"]),
        request_headers=request.get("headers") or {},
        started_ms=float(stream.get("started_ms", 0)),
        response=ResponseStream(
            _chunks(stream, body, where),
            status=response["status"]["code"],
            reason=response["status"]["message"] or "",
            headers={name.lower(): values for name, values in (response.get("headers") or {}).items()},
            headers_ms=float(stream.get("headers_ms", 0)),
            end=end,
            complete=stream.get("complete", end == "eof"),
        ),
    )


def _chunks(stream: dict[str, Any], body: bytes, where: str) -> tuple[Chunk, ...]:
    """The chunks as recorded; where their map does not fit the body, events, and never a byte less."""
    if "chunks" in stream:
        try:
            return chunkmap.decode(stream["chunks"], body)
        except chunkmap.ChunkMapError as error:
            warnings.warn(f"{where}: one event a chunk, because {error}", stacklevel=3)
    return chunkmap.one_event_a_chunk(body)


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
