"""Peer langchain-core: its models and chains are runnables; `RunnableGenerator` passes tokens on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from langchain_anthropic import ChatAnthropic
from langchain_core.runnables import RunnableGenerator, RunnableLambda
from langchain_openai import ChatOpenAI

from benchmarks.bare import passed_on, tokens_of
from benchmarks.peers.peer import Peer, main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI

    from benchmarks.provider import Answer


async def said(counts: AsyncIterator[int]) -> AsyncIterator[str]:
    async for count in counts:
        async for token in tokens_of(count):
            yield token


async def tokens(count: int, agents: int) -> int:
    chain: Any = RunnableGenerator(said)
    for _ in range(agents - 1):
        chain |= RunnableGenerator(passed_on)
    came = 0
    async for _ in chain.astream(count):
        came += 1
    return came


async def echo(message: tuple[str, int]) -> str:
    text, turns = message
    for _ in range(turns):
        await asyncio.sleep(0)
    return text


ECHO: Any = RunnableLambda(echo)


async def call(turns: int) -> str:
    return str(await ECHO.ainvoke(("hello", turns)))


def answer_of(model: Any) -> Answer:
    async def answer() -> AsyncIterator[object]:
        async for chunk in model.astream("Tell me something"):
            if chunk.content:
                yield chunk

    return answer


def openai(client: AsyncOpenAI) -> Answer:
    completions = client.chat.completions
    return answer_of(ChatOpenAI(model="gpt-4o", api_key="none", async_client=completions, root_async_client=client))


def anthropic(client: AsyncAnthropic) -> Answer:
    model = ChatAnthropic(model="claude-sonnet-4-20250514", api_key="none")
    model.__dict__["_async_client"] = client  # a cached property; it takes no client, and no HTTP client
    return answer_of(model)


PACKAGES = ("langchain-core", "langchain-openai", "langchain-anthropic")
PEER = Peer(packages=PACKAGES, tokens=tokens, call=call, openai=openai, anthropic=anthropic)

if __name__ == "__main__":
    main(PEER)
