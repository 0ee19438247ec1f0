"""Agents on live providers, so that checks show whether scripts and recordings behave like the provider.

They are made only where the environment asks for them and has a key.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from miniagents import MiniAgent

__all__ = ["VARIABLE", "live_agents"]

VARIABLE = "MINIAGENTS_LIVE"
"""Environment variable that names live providers: `openai:MODEL,anthropic:MODEL`, either or both."""

_KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}


def live_agents(
    wanted: str | None = None, *, environ: Mapping[str, str] = os.environ
) -> dict[str, Callable[[], MiniAgent[Any]]]:
    """Return functions that make agents on the named live providers.

    Each check of such an agent costs tokens: `check_agent` makes seven calls.

    Args:
        wanted: `openai:MODEL,anthropic:MODEL`; by default the value of the variable `MINIAGENTS_LIVE`.
        environ: environment with the keys, which are read now and given to the clients.

    Raises:
        ValueError: a provider is unknown or has no key in the environment, or its model is missing.
    """
    makers: dict[str, Callable[[], MiniAgent[Any]]] = {}
    for each in filter(None, (environ.get(VARIABLE, "") if wanted is None else wanted).split(",")):
        provider, _, model = each.strip().partition(":")
        if provider not in _KEYS or not model:
            raise ValueError(f"{each!r} names no live provider: say openai:MODEL or anthropic:MODEL")
        key = environ.get(_KEYS[provider])
        if not key:
            raise ValueError(f"live checks on {provider} need a key in {_KEYS[provider]}")
        makers[f"{provider}:{model}"] = _maker(provider, model, key)
    return makers


def _maker(provider: str, model: str, key: str) -> Callable[[], MiniAgent[Any]]:
    """Return a function that makes an agent of a provider."""

    def make() -> MiniAgent[Any]:
        if provider == "openai":
            import openai

            return create_openai_agent(model, async_client=openai.AsyncOpenAI(api_key=key))
        import anthropic

        return create_anthropic_agent(model, async_client=anthropic.AsyncAnthropic(api_key=key), max_tokens=100)

    return make
