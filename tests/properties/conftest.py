"""Settings of Hypothesis for the laws of the framework: more examples than for other properties."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Load the profile of MINIAGENTS_TEST_EFFORT while these modules are imported: properties take it then."""
    if collector.config.getoption("--hypothesis-profile", None):
        return (yield)  # the option applies to all properties
    settings.load_profile(os.environ.get("MINIAGENTS_TEST_EFFORT") or "default")
    try:
        return (yield)
    finally:
        settings.load_profile("default")
