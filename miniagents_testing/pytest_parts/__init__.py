"""The topics of the pytest plugin, one module each: fixtures and hooks that belong together; see `plugin`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FIXTURES", "asks_for_us", "extra_needed"]

FIXTURES = frozenset({"provider_server", "scripted_llm", "stream_cassette", "virtual_clock"})
"""The fixtures of the plugin; a test that uses one gets the belt of `live_requests`."""


def asks_for_us(item: pytest.Item) -> bool:
    """Whether a test uses one of our markers or fixtures."""
    return any(mark.name.startswith("miniagents_") for mark in item.iter_markers()) or not FIXTURES.isdisjoint(
        getattr(item, "fixturenames", ())
    )


@contextmanager
def extra_needed(fixture: str) -> Iterator[None]:
    """Around the imports of a fixture: says how to install what is missing."""
    try:
        yield
    except ImportError as error:
        pytest.fail(
            f"the fixture {fixture} needs {error.name!r}. Install it with: pip install 'miniagents[testing]'",
            pytrace=False,
        )
