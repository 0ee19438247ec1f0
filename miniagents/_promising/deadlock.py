"""Finds waits that can never end.

A wait that blocks registers its future in `waiting_on`, and looks whether it closes a circle: who produces what I wait
for, and what does that task wait for in turn? Tasks that wait for `gather`, or for another task, are followed as well.
Nothing here runs for a token that is already there.

A circle is reported at once if each of its members can be helped by nobody else. Where somebody else could help (a
sequence that other tasks may append to, a call that anybody holding it may finish) it is reported only when no task of
the loop can do anything any more.
"""

from __future__ import annotations

import asyncio
import re
import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

from miniagents.errors import DeadlockError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from miniagents._promising.promise import Cell


_MADE_UP = re.compile(r"Task-\d+")

waiting_on: dict[asyncio.Future[Any], Cell[Any] | None] = {}
"""What each blocked wait waits for; None for a context that waits for its tasks."""

_scheduled_checks: WeakSet[asyncio.AbstractEventLoop] = WeakSet()

_threads_before: WeakKeyDictionary[asyncio.AbstractEventLoop, set[int | None]] = WeakKeyDictionary()
"""The threads there were when the first context of a loop was opened: they do not work for it."""


def watch(loop: asyncio.AbstractEventLoop) -> None:
    """Called when a context is opened in `loop`."""
    if loop not in _threads_before:
        _threads_before[loop] = {thread.ident for thread in threading.enumerate()}


def check_wait(cell: Cell[Any], for_end: bool) -> None:
    """Called when the running task is about to block on `cell`.

    Args:
        cell: what it waits for.
        for_end: whether it waits for the end, and no progress before that helps it.

    Raises:
        DeadlockError: this wait would never end.
    """
    producer = cell.task
    if producer is None:
        check_later()
        return
    blocker = producer._fut_waiter  # type: ignore[attr-defined]  # asyncio has no public name for what a task awaits
    if blocker is None:
        # it is the running task if its coroutine runs; to ask for the current task takes three times as long
        if not getattr(producer.get_coro(), "cr_running", True):
            return
    elif blocker not in waiting_on and not _members(blocker):
        return
    _search(cell, certain=for_end or cell.produced_only_by_its_task)


def _search(cell: Cell[Any], *, certain: bool) -> None:
    """Walk from the producer of `cell` along what tasks wait for, back to the running task if it leads there."""
    me = asyncio.current_task()
    came_from: dict[asyncio.Task[Any], asyncio.Task[Any] | None] = {}
    stack: list[tuple[asyncio.Task[Any], asyncio.Task[Any] | None, bool]] = []
    if cell.task is not None:
        stack.append((cell.task, None, certain))
    while stack:
        task, previous, certain = stack.pop()
        if task in came_from or task.done():
            continue
        came_from[task] = previous
        if task is me:
            _report(task, came_from, certain)
            return
        stack.extend((following, task, certain and sure) for following, sure in _followed(task))


def _report(me: asyncio.Task[Any], came_from: dict[asyncio.Task[Any], asyncio.Task[Any] | None], certain: bool) -> None:
    waiting: list[asyncio.Task[Any]] = []  # who waits for me, who waits for that one, and so on
    previous = came_from[me]
    while previous is not None:
        waiting.append(previous)
        previous = came_from[previous]
    tasks = [me, *reversed(waiting)]
    if not certain or _may_time_out(tasks):
        check_later()
        return
    raise _circle_error(tasks)


def _circle_error(tasks: list[asyncio.Task[Any]]) -> DeadlockError:
    """The error of tasks that wait for each other, each for the next one, and the last one for the first."""
    names = _names(tasks)
    circle = [names[0], *(after for before, after in pairwise([*names, names[0]]) if after != before)]
    if len(circle) == 1:
        circle *= 2
    return DeadlockError(f"These wait for each other and would wait for ever: {' -> '.join(circle)}")


def _followed(task: asyncio.Task[Any]) -> Iterator[tuple[asyncio.Task[Any], bool]]:
    """The tasks that must go on before `task` can, and whether nobody else could help it."""
    blocker = getattr(task, "_fut_waiter", None)
    if blocker is None or blocker.done():
        return
    cell = waiting_on.get(blocker)
    if cell is None:
        for member in _members(blocker):
            yield member, True
    elif cell.task is not None:
        yield cell.task, cell.produced_only_by_its_task or blocker in (cell.done_waiters or ())


def _members(blocker: asyncio.Future[Any]) -> list[asyncio.Task[Any]]:
    """The task that is awaited, or the members of the `gather` that is."""
    if isinstance(blocker, asyncio.Task):
        return [blocker]
    if (children := getattr(blocker, "_children", None)) is None:  # most waits are for a socket or a timer
        return []
    return [child for child in children if isinstance(child, asyncio.Task) and not child.done()]


def _may_time_out(tasks: list[asyncio.Task[Any]]) -> bool:
    """Whether one of them waits under `asyncio.timeout`: then its wait does end."""
    scheduled = getattr(asyncio.get_running_loop(), "_scheduled", None)
    if scheduled is None:
        return True  # a loop that does not show its timers
    for handle in scheduled:
        owner = getattr(getattr(handle, "_callback", None), "__self__", None)
        if isinstance(owner, asyncio.Timeout) and not handle.cancelled() and owner._task in tasks:  # type: ignore[attr-defined]
            return True
    return False


def _names(tasks: Iterable[asyncio.Task[Any]]) -> list[str]:
    """Names of tasks; those that asyncio made up (members of a `gather`) only where there is no other."""
    names = [task.get_name() for task in tasks]
    return [name for name in names if not _MADE_UP.fullmatch(name)] or names


def check_later() -> None:
    """Look, at the next loop step, whether anything at all can still go on."""
    loop = asyncio.get_running_loop()
    if loop not in _scheduled_checks:
        _scheduled_checks.add(loop)
        loop.call_soon(_check_everybody, loop)


def _check_everybody(loop: asyncio.AbstractEventLoop) -> None:
    _scheduled_checks.discard(loop)
    if getattr(loop, "_ready", ()):
        check_later()  # a callback that is still to run may resolve a promise
        return
    waits = [(future, cell) for future, cell in waiting_on.items() if cell is not None and not future.done()]
    waits = [(future, cell) for future, cell in waits if future.get_loop() is loop]
    if not waits or _outside_can_help(loop) or _a_task_can_go_on(loop):
        return
    tasks = asyncio.all_tasks(loop)
    ownerless = [future for future, cell in waits if cell.task is None]
    circle = [] if ownerless else _find_circle(tasks)
    (ownerless or [future for future, _ in waits])[0].set_exception(
        _circle_error(circle)
        if circle
        else DeadlockError(
            f"Nothing can go on: {', '.join(sorted(_names(tasks)))} all wait for promises, and nobody is left who "
            f"could resolve them. Was a call never finished, or an appender never closed?"
        )
    )


def _find_circle(tasks: Iterable[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    """Tasks that wait for each other, each for the next one, and the last one for the first; none if there is none."""
    seen: set[asyncio.Task[Any]] = set()
    for start in tasks:
        path: dict[asyncio.Task[Any], None] = {}
        stack: list[tuple[asyncio.Task[Any], int]] = [(start, 0)]
        while stack:
            task, depth = stack.pop()
            while len(path) > depth:
                path.popitem()
            if task in path:
                return list(path)[list(path).index(task) :]
            if task not in seen:
                seen.add(task)
                path[task] = None
                stack.extend((following, len(path)) for following, _ in _followed(task))
    return []


def _outside_can_help(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a timer is set, a file or socket is watched, or a thread was started that may call back."""
    scheduled = getattr(loop, "_scheduled", None)
    if scheduled is None or any(not handle.cancelled() for handle in scheduled):
        return True
    watched: Any = getattr(getattr(loop, "_selector", None), "get_map", dict)()
    if len(watched or ()) > 1:  # the loop itself watches the pipe that wakes it up
        return True
    before = _threads_before.get(loop, set())
    return any(thread.ident not in before for thread in threading.enumerate())


def _a_task_can_go_on(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a task can run, or waits for something that is not a promise."""
    for task in asyncio.all_tasks(loop):
        blocker = getattr(task, "_fut_waiter", None)
        if blocker is None or blocker.done():
            return True
        if blocker not in waiting_on and not _members(blocker):
            return True
    return False
