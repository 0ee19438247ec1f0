"""Peer pydantic-ai: `Agent.run_stream` and `Agent.run` with its `FunctionModel`."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic_ai import Agent, NativeOutput
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from benchmarks.bare import tokens_of
from benchmarks.by_hand import acting
from benchmarks.peers.peer import Peer, main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI

    from benchmarks.peers.peer import Counted
    from benchmarks.provider import Answer


async def read(said: AsyncIterator[str]) -> int:
    count = 0
    async for _ in said:
        count += 1
    return count


async def tokens(count: int, agents: int) -> int:
    """Send tokens through agents whose runs are nested, because their cancel scopes must be."""
    async with AsyncExitStack() as stack:
        said = tokens_of(count)
        for _ in range(agents):
            agent = Agent(FunctionModel(stream_function=partial(passed_on, said)))
            result = await stack.enter_async_context(agent.run_stream("Tell me something"))
            said = result.stream_text(delta=True, debounce_by=None)
        return await read(said)


def passed_on(said: AsyncIterator[str], messages: Any, info: Any) -> AsyncIterator[str]:
    return said


def echoing(turns: int) -> Agent[Any, str]:
    async def echo(messages: Any, info: Any) -> ModelResponse:
        for _ in range(turns):
            await asyncio.sleep(0)
        return ModelResponse(parts=[TextPart(messages[-1].parts[-1].content)])

    return Agent(FunctionModel(echo))


ECHOES = echoing(0), echoing(1)


async def call(turns: int) -> str:
    return str((await ECHOES[turns].run("hello")).output)


def answer_of(agent: Agent[Any, str]) -> Answer:
    async def answer() -> AsyncIterator[str]:
        async with agent.run_stream("Tell me something") as result:
            async for token in result.stream_text(delta=True, debounce_by=None):
                yield token

    return answer


def openai(client: AsyncOpenAI) -> Answer:
    return answer_of(Agent(OpenAIChatModel("gpt-4o", provider=OpenAIProvider(openai_client=client))))


def anthropic(client: AsyncAnthropic) -> Answer:
    provider = AnthropicProvider(anthropic_client=client)
    return answer_of(Agent(AnthropicModel("claude-sonnet-4-20250514", provider=provider)))


def acting_model(client: AsyncOpenAI) -> OpenAIChatModel:
    return OpenAIChatModel("gpt-4o", provider=OpenAIProvider(openai_client=client))


def tools(client: AsyncOpenAI) -> Counted:
    agent: Agent[Any, str] = Agent(acting_model(client), tools=[acting.get_weather])

    async def side() -> int:
        async with agent.run_stream(acting.QUESTION["content"]) as result:
            return await read(result.stream_text(delta=True, debounce_by=None))

    return side


def output(client: AsyncOpenAI) -> Callable[[], Awaitable[object]]:
    agent: Agent[Any, Any] = Agent(acting_model(client), output_type=NativeOutput(acting.Forecast))

    async def side() -> object:
        async with agent.run_stream(acting.QUESTION["content"]) as result:
            return await result.get_output()

    return side


PACKAGES = ("pydantic-ai-slim",)
PEER = Peer(packages=PACKAGES, tokens=tokens, call=call, openai=openai, anthropic=anthropic, tools=tools, output=output)

if __name__ == "__main__":
    main(PEER)
