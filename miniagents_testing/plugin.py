"""Entry point of the pytest plugin: options, ini names and markers, and the loading of the topics in `_pytest`.

pytest loads this module in every project of an environment where this package is installed. So it keeps these rules:

- This module and the topics import the standard library and pytest only. A fixture imports other packages at its use.
- The plugin changes nothing for tests that use none of its markers, fixtures and options.
- Every option, ini name and marker begins with "miniagents".

Options and markers have to be registered at the start. The topics are loaded before the first file is collected:
loading them earlier was measured to cost an empty project 6 % where no byte code is cached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

__all__: list[str] = []  # pytest finds the hooks by their names

PARTS = (
    "miniagents_testing._pytest.cassettes",
    "miniagents_testing._pytest",
    "miniagents_testing._pytest.reports",
    "miniagents_testing._pytest.providers",
    "miniagents_testing._pytest.virtual_time",
)
"""Modules of the topics. Each is a plugin of its own."""

_STREAM_VCR = "miniagents_testing._pytest.stream_vcr"
"""Module of the topic that is loaded only if the ini file asks for it."""

_PICTURE_TOPIC = "miniagents_testing._pytest.pictures"
"""Module of the topic that is loaded only if the command line asks for it."""

_PICTURES = ("none", "failed", "all")

_RECORD_MODES = ("none", "once", "new_episodes", "all", "rewrite")

_MARKERS = {
    "miniagents_cassette(name=None, *, record_mode='none', **settings)": """answer the requests of the test from a
        cassette, or record it; default: the cassette <module>/<test>.yaml. The settings are those of use_cassette()""",
    "miniagents_allow_loopback": "let the test connect to this machine while live requests are blocked",
    "miniagents_virtual_time(*, seed=None, schedules=None, schedule=None, timeout=None)": """run the test on an event
        loop in virtual time: with the schedule of `seed`, once with each of the first `schedules` seeds, or with the
        schedule of the token `schedule`. Fail it after `timeout` virtual seconds""",
}

_are_parts_loaded: pytest.StashKey[bool] = pytest.StashKey()

pytest.register_assert_rewrite("miniagents_testing.checks")


def _token_of_schedule(text: str) -> str:
    """Return the text if it is a token of a schedule; raise the error of a wrong value of an option otherwise."""
    import argparse

    from miniagents_testing._decisions import schedule_of

    try:
        schedule_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _pace_of(text: str) -> float:
    """Return the factor on recorded waits that the text gives; raise the error of a wrong value of an option else."""
    try:
        pace = float(text)
    except ValueError:
        pace = -1.0
    if not 0 <= pace < float("inf"):
        import argparse

        raise argparse.ArgumentTypeError(f"the pace must be 0 (no waits) or a factor on the recorded waits, not {text}")
    return pace


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the command line options and the ini names."""
    modes = ", ".join(_RECORD_MODES)
    group = parser.getgroup("miniagents")
    group.addoption(
        "--miniagents-record",
        choices=_RECORD_MODES,
        default=None,
        metavar="MODE",
        help=f"record mode of all cassettes: {modes}. The default, none, plays only",
    )
    group.addoption(
        "--miniagents-pace",
        type=_pace_of,
        default=None,
        metavar="FACTOR",
        help="multiply the recorded waits of cassettes by this factor. The default, 0, plays without waits",
    )
    group.addoption(
        "--miniagents-schedule-seed",
        type=int,
        default=None,
        metavar="N",
        help="run tests in virtual time with the schedule of seed N only, in place of the schedules that they ask for",
    )
    group.addoption(
        "--miniagents-schedule",
        type=_token_of_schedule,
        default=None,
        metavar="TOKEN",
        help="run tests in virtual time with the schedule of this token only, and show the order of steps if they fail",
    )
    group.addoption(
        "--miniagents-pictures",
        choices=_PICTURES,
        default="none",
        metavar="WHICH",
        help="write pictures of runs to .miniagents/pictures: none (the default), those of failed tests, or all",
    )
    parser.addini("miniagents_record", f"record mode without an option or a marker: {modes}", default="none")
    parser.addini(
        "miniagents_cassette_dir",
        "folder of the cassettes, relative to the folder of each test file (default: cassettes)",
        default="cassettes",
    )
    parser.addini(
        "miniagents_block_live_requests",
        "refuse network access in every test, not only in tests that use markers or fixtures of miniagents",
        type="bool",
        default=False,
    )
    parser.addini(
        "miniagents_stream_vcr",
        "give true streams to every test with a cassette of pytest-recording; each test keeps its verdict",
        type="bool",
        default=False,
    )
    parser.addini(
        "miniagents_vcr_match",
        "how miniagents_stream_vcr matches requests: as the cassette does (vcr, the default), or by content",
        default="vcr",
    )
    parser.addini(
        "miniagents_allow_hosts",
        "names and host:port that tests with cassettes reach in every mode, and that are never recorded",
        type="args",
        default=[],
    )
    parser.addini(
        "miniagents_ignore_hosts",
        "names, *.name and beginnings of URLs that no cassette records; in replay they cannot be reached",
        type="args",
        default=[],
    )
    parser.addini(
        "miniagents_drop_headers",
        "names of headers of answers that are not recorded, beside those of the connection and noise such as date",
        type="args",
        default=[],
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, refuse unknown modes and unreadable hosts in the ini file, and load the stream plugin.

    That plugin, which lets vcrpy's cassettes stream, is loaded only if the ini file asks for it.
    """
    for marker, meaning in _MARKERS.items():
        config.addinivalue_line("markers", f"{marker}: {' '.join(meaning.split())}")
    mode = config.getini("miniagents_record")
    if mode not in _RECORD_MODES:
        raise pytest.UsageError(f"miniagents_record must be one of {', '.join(_RECORD_MODES)}, not {mode!r}")
    if (match := config.getini("miniagents_vcr_match")) not in ("vcr", "content"):
        raise pytest.UsageError(f"miniagents_vcr_match must be vcr or content, not {match!r}")
    if match != "vcr" and not config.getini("miniagents_stream_vcr"):
        raise pytest.UsageError(f"miniagents_vcr_match = {match} has no effect without miniagents_stream_vcr = true")
    if config.getoption("miniagents_pictures") != "none":
        config.pluginmanager.import_plugin(_PICTURE_TOPIC)
    if config.getini("miniagents_stream_vcr"):
        config.pluginmanager.import_plugin(_STREAM_VCR)  # also where no file is collected: its summary is printed there
    for name in ("allow_hosts", "ignore_hosts"):
        if hosts := config.getini(f"miniagents_{name}"):
            from miniagents_testing import _hosts

            kind = _hosts.AllowedHosts if name == "allow_hosts" else _hosts.IgnoredHosts
            try:
                kind(hosts, f"miniagents_{name}")
            except ValueError as error:
                raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(optionalhook=True)
def pytest_testnodeready(node: Any) -> None:
    """Load the topic that prints recordings, when a worker of pytest-xdist is ready: this process collects no tests."""
    node.config.pluginmanager.import_plugin("miniagents_testing._pytest.reports")


@pytest.fixture(scope="session")
def cassette_settings() -> dict[str, Any]:
    """Return settings for the cassettes of tests near this fixture: no more than the defaults, until it is overridden.

    Like any fixture, it can be defined in a test class, a test file or a `conftest.py`. It stands here because pytest
    would take a plugin that is loaded after a `conftest.py` for the nearer one.
    """
    return {}


@pytest.hookimpl(tryfirst=True)
def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> None:
    """Load the topics of the plugin before the first file is collected; do nothing for later files."""
    if not parent.config.stash.get(_are_parts_loaded, False):
        parent.config.stash[_are_parts_loaded] = True
        for part in PARTS:
            parent.config.pluginmanager.import_plugin(part)
