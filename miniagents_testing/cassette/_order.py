"""The recorded order of arrivals, kept among streams that are played in parallel without a clock.

Without their pauses, parallel streams would run as fast as each reader reads. Here the stream that is next in the
recording goes first, and the other streams wait for it. A wait is short: a stream that is not being read is
overtaken, and takes its turn when it is read. Its reader may read another stream first, have closed it, or be missing.

Of the waiting readers only the one with the earliest turn polls; when it goes on, it wakes the reader after it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


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
        """Wait in a task for the turn of the stream, as `_may_go` says, then `move` it on to `then`."""
        if self._try_to_pass(turn, asyncio.current_task(), then):
            return
        event, loop, thread = asyncio.Event(), asyncio.get_running_loop(), threading.get_ident()

        def wake() -> None:
            """Set the event of the waiting task, from the loop's own thread or from another one."""
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
        """Wait in a thread for the turn of the stream, as `_may_go` says, then `move` it on to `then`."""
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
        """Return the turn of the expected stream with the earliest next arrival, None without one.

        Drop outdated entries of the heap.
        """
        while self._next:
            at, _, turn = self._next[0]
            if turn.expected and turn.at == at:
                return turn
            heappop(self._next)
        return None

    def _first_waiting(self) -> Turn | None:
        """Return the turn with the earliest arrival among streams whose readers wait, None without one.

        Drop outdated entries of the heap.
        """
        while self._waiting:
            at, _, turn = self._waiting[0]
            if turn.wake is not None and turn.at == at:
                return turn
            heappop(self._waiting)
        return None
