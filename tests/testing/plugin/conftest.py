"""Projects of one test file, run by pytest with the plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import pytest

import miniagents
import miniagents.ext.llm.openai
import miniagents_testing

if TYPE_CHECKING:
    from collections.abc import Callable

# What is imported in a run of `pytester` is forgotten after it: modules that come with their first use would be there
# twice.
for package in (miniagents, miniagents_testing):
    for name in package.__all__:
        getattr(package, name)
for library in (httpx, httpx2):
    library.HTTPTransport()  # the connections below it come with the first transport


@pytest.fixture
def project(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Writes a test file, and runs pytest on it in this process.

    Warnings are errors there, unknown markers too, and pytest-asyncio is in its strict mode.
    """

    def run(source: str, *arguments: str, ini: str = "", **files: str) -> pytest.RunResult:
        lines = ["[pytest]", "filterwarnings = error", "addopts = --strict-markers", ini]
        if "no:asyncio" not in arguments:
            lines.append("asyncio_default_fixture_loop_scope = function")
        pytester.makeini("\n".join(lines))
        header = (
            "import asyncio, socket\nimport pytest\n"
            "from miniagents_testing import VirtualTimeLoop, run_in_virtual_time, schedules\n"
        )
        names: dict[str, Any] = {name: f"{header}{text}" for name, text in files.items()}
        pytester.makepyfile(**names, test_it=f"{header}{source}")
        return pytester.runpytest_inprocess("-p", "no:randomly", "-p", "no:cacheprovider", *arguments)

    return run
