"""Scripted models for tests, and a provider's server that answers from a script; both must be used up."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from miniagents_testing._pytest import extra_needed, open_until_the_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from miniagents_testing._provider_server import ProviderServer
    from miniagents_testing._scripted import ScriptedLLM


@pytest.fixture
def scripted_llm(request: pytest.FixtureRequest) -> Callable[..., ScriptedLLM]:
    """Makes models that answer from a script: `scripted_llm(["first answer", "second"])`, as `ScriptedLLM` does.

    The test fails when steps are left, or when there was a call too much.
    """
    with extra_needed("scripted_llm"):
        from miniagents_testing._scripted import ScriptedLLM

    def make(*args: Any, **kwargs: Any) -> ScriptedLLM:
        return open_until_the_end(request.node, _used_up(ScriptedLLM(*args, **kwargs)))

    return make


@pytest.fixture
def provider_server(request: pytest.FixtureRequest) -> Callable[..., ProviderServer]:
    """Starts local servers that answer from a script: `provider_server(["Hello"])`, as `ProviderServer` does.

    The test may connect to this machine then. It fails when steps are left, or when there was a call too much.
    """
    with extra_needed("provider_server"):
        from miniagents_testing._provider_server import ProviderServer

    def make(*args: Any, **kwargs: Any) -> ProviderServer:
        server = ProviderServer(*args, **kwargs)
        open_until_the_end(request.node, server)
        open_until_the_end(request.node, _used_up(server.llm))
        return server

    return make


@contextmanager
def _used_up(llm: ScriptedLLM) -> Iterator[ScriptedLLM]:
    yield llm
    llm.assert_complete()
