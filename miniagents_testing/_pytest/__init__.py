"""Topics of the pytest plugin, one module each: fixtures and hooks that belong together. `plugin` loads them.

This module has what the topics share: the names of the fixtures, the message for a missing extra, and contexts that are
closed at the end of the test's call, before the teardown of its fixtures. So an error of closing fails the test itself,
as with a cassette that was not played to its end. A test that has failed already gets no second failure for what it
has not used, but the context may add notes to its error.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from contextlib import AbstractContextManager

    from miniagents_testing._network_guard import NetworkGuard

__all__ = ["FIXTURES", "GUARD", "enter_until_test_ends", "fail_without_extra", "uses_plugin"]


FIXTURES = frozenset(
    {"module_cassette", "provider_server", "scripted_llm", "session_cassette", "stream_cassette", "virtual_clock"}
)
"""Names of the fixtures of the plugin. A test that uses one of them runs with the guard of `providers`."""


GUARD: pytest.StashKey[NetworkGuard] = pytest.StashKey()
"""The guard against live requests of a test that has one."""


def uses_plugin(item: pytest.Item) -> bool:
    """Return True if a test uses a marker or a fixture of the plugin."""
    return any(mark.name.startswith("miniagents_") for mark in item.iter_markers()) or not FIXTURES.isdisjoint(
        getattr(item, "fixturenames", ())
    )


@contextmanager
def fail_without_extra(fixture: str) -> Iterator[None]:
    """Fail the test if an import in the `with` block fails; the message says how to install the missing package."""
    try:
        yield
    except ImportError as error:
        from miniagents.errors import install_line

        pytest.fail(
            f"the fixture {fixture} needs {error.name!r}. Install it with: {install_line('testing')}",
            pytrace=False,
        )


_T = TypeVar("_T")

_opened: pytest.StashKey[ExitStack] = pytest.StashKey()


def enter_until_test_ends(item: pytest.Item, context: AbstractContextManager[_T]) -> _T:
    """Enter a context, and return what it gives.

    It is left after the call of the test, with the error of the test if there is one.
    """
    return item.stash.setdefault(_opened, ExitStack()).enter_context(context)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Leave the contexts of the test after its call; their errors are errors of the test."""
    with item.stash.setdefault(_opened, ExitStack()):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Leave, after the teardown, the contexts of a test that was not called because a fixture has failed."""
    try:
        return (yield)
    finally:
        if _opened in item.stash:
            left = item.stash[_opened]
            del item.stash[_opened]
            left.__exit__(*_NOT_RUN)


_NOT_RUN = (pytest.skip.Exception, pytest.skip.Exception("the test was not run"), None)
"""Error with which the contexts of such a test are left, so that they close without checks of what the test used."""
