"""Cost of decoding a provider's stream through the real client: our agent, compared with the SDK's own stream.

The transport returns one event at a time and uses no network. The last rows use a socket on this machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from benchmarks.measure import Plan, Side, Table, main
from benchmarks.provider import (
    TURN,
    anthropic_chunks,
    anthropic_client,
    bytes_only,
    http_client,
    openai_chunks,
    openai_client,
    raw_anthropic,
    raw_openai,
)
from benchmarks.served import provider
from miniagents import MiniAgent, MiniAgents
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNKS = 2_000


def through(agent: MiniAgent[Any], words: int) -> Side:
    """Return a side that calls an agent, reads its answer token by token, and checks the number of tokens."""

    async def side() -> None:
        count = 0
        async for promise in agent.trigger("Tell me something"):
            async for _ in promise:
                count += 1
        assert count == words

    return side


async def benchmark(plan: Plan) -> Table:
    """Compare agents with SDKs, with raw bytes, and over a socket."""
    table = Table("A provider's stream")
    words = plan.sized(CHUNKS)
    openai, anthropic = openai_client(words), anthropic_client(words)
    openai_agent = create_openai_agent("gpt-4o", async_client=openai)
    anthropic_agent = create_anthropic_agent("claude", async_client=anthropic)
    async with MiniAgents(), openai, anthropic:
        await _pair(table, plan, "OpenAI chat", raw_openai(openai, words), through(openai_agent, words), words, 0.10)
        base, ours = raw_anthropic(anthropic, words), through(anthropic_agent, words)
        await _pair(table, plan, "Anthropic messages", base, ours, words, 0.35)
        await _floor(table, plan, "OpenAI chat", openai_chunks, through(openai_agent, words), words)
        await _floor(table, plan, "Anthropic messages", anthropic_chunks, ours, words)
        await _sockets(table, plan, words)
    return table


async def _pair(table: Table, plan: Plan, name: str, base: Side, ours: Side, words: int, goal: float) -> None:
    """Compare an agent with the SDK's own stream, and add the row with this name and goal."""
    await table.compare(
        name, base, ours, plan, units=words, unit="us a chunk", base_name="SDK create(stream=True)", goal=goal
    )


async def _floor(
    table: Table, plan: Plan, name: str, chunks: Callable[[int], list[bytes]], ours: Side, words: int
) -> None:
    """Compare an agent with reading the same chunks as bytes alone, and add the row."""
    async with http_client(chunks(words)) as client:
        base = bytes_only(client)
        await table.compare(
            f"{name}, beside the bytes", base, ours, plan, units=words, unit="us a chunk", base_name="aiter_raw"
        )


async def _sockets(table: Table, plan: Plan, words: int) -> None:
    """Compare agents over a socket with reading the raw bytes of the same response."""
    openai_request = {"model": "gpt-4o", "messages": [TURN], "stream": True}
    anthropic_request = {"model": "claude", "max_tokens": 9, "messages": [TURN], "stream": True}
    with provider(words) as url:
        openai = AsyncOpenAI(api_key="none", base_url=f"{url}/v1")
        anthropic = AsyncAnthropic(api_key="none", base_url=url)
        openai_agent = create_openai_agent("gpt-4o", async_client=openai)
        anthropic_agent = create_anthropic_agent("claude", async_client=anthropic)
        row: dict[str, Any] = {"units": words, "unit": "us a chunk", "base_name": "aiter_raw", "goal": 1.3}
        async with openai, anthropic, httpx2.AsyncClient() as client:
            base = bytes_only(client, f"{url}/v1/chat/completions", openai_request)
            await table.compare("OpenAI chat, over a socket", base, through(openai_agent, words), plan, **row)
            base = bytes_only(client, f"{url}/v1/messages", anthropic_request)
            await table.compare("Anthropic messages, over a socket", base, through(anthropic_agent, words), plan, **row)


if __name__ == "__main__":
    main(benchmark)
