"""The laws of the framework are tried harder than other properties."""

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
    """A property takes its settings when its module is imported: those of MINIAGENTS_TEST_EFFORT, for these modules."""
    if collector.config.getoption("--hypothesis-profile", None):
        return (yield)  # who says so means all properties
    settings.load_profile(os.environ.get("MINIAGENTS_TEST_EFFORT") or "default")
    try:
        return (yield)
    finally:
        settings.load_profile("default")
