"""What a fixture opens for a test, and must be closed when the test has ended rather than at its teardown.

A cassette that was not played to its end, or a script that was not used up, is a failure of the test itself; and where
the test has failed already, it is not asked, but may add what it knows to the failure.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractContextManager

__all__ = ["open_until_the_end"]

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
