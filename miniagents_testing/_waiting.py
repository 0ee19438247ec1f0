"""Descriptions for error messages: where in the application tasks wait and code runs, and for which agents.

`describe_tasks` describes waiting tasks, `describe_running_code` the code that is running, `describe_line` one frame.
`running_packages` names the packages of that code.
"""

from __future__ import annotations

import contextvars
import gc
import linecache
import re
import sys
import sysconfig
import threading
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Iterator
    from types import FrameType


_MAX_SHOWN_TASKS = 30
_NAMED_BY_ASYNCIO = re.compile(r"Task-\d+")

_FRAMEWORK_PACKAGES = ("miniagents", "miniagents_testing")
_STANDARD_LIBRARY = sysconfig.get_path("stdlib")


async def _do_nothing() -> None:
    """Return at once; the coroutine serves only to find out the type of coroutines."""


_example = _do_nothing()
_SUSPENDABLE_TYPES = (AsyncGeneratorType, CoroutineType, GeneratorType, type(_example.__await__()))
_example.close()


def describe_tasks(tasks: Iterable[asyncio.Task[Any]]) -> str:
    """Return two lines for each unfinished task: its name, and where it waits. The oldest task comes first.

    Beyond a fixed number of tasks, only their count is shown.
    """
    waiting = sorted((task for task in tasks if not task.done()), key=lambda task: getattr(task, "number", 0))
    lines = [f"  {_label_of(task)}\n{_describe_place(task)}" for task in waiting[:_MAX_SHOWN_TASKS]]
    if len(waiting) > _MAX_SHOWN_TASKS:
        lines.append(f"  and {len(waiting) - _MAX_SHOWN_TASKS} more")
    return "\n".join(lines)


def _label_of(task: asyncio.Task[Any]) -> str:
    """Return the name of a task, with the agent that the task works for and the agent's callers, if there is one."""
    name = name_of(task)
    trace = _agent_trace(getattr(task, "variables", None))
    if not trace:
        return name
    is_of_agent = name.rpartition("#")[0] == trace[0]
    return " <- ".join([name if is_of_agent else f"{name} of {trace[0]}", *trace[1:]])


def name_of(task: asyncio.Task[Any]) -> str:
    """Return the name of a task; for one that asyncio has named, that of its coroutine function and a number."""
    name = task.get_name()
    return getattr(task, "default_name", name) if _NAMED_BY_ASYNCIO.fullmatch(name) else name


def describe_running_code() -> str:
    """Return lines with the running agent, its callers and the innermost line of the application, as far as known.

    With neither, the text names the thread.
    """
    trace = _agent_trace(contextvars.copy_context())
    lines = [f"  by agent {' <- '.join(trace)}"] if trace else []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not is_application(frame):
        # frames below the step of a task belong to the code that runs the loop: it did not cause this call
        frame = None if frame.f_code.co_qualname == "Handle._run" else frame.f_back
    if frame is not None:
        lines.append(describe_line(frame))
    return "\n".join(lines) or f"  in thread {threading.current_thread().name}"


def running_packages() -> list[str]:
    """Return the packages on the stack outside the standard library, the outermost first, without tests.

    If the application calls the standard library by itself, the last item is that module, or "socket".
    """
    packages: list[str] = []
    library = ""  # the outermost module of the standard library's network code that the innermost package calls
    calls_library = True
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_qualname != "Handle._run":
        module = frame.f_globals.get("__name__") or ""
        package = module.partition(".")[0]
        if package in _TEST_RUNNERS:
            break
        if package in _NETWORK_MODULES and not packages:
            library = package if package == "asyncio" else module
        elif package not in _UNNAMED and package not in sys.stdlib_module_names and not _is_test(module):
            if not packages:
                calls_library = is_application(frame)
            if package not in packages:
                packages.append(package)
        frame = frame.f_back
    packages.reverse()
    return [*packages, library or "socket"] if calls_library else packages


def _is_test(module: str) -> bool:
    """Return True if the name of a module is that of a test file or a conftest."""
    name = module.rpartition(".")[2]
    return name.startswith("test_") or name.endswith("_test") or name == "conftest"


_TEST_RUNNERS = frozenset({"_pytest", "pluggy", "pytest_asyncio"})
_UNNAMED = frozenset({"", "__main__", "miniagents", "miniagents_testing", "uvloop", "vcr", "wrapt", "<run_path>"})
_NETWORK_MODULES = frozenset(
    {"asyncio", "ftplib", "http", "imaplib", "logging", "multiprocessing"}
    | {"poplib", "smtplib", "socket", "urllib", "xmlrpc"}
)


def _agent_trace(variables: contextvars.Context | None) -> list[str]:
    """Return the aliases of the agent that runs in a context and of its callers; empty if there is no agent."""
    if variables is None or "miniagents._agents.interaction" not in sys.modules:
        return []
    from miniagents import InteractionContext

    try:
        interaction: InteractionContext = variables.copy().run(InteractionContext.get_current)
    except LookupError:
        return []
    return interaction.get_agent_trace()


def _describe_place(task: asyncio.Task[Any]) -> str:
    """Return the innermost line of the application in which a task waits, or else the innermost line of a library.

    A task that has no frames is said to be not started.
    """
    frames = list(suspended_frames(task.get_coro()))
    if not frames:
        return "    not started yet"
    return describe_line(([frame for frame in frames if is_application(frame)] or frames)[-1])


def is_application(frame: FrameType) -> bool:
    """Return True if a frame belongs neither to MiniAgents nor to an installed or standard library."""
    if not is_application_file(frame.f_code.co_filename):
        return False
    return frame.f_globals.get("__name__", "").partition(".")[0] not in _FRAMEWORK_PACKAGES


def is_application_file(file: str) -> bool:
    """Return True if a file belongs neither to an installed library nor to the standard library."""
    return "site-packages" not in file and not file.startswith((_STANDARD_LIBRARY, "<"))


def describe_line(frame: FrameType) -> str:
    """Return file, line, function and source of a frame, in the form of a traceback."""
    code = frame.f_code
    source = linecache.getline(code.co_filename, frame.f_lineno, frame.f_globals).strip()
    return f'    File "{code.co_filename}", line {frame.f_lineno}, in {code.co_qualname}\n      {source}'.rstrip()


def suspended_frames(awaitable: Any) -> Iterator[FrameType]:
    """Yield the frames of coroutines and generators that wait for each other, the outermost first."""
    seen: set[int] = set()
    while awaitable is not None and id(awaitable) not in seen:
        seen.add(id(awaitable))
        frame = _first_attribute(awaitable, "cr_frame", "gi_frame", "ag_frame")
        if frame is not None:
            yield frame
        awaitable = _first_attribute(awaitable, "cr_await", "gi_yieldfrom", "ag_await") or _driven_by_hand(
            awaitable, frame
        )


def _driven_by_hand(awaitable: Any, frame: FrameType | None) -> Any:
    """Return the coroutine or generator that `awaitable` steps through without `await` or `yield from`, or None.

    Steps of async generators, `coroutine.__await__()` and generators that call `send` do this.
    """
    held = gc.get_referents(awaitable) if frame is None else frame.f_locals.values()
    return next((each for each in held if isinstance(each, _SUSPENDABLE_TYPES)), None)


def _first_attribute(awaitable: Any, *names: str) -> Any:
    """Return the first of the named attributes of `awaitable` that is not None; None if there is none."""
    return next((value for name in names if (value := getattr(awaitable, name, None)) is not None), None)
