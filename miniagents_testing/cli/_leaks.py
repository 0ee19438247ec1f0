"""Secrets in a cassette file, also in one that is damaged: then they are looked for in its text.

Nothing that is returned or printed has the secret itself.
"""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from miniagents_testing._streams import Chunk, ResponseStream
from miniagents_testing.cassette import Interaction, Redaction
from miniagents_testing.cassette._file import load_edited, read
from miniagents_testing.cassette._secrets import scan
from miniagents_testing.errors import CassetteFormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from miniagents_testing.cli._screen import CassetteFile

_FIELD = re.compile(rb"[\s-]*([\w-]+):")
"""Name of a field or a header in YAML."""
_VALUE = re.compile(rb"(?:\s*-|[\s-]*[\w-]+:)[\s\[]+([^\s\[{][^\]]*)")
"""Value of a field or a header in YAML, in its line or in a list below it."""
_PAIR = re.compile(rb"""([\w-]+)\\*["']\s*:\s*\\*["']([^"'\\]+)""")
"""Name and value in JSON, also in JSON that is quoted in a text."""
_OF_STREAM = {"content-type": ["text/event-stream"]}


class Secret(NamedTuple):
    """A secret in a file, without its value."""

    where: str
    """Interaction or line in the file."""
    what: str
    """Place in the interaction, and the origin or kind of the secret."""


def secrets_in_file(cassette: CassetteFile) -> Iterator[Secret]:
    """Yield the secrets in a file: in its interactions, also in edited ones, or in its text if it is no cassette."""
    interactions: Sequence[Interaction] = cassette.interactions
    if cassette.damage and not interactions:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the damage is reported already
                interactions, _ = load_edited(cassette.path)
        except CassetteFormatError:
            yield from _secrets_in_text(cassette.path)
            return
    yield from secrets_in(interactions)


def secrets_in(interactions: Iterable[Interaction]) -> Iterator[Secret]:
    """Yield the secrets in interactions."""
    for leak in scan(interactions, keys=True):
        yield Secret(f"interaction {leak.interaction}", str(replace(leak, interaction=0)))


def _secrets_in_text(path: Path) -> Iterator[Secret]:
    """Yield the secrets in a file that is no cassette: in its lines, in its events together, and in its whole text."""
    try:
        lines = read(path, bytes).splitlines()
    except CassetteFormatError:  # a pipe, a device, or too long
        return
    redaction, found = Redaction(), set()
    name = b""
    for number, line in enumerate(lines, 1):
        if field := _FIELD.match(line):
            name = field[1]
        headers = {name.decode(): [value[1].decode(errors="replace")]} if (value := _VALUE.match(line)) else {}
        for what in {**_kinds(redaction, _json_in(line)), **_kinds(redaction, headers=headers)}:
            found.add(what)
            yield Secret(f"line {number}", what)
    events = b"\n\n".join(line for line in map(bytes.strip, lines) if line.startswith(b"data:"))
    for what in {**_kinds(redaction, b"\n".join(lines)), **_kinds(redaction, events=events)}.keys() - found:
        at = [f"line {number}" for number, line in enumerate(lines, 1) if what in _kinds(redaction, line)]
        yield from (Secret(where, what) for where in at or ["several lines"])


def _kinds(
    redaction: Redaction, text: bytes = b"", *, events: bytes = b"", headers: Mapping[str, list[str]] | None = None
) -> dict[str, None]:
    """Return the origins and kinds of the secrets in a text, in the events of a stream, and in headers."""
    if not (text or events or headers):
        return {}
    stream = ResponseStream((Chunk(0, events),), headers=_OF_STREAM)
    leaks = redaction.leaks(Interaction("", "", text, stream, headers or {}), keys=True)
    return dict.fromkeys(leak.what for leak in leaks)


def _json_in(line: bytes) -> bytes:
    """Return the JSON in a line of a cassette, without the quotes of YAML around it; empty if there is none.

    Of JSON that was cut off, or is quoted in another way, its texts are returned with their names.
    """
    start = min((place for mark in (b"{", b"[") if (place := line.find(mark)) >= 0), default=-1)
    if start < 0:
        return b""
    text, quote = line[start:], line[start - 1 : start]
    text = text.replace(b"''", b"'") if quote == b"'" else text.replace(b'\\"', b'"') if quote == b'"' else text
    try:
        value = json.JSONDecoder().raw_decode(text.decode())[0]
        return json.dumps(value).encode()
    except (ValueError, RecursionError):
        pairs = [{name.decode(): value.decode(errors="replace")} for name, value in _PAIR.findall(line)]
        return json.dumps(pairs).encode() if pairs else b""
