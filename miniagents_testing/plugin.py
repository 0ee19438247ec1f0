"""The pytest plugin: the door that pytest finds; each topic has a module of its own in `pytest_parts`.

It is loaded for everybody who runs pytest where this package is installed: nothing is imported here or there but the
standard library and pytest, nothing happens to tests that do not ask, and every option, ini name and marker begins
with "miniagents". What needs a package of an extra imports it when it is used.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("miniagents_testing.checks")

pytest_plugins = [
    "miniagents_testing.pytest_parts.cassettes",
    "miniagents_testing.pytest_parts.ending",
    "miniagents_testing.pytest_parts.live_requests",
    "miniagents_testing.pytest_parts.scripts",
    "miniagents_testing.pytest_parts.virtual_time",
]
