"""What makes a schedule repeatable, and another seed another schedule."""

from __future__ import annotations

import asyncio
import contextvars
import random
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from miniagents_testing.clock import VirtualTimeLoop

__all__ = ["Holding", "NumberedTask"]


class NumberedTask(asyncio.Task[Any]):
    """A task that keeps its context for reports, and whose place in a set is the same in each run.

    `asyncio.TaskGroup` and others keep tasks in sets, and cancel them in the order of these.
    """

    def __init__(
        self,
        loop: VirtualTimeLoop,
        coro: Coroutine[Any, Any, Any],
        *,
        context: contextvars.Context | None = None,
        **options: Any,
    ) -> None:
        self.number = next(loop.task_numbers)
        self.variables = contextvars.copy_context() if context is None else context
        super().__init__(coro, loop=loop, context=self.variables, **options)

    def __hash__(self) -> int:
        return self.number


class Holding:
    """Decides which steps of tasks are held back, and for how many turns of the loop.

    Measured on planted races: holding each step back with the same chance hardly ever lets one task fall ten steps
    behind another; tasks that differ in how slow they are find that in every sixth schedule.
    """

    SLOWNESS = (0.0, 0.5, 0.9)
    MOST_TURNS = 20

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._slowness: WeakKeyDictionary[asyncio.Task[Any], float] = WeakKeyDictionary()

    def turns(self, task: asyncio.Task[Any]) -> int:
        """How many turns the next step of `task` is late."""
        slowness = self._slowness.get(task)
        if slowness is None:
            slowness = self._slowness[task] = self._random.choice(self.SLOWNESS)
        turns = 0
        while turns < self.MOST_TURNS and self._random.random() < slowness:
            turns += 1
        return turns
