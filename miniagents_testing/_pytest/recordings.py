"""Recordings of a run: counted when their cassettes are closed, and printed when all tests have ended.

Workers of pytest-xdist send their counts to the process that prints.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from miniagents_testing._words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from miniagents_testing.cassette import CassetteContext, Interaction, Session

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

    A recording that could not be written is not added.
    """
    before = _status(path)
    recorded = _recorded(path) if before else ()
    session = None
    try:
        with context as session:
            yield session
    finally:
        if session is not None and session.recorded and (session.keeps_old_file or _status(path) != before):
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
    """Return the interactions of a file; none of a damaged one, which can be recorded anew."""
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
    tokens = [0, 0]
    for each in session.recorded:
        key = match.key(each.method, each.uri, each.request_body)
        kind = "asked again" if left[key] else "new"
        left[key] -= kind == "asked again"
        reading = read_interaction(each)
        question = " ".join(reading.prompt.last.text.split())[-_MAX_QUESTION_CHARS:]
        asked[kind].append(repr(question) if question else f"{each.method} {each.uri!r}"[:_MAX_QUESTION_CHARS])
        usage = reading.outcome.usage if reading.outcome else None
        if usage is not None:
            tokens = [tokens[0] + (usage.input or 0), tokens[1] + (usage.output or 0)]
    name = os.path.relpath(path, config.rootpath) if path.is_relative_to(config.rootpath) else str(path)
    redacted = [str(each) for each in session.replaced]
    failed = [failure for each in session.recorded if (failure := failure_of(each))]
    return {
        "path": name,
        "asked": asked,
        "failed": failed,
        "tokens": tokens,
        "redacted": redacted,
        "is_written": not session.keeps_old_file,
    }


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect what a worker of pytest-xdist has recorded."""
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
        if not each["is_written"]:
            counts.append("so the old file is kept")
        reporter.write_line(f"{each['path']}: {', '.join(counts)}; {_tokens(each['tokens'])}")
        for kind, lines in each["asked"].items():
            _print_some(reporter, kind, lines)
        _print_some(reporter, "redacted", each["redacted"])
    requests = sum(len(lines) for each in recordings for lines in each["asked"].values())
    tokens = [sum(counts) for counts in zip(*(each["tokens"] for each in recordings), strict=True)]
    files = len({each["path"] for each in recordings if each["is_written"]})
    reporter.write_line(f"{counted(files, 'cassette')} written, {counted(requests, 'request')}, {_tokens(tokens)}")


def _print_some(reporter: pytest.TerminalReporter, kind: str, lines: list[str]) -> None:
    for line in lines[:_MOST_SHOWN]:
        reporter.write_line(f"  {kind}: {line}")
    if len(lines) > _MOST_SHOWN:
        reporter.write_line(f"  {kind}: {len(lines) - _MOST_SHOWN} more")


def _tokens(counts: list[int]) -> str:
    return f"{counted(counts[0], 'token')} in, {counts[1]:,} out"
