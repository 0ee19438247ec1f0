"""One recorded conversation while it is played: a client sends frames, and receives those of the recording.

A received frame is played when the client has sent all frames that were sent before it in the recording. A frame that
differs from the recorded one is a miss, and ends the conversation.

Independent of clients; see `_frames` for the form in the file.
"""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING

from miniagents.ext.llm._redaction import REDACTED
from miniagents_testing._words import counted
from miniagents_testing.cassette._frames import frames_in
from miniagents_testing.cassette._matching import Matching, differences
from miniagents_testing.cassette._wildcards import covers, has_wildcards

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from miniagents_testing.cassette._playback import Playback
    from miniagents_testing.cassette._session import Session
    from miniagents_testing.errors import CassetteMissError


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
        """Take a frame that the client sends; return False if the conversation is over, also because of this frame.

        A frame that differs from the recorded one ends the conversation, and is counted as a miss.
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
        """Wait until the client has sent so many frames, or the conversation is over; None waits for the latter."""
        while not self.is_over and (sent is None or self._sent < sent):
            self._changed.clear()
            await self._changed.wait()

    def _as_recorded(self, data: str | bytes, *, known: bool = True) -> str | bytes:
        """Return a frame as it would be recorded, without secrets; bytes with a secret become `[redacted]`."""
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
        """Return a key that is equal for frames that are the same."""
        return type(data), data if isinstance(data, bytes) else self._match.canonical_body(data.encode())

    def _difference(self, recorded: str | bytes | None, now: str | bytes) -> str:
        """Return the message about a frame that is not the recorded one."""
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
