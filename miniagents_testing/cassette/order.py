"""The recorded order of everything that came, kept among streams that are played at once, without a clock.

Played without their pauses, parallel streams would run as fast as each of their readers asks. Here whoever is next in
the recording goes first; the others wait for it. Nobody waits for long: a stream whose reader does not come (it reads
something else first, has left, or was never started) is overtaken, and takes its turn again when it does.
"""

from __future__ import annotations

import threading
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Order", "Turn"]

PATIENCE = 100
"""How many times in a row somebody waits with nobody moving; in a loop that is as many of its turns."""


class Turn:
    """The place of one stream in the order: the moment of what it has to give next."""

    __slots__ = ("at", "number", "reader", "waited_for")

    def __init__(self, number: int, at: float) -> None:
        self.number = number
        self.at = at
        """In ms, since the recording began."""
        self.reader: object = None
        """The task or thread that asked for something of it last; None before the request is made."""
        self.waited_for = True


class Order:
    """Lets streams through one by one.

    Args:
        starts: when each recorded request was started, in ms since the recording began.
    """

    def __init__(self, starts: Iterable[float]) -> None:
        self.turns = [Turn(number, at) for number, at in enumerate(starts)]
        self._next = [(turn.at, turn.number, turn) for turn in self.turns]
        heapify(self._next)
        self._lock = threading.Lock()
        self._moves = 0

    def waits(self, turn: Turn, reader: object) -> Iterator[None]:
        """Yields as long as somebody else is to go first; each time, others should be let run.

        Args:
            turn: of the stream that is read.
            reader: the task or thread that reads it.
        """
        with self._lock:
            turn.reader = reader
            if not turn.waited_for:
                turn.waited_for = True
                heappush(self._next, (turn.at, turn.number, turn))
        patience, seen = PATIENCE, self._moves
        while True:
            with self._lock:
                first = self._first()
                if first is None or first is turn:
                    return
                if first.reader == reader:  # nobody reads that one while this one is waited for
                    first.waited_for = False
                    continue
                if self._moves != seen:
                    patience, seen = PATIENCE, self._moves
                elif not patience:
                    self._overtake(turn)
                    return
            patience -= 1
            yield

    def move(self, turn: Turn, at: float | None) -> None:
        """The stream goes on to what comes at `at`, in ms since the recording began; None: it has nothing left."""
        with self._lock:
            self._moves += 1
            if at is None:
                turn.waited_for = False
                return
            turn.at, turn.waited_for = at, True
            heappush(self._next, (at, turn.number, turn))

    def _first(self) -> Turn | None:
        """Who is to go next; entries that are out of date are dropped on the way."""
        while self._next:
            at, _, turn = self._next[0]
            if turn.waited_for and turn.at == at:
                return turn
            heappop(self._next)
        return None

    def _overtake(self, turn: Turn) -> None:
        """Nobody waits any more for those before this one."""
        while (first := self._first()) is not None and first is not turn:
            first.waited_for = False
