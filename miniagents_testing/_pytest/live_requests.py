"""No live requests in tests that use the workshop, or in all tests of a project that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from miniagents_testing._pytest import asks_for_us
from miniagents_testing._pytest.cassettes import may_record

if TYPE_CHECKING:
    from collections.abc import Generator

    from miniagents_testing._network_guard import Belt

_belt: pytest.StashKey[Belt] = pytest.StashKey()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Put the belt on before any fixture is set up."""
    wanted = asks_for_us(item) or item.config.getini("miniagents_block_live_requests")
    if wanted and not may_record(item):
        from miniagents_testing._network_guard import Belt

        belt = item.stash[_belt] = Belt(allow_loopback=_allows_loopback(item))
        belt.arm()
    return (yield from _watched(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """See what the test fails with."""
    return (yield from _watched(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Take the belt off after all fixtures, and fail the test whose refused requests nobody has seen."""
    try:
        return (yield from _watched(item))
    finally:
        belt = item.stash.get(_belt, None)
        if belt is not None:
            del item.stash[_belt]
            belt.disarm()
            if swallowed := belt.swallowed():
                pytest.fail(str(swallowed), pytrace=False)


def _allows_loopback(item: pytest.Item) -> bool:
    return item.get_closest_marker("miniagents_allow_loopback") is not None or "provider_server" in getattr(
        item, "fixturenames", ()
    )


def _watched(item: pytest.Item) -> Generator[None, object, object]:
    try:
        return (yield)
    except BaseException as error:
        if (belt := item.stash.get(_belt, None)) is not None:
            belt.seen_in(error)
        raise
