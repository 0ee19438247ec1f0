"""Schedules of a virtual-time loop: which steps of tasks are held back, and for how many turns of the loop.

asyncio runs the steps of tasks that are ready in the order in which they became ready: the plain order. A deviation
holds back one step. A run is repeated by its deviations alone, so a short list of them, the token, is the whole
schedule. `Steps` numbers the steps of one run, and keeps those that are held back.
"""

from __future__ import annotations

import heapq
import random
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import asyncio
    from collections import deque
    from collections.abc import Callable, Iterable

    from miniagents_testing._interleaving import Interleaving

UNTIL_IDLE = 1000
"""Number of turns that stands for "until nothing else can run"; a step is not held back longer, as tasks may poll."""

PLAIN = "plain"
"""Token of the schedule without a deviation."""


class Deviation(NamedTuple):
    """One difference from the plain order: a step that is held back."""

    step: int
    """Number of the step among all steps of tasks in the run, from 0."""
    turns: int
    """Turns of the loop after which the step is ready; earlier if nothing else can run."""


Schedule = tuple[Deviation, ...]
"""Deviations of a run, in the order of their steps."""


def token_of(schedule: Iterable[Deviation]) -> str:
    """Return the token of a schedule, such as `17+25x3`: step 17 until nothing else can run, step 25 for 3 turns."""
    parts = [str(step) if turns >= UNTIL_IDLE else f"{step}x{turns}" for step, turns in sorted(schedule)]
    return "+".join(parts) or PLAIN


def schedule_of(token: str) -> Schedule:
    """Return the schedule of a token; raise `ValueError` for a text that is no token."""
    if token == PLAIN:
        return ()
    deviations: dict[int, int] = {}
    for part in token.split("+"):
        step, by, turns = part.partition("x")
        numbers = [step, turns] if by else [step]
        if not all(number.isascii() and number.isdigit() for number in numbers) or (by and int(turns) < 1):
            raise ValueError(f"{token!r} is no token of a schedule; a token looks like 17, 17+25x3 or {PLAIN}")
        deviations[int(step)] = min(int(turns), UNTIL_IDLE) if by else UNTIL_IDLE
    return tuple(Deviation(*each) for each in sorted(deviations.items()))


class _RandomDelays:
    """Random numbers of turns of the loop for which steps of tasks are held back.

    Some tasks are slower than others. Measured on planted races: with the same chance for each step, one task hardly
    ever falls ten steps behind another; with tasks of different slowness this happens in every sixth schedule. A task
    also changes its slowness, because most of the known races need a step between two others of one task.
    """

    SLOWNESS = (0.0, 0.9)
    CHANGE = 0.3
    """Chance that a task has another slowness from a step on."""
    MOST_TURNS = 20

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._slowness: WeakKeyDictionary[asyncio.Task[Any], float] = WeakKeyDictionary()

    def turns(self, task: asyncio.Task[Any]) -> int:
        """Return the number of turns for which the next step of `task` is held back; 0 is the plain order."""
        slowness = self._slowness.get(task)
        if slowness is None or self._random.random() < self.CHANGE:
            slowness = self._slowness[task] = self._random.choice(self.SLOWNESS)
        turns = 0
        while turns < self.MOST_TURNS and self._random.random() < slowness:
            turns += 1
        return turns


class Steps:
    """Steps of the tasks of one run, numbered in the order in which they become ready, and those that are held back.

    Args:
        schedule: the deviations to make.
        seed: seed of random deviations, in place of `schedule`.
        trace: gets each step as it runs.
    """

    def __init__(self, schedule: Schedule = (), *, seed: int | None = None, trace: Interleaving | None = None) -> None:
        self.count = 0
        """Steps so far."""
        self.made: list[Deviation] = []
        """Deviations so far."""
        self.alone: set[int] = set()
        """Steps that would change nothing if they were held back: nothing else could run."""
        self.last_of_turn: set[int] = set()
        """Steps that would change nothing if they were held back for one turn: they come last in their turn."""
        self.ended_idle: dict[int, int] = {}
        """Turns after which a step that was held back ran, because nothing else could; more turns change nothing."""
        self.trace = trace
        self.has_scheduled = False
        """True if the loop has scheduled a callback in this turn; those of threads do not count: they come any time."""
        self.newest: tuple[int, asyncio.Handle] | None = None
        """Number and handle of the newest step of this turn that was not held back."""
        self._planned = dict(schedule)
        self._delays = None if seed is None else _RandomDelays(seed)
        self._turn = 0
        self._held: list[tuple[int, int, int, asyncio.Handle]] = []
        """Heap of the turn at which a step is ready, its number, the turn since which it is held back, its handle."""
        self._is_over = False

    def end(self) -> None:
        """Count, hold back and record no further steps: the rest of the run is clean-up."""
        self._is_over = True
        if self.trace is not None:
            self.trace.end()

    def turns_of_next(self, task: asyncio.Task[Any]) -> int:
        """Count a step of `task` that has become ready, and return the turns for which it is held back; 0 for none."""
        if self._is_over:
            return 0
        step = self.count
        self.count += 1
        turns = self._planned.get(step, 0) if self._delays is None else self._delays.turns(task)
        if turns:
            self.made.append(Deviation(step, turns))
        return turns

    def observed(self, callback: Callable[..., object], step: int | None) -> Any:
        """Return a callback that also records the run of `callback` in the trace; without a trace, `callback` itself.

        `step` is the number of the step, None for timers and other callbacks.
        """
        return callback if self.trace is None else self.trace.observed(callback, step)

    def hold(self, task: asyncio.Task[Any], handle: asyncio.Handle, turns: int) -> None:
        """Hold back the newest step, which is one of `task`, for so many turns."""
        if self.trace is not None:
            self.trace.note_hold(self.count - 1, task)
        heapq.heappush(self._held, (self._turn + turns, self.count - 1, self._turn, handle))

    @property
    def has_held(self) -> bool:
        """True while a step is held back."""
        return bool(self._held)

    def begin_turn(self, ready: deque[asyncio.Handle], is_quiet: Callable[[], bool]) -> None:
        """Count a turn of the loop, and append steps whose time of being held back is over to the ready callbacks.

        Also note if holding back the newest step would have changed nothing.

        Args:
            ready: the callbacks of this turn.
            is_quiet: returns True if no timer or thread is about to call the loop.
        """
        self._turn += self.has_scheduled
        self.has_scheduled = False
        newest, self.newest = self.newest, None
        if newest is not None and not self._held and ready and ready[-1] is newest[1]:
            is_alone = len(ready) == 1 and is_quiet()
            (self.alone if is_alone else self.last_of_turn).add(newest[0])
        while self._held and self._held[0][0] <= self._turn:
            ready.append(heapq.heappop(self._held)[-1])

    def release(self, ready: deque[asyncio.Handle]) -> None:
        """Append the step that is held back the shortest to the ready callbacks, because nothing else can run."""
        _, step, since, handle = heapq.heappop(self._held)
        self.ended_idle[step] = self._turn - since
        ready.append(handle)
