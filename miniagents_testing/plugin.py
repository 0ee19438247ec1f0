"""The pytest plugin: the door that pytest finds; each topic has a module of its own in `pytest_parts`.

It is loaded for everybody who runs pytest where this package is installed: nothing is imported here or there but the
standard library and pytest, nothing happens to tests that do not ask, and every option, ini name and marker begins
with "miniagents". What needs a package of an extra imports it when it is used.

Here is what must be known from the start. The topics come with the first file that is collected: measured, they would
cost an empty project 6 % where no byte code is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

__all__: list[str] = []  # pytest finds the hooks by their names

PARTS = (
    "miniagents_testing._pytest.cassettes",
    "miniagents_testing._pytest",
    "miniagents_testing._pytest.live_requests",
    "miniagents_testing._pytest.scripts",
    "miniagents_testing._pytest.virtual_time",
)
"""The topics, each a plugin."""

RECORD_MODES = ("none", "once", "new_episodes", "all", "rewrite")

_MARKERS = {
    "miniagents_cassette(name=None, *, record_mode='none', **settings)": """answer the requests of the test from a
        cassette, or record it; by default the one at <module>/<test>.yaml. Settings are those of use_cassette()""",
    "miniagents_allow_loopback": "let the test connect to this machine, although live requests are blocked",
    "miniagents_virtual_time(*, seed=None, schedules=None, timeout=None)": """run the test on an event loop whose clock
        jumps; under the schedule of `seed`, or once under each of so many `schedules`; at most `timeout` virtual
        seconds""",
}

_parts_are_loaded: pytest.StashKey[bool] = pytest.StashKey()

pytest.register_assert_rewrite("miniagents_testing.checks")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Our options, and where a project says something for good."""
    modes = ", ".join(RECORD_MODES)
    group = parser.getgroup("miniagents")
    group.addoption(
        "--miniagents-record",
        choices=RECORD_MODES,
        default=None,
        metavar="MODE",
        help=f"record mode of all cassettes: {modes}; none, the default, only plays",
    )
    group.addoption(
        "--miniagents-pace",
        type=float,
        default=None,
        metavar="FACTOR",
        help="play cassettes at this factor on the recorded waits; 0, the default, plays at once",
    )
    group.addoption(
        "--miniagents-schedule-seed",
        type=int,
        default=None,
        metavar="N",
        help="run tests in virtual time under the schedule of seed N, whatever schedules they ask for",
    )
    parser.addini("miniagents_record", f"record mode where nothing else says one: {modes}", default="none")
    parser.addini(
        "miniagents_cassette_dir",
        "where cassettes lie, from the folder of each test file on (default: cassettes)",
        default="cassettes",
    )
    parser.addini(
        "miniagents_block_live_requests",
        "refuse all network access in every test, not only in those that use markers or fixtures of miniagents",
        type="bool",
        default=False,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Our markers; and what an ini file must not say."""
    for marker, meaning in _MARKERS.items():
        config.addinivalue_line("markers", f"{marker}: {' '.join(meaning.split())}")
    mode = config.getini("miniagents_record")
    if mode not in RECORD_MODES:
        raise pytest.UsageError(f"miniagents_record must be one of {', '.join(RECORD_MODES)}, not {mode!r}")


@pytest.hookimpl(tryfirst=True)
def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> None:
    """There is something to test: load the topics."""
    if not parent.config.stash.get(_parts_are_loaded, False):
        parent.config.stash[_parts_are_loaded] = True
        for part in PARTS:
            parent.config.pluginmanager.import_plugin(part)
