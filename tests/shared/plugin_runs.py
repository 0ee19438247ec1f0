"""Verdicts of a run of pytest inside a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def verdicts_of(result: pytest.RunResult) -> dict[str, str]:
    """Return the verdict on each test: passed, failed or skipped."""
    found: dict[str, str] = {}
    for report in result.reprec.getreports("pytest_runtest_logreport"):  # type: ignore[attr-defined]  # of pytester
        if report.when == "call" or report.outcome != "passed":
            found[report.nodeid] = report.outcome
    return found
