"""Reports of tests that fail with an error of the testing kit: the error stands below the lines of the user's code.

Such an error is raised deep inside of a client's library. The report leaves out the frames of this project, of the
standard library and of installed packages. The error itself, and so a debugger, keeps them all.
"""

from __future__ import annotations

import inspect
import os
import sys
import sysconfig
from contextlib import contextmanager
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Render a failure by an error of the testing kit without foreign frames, unless `--full-trace` asks for all.

    The summary of the run gets the first line of the message.
    """
    report = yield
    if call.excinfo is None or not report.failed or not isinstance(item, pytest.Function):
        return report
    errors, error = sys.modules.get("miniagents_testing.errors"), call.excinfo.value
    if errors is None or isinstance(report.longrepr, str) or item.config.getoption("fulltrace"):
        return report
    of_kit = next(filter(_is_of_kit, errors.causes(error, shown=True)), None)
    if of_kit is not None:
        report.longrepr = _render(item, error)
        crash = getattr(report.longrepr, "reprcrash", None)
        if crash is not None and (of_kit is error or isinstance(error, BaseExceptionGroup)):
            crash.message = str(of_kit).partition("\n")[0]
    return report


def _is_of_kit(error: BaseException | None) -> bool:
    """Return True for an error of the testing kit, or for one that it raises in the place of a client's library."""
    return type(error).__module__.partition(".")[0] == "miniagents_testing"


def _render(item: pytest.Function, error: BaseException) -> Any:
    """Return the report of an error with the frames of the user's code.

    Without such a frame it is the message alone. All frames stay if they are needed to tell the causes of the error.
    """
    from miniagents_testing.errors import causes

    frames = {id(each): each.__traceback__ for each in causes(error)}
    with _without_foreign_frames(error, item):
        shown = error
        if isinstance(error, BaseExceptionGroup) and error.__traceback__ is None:
            first, *others = error.exceptions
            if all(each is first for each in others):  # a teardown that fails again and again with the same error
                shown = first
        if shown.__traceback__ is None and len([*causes(shown, shown=True)]) > 1:
            shown.__traceback__ = frames[id(shown)] or frames[id(error)]
        elif shown.__traceback__ is None:
            text = "\n".join([f"{type(shown).__name__}: {shown}", *getattr(shown, "__notes__", ())])
            shown = pytest.fail.Exception(text, pytrace=False).with_traceback(frames[id(error)])
        return item.repr_failure(pytest.ExceptionInfo.from_exception(shown))


@contextmanager
def _without_foreign_frames(error: BaseException, item: pytest.Function) -> Iterator[None]:
    """Take foreign frames out of an error, its causes and the members of its groups, until the `with` block ends.

    Errors of clients that an error of the testing kit went through are no context meanwhile: they explain nothing.
    """
    from miniagents_testing.errors import causes

    kept = [(each, each.__traceback__, each.__suppress_context__) for each in causes(error)]
    for each, traceback, suppresses in kept:
        each.__traceback__ = _user_frames(traceback, item)
        each.__suppress_context__ = suppresses or _is_of_kit(each) or _is_of_client(each.__context__)
    try:
        yield
    finally:
        for each, traceback, suppresses in kept:
            each.__traceback__, each.__suppress_context__ = traceback, suppresses


def _is_of_client(error: BaseException | None) -> bool:
    """Return True for an error that a scripted client raises in the place of a library's."""
    from miniagents_testing.errors import MiniAgentsTestingError

    return _is_of_kit(error) and not isinstance(error, MiniAgentsTestingError)


def _user_frames(traceback: TracebackType | None, item: pytest.Function) -> TracebackType | None:
    """Return a traceback of the frames that are the user's code: None if it has none of them.

    The function and the file of the test are the user's, wherever they are: a class of checks is inherited, and a
    project may have installed its tests.
    """
    test_file, test_code = str(item.path), getattr(inspect.unwrap(item.function), "__code__", None)
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        file = code.co_filename
        if code is test_code or file == test_file or not file.startswith(_foreign_beginnings()):
            frames.append(traceback)
        traceback = traceback.tb_next
    found = None
    for each in reversed(frames):
        found = TracebackType(found, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return found


@cache
def _foreign_beginnings() -> tuple[str, ...]:
    """Return the beginnings of the paths of code that is not the user's; generated code has a name in brackets."""
    import miniagents
    import miniagents_testing

    own = [each for package in (miniagents, miniagents_testing) for each in package.__path__]
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    installed = [sysconfig.get_path(name) for name in names]
    below = [sysconfig.get_path(name, vars={"base": sys.base_prefix}) for name in names]  # of a virtual environment
    return ("<", *(f"{path}{os.sep}" for path in dict.fromkeys([*own, *installed, *below])))
