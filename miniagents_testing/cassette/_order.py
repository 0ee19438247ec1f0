"""The recorded order of everything that came, kept among streams that are played at once, without a clock.

Played without their pauses, parallel streams would run as fast as each of their readers asks. Here whoever is next in
the recording goes first; the others wait for it. Nobody waits for long: a stream whose reader does not come (it reads
something else first, has left, or was never started) is overtaken, and has its turn again when it does.

Of those who wait, only the next one looks out for the others; it wakes the one after it when it goes.
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
"""How many times in a row somebody looks out with nobody moving; in a loop that is as many of its turns."""
_PATIENCE_WITH_REQUESTS = 0.1
"""Seconds, at least, in which a request may come that was not made yet: SDKs prepare the first one in a thread."""
_THREAD_PAUSE = 0.0005
"""Seconds between two looks, where there is no loop to turn."""


class Turn:
    """The place of one stream in the order: the moment of what it has to give next."""

    __slots__ = ("at", "expected", "number", "reader", "wake")

    def __init__(self, number: int, at: int) -> None:
        self.number = number
        self.at = at
        """In ticks, since the recording began."""
        self.reader: object = None
        """The task or thread that asked for something of it last; None before the request is made."""
        self.wake: Callable[[], object] | None = None
        """Where somebody waits for what comes next: lets them look again."""
        self.expected = True
        """Whether others wait until somebody does."""


class Order:
    """Lets streams through one by one.

    Args:
        starts: when each recorded request was started, in ticks since the recording began.
    """

    def __init__(self, starts: Iterable[int]) -> None:
        self.turns = [Turn(number, at) for number, at in enumerate(starts)]
        self._next = [(turn.at, turn.number, turn) for turn in self.turns]
        heapify(self._next)
        self._waiting: list[tuple[int, int, Turn]] = []
        self._lock = threading.Lock()
        self._moves = 0

    async def apass(self, turn: Turn, then: int | None) -> None:
        """Wait, in a loop, until what the stream gives next is next in the recording; then it goes on as in `move`."""
        if self._passes(turn, asyncio.current_task(), then):
            return
        event, loop, thread = asyncio.Event(), asyncio.get_running_loop(), threading.get_ident()

        def wake() -> None:
            if threading.get_ident() == thread:
                event.set()
            else:
                loop.call_soon_threadsafe(event.set)

        for looks_out in self._wait(turn, wake):
            if looks_out:
                await asyncio.sleep(0)
            else:
                await event.wait()
                event.clear()
        self.move(turn, then)

    def pass_(self, turn: Turn, then: int | None) -> None:
        """The same for threads."""
        if self._passes(turn, threading.get_ident(), then):
            return
        event = threading.Event()
        for looks_out in self._wait(turn, event.set):
            if looks_out:
                time.sleep(_THREAD_PAUSE)
            else:
                event.wait()
                event.clear()
        self.move(turn, then)

    def move(self, turn: Turn, at: int | None) -> None:
        """The stream goes on to what comes at `at`, in ticks since the recording began; None: it has nothing left."""
        with self._lock:
            self._move(turn, at)

    def _move(self, turn: Turn, at: int | None) -> None:
        self._moves += 1
        was_first = turn.expected and self._next[0][2] is turn
        turn.expected = at is not None
        if at is not None:
            turn.at = at
            (heapreplace if was_first else heappush)(self._next, (at, turn.number, turn))

    def _passes(self, turn: Turn, reader: object, then: int | None) -> bool:
        """Let it go on if nobody is before it, as is nearly always so for a stream that runs alone."""
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
        """What to do until the stream may go: True is to let others run and look again, False to sleep until woken."""
        with self._lock:
            turn.wake = wake
            heappush(self._waiting, (turn.at, turn.number, turn))
        try:
            looks, since, seen = 0, time.monotonic(), self._moves
            while True:
                with self._lock:
                    if self._moves != seen:
                        looks, since, seen = 0, time.monotonic(), self._moves
                    if self._overtakes(turn, looks, since):
                        return
                    looks_out = self._first_waiting() is turn
                looks += looks_out
                yield looks_out
        finally:
            with self._lock:
                turn.wake = None
                following = self._first_waiting()
                if following is not None and following.wake is not None:
                    following.wake()

    def _overtakes(self, turn: Turn, looks: int, since: float) -> bool:
        """Whether nobody is to go before this one; those whom it waits for in vain are expected no more.

        Args:
            turn: of the one who waits.
            looks: how many times it has looked out since somebody has moved.
            since: when that was, by the clock of `time.monotonic`.
        """
        if not turn.expected:
            return True  # somebody has closed it meanwhile
        while (first := self._first()) is not None and first is not turn:
            if first.reader is None:
                comes = looks < PATIENCE or time.monotonic() - since < _PATIENCE_WITH_REQUESTS
            else:  # who waits for this one cannot read that one meanwhile
                comes = first.wake is not None or (looks < PATIENCE and first.reader != turn.reader)
            if comes:
                return False
            first.expected = False
        return True

    def _first(self) -> Turn | None:
        """Who is to go next; entries that are out of date are dropped on the way."""
        while self._next:
            at, _, turn = self._next[0]
            if turn.expected and turn.at == at:
                return turn
            heappop(self._next)
        return None

    def _first_waiting(self) -> Turn | None:
        """Of those who wait, the one who is to go next."""
        while self._waiting:
            at, _, turn = self._waiting[0]
            if turn.wake is not None and turn.at == at:
                return turn
            heappop(self._waiting)
        return None
