"""Conversations in a cassette: frames that a client has sent and received, in the order in which they came.

A conversation is the body of an interaction whose method is `STDIO` or `WEBSOCKET`. Each frame is a line:

- `> text`: a text that the client has sent, and `< text` one that it has received,
- `>"text"`, `<"text"`: a text with line breaks, as a JSON string,
- `>b data`, `<b data`: bytes that are no text, in base64.

For redaction, a conversation is shown as a stream of events, so that secrets are also found across its deltas.

While a conversation is played, a received frame comes when the client has sent all frames that were sent before it in
the recording. A frame that differs from the recorded one is a miss, and ends the conversation. Independent of clients.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from miniagents.ext.llm._redaction import REDACTED
from miniagents_testing._words import counted
from miniagents_testing.cassette._matching import Matching, covers, differences, has_wildcards
from miniagents_testing.errors import CassetteFormatError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from miniagents_testing.cassette._interaction import Interaction
    from miniagents_testing.cassette._playback import Playback
    from miniagents_testing.cassette._session import Session
    from miniagents_testing.errors import CassetteMissError

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
    """Return the text or bytes of a frame's line, whose first character, the sign, is left out.

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

    Bytes become JSON under a name with `number`, the frame's own, so that they are not joined with those of others.
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


# --- a conversation while it is played


NOT_COMPARED = ("params.clientInfo", "params._meta", "result._meta", "event_id")
"""Fields of frames that change with each run or with the version of a client: those of JSON-RPC, and ids of events."""
_DIFFERENCES_SHOWN = 5
"""Differences that a miss shows."""
_SHOWN = 200
"""Characters of a frame that a miss shows."""


class PlayedConversation:
    """A recorded conversation that is played to one client, in one event loop.

    Args:
        session: of the cassette.
        playback: of the interaction.

    Raises:
        CassetteFormatError: the recording is no conversation.
    """

    def __init__(self, session: Session, playback: Playback) -> None:
        self.miss: CassetteMissError | None = None
        """Error for the frame that differed from the recorded one, or None."""
        self.is_over = False
        """True after `close` or a miss."""
        self._session = session
        self._playback = playback
        self._chunks = [tuple(frames_in(chunk.data)) for chunk in playback.response.chunks]
        self._recorded = [frame for frames in self._chunks for frame in frames if frame.is_sent]
        match = session.settings.match
        self._match = Matching(ignore=(*match.ignore, *NOT_COMPARED))
        self._sent = 0
        self._changed = asyncio.Event()

    @property
    def end(self) -> str:
        """End of the recorded conversation: `eof` if the server has ended it, `closed` if the client has, or others.

        The code and the reason of a WebSocket follow, as in `closed 1000`.
        """
        return self._playback.response.end

    def send(self, data: str | bytes) -> bool:
        """Compare a frame that the client sends with the recorded one, and return True if they are the same.

        A frame that differs is counted as a miss, and ends the conversation. Return False then, and after the end.
        """
        if self.is_over:
            return False
        recorded = self._recorded[self._sent].data if self._sent < len(self._recorded) else None
        now = self._as_recorded(data)
        if recorded is None or not (self._key(recorded) == self._key(now) or self._is_like(recorded, data)):
            self.miss = self._session.missed(self._difference(recorded, now))
            self.close()
            return False
        self._sent += 1
        self._changed.set()
        return True

    async def receive(self) -> AsyncIterator[str | bytes]:
        """Yield the frames that the client receives, each when it is due.

        The end comes when the server has ended the conversation, and after `close`. Where the client has left first in
        the recording, the end comes after `close` only.
        """
        expected = 0
        for frames in self._chunks:
            sent = sum(frame.is_sent for frame in frames)
            expected += sent
            if sent:
                await self._wait_for(expected)
                if not self.is_over:
                    self._playback.client_acted()
            else:
                await self._playback.areach()
            if self.is_over:
                self._playback.close()  # other streams do not wait for it any more
                return
            for frame in frames:
                if not frame.is_sent:
                    yield frame.data
        if not self.end.startswith(("eof", "raise ")):
            await self._wait_for(None)

    def close(self) -> None:
        """End the conversation, because its client has left."""
        self.is_over = True
        self._changed.set()
        self._playback.close()

    async def _wait_for(self, sent: int | None) -> None:
        """Wait until the client has sent `sent` frames, or the conversation is over; if None, wait until it is over."""
        while not self.is_over and (sent is None or self._sent < sent):
            self._changed.clear()
            await self._changed.wait()

    def _as_recorded(self, data: str | bytes, *, known: bool = True) -> str | bytes:
        """Return a frame as it would be recorded, without secrets; bytes with a secret become `[redacted]`.

        For `known`, see `scrub_request`.
        """
        body = data.encode() if isinstance(data, str) else base64.b64encode(data)
        clean, _ = self._session.settings.redact.scrub_request(body, {}, known=known)
        if isinstance(data, str):
            return clean.decode()
        return data if clean == body else REDACTED.encode()

    def _is_like(self, recorded: str | bytes, data: str | bytes) -> bool:
        """Return True if a frame equals a recorded one in which `[redacted]` stands for any text.

        Earlier versions have redacted less, so the frame is compared as it is, too.
        """
        key, made = self._key(recorded), self._key(data)
        if not has_wildcards(key):
            return key == made
        return covers(key, self._key(self._as_recorded(data, known=False))) or covers(key, made)

    def _key(self, data: str | bytes) -> tuple[type, bytes]:
        """Return type and content of a frame in a form that is equal for frames that count as the same."""
        return type(data), data if isinstance(data, bytes) else self._match.canonical_body(data.encode())

    def _difference(self, recorded: str | bytes | None, now: str | bytes) -> str:
        """Return the message about a frame that is not the recorded one, with the first differences."""
        interaction = self._playback.interaction
        number = next((n for n, each in enumerate(self._session.interactions, 1) if each is interaction), 0)
        where = f"interaction {number} ({interaction.method} {interaction.uri})"
        lines = [f"{self._session.name}, {where}: frame {self._sent + 1} that the client sends is not the recorded one"]
        if recorded is None:
            many = counted(len(self._recorded), "frame was", "frames were")
            lines.append(f"  {many} recorded; this one came after them: {now[:_SHOWN]!r}")
        else:
            found = list(differences(self._key(recorded)[1], self._key(now)[1]))
            if not found:
                found = [f"recorded {type(recorded).__name__}, now {type(now).__name__}"]
            lines += [f"    {each}" for each in found[:_DIFFERENCES_SHOWN]]
            if len(found) > _DIFFERENCES_SHOWN:
                lines.append(f"    and {len(found) - _DIFFERENCES_SHOWN} more")
        lines.append(f"  not compared: {', '.join(self._match.ignore)}")
        return "\n".join(lines)


def is_served(session: Session | None) -> bool:
    """Return True if a session plays and records conversations; one that keeps to vcrpy's rules leaves them alone."""
    return session is not None and (session.judges or session.width is not None)
