"""Providers that a test reaches: scripted models and local servers as fixtures, and no live ones.

A test fails if it leaves steps of a script unused. The guard against live requests is there for tests that use the
plugin, or for all tests of a project that sets it in its ini.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from miniagents_testing._pytest import GUARD, enter_until_test_ends, fail_without_extra, uses_plugin
from miniagents_testing._pytest.cassettes import allowed_hosts, allows_loopback, may_record

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from miniagents_testing._hosts import AllowedHosts
    from miniagents_testing._provider_server import ProviderServer
    from miniagents_testing._scripted import ScriptedLLM


@pytest.fixture
def scripted_llm(request: pytest.FixtureRequest) -> Callable[..., ScriptedLLM]:
    """Return a function that makes models with a script: `scripted_llm(["first", "second"])`, as `ScriptedLLM` does.

    The test fails if steps are left, or if there was a call without a step.
    """
    with fail_without_extra("scripted_llm"):
        from miniagents_testing._scripted import ScriptedLLM

    def make(*args: Any, **kwargs: Any) -> ScriptedLLM:
        return enter_until_test_ends(request.node, _checked_for_unused_steps(ScriptedLLM(*args, **kwargs)))

    return _FunctionOfSteps("scripted_llm", make)


@pytest.fixture
def provider_server(request: pytest.FixtureRequest) -> Callable[..., ProviderServer]:
    """Return a function that starts servers with a script: `provider_server(["Hello"])`, as `ProviderServer` does.

    The servers run until the test ends, and the test may connect to this machine. The test fails if steps of a script
    are left, or if there was a call without a step.
    """
    with fail_without_extra("provider_server"):
        from miniagents_testing._provider_server import ProviderServer

    def make(*args: Any, **kwargs: Any) -> ProviderServer:
        """Start a server until the test ends; then check that its script was used completely."""
        server = ProviderServer(*args, **kwargs)
        enter_until_test_ends(request.node, server)
        enter_until_test_ends(request.node, _checked_for_unused_steps(server.llm))
        return server

    return _FunctionOfSteps("provider_server", make)


class _FunctionOfSteps:
    """Function of a fixture that gets a script; the error for an attribute says to call it first.

    Args:
        fixture: name of the fixture.
        make: the function.
    """

    def __init__(self, fixture: str, make: Callable[..., Any]) -> None:
        self._fixture = fixture
        self._make = make

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._make(*args, **kwargs)

    def __getattr__(self, name: str) -> NoReturn:
        """Raise `AttributeError`, with the line to write for an attribute of what the function returns."""
        raise AttributeError(
            f"the fixture {self._fixture} is a function: call it with the steps first, "
            f"`{self._fixture}([...]).{name}`, not `{self._fixture}.{name}`"
        )


@contextmanager
def _checked_for_unused_steps(llm: ScriptedLLM) -> Iterator[ScriptedLLM]:
    """Check at the end of the `with` block, unless it raises, that the model's script was used completely."""
    yield llm
    llm.assert_complete()


# --- the guard against live requests


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Start the guard before any fixture is set up, unless the test may record.

    Without the ini setting, only tests that use the plugin get a guard. Refusals that make the setup fail are marked as
    seen.
    """
    is_wanted = uses_plugin(item) or item.config.getini("miniagents_block_live_requests")
    if is_wanted and not may_record(item):
        from miniagents_testing._network_guard import NetworkGuard

        guard = item.stash[GUARD] = NetworkGuard(allow_loopback=allows_loopback(item), allow_hosts=_allowed_hosts(item))
        guard.start_blocking()
    return (yield from _mark_seen_errors(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Mark the refusals that the test fails with as seen."""
    return (yield from _mark_seen_errors(item))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Stop the guard after the teardown of all fixtures. Fail a test that has hidden a refused request."""
    try:
        return (yield from _mark_seen_errors(item))
    finally:
        guard = item.stash.get(GUARD, None)
        if guard is not None:
            del item.stash[GUARD]
            guard.stop_blocking()
            if unseen := guard.summarize_unseen():
                pytest.fail(str(unseen), pytrace=False)


def _allowed_hosts(item: pytest.Item) -> AllowedHosts | None:
    """Return the hosts that a test reaches in every mode, or None; the fixture reports those that cannot be read."""
    from miniagents_testing._hosts import AllowedHosts

    try:
        return AllowedHosts(allowed_hosts(item))
    except (TypeError, ValueError):
        return None


def _mark_seen_errors(item: pytest.Item) -> Generator[None, object, object]:
    """Run a phase of a test. Mark the refusals in its error as seen, because pytest reports them."""
    try:
        return (yield)
    except BaseException as error:
        if (guard := item.stash.get(GUARD, None)) is not None:
            guard.mark_seen(error)
        raise
