"""Peer MiniAgents: the checkout itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.bare import TOKEN, consume
from benchmarks.by_hand import acting
from benchmarks.calls import agent_call
from benchmarks.peers.peer import Peer, main
from benchmarks.tokens import finished, pass_on, through
from miniagents import MiniAgents
from miniagents.ext.llm.openai import create_openai_agent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI

    from benchmarks.peers.peer import Counted
    from benchmarks.provider import Answer


async def tokens(count: int, agents: int) -> int:
    """Pass a message through agents by reference, and return the number of tokens that were read."""
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


def openai(client: AsyncOpenAI) -> Answer:
    from benchmarks.answers import answer_of, openai_agent  # imports the SDKs, which calls and tokens do not need

    return answer_of(openai_agent(client))


def anthropic(client: AsyncAnthropic) -> Answer:
    from benchmarks.answers import answer_of, anthropic_agent  # as above

    return answer_of(anthropic_agent(client))


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
    second_reader=second_reader,
    openai=openai,
    anthropic=anthropic,
    tools=tools,
    output=output,
    context=MiniAgents,
)

if __name__ == "__main__":
    main(PEER)
