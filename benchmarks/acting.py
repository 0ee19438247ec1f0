"""Cost of agents that act: a tool loop and an answer of a type, compared with the same by hand on OpenAI's SDK.

The provider is on a socket in another process, so that the CPU time is that of the client alone. The last rows read
what has arrived: its events, and its JSON while it grows.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from openai import AsyncOpenAI
from pydantic_core import from_json

from benchmarks.bare import consume
from benchmarks.by_hand import acting as by_hand
from benchmarks.measure import Plan, Side, Table, main
from benchmarks.served import acting_provider
from benchmarks.tokens import finished
from miniagents import Limits, Message, MiniAgents, TextDelta
from miniagents.ext.llm.openai import create_openai_agent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from miniagents import MessagePromise


def tools(client: AsyncOpenAI, **options: Any) -> Side:
    """Return a side that answers a question with a tool; `options` are those of the call, such as limits."""
    agent = create_openai_agent("gpt-4o", async_client=client, tools=[by_hand.get_weather])

    async def side() -> None:
        words = 0
        last = agent.trigger(by_hand.QUESTION["content"], **options).last
        async for _ in last:
            words += 1
        assert words == by_hand.WORDS

    return side


def output(client: AsyncOpenAI) -> Side:
    """Return a side that asks for an answer of a type."""
    agent = create_openai_agent("gpt-4o", async_client=client, output=by_hand.Forecast)

    async def side() -> None:
        answer = await agent.trigger(by_hand.QUESTION["content"]).last
        assert answer.parsed == by_hand.FORECAST

    return side


async def benchmark(plan: Plan) -> Table:
    """Measure runs over a socket, and readers of what has arrived."""
    table = Table("Agents that act")
    with acting_provider() as url:
        async with MiniAgents(), AsyncOpenAI(api_key="none", base_url=f"{url}/v1") as client:
            row: dict[str, Any] = {"units": 1, "unit": "us a run", "base_name": "by hand on the SDK", "repeat": 20}
            base = by_hand.tools(client)
            await table.compare("2 requests, 3 calls", base, tools(client), plan, goal=1.0, **row)
            limited = tools(
                client,
                limits=Limits(requests=10, output_tokens=100_000),
                stream_options={"include_usage": True},  # which limits of tokens need
            )
            await table.compare("the same, with limits", base, limited, plan, goal=1.0, **row)
            base = by_hand.output(client)
            await table.compare("an answer of a type", base, output(client), plan, goal=1.0, **row)
    async with MiniAgents():
        await _events(table, plan)
        await _partial_json(table, plan)
    return table


async def _events(table: Table, plan: Plan) -> None:
    """Compare events of a finished message with reading its tokens again."""
    size = plan.sized(100_000)
    promise = await finished(size)

    async def again() -> None:
        await consume(aiter(promise))

    async def events() -> None:
        count = 0
        async for event in promise.events():
            count += type(event) is TextDelta
        assert count == size

    await table.compare("events()", again, events, plan, units=size, base_name="reading tokens again", goal=10)


async def _partial_json(table: Table, plan: Plan) -> None:
    """Compare `partial_json` with parsing the text at each token: a text of 9 KB in tokens of 4 characters."""
    cities = [{"name": f"city {number}", "days": [1, 2, 3]} for number in range(9 if plan.quick else 220)]
    text = json.dumps({"title": "dry", "cities": cities})
    pieces = [text[start : start + 4] for start in range(0, len(text), 4)]

    async def stream(_: dict[str, Any]) -> AsyncIterator[str]:
        for piece in pieces:
            yield piece

    def promise() -> MessagePromise:
        return Message.promise(message_token_streamer=stream)

    async def at_each_token() -> None:
        so_far = ""
        values: list[Any] = []
        async for token in promise():
            so_far += token
            values[:] = [from_json(so_far, allow_partial="trailing-strings")]
        assert len(values[0]["cities"]) == len(cities)

    async def growing() -> None:
        values = [value async for value in promise().partial_json()]
        assert len(values[-1]["cities"]) == len(cities)

    name = f"partial_json of {len(text) / 1000:.0f} KB"
    base = "parsing at each token"
    await table.compare(name, at_each_token, growing, plan, units=1, unit="us a text", base_name=base, goal=0.25)


if __name__ == "__main__":
    main(benchmark)
