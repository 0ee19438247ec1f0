"""Playback of recorded answers: which bytes come when, how they end, and in which order parallel streams go on.

Independent of HTTP libraries: `HTTPLibrary` says what a playback needs of one.

Parallel streams keep the recorded order of arrivals without a clock. Without their pauses, they would run as fast as
each reader reads. Here the stream that is next in the recording goes first, and the other streams wait for it. A wait
is short: a stream that is not being read is overtaken, and takes its turn when it is read. Its reader may read another
stream first, have closed it, or be missing.

Of the waiting readers only the one with the earliest turn polls; when it goes on, it wakes the reader after it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from heapq import heapify, heappop, heappush, heapreplace
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from miniagents_testing._streams import TICKS_PER_SECOND, ticks
from miniagents_testing.cassette._headers import retry_headers
from miniagents_testing.cassette._interaction import OF_LINES
from miniagents_testing.errors import IncompleteRecordingError, with_sdk_bases
from miniagents_testing.recut import one_event_a_chunk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from miniagents_testing._streams import ResponseStream
    from miniagents_testing.cassette._interaction import Interaction
    from miniagents_testing.cassette._settings import Chunking, RecordSettings

_RETRIED = frozenset({408, 409, 429})
"""Statuses below 500 after which both SDKs send a request again; from 500 on, they do after each."""
_ENDS = {
    "closed": "its reader closed it",
    "cancelled": "its reader was cancelled",
    "open": "it was still being read",
}
"""Reasons in messages, by the `end` of a response."""


class HTTPLibrary(Protocol):
    """HTTP library of a client, as far as a playback needs it."""

    def error(self, name: str, message: str) -> Exception:
        """Return the library's own exception of this name, or the nearest one that it has."""

    @property
    def read_timeout(self) -> float | None:
        """Seconds after which this request gives up on a silent server; None if it never does."""


class Playback:
    """The answer to one live request.

    Args:
        interaction: to play.
        settings: of the cassette.
        library: of the client that sent the request.
        anchor: beginning of the recording on the reader's clock, in seconds.
        order: order of the cassette's streams at pace 0, and the place of this stream in it.
        ended: called when the answer has ended or was closed; also more than once.
        failure_note: note on an error that the interaction ended with.
    """

    def __init__(
        self,
        interaction: Interaction,
        settings: RecordSettings,
        library: HTTPLibrary,
        anchor: float,
        order: tuple[Order, Turn] | None,
        ended: Callable[[Playback], None],
        failure_note: str,
    ) -> None:
        self.interaction = interaction
        is_http = interaction.method not in OF_LINES
        self.response = _cut(interaction.response, settings.chunking) if is_http else interaction.response
        self._settings = settings
        self._library = library
        self._anchor = anchor
        self._order = order
        self._ended = ended
        self._failure_note = failure_note
        headers = ticks(interaction.started_ms) + ticks(self.response.headers_ms)
        self._ticks = list(accumulate((chunk.wait for chunk in self.response.chunks), initial=headers))
        """Arrivals of the headers and of each chunk, in ticks since the beginning of the recording."""
        self._position = 0
        if order is not None:
            order[0].move(order[1], self._ticks[0])

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Headers of the response as pairs; at pace 0 an error tells the client to try again after 1 ms.

        The setting `retry_after="keep"` leaves the recorded wait.
        """
        pairs = [(name, value) for name, values in self.response.headers.items() for value in values]
        status = self.response.status
        if self._settings.pace == 0 and self._settings.retry_after == "skip" and (status in _RETRIED or status >= 500):
            # with 0 the SDKs would choose a wait of their own
            pairs = [pair for pair in pairs if not pair[0].startswith("retry-after")] + [("retry-after-ms", "1")]
        return pairs

    @property
    def retry_after(self) -> dict[str, str]:
        """Recorded headers that say when to send the request again, whatever `headers` has in their place."""
        return retry_headers(self.response.headers)

    # --- in a task

    async def abegin(self) -> None:
        """Wait until the headers are due. A recording without a status raises its error instead.

        Raises:
            Exception: the connection fails, as it did in the recording.
        """
        await self.areach()
        if not self.response.status:
            try:
                await self._aend()
            finally:
                self.close()

    async def aread(self) -> AsyncIterator[bytes]:
        """Yield the chunks of the body when they are due, and at the end raise the recorded error.

        A second iteration goes on where the first stopped, as on a socket.
        """
        while self._position <= len(self.response.chunks):
            chunk = self.response.chunks[self._position - 1].data
            await self.areach()
            yield chunk
        await self._aend()

    async def areach(self) -> None:
        """Wait in a task until the next arrival (headers or a chunk) is due, and count it as passed.

        This takes at least one step of the loop, so that other tasks run in between. At pace 0, it waits for the
        stream's turn in the recorded order.
        """
        if self._settings.pace:
            await asyncio.sleep(max(0.0, self._due() - asyncio.get_running_loop().time()))
        else:
            await asyncio.sleep(0)
            if self._order is not None:
                order, turn = self._order
                await order.apass(turn, self._tick_after())
        self._position += 1

    async def _aend(self) -> None:
        """Return if the recorded body ended well; otherwise raise its error.

        With `at_incomplete="hang"`, an incomplete body ends with the read timeout. At the end of a body whose reader
        was cancelled, wait until this reader is.
        """
        error = self._end()
        if error is None:
            return
        if self._is_listening():
            await asyncio.get_running_loop().create_future()  # its reader is cancelled, now as then
        if isinstance(error, IncompleteRecordingError) and self._settings.at_incomplete == "hang":
            try:
                async with asyncio.timeout(self._library.read_timeout):
                    await asyncio.get_running_loop().create_future()
            except TimeoutError:
                raise self._library.error("ReadTimeout", "the recording ends here") from None
        raise error

    # --- in a thread

    def begin(self) -> None:
        """Block this thread until the headers are due; raise the recorded error of a connection that failed."""
        self._reach()
        if not self.response.status:
            try:
                self._raise_end()
            finally:
                self.close()

    def read(self) -> Iterator[bytes]:
        """Yield the chunks of the body when they are due, blocking this thread; at the end raise the recorded error.

        A second iteration goes on where the first stopped.
        """
        while self._position <= len(self.response.chunks):
            chunk = self.response.chunks[self._position - 1].data
            self._reach()
            yield chunk
        self._raise_end()

    def _reach(self) -> None:
        """Block this thread until the next arrival (headers or a chunk) is due, and count it as passed."""
        if self._settings.pace:
            time.sleep(max(0.0, self._due() - time.monotonic()))
        elif self._order is not None:
            order, turn = self._order
            order.pass_(turn, self._tick_after())
        self._position += 1

    def _raise_end(self) -> None:
        """Return if the recorded body ended well; otherwise raise its error. Blocking twin of `_aend` for sync readers.

        With `at_incomplete="hang"` an incomplete recording blocks for the read timeout, then raises the library's
        timeout error.
        """
        error = self._end()
        if error is None:
            return
        if self._is_listening():
            threading.Event().wait()
        if isinstance(error, IncompleteRecordingError) and self._settings.at_incomplete == "hang":
            threading.Event().wait(self._library.read_timeout)
            raise self._library.error("ReadTimeout", "the recording ends here")
        raise error

    # --- in both

    def client_acted(self) -> None:
        """Count an arrival as passed without a wait, as the client itself has sent a frame here."""
        then = self._tick_after()
        self._position += 1
        if self._order is not None:
            order, turn = self._order
            order.move(turn, then)

    def close(self) -> None:
        """Remove the stream from the order of streams, and call `ended`: it has ended, or its reader has closed it."""
        if self._order is not None:
            order, turn = self._order
            order.move(turn, None)
        self._ended(self)

    def _due(self) -> float:
        """Return the moment of the next arrival, in seconds on the reader's clock."""
        return self._anchor + self._ticks[self._position] / TICKS_PER_SECOND * self._settings.pace

    def _tick_after(self) -> int | None:
        """Return the tick of the arrival after the next one, or None if there is none."""
        after = self._position + 1
        return self._ticks[after] if after < len(self._ticks) else None

    def _is_listening(self) -> bool:
        """Return True for a stream that its reader has listened to until the reader was cancelled.

        Such a `GET` of events, as MCP's clients make, waits for what may happen; it never ends by itself.
        """
        types = self.response.headers.get("content-type", [""])
        is_subscription = self.interaction.method == "GET" and types[0].startswith("text/event-stream")
        return is_subscription and self.response.end in ("cancelled", "open")

    def _end(self) -> Exception | None:
        """Close the playback; return the error that its reader gets at the end, or None for a plain end."""
        self.close()
        end = self.response.end
        if end.startswith("raise "):
            name, _, message = end.removeprefix("raise ").partition(": ")
            error = self._library.error(name, message)
            error.add_note(self._failure_note)
            return error
        if self.response.complete or (self._settings.at_incomplete == "end" and self.response.status):
            return None
        return with_sdk_bases(IncompleteRecordingError)(
            f"the recording of {self.interaction.uri} ends here, before the answer was whole: {_ENDS.get(end, end)}. "
            "Record it again, or choose with `at_incomplete` what comes after its end"
        )


def _cut(stream: ResponseStream, chunking: Chunking) -> ResponseStream:
    """Return the stream with its chunks cut as the setting says."""
    if callable(chunking):
        return chunking(stream)
    return one_event_a_chunk(stream) if chunking == "event" else stream


# --- the recorded order among streams that are played at once


PATIENCE = 100
"""Polls without progress of any stream until a stream is overtaken; in an event loop one poll is one turn."""
_PATIENCE_WITH_REQUESTS = 0.1
"""Seconds, at least, until a request that was not made yet is overtaken: SDKs prepare their first one in a thread."""
_THREAD_PAUSE = 0.0005
"""Seconds between two polls in a thread."""


class Turn:
    """Place of one stream in the recorded order: the time of its next arrival, and the task or thread that reads it."""

    __slots__ = ("at", "expected", "number", "reader", "wake")

    def __init__(self, number: int, at: int) -> None:
        self.number = number
        self.at = at
        """Moment of the next arrival, in ticks since the recording began."""
        self.reader: object = None
        """Task or thread that last read the stream; None before its request is made."""
        self.wake: Callable[[], object] | None = None
        """Wakes the reader that waits for the next arrival, so that it checks again; None if no reader waits."""
        self.expected = True
        """True if other streams wait for this one."""


class Order:
    """Order in which the streams of a cassette go on, one at a time.

    Args:
        starts: start of each recorded request, in ticks since the recording began.
    """

    def __init__(self, starts: Iterable[int]) -> None:
        self.turns = [Turn(number, at) for number, at in enumerate(starts)]
        self._next = [(turn.at, turn.number, turn) for turn in self.turns]
        heapify(self._next)
        self._waiting: list[tuple[int, int, Turn]] = []
        self._lock = threading.Lock()
        self._moves = 0

    async def apass(self, turn: Turn, then: int | None) -> None:
        """Wait in a task until no stream with an earlier arrival goes first (`_may_go`).

        Then `move` this one to `then`.
        """
        if self._try_to_pass(turn, asyncio.current_task(), then):
            return
        event, loop, thread = asyncio.Event(), asyncio.get_running_loop(), threading.get_ident()

        def wake() -> None:
            """Set the event of the waiting task, from the loop's own thread or from another thread."""
            if threading.get_ident() == thread:
                event.set()
            else:
                loop.call_soon_threadsafe(event.set)

        for is_polling in self._wait(turn, wake):
            if is_polling:
                await asyncio.sleep(0)
            else:
                await event.wait()
                event.clear()
        self.move(turn, then)

    def pass_(self, turn: Turn, then: int | None) -> None:
        """Block this thread until no stream with an earlier arrival goes first (`_may_go`).

        Then `move` this one to `then`.
        """
        if self._try_to_pass(turn, threading.get_ident(), then):
            return
        event = threading.Event()
        for is_polling in self._wait(turn, event.set):
            if is_polling:
                time.sleep(_THREAD_PAUSE)
            else:
                event.wait()
                event.clear()
        self.move(turn, then)

    def move(self, turn: Turn, at: int | None) -> None:
        """Set the next arrival of a stream, in ticks since the recording began, and count this as progress.

        With None the stream has ended, and other streams no longer wait for it.
        """
        with self._lock:
            self._move(turn, at)

    def _move(self, turn: Turn, at: int | None) -> None:
        """Set the next arrival of a stream, or its end if `at` is None; the caller holds the lock."""
        self._moves += 1
        was_first = turn.expected and self._next[0][2] is turn
        turn.expected = at is not None
        if at is not None:
            turn.at = at
            (heapreplace if was_first else heappush)(self._next, (at, turn.number, turn))

    def _try_to_pass(self, turn: Turn, reader: object, then: int | None) -> bool:
        """Move a stream on if it is the next one, and return True; never wait. Note `reader` as its reader.

        Otherwise other streams wait for it from now on, and the result is False. A stream that runs alone is nearly
        always the next one.

        Args:
            turn: of the stream.
            reader: task or thread that reads the stream.
            then: moment of the stream's next arrival after this one; None if this one is its last.
        """
        with self._lock:
            turn.reader = reader
            if not turn.expected:
                turn.expected = True
                heappush(self._next, (turn.at, turn.number, turn))
            if self._first() is not turn:
                return False
            self._move(turn, then)
            return True

    def _wait(self, turn: Turn, wake: Callable[[], object]) -> Iterator[bool]:
        """Yield until the stream may go on: True to let others run and poll again, False to sleep until woken.

        At the end of the wait, also after a cancellation, wake the reader that is next in the recording.
        """
        with self._lock:
            turn.wake = wake
            heappush(self._waiting, (turn.at, turn.number, turn))
        try:
            polls, since, seen = 0, time.monotonic(), self._moves
            while True:
                with self._lock:
                    if self._moves != seen:
                        polls, since, seen = 0, time.monotonic(), self._moves
                    if self._may_go(turn, polls, since):
                        return
                    is_polling = self._first_waiting() is turn
                polls += is_polling
                yield is_polling
        finally:
            with self._lock:
                turn.wake = None
                following = self._first_waiting()
                if following is not None and following.wake is not None:
                    following.wake()

    def _may_go(self, turn: Turn, polls: int, since: float) -> bool:
        """Return True if no stream with an earlier arrival is being read; streams without a reader are overtaken.

        An overtaken stream is marked as not expected. A stream that was closed meanwhile may go, too.

        Args:
            turn: of the stream whose reader waits.
            polls: its number of polls since a stream has moved.
            since: time of that move, by `time.monotonic`.
        """
        if not turn.expected:
            return True  # the stream was closed meanwhile
        while (first := self._first()) is not None and first is not turn:
            if first.reader is None:
                is_awaited = polls < PATIENCE or time.monotonic() - since < _PATIENCE_WITH_REQUESTS
            else:  # a reader that waits for this stream cannot read another one meanwhile
                is_awaited = first.wake is not None or (polls < PATIENCE and first.reader != turn.reader)
            if is_awaited:
                return False
            first.expected = False
        return True

    def _first(self) -> Turn | None:
        """Return the turn of the expected stream with the earliest next arrival; None if there is none.

        Drop outdated entries of the heap.
        """
        while self._next:
            at, _, turn = self._next[0]
            if turn.expected and turn.at == at:
                return turn
            heappop(self._next)
        return None

    def _first_waiting(self) -> Turn | None:
        """Return the turn with the earliest arrival among streams whose readers wait; None if there is none.

        Drop outdated entries of the heap.
        """
        while self._waiting:
            at, _, turn = self._waiting[0]
            if turn.wake is not None and turn.at == at:
                return turn
            heappop(self._waiting)
        return None
