"""Search for rings of tasks that wait for each other.

`waiting_on` has the cell for each blocked wait for a promise. From there a walk leads to the task that produces the
cell, to the cell that this task waits for, and so on; `gather` and awaited tasks are followed as well. A walk that
comes back to its start has found a ring.

A wait that may close a ring is looked at again one loop step later, when each member of the ring is suspended. If each
member waits for what one task alone can bring, the wait ends with a `DeadlockError`. If another task could help, a
warning names the ring. If `asyncio.timeout` is going to end a wait of the ring, nothing is reported.

Only promises and tasks are asked, so the answer is the same on each event loop. Nothing here runs for a token that has
arrived.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import re
from collections import deque
from itertools import pairwise
from types import MethodType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from miniagents.errors import DeadlockError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miniagents._promising.promise import Cell


logger = logging.getLogger("miniagents")

waiting_on: dict[asyncio.Future[Any], Cell[Any]] = {}
"""The future of each blocked wait for a promise, with the cell of that promise."""

_warned: WeakSet[asyncio.Task[Any]] = WeakSet()
"""Members of rings that a warning has named, so that a ring that forms again is not named again."""

_NAMED_BY_ASYNCIO = re.compile(r"Task-\d+")

_CONTAINERS = (deque, dict, list, tuple)
_MOST_HOLDERS = 10_000
"""Greatest number of objects that are searched for a timeout."""


def check_wait(cell: Cell[Any], future: asyncio.Future[None]) -> None:
    """Schedule a search for a ring of waits if the wait that the running task is about to begin may close one.

    Args:
        cell: the cell that the running task waits for.
        future: the future of that wait; a `DeadlockError` is set on it if the wait can never end.
    """
    producer = cell.task
    if cell.lanes is None:  # most waits are decided here, without a walk: the producer waits for a socket or a timer
        if producer is None:
            if future.get_loop().get_task_factory() is None:
                return
        elif (blocker := producer._fut_waiter) is None:  # type: ignore[attr-defined]  # asyncio has no public name for it
            # `_is_running`, without a call: each wait for an agent that has not started comes here
            if producer.done() or not getattr(producer.get_coro(), "cr_running", True):
                return
        elif blocker.done() or (blocker not in waiting_on and not _awaited_tasks(blocker)):
            return  # a producer whose wait is over is about to run
    if _may_lead_to_a_running_task(cell) and (task := asyncio.current_task()) is not None:
        future.get_loop().call_soon(_report_ring, task, future)


def check_source(source: Cell[Any]) -> None:
    """Schedule a search for a ring of waits, because a sequence begins to copy from `source`.

    The sequence waits without a task, so that the wait of the producer may close the ring.
    """
    unseen = list(_producers(source))
    for task in unseen:  # which grows meanwhile
        blocker = _blocker(task)
        if blocker in waiting_on:
            blocker.get_loop().call_soon(_report_ring, task, blocker)
        elif blocker is not None:
            unseen += [each for each in _awaited_tasks(blocker) if each not in unseen]


def _is_running(task: asyncio.Task[Any]) -> bool:
    """Return True if this task is in one of its steps, or starts another task eagerly in it."""
    # Python 3.12.1 crashes when a task is asked for its coroutine that started eagerly and has ended.
    return not task.done() and getattr(task.get_coro(), "cr_running", True)  # other awaitables have no `cr_running`


def _may_lead_to_a_running_task(cell: Cell[Any]) -> bool:
    """Return True if the running task may close a ring of tasks that wait for each other when it waits for `cell`.

    It may if a producer of the cell, or a task that a producer waits for, is running. It also may if the cell has no
    producer: a task that starts eagerly is known to its cell only after its first step.
    """
    unseen = list(_producers(cell))
    if not unseen:
        return True
    seen: set[asyncio.Task[Any]] = set()
    while unseen:
        task = unseen.pop()
        if task in seen:
            continue
        if _blocker(task) is None and _is_running(task):
            return True
        seen.add(task)
        unseen.extend(following for following, _ in _waits_for(task))
    return False


# --- one loop step later


def _report_ring(task: asyncio.Task[Any], future: asyncio.Future[None]) -> None:
    """End the wait of `task` with a `DeadlockError`, or log a warning, if the wait is a part of a ring.

    Do nothing if the wait is over, the ring was warned of before, or a timeout is going to end one of its waits.

    Args:
        task: the task whose wait may have closed a ring.
        future: the future that the task awaited one loop step ago.
    """
    if _blocker(task) is not future:
        return
    if ring := _find_ring(task, only_source=True):
        if not _is_awaited_under_a_timeout(ring):
            names = _describe(ring)
            future.set_exception(DeadlockError(f"These wait for each other and would wait for ever: {names}"))
        return
    ring = _find_ring(task, only_source=False)
    if not _warned.issuperset(ring) and not _is_awaited_under_a_timeout(ring):
        _warned.update(ring)
        logger.warning(
            "These wait for each other, for ever unless another task adds to what one of them reads: %s",
            _describe(ring),
        )


def _find_ring(start: asyncio.Task[Any], *, only_source: bool) -> list[asyncio.Task[Any]]:
    """Return tasks of which each waits for the next one, and the last one for the first; [] if there is no ring.

    Tasks under a timeout are left out: their waits end.

    Args:
        start: the first task.
        only_source: follow only waits that one task alone can end.
    """
    came_from: dict[asyncio.Task[Any], asyncio.Task[Any]] = {}
    stack = [start]
    while stack:
        task = stack.pop()
        waits_for = [each for each, is_only_source in _waits_for(task) if is_only_source or not only_source]
        if not waits_for or _has_timeout(task):
            continue
        for following in waits_for:
            if following is start:
                ring = [task]
                while ring[-1] is not start:
                    ring.append(came_from[ring[-1]])
                return ring[::-1]
            if following not in came_from:
                came_from[following] = task
                stack.append(following)
    return []


def _is_awaited_under_a_timeout(ring: list[asyncio.Task[Any]]) -> bool:
    """Return True if a task that awaits a member, directly or not, is under a timeout, which cancels the member."""
    others = asyncio.all_tasks().difference(ring)
    cancelled_with_it = list(ring)
    for task in cancelled_with_it:  # which grows meanwhile
        awaiting = [each for each in others if (blocker := _blocker(each)) and task in _awaited_tasks(blocker)]
        if any(map(_has_timeout, awaiting)):
            return True
        others.difference_update(awaiting)
        cancelled_with_it += awaiting
    return False


def _describe(ring: list[asyncio.Task[Any]]) -> str:
    """Return the names of the tasks of a ring in their order, with the first one again at the end.

    Names that asyncio gave (to members of a `gather`) are left out where there are others.
    """
    names = [task.get_name() for task in ring]
    names = [name for name in names if not _NAMED_BY_ASYNCIO.fullmatch(name)] or names
    names = [names[0], *(after for before, after in pairwise([*names, names[0]]) if after != before)]
    return " -> ".join(names if len(names) > 1 else names * 2)


# --- the waits of a task


def _blocker(task: asyncio.Task[Any]) -> asyncio.Future[Any] | None:
    """Return the future that a suspended task awaits; None for a task that runs, is about to run, or has ended."""
    blocker: asyncio.Future[Any] | None = getattr(task, "_fut_waiter", None)
    return None if blocker is None or blocker.done() else blocker


def _waits_for(task: asyncio.Task[Any]) -> Iterator[tuple[asyncio.Task[Any], bool]]:
    """Yield the tasks that a suspended task waits for, each with True if only this task can end the wait.

    Yield none for a task that runs, or that waits for a socket, a timer or a queue.
    """
    blocker = _blocker(task)
    if blocker is None:
        return
    cell = waiting_on.get(blocker)
    if cell is None:
        for member in _awaited_tasks(blocker):
            yield member, True
        return
    only_source = cell.produced_only_by_its_task or cell.is_awaited_to_its_end(blocker)
    for producer in _producers(cell):
        yield producer, only_source


def _producers(cell: Cell[Any]) -> Iterator[asyncio.Task[Any]]:
    """Yield the tasks that must end before the cell can.

    They are the task of the cell, and those of the unfinished cells from which its lanes take leaves, at any depth.
    """
    cells = {cell: None}
    unseen = [cell]
    for each in unseen:  # which grows meanwhile
        if each.task is not None:
            yield each.task
        for lane in each.lanes or ():
            if lane.blocked_on not in cells and not lane.blocked_on.done:
                cells[lane.blocked_on] = None
                unseen.append(lane.blocked_on)


def _awaited_tasks(blocker: asyncio.Future[Any]) -> list[asyncio.Task[Any]]:
    """Return the task that is awaited, or the unfinished tasks of a `gather`; [] for a socket, a timer or a queue."""
    if isinstance(blocker, asyncio.Task):
        return [blocker]
    if (children := getattr(blocker, "_children", None)) is None:
        return []
    return [task for child in children if not child.done() for task in _awaited_tasks(child)]


def _has_timeout(task: asyncio.Task[Any]) -> bool:
    """Return True if an `asyncio.timeout` is going to end what a suspended task waits for, or the search is too large.

    The stack of a suspended coroutine holds the context managers that it is inside of. The search goes through the
    coroutines that await each other, and through context managers that hold others (`AsyncExitStack`).
    """
    seen: set[int] = set()
    unseen: list[Any] = [task.get_coro()]
    for holder in unseen:  # which grows meanwhile
        if len(unseen) > _MOST_HOLDERS:
            return True  # better no report than a false one
        in_a_frame = _is_suspendable(holder)
        for each in gc.get_referents(holder):
            if isinstance(each, asyncio.Timeout):
                if _ends_waits_of(each, task):
                    return True
            elif id(each) not in seen and (
                _is_suspendable(each)
                or _is_context_manager(each)
                or isinstance(each, MethodType)  # `__aexit__`, until 3.13
                or (not in_a_frame and type(each) in _CONTAINERS)  # those in a frame are data of the program
            ):
                seen.add(id(each))
                unseen.append(each)
    return False


def _ends_waits_of(timeout: asyncio.Timeout, task: asyncio.Task[Any]) -> bool:
    """Return True if `timeout` is set for `task`; one that was left, or has no deadline, is not set."""
    return getattr(timeout, "_task", task) is task and getattr(timeout, "_timeout_handler", timeout) is not None


def _is_suspendable(value: object) -> bool:
    """Return True for a coroutine, a generator, an async generator, or an awaitable that steps through one of those."""
    return hasattr(type(value), "send") or hasattr(type(value), "asend")


def _is_context_manager(value: object) -> bool:
    """Return True for an object that `with` or `async with` accepts."""
    return hasattr(type(value), "__aexit__") or hasattr(type(value), "__exit__")
