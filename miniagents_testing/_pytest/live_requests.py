"""No live requests in tests that use the workshop, or in all tests of a project that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from miniagents_testing._pytest import asks_for_us
from miniagents_testing._pytest.cassettes import may_record

if TYPE_CHECKING:
    from collections.abc import Generator

    from miniagents_testing._network_guard import NetworkGuard

_guard: pytest.StashKey[NetworkGuard] = pytest.StashKey()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Put the guard on before any fixture is set up."""
    wanted = asks_for_us(item) or item.config.getini("miniagents_block_live_requests")
    if wanted and not may_record(item):
        from miniagents_testing._network_guard import NetworkGuard

        guard = item.stash[_guard] = NetworkGuard(allow_loopback=_allows_loopback(item))
        guard.start_blocking()
    return (yield from _watched(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """See what the test fails with."""
    return (yield from _watched(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Take the guard off after all fixtures, and fail the test whose refused requests nobody has seen."""
    try:
        return (yield from _watched(item))
    finally:
        guard = item.stash.get(_guard, None)
        if guard is not None:
            del item.stash[_guard]
            guard.stop_blocking()
            if swallowed := guard.swallowed():
                pytest.fail(str(swallowed), pytrace=False)


def _allows_loopback(item: pytest.Item) -> bool:
    return item.get_closest_marker("miniagents_allow_loopback") is not None or "provider_server" in getattr(
        item, "fixturenames", ()
    )


def _watched(item: pytest.Item) -> Generator[None, object, object]:
    try:
        return (yield)
    except BaseException as error:
        if (guard := item.stash.get(_guard, None)) is not None:
            guard.seen_in(error)
        raise
