"""Pauses of pumps and readers that work without a wait, in which other tasks of their loop run.

All of them that work in the same step of a loop share a limited time. Independent of streams.
"""

from __future__ import annotations

import asyncio
import contextvars
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable


FIRST_READ = 64
"""Number of unread pieces up to which a reader takes them all before its first look at the clock."""
MOST_READ_PER_LOOK = 2_048
"""Greatest number of pieces that a reader takes between two looks at the clock, in about 0.1 ms."""

_SHARED_SECONDS = 0.002
"""Seconds of a step of the loop that its busy pumps and readers share."""
_ALONE_SECONDS = _SHARED_SECONDS / 2
"""Greatest number of seconds of a step that one pump or reader takes, also if it is alone."""
_MOST_SECONDS = 0.0025
"""Seconds after which they all pause, in a step where more of them work than in the one before."""
_SHORT_SECONDS = 0.00005
"""Seconds of work for which a pump or a reader does not ask how long the others have worked."""

_steps: WeakKeyDictionary[asyncio.AbstractEventLoop, _Step] = WeakKeyDictionary()
"""The step of each loop that had a busy pump or reader."""


class _Step:
    """Step of an event loop, whose time the busy pumps and readers share: those that work without a wait.

    As long as any are busy, the loop calls `_begin` at the beginning of each step.
    """

    __slots__ = ("_is_followed", "_streams", "_variables", "number", "share", "spent")

    def __init__(self) -> None:
        self.number = 0
        """Number that changes with each step in which there are busy pumps and readers, and after the last one."""
        self.spent = 0.0
        """Seconds that all of them have worked in this step."""
        self.share = _ALONE_SECONDS
        """Seconds that each of them may work in this step."""
        self._streams = 0
        """Number of pumps and readers that have worked in this step."""
        self._is_followed = False
        """True if the loop will tell of the next step."""
        self._variables = contextvars.Context()  # a copy of the present ones would keep their values alive

    def enter(self, streams: int) -> int:
        """Count `streams` more pumps and readers that work in this step, and return the number of the step."""
        if not self._is_followed:
            self._follow()
        self._streams += streams
        return self.number

    def _follow(self) -> None:
        """Give this step a new number, and let the loop call `_begin` before pumps and readers run in the next step."""
        self.number += 1
        self.spent, self._streams, self._is_followed = 0.0, 0, True
        asyncio.get_running_loop().call_soon(self._begin, context=self._variables)

    def _begin(self) -> None:
        """Begin the next step, and divide its time by the number of pumps and readers that worked in the last one.

        If none worked, do not follow the loop any more.
        """
        self.share = min(_ALONE_SECONDS, _SHARED_SECONDS / max(1, self._streams))
        if self._streams:
            self._follow()
        else:
            self.number += 1
            self._is_followed = False


def _step_of_loop() -> _Step:
    """Return the step of the running loop."""
    loop = asyncio.get_running_loop()
    step = _steps.get(loop)
    if step is None:
        step = _steps[loop] = _Step()
    return step


class Pauses:
    """Pauses in which other tasks run, of a pump or a reader that works without a wait.

    There is a pause when the pump or reader has worked for its share of a step of the loop, or all of them together for
    as long as a step may last. The clock is read a few times in a short stream, and each time `most` pieces have come
    in a long one.

    Args:
        turn: the number of pieces before the second look at the clock.
        most: the greatest number of pieces between two looks.
    """

    streams: ClassVar[int] = 0
    """Number of streams to count when the work goes on after a wait: the pump counts the readers that have waited."""
    __slots__ = ("_last", "_longest", "_most", "_number", "_seconds", "_since", "_step", "_turn")

    def __init__(self, turn: int, most: int) -> None:
        self._turn = turn
        """Number of pieces between two looks."""
        self._most = most
        self._longest = _ALONE_SECONDS
        """Greatest number of seconds between two looks that is aimed at."""
        self._step: _Step | None = None
        """The step of the loop, once that is worth asking for."""
        self._number = 0
        """Number of the last step in which this one is known to have worked."""
        self._seconds: Callable[[], float] = perf_counter
        if getattr(asyncio.get_running_loop(), "has_virtual_time", False):
            # The loop of a test repeats a run exactly, also on a busy machine: each look takes the same time, and the
            # pauses of a stream do not depend on others.
            self._seconds = count(0.0, 0.4 * _ALONE_SECONDS).__next__
            self._step = _Step()
        self._last = self._since = self._seconds()
        """Times of the last look, and of the beginning of the work in this step."""

    def look(self, *, woken: bool = False) -> int:
        """Look at the clock; return the number of pieces until the next look, or 0 if it is time for `pause`.

        The number changes by a factor of up to 8, so that these pieces take a part of the time for all.

        Args:
            woken: True if the loop may have taken a step meanwhile, because readers were waiting.
        """
        now = self._seconds()
        took, self._last = now - self._last, now
        if took < self._longest / 2:
            self._turn = min((8 if took < self._longest / 64 else 2) * self._turn, self._most)
        elif took > self._longest:
            self._turn = max(self._turn // 2, 1)
        if woken:
            self._since = now
        elif now - self._since > _SHORT_SECONDS and not self._has_time(now, took):
            return 0
        return self._turn

    def _has_time(self, now: float, took: float) -> bool:
        """Return True if it is not time for a pause.

        Args:
            now: the time of this look.
            took: the seconds since the last look.
        """
        step = self._step
        if step is None:
            step = self._step = _step_of_loop()
            self._enter(step, self.streams)
        elif self._number != step.number:  # the loop has taken a step since the last look
            self._enter(step, self.streams)
            self._since = now
            return True
        step.spent += took
        return now - self._since <= step.share and step.spent <= _MOST_SECONDS

    def _enter(self, step: _Step, streams: int) -> None:
        """Count `streams` more pumps and readers in a step, and note that this one works in it.

        If at most two worked in the last step, it is to look at the clock once in its share of the time, else twice.
        """
        self._number = step.enter(streams)
        self._longest = step.share if step.share == _ALONE_SECONDS else step.share / 2

    async def pause(self) -> int:
        """Let other tasks run, and return the number of pieces until the next look."""
        await asyncio.sleep(0)
        return self.resume(1)

    def resume(self, streams: int) -> int:
        """Begin to work in another step; return the number of pieces until the next look.

        Args:
            streams: the number of pumps and readers that share the step with others.
        """
        self._last = self._since = self._seconds()
        if self._step is not None:
            self._enter(self._step, streams)
            if self._step.spent > _MOST_SECONDS:
                self._turn = max(self._turn // 8, 1)
        return self._turn
