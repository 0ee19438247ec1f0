"""Peer openai-agents: `Runner.run_streamed` and `Runner.run` with a model of fixed tokens; tracing is off."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from agents import (
    Agent,
    Model,
    ModelResponse,
    OpenAIChatCompletionsModel,
    Runner,
    Usage,
    function_tool,
    set_tracing_disabled,
)
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
)

from benchmarks.bare import tokens_of
from benchmarks.by_hand import acting
from benchmarks.peers.peer import Peer, main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from openai import AsyncOpenAI

    from benchmarks.peers.peer import Counted
    from benchmarks.provider import Answer


def message(text: str) -> ResponseOutputMessage:
    content = ResponseOutputText(text=text, type="output_text", annotations=[])
    return ResponseOutputMessage(id="1", content=[content], role="assistant", status="completed", type="message")


def completed(text: str) -> ResponseCompletedEvent:
    response = Response(
        id="1", created_at=1, model="none", object="response", output=[message(text)], tool_choice="auto", tools=[],
        parallel_tool_calls=False,
    )  # fmt: skip
    return ResponseCompletedEvent(response=response, sequence_number=0, type="response.completed")


def delta(token: str) -> ResponseTextDeltaEvent:
    return ResponseTextDeltaEvent(
        content_index=0, delta=token, item_id="1", logprobs=[], output_index=0, sequence_number=0,
        type="response.output_text.delta",
    )  # fmt: skip


class FixedTokens(Model):
    """Model that streams fixed tokens, or those of an inner agent."""

    def __init__(self, count: int, inner: Agent[Any] | None = None) -> None:
        self.count = count
        self.inner = inner

    async def get_response(self, *args: Any, **options: Any) -> ModelResponse:
        for _ in range(self.count):
            await asyncio.sleep(0)
        return ModelResponse(output=[message("hello")], usage=Usage(), response_id=None)

    async def stream_response(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
        tokens = []
        async for token in said_by(self.inner) if self.inner else tokens_of(self.count):
            tokens.append(token)
            yield delta(token)
        yield completed("".join(tokens))


async def said_by(agent: Agent[Any]) -> AsyncIterator[str]:
    async for event in Runner.run_streamed(agent, "Tell me something").stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            yield event.data.delta


async def read(agent: Agent[Any]) -> int:
    count = 0
    async for event in Runner.run_streamed(agent, "Tell me something").stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            count += 1
    return count


async def tokens(count: int, agents: int) -> int:
    agent: Agent[Any] = Agent("agent", model=FixedTokens(count))
    for _ in range(agents - 1):
        agent = Agent("agent", model=FixedTokens(count, agent))
    return await read(agent)


ECHOES: list[Agent[Any]] = [Agent("agent", model=FixedTokens(0)), Agent("agent", model=FixedTokens(1))]


async def call(turns: int) -> str:
    return str((await Runner.run(ECHOES[turns], "hello")).final_output)


def openai(client: AsyncOpenAI) -> Answer:
    agent: Agent[Any] = Agent("agent", model=OpenAIChatCompletionsModel("gpt-4o", client))
    return lambda: said_by(agent)


def tools(client: AsyncOpenAI) -> Counted:
    agent: Agent[Any] = Agent(
        "agent", model=OpenAIChatCompletionsModel("gpt-4o", client), tools=[function_tool(acting.get_weather)]
    )

    async def side() -> int:
        return await read(agent)

    return side


def output(client: AsyncOpenAI) -> Callable[[], Awaitable[object]]:
    agent: Agent[Any] = Agent("agent", model=OpenAIChatCompletionsModel("gpt-4o", client), output_type=acting.Forecast)

    async def side() -> object:
        result = Runner.run_streamed(agent, acting.QUESTION["content"])
        async for _ in result.stream_events():
            pass
        return result.final_output

    return side


PEER = Peer(packages=("openai-agents",), tokens=tokens, call=call, openai=openai, tools=tools, output=output)

if __name__ == "__main__":
    set_tracing_disabled(True)
    main(PEER)
