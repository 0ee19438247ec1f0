"""The topics of the pytest plugin, one module each: options, markers, fixtures and hooks that belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

__all__ = ["FIXTURES", "asks_for_us"]

FIXTURES = frozenset({"virtual_clock"})
"""The fixtures of the plugin; a test that uses one gets the belt of `live_requests`."""


def asks_for_us(item: pytest.Item) -> bool:
    """Whether a test uses one of our markers or fixtures."""
    return any(mark.name.startswith("miniagents_") for mark in item.iter_markers()) or not FIXTURES.isdisjoint(
        getattr(item, "fixturenames", ())
    )
