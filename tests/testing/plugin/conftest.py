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

# `pytester` removes the modules that a run has imported, so modules that are loaded at their first use would exist
# twice. They are loaded here, before any run.
for package in (miniagents, miniagents_testing):
    for name in package.__all__:
        getattr(package, name)
for library in (httpx, httpx2):
    library.HTTPTransport()  # imports the modules of connections


@pytest.fixture
def project(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Return a function that writes a test file, and runs pytest on it in this process.

    In that run, warnings and unknown markers are errors, and pytest-asyncio is in its strict mode.
    """

    def run(
        source: str, *arguments: str, ini: str = "", plugins: tuple[object, ...] = (), **files: str
    ) -> pytest.RunResult:
        lines = ["[pytest]", "filterwarnings = error", "addopts = --strict-markers", ini]
        if "no:asyncio" not in arguments:
            lines.append("asyncio_default_fixture_loop_scope = function")
        pytester.makeini("\n".join(lines))
        header = (
            "import asyncio, socket\nimport pytest\n"
            "from miniagents_testing import VirtualTimeLoop, run_in_virtual_time, schedules, search_schedules\n"
        )
        names: dict[str, Any] = {name: f"{header}{text}" for name, text in files.items()}
        pytester.makepyfile(**names, test_it=f"{header}{source}")
        options = ("-p", "no:randomly", "-p", "no:cacheprovider", *arguments)
        return pytester.runpytest_inprocess(*options, plugins=list(plugins))

    return run
