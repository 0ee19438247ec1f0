"""True streams for tests that were written for pytest-recording, if the ini file sets `miniagents_stream_vcr`.

A stream layer is laid under each cassette of vcrpy that a fixture returns, such as the fixture `vcr`, until the
teardown of that fixture. With `miniagents_vcr_match = content`, requests are matched as `use_cassette` does, and the
summary names the cassettes whose requests have changed since they were recorded.
"""

from __future__ import annotations

import re
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from miniagents_testing._pytest import enter_until_test_ends
from miniagents_testing._pytest.cassettes import recording_command

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from miniagents_testing.cassette import CassetteContext, Session

_layers: pytest.StashKey[list[Session]] = pytest.StashKey()
"""The sessions of the layers that a test's own fixtures have opened."""
_STALE, _MISSING = "miniagents_stale_cassette", "miniagents_missing_cassette"
"""Names of the property of a test's report that has the misses of a cassette: of a file that exists, or does not.

The property also comes from processes of xdist.
"""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test with the marker `vcr` if no plugin has registered the marker: the test would get no cassette."""
    is_marked = item.get_closest_marker("vcr") is not None
    if is_marked and not any(re.match(r"vcr\b", line) for line in item.config.getini("markers")):
        pytest.fail(
            f"{item.nodeid} has the marker vcr, and miniagents_stream_vcr is set, but no plugin opens a cassette for "
            "the test. Install the package pytest-recording",
            pytrace=False,
        )


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    """Let a cassette of vcrpy that a fixture returns stream, until the fixture's teardown.

    With `miniagents_vcr_match = content`, the layer lasts until the test ends, and misses are reported.
    """
    value = yield
    if "vcr.cassette" in sys.modules and isinstance(value, sys.modules["vcr.cassette"].Cassette):
        from miniagents_testing.cassette import layer_for_vcr_test

        by_content = request.config.getini("miniagents_vcr_match") == "content"
        command = recording_command(request.node, "--record-mode")
        pace = request.config.getoption("miniagents_pace") or 0.0
        is_typed = request.node.get_closest_marker("default_cassette") is not None
        layer = layer_for_vcr_test(value, by_content=by_content, command=command, is_typed=is_typed, pace=pace)
        if layer is None:
            return value
        if by_content and isinstance(request.node, pytest.Item):
            session = enter_until_test_ends(request.node, _reporting(request.node, layer))
        else:
            stack = ExitStack()
            session = stack.enter_context(layer)
            fixturedef.addfinalizer(stack.close)
        request.node.stash.setdefault(_layers, []).append(session)
    return value


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add sections to the report of a failed test: the recorded failures that its cassettes have played."""
    report = yield
    if report.failed:
        texts = [session.describe_played_failures() for session in item.stash.get(_layers, ())]
        report.sections += [("cassette", text) for text in texts if text]
    return report


@contextmanager
def _reporting(item: pytest.Item, layer: CassetteContext) -> Iterator[Session]:
    """Keep a stream layer open for the block; at its end, add its misses as properties to the report of the test."""
    with layer as session:
        name = _STALE if Path(session.name).exists() else _MISSING
        try:
            yield session
        finally:
            item.user_properties += [(name, str(miss)) for miss in session.misses]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect the cassette misses that a test has reported, after its teardown, for the terminal summary."""
    if report.when == "teardown":
        for name, miss in report.user_properties:
            if name in _misses:
                _misses[name][str(miss)] = None


_misses: dict[str, dict[str, None]] = {_STALE: {}, _MISSING: {}}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print sections with the misses of the run: of cassettes whose requests have changed, and of those without a file.

    The first has the differences.
    """
    titles = {_STALE: "cassettes that are stale", _MISSING: "cassettes that are missing"}
    for name, misses in _misses.items():
        if misses:
            terminalreporter.section(titles[name])
            for miss in misses:
                terminalreporter.write_line(miss)
            misses.clear()
