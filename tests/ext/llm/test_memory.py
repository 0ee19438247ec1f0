"""Memory use of many calls that end in different ways."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from common import smallest_growth, steps

from miniagents.errors import LLMError, PromiseCancelledError
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.miniagents import InteractionContext, MiniAgents, miniagent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Effort
    from tests.ext.llm.conftest import Kit


@miniagent
async def boss(ctx: InteractionContext, agent: Any) -> None:
    """Reply the replies of another agent."""
    ctx.reply(agent.trigger(ctx.message_promises))


async def read(agent: Any) -> None:
    """Read the whole answer."""
    await boss.trigger("Hello", agent=agent)


async def leave(agent: Any) -> None:
    """Stop reading after one token, and drop the answer."""
    async for promise in agent.trigger("Hello"):
        async for _ in promise:
            break


async def cancel(agent: Any) -> None:
    """Cancel the answer after its first token."""
    async for promise in agent.trigger("Hello"):
        await anext(aiter(promise))
        promise.cancel()
        with pytest.raises(PromiseCancelledError):
            await promise


async def fail(agent: Any) -> None:
    """Read an answer that ends with an error."""
    with pytest.raises(LLMError):
        await boss.trigger("Hello", agent=agent)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("way", [read, leave, cancel, fail], ids=lambda way: way.__name__)
async def test_C18_memory_does_not_grow_with_the_number_of_calls(
    provider: str, way: Any, kit: Kit, effort: Effort, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten further calls, whose answers are read, left, cancelled or broken, leave less than one object in memory."""
    caplog.set_level(logging.CRITICAL)  # captured log records would stay in memory
    whole = kit.chat("Hi", "there") if provider == "openai" else kit.message("Hi", "there")
    start = whole[: 1 if provider == "openai" else 4]

    class Script:
        """Script of an answer, with a new error for each response."""

        def __iter__(self) -> Iterator[Any]:
            if way is read:
                return iter(whole)
            return iter([*start, httpx2.ReadError("reset") if way is fail else kit.HANG])

    wire = kit.Wire(kit.Reply(Script()))
    create: Any = create_openai_agent if provider == "openai" else create_anthropic_agent
    agent = create("m", async_client=getattr(wire, provider)(), retry=None)
    calls = effort(50, ci=100, nightly=5_000)

    async def call_often() -> None:
        for _ in range(calls):
            await way(agent)
            wire.requests.clear()
            wire.responses.clear()
        await steps(5)
        assert not context.tasks

    async with MiniAgents() as context:
        growth = await smallest_growth(call_often, below=calls // 10)
    assert wire.in_flight == 0
    assert growth < calls // 10  # less than one object for ten calls
