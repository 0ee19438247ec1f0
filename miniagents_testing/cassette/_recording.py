"""One live request while it is recorded: what came is written down with its time. Knows no HTTP library.

One recorder for one file, in all processes of a user.

The lock is the operating system's, on a file in the folder for temporary files: it ends with the process that holds it,
however that ends, and leaves nothing beside the cassette.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from miniagents_testing._streams import TICKS_PER_SECOND, Chunk, ResponseStream, ticks
from miniagents_testing.cassette._interaction import Interaction, holds_terminal_event, kept_headers
from miniagents_testing.errors import RecordingRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from miniagents_testing.cassette._settings import OnEarlyClose


@contextmanager
def recording_lock(path: str | os.PathLike[str]) -> Iterator[None]:
    """Nobody else records this file meanwhile.

    Raises:
        RecordingRefusedError: somebody does already; the message says who.
    """
    real = os.path.realpath(path)
    name = hashlib.sha256(os.path.normcase(real).encode()).hexdigest()[:32]
    user = getattr(os, "getuid", lambda: "")()  # where there is none, each user has a temporary folder anyway
    folder = Path(tempfile.gettempdir()) / f"miniagents-cassettes-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    holder = folder / f"{name}.holder"
    lock = FileLock(folder / f"{name}.lock", timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise RecordingRefusedError(
            f"{path} is being recorded already, by {_who_holds(holder)}. Two recordings of one file would mix: give "
            "each its own file, or run them one after the other"
        ) from None
    try:
        holder.write_text(_who_am_i(), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _who_am_i() -> str:
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    return f"process {os.getpid()}" + (f", in {test}" if test else "")


def _who_holds(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8") or "a process that has just begun"
    except OSError:
        return "a process that has just begun"


DRAINED_ERROR_BYTES = 64 * 1024
"""How much of an error's body is read where its reader does not: SDKs that try again close it unread."""


class Recorder:
    """The slots of one session.

    Args:
        learn: is shown the headers of each response, before those are dropped that nobody needs.
        on_early_close: whether what a reader leaves unread is read to its end.
        begins_ms: where on the cassette's own time line the recording begins.
    """

    def __init__(
        self, learn: Callable[[list[tuple[str, str]]], object], on_early_close: OnEarlyClose, begins_ms: float
    ) -> None:
        self.slots: list[Slot] = []
        self.closed = False
        self.learn = learn
        self.drains = on_early_close == "drain"
        self._lock = threading.Lock()
        self._began: float | None = None
        self._begins_tick = self._last_tick = ticks(begins_ms)
        self._last_slot: Slot | None = None

    def start(self, method: str, uri: str, clock: Callable[[], float], agent: str) -> Slot:
        """Take the next place; from now on everything of this request is counted from here."""
        slot = Slot(self, method, uri, clock, agent)
        slot.started = self.tick(slot)
        self.slots.append(slot)
        return slot

    def tick(self, slot: Slot) -> int:
        """The time, so that no two things of different streams have the same: order is a part of the recording."""
        now = slot.clock()
        with self._lock:
            if self._began is None:
                self._began = now
            tick = self._begins_tick + round((now - self._began) * TICKS_PER_SECOND)
            tick = max(tick, self._last_tick + (self._last_slot not in (None, slot)))
            self._last_tick, self._last_slot = tick, slot
        return tick

    def interactions(self) -> list[Interaction]:
        """What was recorded, in the order of the starts; from now on nothing more is."""
        self.closed = True
        kept = (slot for slot in self.slots if not slot.dropped)
        return [slot.interaction() for slot in sorted(kept, key=lambda slot: slot.started)]


class Slot:
    """The place of one request."""

    def __init__(self, recorder: Recorder, method: str, uri: str, clock: Callable[[], float], agent: str) -> None:
        self.recorder = recorder
        self.clock = clock
        self.dropped = False
        self.started = 0
        """In ticks, as all moments here."""
        self.body = b""
        self.end = ""
        self.status = 0
        self._method = method
        self._uri = uri
        self._agent = agent
        self._request_headers: dict[str, list[str]] = {}
        self._reason = ""
        self._headers: dict[str, list[str]] = {}
        self._headers_at = 0
        self._last = 0
        self._chunks: list[Chunk] = []
        self._size = 0

    def asks(self, body: bytes, headers: Iterable[tuple[str, str]]) -> None:
        """What is sent."""
        self.body = body
        self._request_headers = kept_headers(headers)

    def headers_arrived(self, status: int, reason: str, headers: list[tuple[str, str]]) -> None:
        """The response is there, its body is not."""
        self.recorder.learn(headers)
        self.status, self._reason, self._headers = status, reason, kept_headers(headers)
        self._headers_at = self._last = self.recorder.tick(self)

    def chunk_arrived(self, data: bytes) -> None:
        """Waits are differences of rounded moments, so that rounding does not add up."""
        if self.recorder.closed or not data:
            return
        tick = self.recorder.tick(self)
        self._chunks.append(Chunk(tick - self._last, data))
        self._last = tick
        self._size += len(data)

    def ended(self, how: str) -> None:
        """The first end is the true one; closing comes after each."""
        if not self.recorder.closed:
            self.end = self.end or how

    def failed(self, error: BaseException, *, is_network: bool) -> None:
        """What was raised instead of bytes; a bug of ours or of a transport is no part of a recording."""
        if is_network:
            self.ended(f"raise {type(error).__name__}: {error}")
        elif not isinstance(error, Exception):
            self.ended("cancelled")
        elif not self.status:
            self.dropped = True
        else:
            self.ended("closed")

    @property
    def to_drain(self) -> int:
        """How many bytes to read on for when the reader leaves now."""
        if self.end or self.recorder.closed:
            return 0
        if self.recorder.drains:
            return 2**63
        return max(0, DRAINED_ERROR_BYTES - self._size) if self.status >= 400 else 0

    def interaction(self) -> Interaction:
        """What is known now; a stream that is still being read is `open`."""
        end = self.end or "open"
        body = b"".join(chunk.data for chunk in self._chunks)
        response = ResponseStream(
            tuple(self._chunks),
            status=self.status,
            reason=self._reason,
            headers=self._headers,
            headers_ms=(self._headers_at - self.started) * 1000 / TICKS_PER_SECOND if self.status else 0.0,
            end=end,
            complete=end == "eof" or holds_terminal_event(body),
        )
        return Interaction(
            method=self._method,
            uri=self._uri,
            request_body=self.body,
            request_headers=self._request_headers,
            started_ms=self.started * 1000 / TICKS_PER_SECOND,
            agent=self._agent,
            response=response,
        )
