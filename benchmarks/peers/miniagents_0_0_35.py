"""Peer miniagents 0.0.35, in an environment of its own: an older framework of the same name and ideas."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from benchmarks.bare import TOKEN, consume
from benchmarks.peers.peer import Peer, main
from miniagents import MiniAgents, TextMessage, TextToken, miniagent
from miniagents.ext.llms.anthropic import AnthropicAgent
from miniagents.ext.llms.openai import OpenAIAgent

if TYPE_CHECKING:
    from benchmarks.peers.peer import Counted
    from benchmarks.provider import Answer


async def tokens_of(count: int):
    """Yield tokens as objects, as this framework needs them."""
    token = TOKEN
    for _ in range(count):
        yield TextToken(token)


@miniagent
async def source(ctx, count: int) -> None:
    ctx.reply(TextMessage.promise(message_token_streamer=lambda _: tokens_of(count)))


@miniagent
async def pass_on(ctx) -> None:
    ctx.reply(ctx.message_promises)


@miniagent
async def echo(ctx, turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
    ctx.reply(ctx.message_promises)


async def tokens(count: int, agents: int) -> int:
    replies = source.trigger(count=count)
    for _ in range(agents - 1):
        replies = pass_on.trigger(replies)
    came = 0
    async for promise in replies:
        await consume(promise)
        came += len((await promise).content) // len(TOKEN)
    return came


async def second_reader(count: int) -> Counted:
    [promise] = [promise async for promise in source.trigger(count=count)]
    await promise

    async def again() -> int:
        await consume(promise)
        return len((await promise).content) // len(TOKEN)

    return again


HELLO = TextMessage("hello")


async def call(turns: int) -> str:
    [reply] = await echo.trigger(HELLO, turns=turns)
    return reply.content


def answer_of(agent: Any, **options: Any) -> Answer:
    async def answer():
        async for promise in agent.trigger("Tell me something", **options):
            async for token in promise:
                if token.content:
                    yield token

    return answer


def openai(client) -> Answer:
    return answer_of(OpenAIAgent.fork(non_freezable_kwargs={"async_client": client}), model="gpt-4o")


def anthropic(client) -> Answer:
    return answer_of(AnthropicAgent.fork(non_freezable_kwargs={"async_client": client}), model="claude", max_tokens=9)


PEER = Peer(
    packages=("miniagents",),
    tokens=tokens,
    call=call,
    second_reader=second_reader,
    openai=openai,
    anthropic=anthropic,
    context=MiniAgents,
)

if __name__ == "__main__":
    main(PEER)
