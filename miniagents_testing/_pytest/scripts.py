"""Fixtures for scripted models and for local provider servers. The test fails if it leaves steps of a script unused."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from miniagents_testing._pytest import enter_until_test_ends, fail_without_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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

    return make


@pytest.fixture
def provider_server(request: pytest.FixtureRequest) -> Callable[..., ProviderServer]:
    """Return a function that starts servers with a script: `provider_server(["Hello"])`, as `ProviderServer` does.

    A test with this fixture may connect to this machine. It fails if steps are left, or if there was a call without a
    step.
    """
    with fail_without_extra("provider_server"):
        from miniagents_testing._provider_server import ProviderServer

    def make(*args: Any, **kwargs: Any) -> ProviderServer:
        """Start a server until the test ends; then check that its script was used completely."""
        server = ProviderServer(*args, **kwargs)
        enter_until_test_ends(request.node, server)
        enter_until_test_ends(request.node, _checked_for_unused_steps(server.llm))
        return server

    return make


@contextmanager
def _checked_for_unused_steps(llm: ScriptedLLM) -> Iterator[ScriptedLLM]:
    """Check at the end of the `with` block, unless it raises, that the model's script was used completely."""
    yield llm
    llm.assert_complete()
