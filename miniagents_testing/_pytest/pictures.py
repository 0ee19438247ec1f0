"""Pictures of tests, for the option `--miniagents-pictures`; `plugin` loads this topic if the option is given.

A picture has the requests that agents have sent in the test, fixtures included. For a test without such requests, as
with clients of other frameworks, it has those of the cassette.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import pytest

from miniagents.observing import observe
from miniagents_testing._pictures import read_run
from miniagents_testing._pictures.page import write_page
from miniagents_testing._reading import read_interaction
from miniagents_testing._words import short_path
from miniagents_testing.cassette._secrets import scan
from miniagents_testing.pictures import RunRecorder

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from miniagents.observing import Operation
    from miniagents_testing._pictures import Run

_FOLDER = ".miniagents"
_MOST_NAME_CHARS = 120


class _CurrentTest:
    """Observer of all runs, which gives operations to the recorder of the test that is running."""

    def __init__(self) -> None:
        self.recorder = RunRecorder()
        self.has_failed = False

    def __call__(self, operation: Operation) -> AbstractContextManager[None]:
        return self.recorder(operation)


_current: pytest.StashKey[_CurrentTest] = pytest.StashKey()


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Observe all runs; event loops of modules and sessions take the observer from here, too."""
    current = session.config.stash[_current] = _CurrentTest()
    with observe(current):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Begin the picture of a test, and remove the one of an earlier run."""
    current = item.config.stash[_current]
    current.recorder, current.has_failed = RunRecorder(), False
    _path(item).unlink(missing_ok=True)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write the picture when the test has failed for the first time, or after its call; name it in the report."""
    report = yield
    current, path = item.config.stash[_current], _path(item)
    wants_all = item.config.getoption("miniagents_pictures") == "all"
    is_due = (report.failed and not current.has_failed) or (wants_all and report.when == "call")
    current.has_failed |= report.failed
    if is_due and not report.skipped and (run := _run_of(item, current.recorder)) is not None:
        report.sections.append(("picture of the run", _write(item, path, run)))
    return report


def _path(item: pytest.Item) -> Path:
    """Return the path of the picture of a test; one whose name cannot be that of a file gets a hash."""
    path, bracket, parameters = item.nodeid.partition("[")
    plain = f"{path.replace('::', '.').replace('/', '.')}{bracket}{parameters}"
    name = re.sub(r"[^\w.\[\]-]", "_", plain)[:_MOST_NAME_CHARS]
    if name != plain:
        name += f"-{hashlib.sha256(item.nodeid.encode(errors='surrogatepass')).hexdigest()[:8]}"
    return item.config.rootpath / _FOLDER / "pictures" / f"{name}.html"


def _run_of(item: pytest.Item, recorder: RunRecorder) -> Run | str | None:
    """Return the run of a test, or a text that says why it cannot be shown; None if there was no request."""
    if recorder.has_requests:
        return recorder.run()
    session = getattr(item, "funcargs", {}).get("stream_cassette")
    if session is None or session.records or not session.interactions:
        return None
    if leak := next(iter(scan(session.interactions, keys=True)), None):
        return f"there is no picture, because the cassette has a secret: {leak}"
    return read_run(session.interactions, [*map(read_interaction, session.interactions)])


def _write(item: pytest.Item, path: Path, run: Run | str) -> str:
    """Write the picture, and return the text of the report: its path, or why there is none."""
    if isinstance(run, str):
        return run
    ignore = item.config.rootpath / _FOLDER / ".gitignore"
    try:
        write_page(path, run, item.nodeid)
        if not ignore.exists():
            ignore.write_text("# pytest --miniagents-pictures makes this folder\n*\n", encoding="utf-8")
    except OSError as error:
        return f"it could not be written: {error}"
    return short_path(path)
