"""The topics of the pytest plugin, one module each: fixtures and hooks that belong together; see `plugin`.

What a fixture opens for a test, and must be closed when the test has ended rather than at its teardown.

A cassette that was not played to its end, or a script that was not used up, is a failure of the test itself; and where
the test has failed already, it is not asked, but may add what it knows to the failure.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from contextlib import AbstractContextManager

__all__ = ["FIXTURES", "asks_for_us", "extra_needed", "open_until_the_end"]


FIXTURES = frozenset({"provider_server", "scripted_llm", "stream_cassette", "virtual_clock"})
"""The fixtures of the plugin; a test that uses one gets the guard of `live_requests`."""


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


T = TypeVar("T")

_opened: pytest.StashKey[ExitStack] = pytest.StashKey()


def open_until_the_end(item: pytest.Item, context: AbstractContextManager[T]) -> T:
    """Enter a context that is left when the test has run, with its error if it has one."""
    return item.stash.setdefault(_opened, ExitStack()).enter_context(context)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Leave what was opened; an error of that is one of the test."""
    with item.stash.setdefault(_opened, ExitStack()):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Leave what was opened for a test that was never run, because another fixture has failed."""
    try:
        return (yield)
    finally:
        if _opened in item.stash:
            left = item.stash[_opened]
            del item.stash[_opened]
            left.__exit__(*_NOT_RUN)


_NOT_RUN = (pytest.skip.Exception, pytest.skip.Exception("the test was not run"), None)
"""What contexts are left with then: they are to close, and not to ask what was done with them."""
