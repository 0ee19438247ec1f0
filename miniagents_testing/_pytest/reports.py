"""Reports of the plugin: tests that fail with an error that went through this project, and what a run has recorded.

An error of the testing kit is raised deep inside of a client's library, and one of MiniAgents below the steps of its
agents. The report shows the lines of the user's code, and leaves out the frames of this project, of the standard
library and of installed packages. The error itself, and so a debugger, keeps them all.

Recordings are counted when their cassettes are closed, and printed when all tests have ended. Workers of pytest-xdist
send their counts to the process that prints.
"""

from __future__ import annotations

import inspect
import os
import sys
import sysconfig
from collections import Counter
from contextlib import contextmanager
from functools import cache
from traceback import walk_tb
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest

from miniagents_testing._words import counted

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from miniagents_testing.cassette import CassetteContext, Interaction, Session


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Render a failure that went through this project without foreign frames, unless `--full-trace` asks for all.

    For an error of the testing kit, the summary of the run gets the first line of the message.
    """
    report = yield
    if call.excinfo is None or not report.failed or not isinstance(item, pytest.Function):
        return report
    if "miniagents" not in sys.modules or isinstance(report.longrepr, str) or item.config.getoption("fulltrace"):
        return report
    from miniagents_testing.errors import causes

    error = call.excinfo.value
    shown = [*causes(error, shown=True)]
    of_kit = next(filter(_is_of_kit, shown), None)
    if of_kit is None:
        if any(_passes_library(each.__traceback__, item) for each in shown):
            report.longrepr = _render(item, error)
    else:
        report.longrepr = _render(item, error)
        crash = getattr(report.longrepr, "reprcrash", None)
        if crash is not None and (of_kit is error or isinstance(error, BaseExceptionGroup)):
            crash.message = str(of_kit).partition("\n")[0]
    return report


def _is_of_kit(error: BaseException | None) -> bool:
    """Return True if the testing kit has defined the class of an error, also in the place of an SDK's."""
    return type(error).__module__.partition(".")[0] == "miniagents_testing"


def _passes_library(traceback: TracebackType | None, item: pytest.Function) -> bool:
    """Return True if an error that the user's code sees has frames of MiniAgents, and MiniAgents is not under test."""
    library = _library()
    if library.startswith(f"{item.config.rootpath}{os.sep}") and not library.startswith(_installed()):
        return False
    files = [each.f_code.co_filename for each, _ in walk_tb(traceback)]
    return any(file.startswith(library) for file in files) and _user_frames(traceback, item) is not None


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

    is_of_kit = any(map(_is_of_kit, causes(error, shown=True)))
    kept = [(each, each.__traceback__, each.__suppress_context__) for each in causes(error)]
    for each, traceback, suppresses in kept:
        each.__traceback__ = _user_frames(traceback, item, keeps_end=not is_of_kit)
        each.__suppress_context__ = suppresses or _is_of_kit(each) or _is_of_client(each.__context__)
    try:
        yield
    finally:
        for each, traceback, suppresses in kept:
            each.__traceback__, each.__suppress_context__ = traceback, suppresses


def _is_of_client(error: BaseException | None) -> bool:
    """Return True for an error that the testing kit raises in the place of a client library's error."""
    from miniagents_testing.errors import MiniAgentsTestingError

    return _is_of_kit(error) and not isinstance(error, MiniAgentsTestingError)


def _user_frames(
    traceback: TracebackType | None, item: pytest.Function, *, keeps_end: bool = False
) -> TracebackType | None:
    """Return a traceback of the frames that are the user's code: None if it has none of them.

    The function and the file of the test are the user's, wherever they are: a class of checks is inherited, and a
    project may have installed its tests.

    Args:
        traceback: of an error.
        item: the test that failed.
        keeps_end: True to keep the last frames, too, if they are of other packages: an error of `json` is raised there.
    """
    test_file, test_code = str(item.path), getattr(inspect.unwrap(item.function), "__code__", None)
    frames: list[TracebackType] = []
    end: list[TracebackType] = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        file = code.co_filename
        if code is test_code or file == test_file or not file.startswith(_foreign_beginnings()):
            frames.append(traceback)
            end = []
        elif file.startswith(_library()):
            end = []
        else:
            end.append(traceback)
        traceback = traceback.tb_next
    found = None
    for each in reversed([*frames, *end] if keeps_end else frames):
        found = TracebackType(found, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return found


@cache
def _foreign_beginnings() -> tuple[str, ...]:
    """Return the beginnings of the paths of code that is not the user's; generated code has a name in brackets."""
    import miniagents_testing

    return ("<", _library(), *(f"{path}{os.sep}" for path in miniagents_testing.__path__), *_installed())


@cache
def _library() -> str:
    """Return the beginning of the paths of MiniAgents."""
    import miniagents

    return f"{miniagents.__path__[0]}{os.sep}"


@cache
def _installed() -> tuple[str, ...]:
    """Return the beginnings of the paths of the standard library and of installed packages."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    paths = [sysconfig.get_path(name) for name in names]
    below = [sysconfig.get_path(name, vars={"base": sys.base_prefix}) for name in names]  # of a virtual environment
    return tuple(f"{path}{os.sep}" for path in dict.fromkeys([*paths, *below]))


# --- recordings of a run


_MOST_SHOWN = 5
"""Most requests of one kind that are shown of a cassette; the others are counted."""
_MAX_QUESTION_CHARS = 80

_recordings: pytest.StashKey[list[dict[str, Any]]] = pytest.StashKey()
"""The recordings of this process and of its workers; each is made of texts, numbers and lists."""
_WORKER_OUTPUT = "miniagents_recordings"
"""Name of the recordings of a worker in its output."""


@contextmanager
def reported(config: pytest.Config, path: Path, context: CassetteContext) -> Iterator[Session]:
    """Open a cassette that may be recorded; at its end, add what was recorded to the recordings of the run.

    A recording that was refused is not added.
    """
    before = _status(path)
    recorded = _recorded(path) if before else ()
    session = None
    try:
        with context as session:
            yield session
    finally:
        if session is not None and session.recorded and (session.not_written or _status(path) != before):
            found = config.stash.setdefault(_recordings, [])
            found.append(_summary(session, recorded, path, config))
            if hasattr(config, "workeroutput"):
                config.workeroutput[_WORKER_OUTPUT] = found


def _status(path: Path) -> tuple[int, int] | None:
    """Return inode and modification time of a file, of which a write changes one; None if it cannot be examined."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _recorded(path: Path) -> tuple[Interaction, ...]:
    """Return the interactions of a cassette file; none if it is damaged, because it can be recorded anew."""
    from miniagents_testing.cassette import load
    from miniagents_testing.errors import CassetteFormatError

    try:
        return load(path)
    except CassetteFormatError:
        return ()


def _summary(session: Session, before: tuple[Interaction, ...], path: Path, config: pytest.Config) -> dict[str, Any]:
    """Return what a session has recorded into a file: requests that are new or were asked again, failures, and tokens.

    Args:
        session: which is closed.
        before: the interactions that the file had.
        path: of the file.
        config: of the run.
    """
    from miniagents_testing._reading import read_interaction
    from miniagents_testing.cassette import failure_of

    match = session.settings.match
    left = Counter(match.key(each.method, each.uri, each.request_body) for each in before)
    asked: dict[str, list[str]] = {"new": [], "asked again": []}
    tokens = [0, 0, 0]
    for each in session.recorded:
        key = match.key(each.method, each.uri, each.request_body)
        kind = "asked again" if left[key] else "new"
        left[key] -= kind == "asked again"
        reading = read_interaction(each)
        question = " ".join(reading.prompt.last.text.split())[-_MAX_QUESTION_CHARS:]
        asked[kind].append(repr(question) if question else f"{each.method} {each.uri!r}"[:_MAX_QUESTION_CHARS])
        if reading.outcome is not None and each.response.status < 400:
            usage = reading.outcome.usage
            counts = [None, None] if usage is None else [usage.input, usage.output]
            tokens = [total + (count or 0) for total, count in zip(tokens, [*counts, None in counts], strict=True)]
    name = os.path.relpath(path, config.rootpath) if path.is_relative_to(config.rootpath) else str(path)
    redacted = [str(each) for each in session.replaced]
    failed = [failure for each in session.recorded if (failure := failure_of(each))]
    return {
        "path": name,
        "asked": asked,
        "failed": failed,
        "tokens": tokens,
        "redacted": redacted,
        "not_written": session.not_written,
    }


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add what a worker of pytest-xdist has recorded to the recordings of the run, when the worker ends."""
    found = getattr(node, "workeroutput", {}).get(_WORKER_OUTPUT, ())
    node.config.stash.setdefault(_recordings, []).extend(found)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print a section with the cassettes that were written: their requests, failures, tokens and redacted texts."""
    reporter, recordings = terminalreporter, config.stash.get(_recordings, [])
    if not recordings:
        return
    reporter.section("recorded cassettes")
    for each in sorted(recordings, key=lambda each: str(each["path"])):
        counts = [f"{len(lines)} {kind}" for kind, lines in each["asked"].items() if lines]
        if failed := each["failed"]:
            counts.append(f"{len(failed)} of them failed: {', '.join(dict.fromkeys(failed))}")
        reporter.write_line(f"{each['path']}: {', '.join(counts)}; {_tokens(each['tokens'])}")
        if each["not_written"]:
            reporter.write_line(f"  not written: {each['not_written']}")
        for kind, lines in each["asked"].items():
            _print_some(reporter, kind, lines)
        _print_some(reporter, "redacted", each["redacted"])
    requests = sum(len(lines) for each in recordings for lines in each["asked"].values())
    tokens = [sum(counts) for counts in zip(*(each["tokens"] for each in recordings), strict=True)]
    files = len({each["path"] for each in recordings if not each["not_written"]})
    reporter.write_line(f"{counted(files, 'cassette')} written, {counted(requests, 'request')}, {_tokens(tokens)}")


def _print_some(reporter: pytest.TerminalReporter, kind: str, lines: list[str]) -> None:
    """Print the first lines of a list, each after its kind, and the number of the others."""
    for line in lines[:_MOST_SHOWN]:
        reporter.write_line(f"  {kind}: {line}")
    if len(lines) > _MOST_SHOWN:
        reporter.write_line(f"  {kind}: {len(lines) - _MOST_SHOWN} more")


def _tokens(counts: list[int]) -> str:
    """Return counts in words: tokens of prompts, tokens of answers, and answers for which one of both is unknown."""
    read, written, unknown = counts
    if unknown and not read and not written:
        return "tokens unknown"
    text = f"{counted(read, 'token')} in, {written:,} out"
    return f"{text}; tokens of {counted(unknown, 'answer')} unknown" if unknown else text
