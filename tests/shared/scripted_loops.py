"""Agents of scripted models on each API, and the cancellation of tool loops whose replies are stored."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from miniagents import MiniAgents, PromiseCancelledError
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent

if TYPE_CHECKING:
    from collections.abc import Callable

    from miniagents import ChatHistory, MiniAgent
    from miniagents_testing import ScriptedLLM
    from miniagents_testing._cancelling import Trial

__all__ = ["agent_of", "store_while_cancelled"]


def agent_of(llm: ScriptedLLM, kind: str, **settings: Any) -> MiniAgent[Any]:
    """Return an agent on the real SDK of an API, over a transport that answers from a script, or a scripted one.

    Args:
        llm: the script.
        kind: "chat", "responses" or "messages" for an SDK; "scripted" for an agent without an SDK.
        settings: settings of the agent.
    """
    if kind == "messages":
        return create_anthropic_agent("m", async_client=llm.anthropic_client(), retry=None, **settings)
    if kind == "scripted":
        return llm.agent(**settings)
    api: Any = kind
    return create_openai_agent("m", async_client=llm.openai_client(), api=api, retry=None, **settings)


async def store_while_cancelled(
    trial: Trial, victim: str, agent: MiniAgent[Any], history: ChatHistory, note_effects: Callable[[], object]
) -> None:
    """Send an agent a message, and store its replies while the victim is cancelled at the trial's step.

    Args:
        trial: the trial that cancels.
        victim: "replies", "storing" (the task that stores them) or "run".
        agent: the agent.
        history: where the replies are stored.
        note_effects: called when storing has ended, to note what the tools have done by then.
    """

    async def store() -> None:
        """Store the replies, and note the effects until then."""
        try:
            await history.aappend(replies)
        finally:
            note_effects()

    async with MiniAgents():
        replies = agent.trigger("Hi")
        storing = asyncio.create_task(store(), name="storing")
        if victim != "run":
            trial.victim(replies if victim == "replies" else storing)
        try:
            await asyncio.shield(storing) if victim == "run" else await asyncio.wait([storing])
        finally:
            if victim == "run":
                storing.cancel()
            replies.cancel()
        if not storing.cancelled() and storing.exception() is not None:
            assert isinstance(storing.exception(), PromiseCancelledError)
