"""Peer autogen-agentchat: `run_stream` with an event for each token, as its own assistant agent streams."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from autogen_agentchat.agents import AssistantAgent, BaseChatAgent
from autogen_agentchat.base import Response
from autogen_agentchat.messages import ModelClientStreamingChunkEvent, TextMessage
from autogen_ext.models.anthropic import AnthropicChatCompletionClient
from autogen_ext.models.openai import OpenAIChatCompletionClient

from benchmarks.bare import tokens_of
from benchmarks.peers.peer import Peer, main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from anthropic import AsyncAnthropic
    from autogen_agentchat.messages import BaseChatMessage
    from autogen_core import CancellationToken
    from openai import AsyncOpenAI

    from benchmarks.provider import Answer


class Streaming(BaseChatAgent):
    """Agent that streams tokens, made by itself or by an inner agent; the events carry the name of the outer agent."""

    def __init__(self, count: int, inner: Streaming | None = None) -> None:
        super().__init__("agent", "An agent")
        self.count = count
        self.inner = inner

    @property
    def produced_message_types(self) -> Sequence[type[BaseChatMessage]]:
        return (TextMessage,)

    async def on_messages(self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken) -> Response:
        raise NotImplementedError

    async def said(self, messages: Any, cancellation_token: CancellationToken) -> AsyncIterator[str]:
        assert self.inner is not None
        async for event in self.inner.on_messages_stream(messages, cancellation_token):
            if isinstance(event, ModelClientStreamingChunkEvent):
                yield event.content

    async def on_messages_stream(self, messages: Any, cancellation_token: CancellationToken) -> AsyncIterator[Any]:
        tokens = []
        async for token in self.said(messages, cancellation_token) if self.inner else tokens_of(self.count):
            tokens.append(token)
            yield ModelClientStreamingChunkEvent(content=token, source=self.name)
        yield Response(chat_message=TextMessage(content="".join(tokens), source=self.name))

    async def on_reset(self, cancellation_token: CancellationToken) -> None:
        """Do nothing, because the agent has no state."""


class Echo(Streaming):
    """Agent that replies the last message."""

    async def on_messages(self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken) -> Response:
        for _ in range(self.count):
            await asyncio.sleep(0)
        return Response(chat_message=messages[-1])


async def said_by(agent: Any) -> AsyncIterator[str]:
    async for event in agent.run_stream(task="Tell me something"):
        if isinstance(event, ModelClientStreamingChunkEvent):
            yield event.content


async def read(agent: Any) -> int:
    count = 0
    async for event in agent.run_stream(task="Tell me something"):
        if isinstance(event, ModelClientStreamingChunkEvent):
            count += 1
    return count


async def tokens(count: int, agents: int) -> int:
    agent = Streaming(count)
    for _ in range(agents - 1):
        agent = Streaming(count, agent)
    return await read(agent)


ECHOES = Echo(0), Echo(1)


async def call(turns: int) -> str:
    result = await ECHOES[turns].run(task="hello")
    return str(result.messages[-1].content)


def assistant(client: Any) -> Answer:
    """Return a function that makes a new assistant for each answer, because an assistant keeps earlier messages."""
    return lambda: said_by(AssistantAgent("agent", client, model_client_stream=True))


def openai(client: AsyncOpenAI) -> Answer:
    return assistant(
        OpenAIChatCompletionClient(
            model="gpt-4o", api_key="none", base_url=str(client.base_url), http_client=client._client
        )
    )


def anthropic(client: AsyncAnthropic) -> Answer:
    return assistant(
        AnthropicChatCompletionClient(
            model="claude-sonnet-4-20250514",
            api_key="none",
            base_url=str(client.base_url),
            http_client=client._client,
        )
    )


PACKAGES = ("autogen-agentchat", "autogen-ext")
PEER = Peer(packages=PACKAGES, tokens=tokens, call=call, openai=openai, anthropic=anthropic)

if __name__ == "__main__":
    main(PEER)
