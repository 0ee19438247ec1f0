"""Cost of answers of providers as they come to users: short, paced, many at once, and over a socket.

Each is read by our agent and by the provider's own SDK. The provider on a socket is another process.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pydantic_core import from_json

from benchmarks.decoding import through
from benchmarks.measure import Plan, Side, Table, main
from benchmarks.provider import (
    TURN,
    anthropic_chunks,
    anthropic_client,
    http_client,
    openai_client,
    raw_anthropic,
    raw_openai,
)
from benchmarks.served import provider
from miniagents import MiniAgents
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_ROW: dict[str, Any] = {"unit": "us an answer", "base_name": "SDK create(stream=True)"}


def by_hand(client: AsyncOpenAI, words: int) -> Side:
    """Return a side that reads the lines of an answer, and the text in their JSON, without any check."""

    async def side() -> None:
        count = 0
        request: Any = client.chat.completions.with_streaming_response.create
        async with request(model="gpt-4o", messages=[TURN], stream=True) as response:
            async for line in response.iter_lines():
                if line.startswith("data: {"):
                    count += bool(from_json(line[6:])["choices"][0]["delta"].get("content"))
        assert count == words

    return side


def many(side: Side, count: int) -> Side:
    """Return a side that reads so many answers at once."""

    async def sides() -> None:
        await asyncio.gather(*[side() for _ in range(count)])

    return sides


async def _unpaced(table: Table, plan: Plan) -> None:
    """Compare answers whose bytes are all there: of 20 chunks, of one, and of 300."""
    for count, goals in ((20, (0.35, 0.8)), (1, (None, 1.1)), (300, (None, 0.25))):
        words, repeat = plan.sized(count), max(1, 300 // count)
        openai, anthropic = openai_client(words), anthropic_client(words)
        async with openai, anthropic:
            row = {"units": 1, "repeat": repeat, **_ROW}
            agent = through(create_openai_agent("gpt-4o", async_client=openai), words)
            name = f"{count} chunk{'s' * (count > 1)}, unpaced"
            await table.compare(f"OpenAI, {name}", raw_openai(openai, words), agent, plan, goal=goals[0], **row)
            agent = through(create_anthropic_agent("claude", async_client=anthropic), words)
            base = raw_anthropic(anthropic, words)
            await table.compare(f"Anthropic, {name}", base, agent, plan, goal=goals[1], **row)


async def _paced(table: Table, plan: Plan) -> None:
    """Compare an answer of Anthropic that comes at the pace of the loop, and decoding with a few lines by hand."""
    words = plan.sized(300)
    anthropic = AsyncAnthropic(api_key="none", http_client=http_client(anthropic_chunks(words), paced=True))
    async with anthropic:
        agent = through(create_anthropic_agent("claude", async_client=anthropic), words)
        name = "Anthropic, 300 chunks, a step of the loop each"
        await table.compare(name, raw_anthropic(anthropic, words), agent, plan, units=1, repeat=5, goal=0.45, **_ROW)
    words = plan.sized(2_000)
    async with openai_client(words) as openai:
        agent = through(create_openai_agent("gpt-4o", async_client=openai), words)
        name, base_name = "OpenAI, 2,000 chunks, beside decoding by hand", "8 lines without a check"
        row = {**_ROW, "base_name": base_name, "goal": 1.2}
        await table.compare(name, by_hand(openai, words), agent, plan, units=1, repeat=3, **row)


async def _over_a_socket(table: Table, plan: Plan) -> None:
    """Compare paced answers over a socket: one, and 200 at once; and the time to the first token on the clock."""
    for name, count, gap, at_once, goal in (
        ("OpenAI over a socket, 300 chunks, 1 ms apart", 300, 0.001, 1, 0.5),
        ("200 answers at once over a socket, 100 chunks, 5 ms apart", 100, 0.005, 200, 0.25),
    ):
        words = plan.sized(count)
        with provider(words, gap=gap) as url:
            async with AsyncOpenAI(api_key="none", base_url=f"{url}/v1") as client:
                number = plan.sized(at_once)
                base = many(raw_openai(client, words), number)
                ours = many(through(create_openai_agent("gpt-4o", async_client=client), words), number)
                await table.compare(name, base, ours, plan, units=number, goal=goal, **_ROW)
    with provider(1) as url:
        async with AsyncOpenAI(api_key="none", base_url=f"{url}/v1") as client:
            agent = create_openai_agent("gpt-4o", async_client=client)
            taken: tuple[list[float], list[float]] = ([], [])
            for _ in range(plan.sized(300)):
                for times, first in zip(taken, (_first_of_sdk(client), _first_of_agent(agent)), strict=True):
                    times.append(await _milliseconds(first))
    name = "time to the first token over a socket"
    table.add(name, "ms on the clock", *taken, base_name=_ROW["base_name"], goal=1.05)


async def _milliseconds(first: Callable[[], Awaitable[float]]) -> float:
    """Return the milliseconds on the clock until the first token."""
    started = time.perf_counter()
    return (await first() - started) * 1000


def _first_of_sdk(client: AsyncOpenAI) -> Callable[[], Awaitable[float]]:
    async def first() -> float:
        came = 0.0
        async for chunk in await client.chat.completions.create(model="gpt-4o", messages=[TURN], stream=True):
            if not came and chunk.choices[0].delta.content:
                came = time.perf_counter()
        return came

    return first


def _first_of_agent(agent: Any) -> Callable[[], Awaitable[float]]:
    async def first() -> float:
        came = 0.0
        async for promise in agent.trigger("Tell me something"):
            async for _ in promise:
                came = came or time.perf_counter()
        return came

    return first


async def benchmark(plan: Plan) -> Table:
    """Measure answers without a pace, at a pace, and over a socket."""
    table = Table("What a user feels: answers of providers")
    async with MiniAgents():
        await _unpaced(table, plan)
        await _paced(table, plan)
        await _over_a_socket(table, plan)
    return table


if __name__ == "__main__":
    main(benchmark)
