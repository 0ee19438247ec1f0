"""Peer MiniAgents: the checkout itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.bare import TOKEN, consume
from benchmarks.by_hand import acting
from benchmarks.calls import agent_call, agents_at_once
from benchmarks.peers.peer import Peer, main
from benchmarks.tokens import finished, pass_on, through
from miniagents import MiniAgent, MiniAgents
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI

    from benchmarks.peers.peer import Counted


async def tokens(count: int, agents: int) -> int:
    """Pass a message through agents by reference, and return the number of tokens read."""
    came = 0
    async for promise in through(count, *[pass_on] * (agents - 1)):
        await consume(aiter(promise))
        came += len(str(await promise)) // len(TOKEN)
    return came


async def second_reader(count: int) -> Counted:
    promise = await finished(count)

    async def again() -> int:
        await consume(aiter(promise))
        return len(str(await promise)) // len(TOKEN)

    return again


async def call(turns: int) -> str:
    [reply] = await agent_call(turns)
    return str(reply)


def read(agent: MiniAgent[Any]) -> Counted:
    async def side() -> int:
        count = 0
        async for promise in agent.trigger("Tell me something"):
            async for _ in promise:
                count += 1
        return count

    return side


def openai(client: AsyncOpenAI) -> Counted:
    return read(create_openai_agent("gpt-4o", async_client=client))


def anthropic(client: AsyncAnthropic) -> Counted:
    return read(create_anthropic_agent("claude", async_client=client))


def tools(client: AsyncOpenAI) -> Counted:
    agent = create_openai_agent("gpt-4o", async_client=client, tools=[acting.get_weather])

    async def side() -> int:
        count = 0
        async for _ in agent.trigger(acting.QUESTION["content"]).last:
            count += 1
        return count

    return side


def output(client: AsyncOpenAI) -> Callable[[], Awaitable[object]]:
    agent = create_openai_agent("gpt-4o", async_client=client, output=acting.Forecast)

    async def side() -> object:
        return (await agent.trigger(acting.QUESTION["content"]).last).parsed

    return side


PEER = Peer(
    packages=("pydantic", "openai", "anthropic"),
    tokens=tokens,
    call=call,
    at_once=agents_at_once,
    second_reader=second_reader,
    openai=openai,
    anthropic=anthropic,
    tools=tools,
    output=output,
    context=MiniAgents,
)

if __name__ == "__main__":
    main(PEER)
