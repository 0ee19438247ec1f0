"""Cost of answers of providers as they come to users: short, paced, many at once, and over a socket.

Each is read by our agent and by the provider's own SDK. The provider on a socket is another process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anthropic import AsyncAnthropic
from pydantic_core import from_json

from benchmarks.decoding import through
from benchmarks.measure import Plan, Side, Table, main
from benchmarks.provider import (
    ANTHROPIC,
    API,
    BY_SDK,
    OPENAI,
    TURN,
    anthropic_chunks,
    bytes_only,
    first_token,
    http_client,
    openai_client,
    over_a_socket,
    raw_anthropic,
    unpaced,
)
from miniagents import MiniAgent, MiniAgents
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from openai import AsyncOpenAI

    from benchmarks.provider import Answer


def openai_agent(client: AsyncOpenAI) -> MiniAgent[Any]:
    """Return an agent of a client of OpenAI."""
    return create_openai_agent("gpt-4o", async_client=client)


def anthropic_agent(client: AsyncAnthropic) -> MiniAgent[Any]:
    """Return an agent of a client of Anthropic."""
    return create_anthropic_agent("claude", async_client=client)


def answer_of(agent: MiniAgent[Any]) -> Answer:
    """Return a function that asks the agent, and yields the tokens of its answer."""

    async def answer() -> AsyncIterator[str]:
        async for promise in agent.trigger("Tell me something"):
            async for token in promise:
                yield token

    return answer


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


def asked(client: AsyncAnthropic) -> Side:
    """Return a side that sends a request with the SDK, and reads nothing of the answer."""

    async def side() -> None:
        request: Any = client.messages.with_streaming_response.create
        async with request(model="claude", max_tokens=9, messages=[TURN], stream=True):
            pass

    return side


async def _requests(table: Table, plan: Plan) -> None:
    """Compare reading an answer of one chunk with its request alone, by the SDK and by httpx2."""
    row: dict[str, Any] = {"units": 1, "unit": "us a request", "base_name": BY_SDK, "repeat": 300}
    chunks = anthropic_chunks(1)
    async with AsyncAnthropic(api_key="none", http_client=http_client(chunks)) as client:
        base = raw_anthropic(client, 1)
        quiet = client.with_options(open_telemetry=False)
        for name, side in (
            ("the SDK's request alone", asked(client)),
            ("the SDK's request alone, without spans", asked(quiet)),
            ("httpx2 alone", bytes_only(http_client(chunks), request={"messages": [TURN]})),
        ):
            await table.compare(f"Anthropic, 1 chunk: {name}", base, side, plan, **row)


async def _by_loop(table: Table, plan: Plan) -> None:
    """Compare agents with the SDK at one chunk a step of the loop, and with a few lines that decode by hand."""
    row: dict[str, Any] = {"units": 1, "unit": "us an answer"}
    words = plan.sized(300)
    anthropic = AsyncAnthropic(api_key="none", http_client=http_client(anthropic_chunks(words), paced=True))
    async with anthropic:
        sides = raw_anthropic(anthropic, words), through(anthropic_agent(anthropic), words)
        name = "Anthropic, 300 chunks, a step of the loop each"
        await table.compare(name, *sides, plan, repeat=5, base_name=BY_SDK, goal=0.45, **row)
    words = plan.sized(2_000)
    async with openai_client(words) as openai:
        sides = by_hand(openai, words), through(openai_agent(openai), words)
        name, base_name = "OpenAI, 2,000 chunks, beside decoding by hand", "8 lines without a check"
        await table.compare(name, *sides, plan, repeat=3, base_name=base_name, goal=1.2, **row)


async def benchmark(plan: Plan) -> Table:
    """Measure answers without a pace, at a pace, and over a socket."""
    table = Table("What a user feels: answers of providers")
    agents: tuple[tuple[API, Callable[[Any], MiniAgent[Any]]], ...]
    agents = (OPENAI, openai_agent), (ANTHROPIC, anthropic_agent)
    async with MiniAgents():
        for count, goals in ((20, (0.35, 0.8)), (1, (None, 1.1)), (300, (None, 0.25))):
            for (api, agent), goal in zip(agents, goals, strict=True):
                name = f"{api.name}, {count} chunk{'s' * (count > 1)}, unpaced"
                await unpaced(table, plan, api, _through(agent), count, name=name, goal=goal)
        await _requests(table, plan)
        await _by_loop(table, plan)
        for api, agent in agents:
            name = f"{api.name} over a socket, 300 chunks, 1 ms apart"
            await over_a_socket(table, plan, api, _through(agent), 300, 0.001, name=name, goal=0.5)
        for api, agent in agents:
            name = f"{api.name} over a socket, 200 answers at once, 100 chunks, 5 ms apart"
            await over_a_socket(table, plan, api, _through(agent), 100, 0.005, 200, name=name, goal=0.25)
        for api, agent in agents:
            name = f"{api.name} over a socket, time to the first token"
            await first_token(table, plan, api, _asked(agent), name=name, goal=1.05)
    return table


def _through(agent: Callable[[Any], MiniAgent[Any]]) -> Callable[[Any, int], Side]:
    """Return a function that makes an agent of a client, and returns a side that reads its answer."""
    return lambda client, words: through(agent(client), words)


def _asked(agent: Callable[[Any], MiniAgent[Any]]) -> Callable[[Any], Answer]:
    """Return a function that makes an agent of a client, and returns a function that asks it."""
    return lambda client: answer_of(agent(client))


if __name__ == "__main__":
    main(benchmark)
