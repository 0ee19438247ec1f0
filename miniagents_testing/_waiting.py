"""Says on whose behalf code runs, and where in the application: of tasks that wait, and of the running one."""

from __future__ import annotations

import contextvars
import gc
import linecache
import sys
import sysconfig
import threading
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Iterator
    from types import FrameType


MOST_SHOWN = 30

_MACHINERY = ("miniagents", "miniagents_testing")
_STANDARD_LIBRARY = sysconfig.get_path("stdlib")


async def _nothing() -> None:
    """Something to await."""


_steps = _nothing()
_SUSPENDABLE = (AsyncGeneratorType, CoroutineType, GeneratorType, type(_steps.__await__()))
_steps.close()


def described(tasks: Iterable[asyncio.Task[Any]]) -> str:
    """Who waits where: two lines a task, in the order in which the tasks were made."""
    waiting = sorted((task for task in tasks if not task.done()), key=lambda task: getattr(task, "number", 0))
    lines = [f"  {_label(task)}\n{_place(task)}" for task in waiting[:MOST_SHOWN]]
    if len(waiting) > MOST_SHOWN:
        lines.append(f"  and {len(waiting) - MOST_SHOWN} more")
    return "\n".join(lines)


def _label(task: asyncio.Task[Any]) -> str:
    """The name of a task, and the agent that it works for with its callers."""
    name = task.get_name()
    trace = _agent_trace(getattr(task, "variables", None))
    if not trace:
        return name
    return " <- ".join(trace if trace[0] == name else [f"{name} of {trace[0]}", *trace[1:]])


def here() -> str:
    """The agent that is running, and the line of the application that leads here; the thread if there is neither."""
    trace = _agent_trace(contextvars.copy_context())
    lines = [f"  by agent {' <- '.join(trace)}"] if trace else []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_application(frame):
        # below the step of a task come those who run the loop, who did not lead here
        frame = None if frame.f_code.co_qualname == "Handle._run" else frame.f_back
    if frame is not None:
        lines.append(line_of(frame))
    return "\n".join(lines) or f"  in thread {threading.current_thread().name}"


def _agent_trace(variables: contextvars.Context | None) -> list[str]:
    if variables is None or "miniagents._agents.interaction" not in sys.modules:
        return []
    from miniagents import InteractionContext

    try:
        interaction: InteractionContext = variables.copy().run(InteractionContext.get_current)
    except LookupError:
        return []
    return interaction.get_agent_trace()


def _place(task: asyncio.Task[Any]) -> str:
    """The innermost line of the application that a task waits in; that of a library where there is none."""
    frames = list(_suspended(task.get_coro()))
    if not frames:
        return "    not started yet"
    return line_of(([frame for frame in frames if _is_application(frame)] or frames)[-1])


def _is_application(frame: FrameType) -> bool:
    """Whether it is neither ours nor installed: a line of those is where everybody waits in the end."""
    file = frame.f_code.co_filename
    if "site-packages" in file or file.startswith((_STANDARD_LIBRARY, "<")):
        return False
    return frame.f_globals.get("__name__", "").partition(".")[0] not in _MACHINERY


def line_of(frame: FrameType) -> str:
    """As in a traceback."""
    code = frame.f_code
    source = linecache.getline(code.co_filename, frame.f_lineno, frame.f_globals).strip()
    return f'    File "{code.co_filename}", line {frame.f_lineno}, in {code.co_qualname}\n      {source}'.rstrip()


def _suspended(awaitable: Any) -> Iterator[FrameType]:
    """The frames of what is suspended in each other, the outermost first."""
    seen: set[int] = set()
    while awaitable is not None and id(awaitable) not in seen:
        seen.add(id(awaitable))
        frame = _first(awaitable, "cr_frame", "gi_frame", "ag_frame")
        if frame is not None:
            yield frame
        awaitable = _first(awaitable, "cr_await", "gi_yieldfrom", "ag_await") or _stepped_through(awaitable, frame)


def _stepped_through(awaitable: Any, frame: FrameType | None) -> Any:
    """What is driven by hand: by a step of an async generator, by `coroutine.__await__()`, or by a generator."""
    held = gc.get_referents(awaitable) if frame is None else frame.f_locals.values()
    return next((each for each in held if isinstance(each, _SUSPENDABLE)), None)


def _first(awaitable: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(awaitable, name, None)) is not None), None)
