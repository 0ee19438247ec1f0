"""Live requests while they are recorded: each arrival is kept with its time.

A `Recorder` makes a `Slot` for each request. `recording_lock` gives a file one recorder at a time, in all processes of
a user. Independent of HTTP libraries.
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
from miniagents_testing.cassette._conversation import CONVERSATIONS
from miniagents_testing.cassette._headers import retry_headers
from miniagents_testing.cassette._interaction import Interaction, holds_terminal_event
from miniagents_testing.errors import RecordingRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from miniagents_testing.cassette._headers import HeaderRule
    from miniagents_testing.cassette._settings import OnEarlyClose


@contextmanager
def recording_lock(path: str | os.PathLike[str], *, waits: bool = False) -> Iterator[None]:
    """Lock a file for one recording.

    The lock is the operating system's, on a file in the folder for temporary files. It ends with its process, however
    the process ends, and leaves no file beside the cassette.

    Args:
        path: of the file.
        waits: True to wait until another recording of the file has ended, instead of raising an error.

    Raises:
        RecordingRefusedError: the file is being recorded already; the message names the process and the test. Or
            another user has made the folder of the locks.
    """
    name = _lock_name(path)
    holder = name.with_suffix(".holder")
    lock = FileLock(name.with_suffix(".lock"), timeout=-1 if waits else 0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise RecordingRefusedError(
            f"{path} is being recorded already, by {_holder_of_lock(holder)}. Two recordings of one file would mix: "
            "give each its own file, or run them one after the other"
        ) from None
    try:
        holder.write_text(_process_and_test(), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _lock_name(path: str | os.PathLike[str]) -> Path:
    """Return the path of the files that belong to the lock of a file, without their suffixes.

    Their folder is made if it is missing, and only its user may enter it.

    Raises:
        RecordingRefusedError: the folder is of another user, who could put links into it.
    """
    user = getattr(os, "getuid", lambda: "")()  # without user ids, as on Windows, each user has a temporary folder
    folder = Path(tempfile.gettempdir()) / f"miniagents-cassettes-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if user != "" and folder.lstat().st_uid != user:
        raise RecordingRefusedError(f"{folder}, the folder of the locks of recordings, is of another user: remove it")
    real = os.path.normcase(os.path.realpath(path))
    return folder / hashlib.sha256(real.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def run_of_workers() -> str:
    """Return the id of the run of pytest-xdist in which this process is a worker, or an empty text."""
    return os.environ.get("PYTEST_XDIST_TESTRUNUID", "")


def is_recorded_in_run(path: str | os.PathLike[str]) -> bool:
    """Return True if a worker of this run of pytest-xdist has recorded a file, see `note_recorded_in_run`.

    It is False outside of pytest-xdist.
    """
    try:
        return _lock_name(path).with_suffix(".run").read_text(encoding="utf-8") == run_of_workers() != ""
    except FileNotFoundError:
        return False


def note_recorded_in_run(path: str | os.PathLike[str]) -> None:
    """Note for the other workers of this run of pytest-xdist that this one has recorded a file."""
    _lock_name(path).with_suffix(".run").write_text(run_of_workers(), encoding="utf-8")


def _process_and_test() -> str:
    """Return the number of this process and the running test, for a message in another process."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    return f"process {os.getpid()}" + (f", in {test}" if test else "")


def _holder_of_lock(holder: Path) -> str:
    """Return the number and the test of the process that holds the lock, which it wrote into this file.

    An empty or unreadable file gives a text that says that the process has just begun.
    """
    try:
        return holder.read_text(encoding="utf-8") or "a process that has just begun"
    except OSError:
        return "a process that has just begun"


_DRAINED_ERROR_BYTES = 64 * 1024
"""Most bytes of an error's body that are read after its reader: SDKs that try again close the body unread."""


class Recorder:
    """Recorder of the live requests of one session.

    Args:
        learn: called with all headers of each response, of which only some are recorded.
        on_early_close: `drain` to read a response to its end that its reader has closed.
        begins_ms: beginning of this recording, in ms on the timeline of the cassette.
        keep: rule for the headers that are recorded.
        on_whole: called with each recording as soon as its answer has come to its orderly end.
    """

    def __init__(
        self,
        learn: Callable[[list[tuple[str, str]]], object],
        on_early_close: OnEarlyClose,
        begins_ms: float,
        keep: HeaderRule,
        on_whole: Callable[[Interaction], object] | None = None,
    ) -> None:
        self.keep = keep
        self.on_whole = on_whole
        self.slots: list[Slot] = []
        self.closed = False
        self.learn = learn
        self.drains = on_early_close == "drain"
        self._lock = threading.Lock()
        self._began: float | None = None
        self._begins_tick = self._last_tick = ticks(begins_ms)
        self._last_slot: Slot | None = None
        self.arrivals: list[tuple[Slot, float, bytes]] = []
        """Chunks with the moments of their arrival, by the clocks of their slots, until `settle` gives them ticks."""

    @property
    def size(self) -> int:
        """Bytes of all bodies that were recorded."""
        return sum(len(slot.body) + slot.size for slot in self.slots)

    def start(self, method: str, uri: str, clock: Callable[[], float], agent: str) -> Slot:
        """Make the slot of a request that starts now."""
        slot = Slot(self, method, uri, clock, agent)
        slot.started = self.tick(slot)
        self.slots.append(slot)
        return slot

    def tick(self, slot: Slot) -> int:
        """Return the time since the recording began, in ticks of the cassette.

        Times never fall. Arrivals of two streams get different ticks, because their order is part of the recording.
        """
        now = slot.clock()
        with self._lock:
            self._settle()
            return self._tick(slot, now)

    def settle(self) -> None:
        """Give ticks to the chunks that have arrived, and add them to their slots.

        While a stream is read, its chunks are only kept.
        """
        with self._lock:
            self._settle()

    def _settle(self) -> None:
        """Give ticks to the chunks that have arrived, and add them to their slots; the caller holds the lock."""
        arrived = self.arrivals[:]  # other threads may add to it
        del self.arrivals[: len(arrived)]
        for slot, now, data in arrived:
            slot.add_chunk(self._tick(slot, now), data)

    def _tick(self, slot: Slot, now: float) -> int:
        """Convert a moment of a slot's clock into ticks, which never fall, and differ between streams.

        The caller holds the lock.
        """
        if self._began is None:
            self._began = now
        tick = self._begins_tick + round((now - self._began) * TICKS_PER_SECOND)
        earliest = self._last_tick if self._last_slot is slot or self._last_slot is None else self._last_tick + 1
        if tick < earliest:
            tick = earliest
        self._last_tick, self._last_slot = tick, slot
        return tick

    def interactions(self) -> list[Interaction]:
        """Stop recording; return what was recorded, in the order in which the requests started."""
        self.closed = True
        kept = (slot for slot in self.slots if not slot.dropped)
        return [slot.interaction() for slot in sorted(kept, key=lambda slot: slot.started)]


class Slot:
    """Recording of one request and its response."""

    def __init__(self, recorder: Recorder, method: str, uri: str, clock: Callable[[], float], agent: str) -> None:
        self.recorder = recorder
        self.clock = clock
        self.dropped = False
        self.started = 0
        """Start of the request, in ticks as all moments of a slot."""
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

    def request_sent(self, body: bytes, headers: Iterable[tuple[str, str]]) -> None:
        """Record the body and headers of the request."""
        self.body = body
        self._request_headers = self.recorder.keep.of_request(headers)

    def headers_arrived(self, status: int, reason: str, headers: list[tuple[str, str]]) -> None:
        """Record status and headers of the response, before its body arrives."""
        self.recorder.learn(headers)
        self.status, self._reason, self._headers = status, reason, self.recorder.keep.of_response(headers)
        self._headers_at = self._last = self.recorder.tick(self)

    @property
    def retry_after(self) -> dict[str, str]:
        """Headers of the response that say when to send the request again, with the recorded values."""
        return retry_headers(self._headers)

    def chunk_arrived(self, data: bytes) -> None:
        """Record a chunk of the body, with the wait since the last arrival.

        Empty chunks are ignored, and so are all after the recorder is closed.
        """
        if data and not self.recorder.closed:
            self.recorder.arrivals.append((self, self.clock(), data))

    def add_chunk(self, tick: int, data: bytes) -> None:
        """Add a chunk that arrived at a moment in ticks; the recorder calls it."""
        self._chunks.append(Chunk(tick - self._last, data))  # differences of rounded moments: no error adds up
        self._last = tick
        self._size += len(data)

    @property
    def size(self) -> int:
        """Bytes of the body that have arrived."""
        self.recorder.settle()
        return self._size

    def ended(self, how: str) -> None:
        """Record the kind of end of the response; later calls change nothing, as each response is closed at last.

        Nor does a call after the recorder is closed. The end `eof` gives the recording to `on_whole`.
        """
        if self.recorder.closed or self.end:
            return
        self.end = how
        if how == "eof" and self.recorder.on_whole is not None:
            self.recorder.on_whole(self.interaction())

    def failed(self, error: BaseException, *, is_network: bool) -> None:
        """Record an error of the connection (`is_network`), or a cancellation, as the end of the answer.

        Another error before the response drops the slot; later, the answer ends as closed.
        """
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
        """Maximum number of bytes that the recorder reads on after the reader has closed the response.

        It is 0 after the end, and for an answer that is no error, unless the recorder drains.
        """
        if self.end or self.recorder.closed:
            return 0
        if self.recorder.drains:
            return 2**63
        return max(0, _DRAINED_ERROR_BYTES - self.size) if self.status >= 400 else 0

    def _headers_of(self, body: bytes) -> dict[str, list[str]]:
        """Return the headers of the response, without a `content-length` that differs from the recorded body's."""
        if self._method == "HEAD" or self._headers.get("content-length") == [str(len(body))]:
            return self._headers
        return {name: values for name, values in self._headers.items() if name != "content-length"}

    def _is_said(self, end: str) -> bool:
        """Return True for an end by which client or server has closed a conversation, which is whole then."""
        return self._method in CONVERSATIONS and end.partition(" ")[0] in ("eof", "closed")

    def interaction(self) -> Interaction:
        """Return what was recorded until now; the end of a stream that is still being read is `open`.

        It is complete after `eof`, at the end of a conversation, or if the body has the provider's last event.
        """
        self.recorder.settle()
        end = self.end or "open"
        body = b"".join(chunk.data for chunk in self._chunks)
        response = ResponseStream(
            tuple(self._chunks),
            status=self.status,
            reason=self._reason,
            headers=self._headers_of(body),
            headers_ms=(self._headers_at - self.started) * 1000 / TICKS_PER_SECOND if self.status else 0.0,
            end=end,
            complete=end == "eof" or self._is_said(end) or holds_terminal_event(body),
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
