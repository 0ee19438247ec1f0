"""Conversations in a cassette: frames that a client has sent and received, in the order in which they came.

A conversation is the body of an interaction whose method is `STDIO` or `WEBSOCKET`. Each frame is a line:

- `> text`: a text that the client has sent, and `< text` one that it has received,
- `>"text"`, `<"text"`: a text with line breaks, as a JSON string,
- `>b data`, `<b data`: bytes that are no text, in base64.

For redaction, a conversation is shown as a stream of events, so that secrets are also found across its deltas.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from miniagents.ext.llm._redaction import REDACTED
from miniagents_testing.errors import CassetteFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miniagents_testing.cassette._interaction import Interaction


CONVERSATIONS = {"STDIO": 200, "WEBSOCKET": 101}
"""Status of a conversation that has begun, by its method; any other status has the body of an HTTP answer."""
_BREAK = re.compile(r"\r\n|\n|\r")


class Frame(NamedTuple):
    """One message of a conversation."""

    is_sent: bool
    """True if the client has sent it, False if the client has received it."""
    data: str | bytes


def is_conversation(interaction: Interaction) -> bool:
    """Return True if the body of an interaction is a conversation."""
    return CONVERSATIONS.get(interaction.method) == interaction.response.status


def line_of(frame: Frame) -> bytes:
    """Return the line of a frame, with its line feed."""
    sign = ">" if frame.is_sent else "<"
    if isinstance(frame.data, bytes):
        return f"{sign}b {base64.b64encode(frame.data).decode()}\n".encode()
    if _BREAK.search(frame.data):
        return f"{sign}{json.dumps(frame.data, ensure_ascii=False)}\n".encode()
    return f"{sign} {frame.data}\n".encode()


def text_or_bytes(data: bytes) -> str | bytes:
    """Return bytes that are UTF-8 as text, and all others unchanged."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def frames_in(lines: bytes) -> Iterator[Frame]:
    """Yield the frames of some lines of a conversation.

    Raises:
        CassetteFormatError: a line is no frame.
    """
    for line in lines.removesuffix(b"\n").split(b"\n"):
        try:
            yield Frame({b">": True, b"<": False}[line[:1]], _data_of(line[1:].decode()))
        except (KeyError, ValueError, binascii.Error) as error:
            raise CassetteFormatError(
                f"{line[:80]!r} is no frame of a conversation; a frame begins with '> ' or '< '"
            ) from error


def _data_of(text: str) -> str | bytes:
    """Return the data of a frame, of which only the first character of its line is missing.

    Raises:
        ValueError: it is no frame.
    """
    if text.startswith("b "):
        return base64.b64decode(text[2:], validate=True)
    if text.startswith('"'):
        data = json.loads(text)
        assert isinstance(data, str)
        return data
    if not text.startswith(" "):
        raise ValueError(text)
    return text[1:]


def as_events(interaction: Interaction) -> Interaction:
    """Return a conversation as a stream of events, one event for each chunk."""
    numbers = count(1)
    chunks = tuple(
        chunk._replace(data=b"".join(map(_event_of, frames_in(chunk.data), numbers)))
        for chunk in interaction.response.chunks
    )
    return replace(interaction, method="GET", response=replace(interaction.response, chunks=chunks))


def from_events(events: Interaction, before: Interaction) -> Interaction:
    """Return the conversation of a stream of events that was edited; `before` is the conversation that it was.

    Bytes that were edited are redacted as a whole.
    """
    chunks = []
    for chunk, old in zip(events.response.chunks, before.response.chunks, strict=True):
        texts = chunk.data.decode("utf-8", "surrogateescape").removesuffix("\n\n").split("\n\n")
        frames = zip(texts, frames_in(old.data), strict=True)
        chunks.append(chunk._replace(data=b"".join(line_of(_frame_of(text, frame)) for text, frame in frames)))
    return replace(events, method=before.method, response=replace(events.response, chunks=tuple(chunks)))


def _event_of(frame: Frame, number: int) -> bytes:
    """Return a frame as an event, with a line of data for each line of the frame.

    Bytes become JSON under a name of their own, so that they are not joined with those of other frames.
    """
    if isinstance(frame.data, bytes):
        return b'data: {"bytes %d":"%s"}\n\n' % (number, base64.b64encode(frame.data))
    return "".join([*(f"data: {line}\n" for line in _BREAK.split(frame.data)), "\n"]).encode()


def _frame_of(event: str, before: Frame) -> Frame:
    """Return the frame of an event, with the line breaks that the frame had before.

    Changed bytes become `[redacted]`.
    """
    lines = [line.removeprefix("data: ") for line in event.split("\n")]
    if isinstance(before.data, bytes):
        is_same = f':"{base64.b64encode(before.data).decode()}"' in event
        return before if is_same else before._replace(data=REDACTED.encode())
    breaks = _BREAK.findall(before.data)
    if len(breaks) != len(lines) - 1:
        breaks = ["\n"] * (len(lines) - 1)
    return before._replace(data="".join(map("".join, zip(lines, [*breaks, ""], strict=True))))
