"""Says of suspended tasks on whose behalf they run, and where they wait."""

from __future__ import annotations

import gc
import linecache
import sys
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Iterator
    from types import FrameType

__all__ = ["described"]

MOST_SHOWN = 30

_MACHINERY = ("asyncio", "miniagents", "miniagents_testing")
"""Packages in which everybody waits in the end; who asked them to is what tells something."""


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
    trace = _agent_trace(task)
    if not trace:
        return name
    return " <- ".join(trace if trace[0] == name else [f"{name} of {trace[0]}", *trace[1:]])


def _agent_trace(task: asyncio.Task[Any]) -> list[str]:
    variables = getattr(task, "variables", None)
    if variables is None or "miniagents.agents.interaction" not in sys.modules:
        return []
    from miniagents import InteractionContext

    try:
        interaction: InteractionContext = variables.run(InteractionContext.get_current)
    except LookupError:
        return []
    return interaction.get_agent_trace()


def _place(task: asyncio.Task[Any]) -> str:
    """Where a task waits, as in a traceback."""
    frames = list(_suspended(task.get_coro()))
    if not frames:
        return "    not started yet"
    told = [frame for frame in frames if frame.f_globals.get("__name__", "").partition(".")[0] not in _MACHINERY]
    frame = (told or frames)[-1]
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
