"""The recorded order of everything that came, kept among streams that are played at once, without a clock.

Played without their pauses, parallel streams would run as fast as each of their readers asks. Here whoever is next in
the recording goes first; the others wait for it. Nobody waits for long: a stream whose reader does not come (it reads
something else first, has left, or was never started) is overtaken, and has its turn again when it does.
"""

from __future__ import annotations

import threading
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Order", "Turn"]

PATIENCE = 100
"""How many times in a row somebody waits with nobody moving; in a loop that is as many of its turns."""


class Turn:
    """The place of one stream in the order: the moment of what it has to give next."""

    __slots__ = ("at", "expected", "is_read", "number", "reader")

    def __init__(self, number: int, at: int) -> None:
        self.number = number
        self.at = at
        """In ticks, since the recording began."""
        self.reader: object = None
        """The task or thread that asked for something of it last; None before the request is made."""
        self.is_read = False
        """Whether somebody waits for what comes next."""
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
        self._lock = threading.Lock()
        self._moves = 0

    def waits(self, turn: Turn, reader: object) -> Iterable[None]:
        """What to go through before the next thing is given; each time, others should be let run.

        Args:
            turn: of the stream that is read.
            reader: the task or thread that reads it.
        """
        with self._lock:
            turn.reader = reader
            if not turn.expected:
                turn.expected = True
                heappush(self._next, (turn.at, turn.number, turn))
            if self._first() is turn:
                return ()
        return self._wait(turn)

    def _wait(self, turn: Turn) -> Iterator[None]:
        """Yields as long as somebody else is to go first."""
        turn.is_read = True
        try:
            patience, seen = PATIENCE, self._moves
            while True:
                if self._moves != seen:
                    patience, seen = PATIENCE, self._moves
                if self._may_go(turn, in_patience=patience > 0):
                    return
                patience -= 1
                yield
        finally:
            turn.is_read = False

    def move(self, turn: Turn, at: int | None) -> None:
        """The stream goes on to what comes at `at`, in ticks since the recording began; None: it has nothing left."""
        with self._lock:
            self._moves += 1
            was_first = turn.expected and self._next[0][2] is turn
            turn.expected = at is not None
            if at is not None:
                turn.at = at
                (heapreplace if was_first else heappush)(self._next, (at, turn.number, turn))

    def _may_go(self, turn: Turn, *, in_patience: bool) -> bool:
        """Whether nobody is to go before this one; those whom it waits for in vain are expected no more."""
        with self._lock:
            while (first := self._first()) is not None and first is not turn:
                # who waits for this one cannot read that one meanwhile
                comes = first.is_read or (in_patience and (first.reader is None or first.reader != turn.reader))
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
