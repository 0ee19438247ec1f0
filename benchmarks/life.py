"""Cost of each step of a token's way from a provider's bytes to its reader.

Each row does the work of the row before it, and one step more. The table in
docs/explanation/architecture.md comes from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openai import AsyncOpenAI
from pydantic_core import from_json

from benchmarks.decoding import CHUNKS, through
from benchmarks.measure import Plan, Side, Table, main
from benchmarks.provider import TURN, http_client, openai_chunks
from miniagents import MiniAgents
from miniagents.ext.llm._sessions.chat import ChatSession
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.ext.llm.sse import SSEDecoder

if TYPE_CHECKING:
    from collections.abc import Callable

    Feed = Callable[[bytes], object]


def arriving(client: AsyncOpenAI, feed: Callable[[], Feed]) -> Side:
    """Return a side that sends the SDK's request, and passes each chunk of the response to a new `feed`."""

    async def side() -> None:
        take = feed()
        request: Any = client.chat.completions.with_streaming_response.create
        async with request(model="gpt-4o", messages=[TURN], stream=True) as response:
            async for chunk in response.http_response.aiter_raw():
                take(chunk)

    return side


def events() -> Feed:
    """Return a feed that decodes events."""
    return SSEDecoder().feed


def parsed() -> Feed:
    """Return a feed that decodes events and their JSON; only the last event of the API, `[DONE]`, is not JSON."""
    decoder = SSEDecoder()
    return lambda chunk: [from_json(event.data) for event in decoder.feed(chunk) if event.data != b"[DONE]"]


def deltas() -> Feed:
    """Return a feed that decodes events and reads their text and metadata."""
    decoder, take = SSEDecoder(), ChatSession().feed
    return lambda chunk: [take(event) for event in decoder.feed(chunk)]


def awaited(agent: Any) -> Side:
    """Return a side that calls an agent, and awaits its answer without reading tokens."""

    async def side() -> None:
        await agent.trigger("Tell me something")

    return side


async def benchmark(plan: Plan) -> Table:
    """Compare each step with the one before it."""
    table = Table("The life of one token")
    words = plan.sized(CHUNKS)
    chunks = openai_chunks(words)
    at_once = AsyncOpenAI(api_key="none", http_client=http_client(chunks))
    one_by_one = AsyncOpenAI(api_key="none", http_client=http_client(chunks, paced=True))
    async with MiniAgents(), at_once, one_by_one:
        agent = create_openai_agent("gpt-4o", async_client=at_once)
        woken = agent.fork(async_client=one_by_one)
        steps = {
            "the SDK's request, and raw bytes": arriving(at_once, lambda: len),
            "server-sent events": arriving(at_once, events),
            "their JSON": arriving(at_once, parsed),
            "the text in it, and all else that is kept": arriving(at_once, deltas),
            "appended to the message of an agent": awaited(agent),
            "read, when many have come": through(agent, words),
        }
        await _compare(table, plan, steps, words)
        steps = {
            "raw bytes, a turn of the loop each": arriving(one_by_one, lambda: len),
            "all of the above, read one by one": through(woken, words),
        }
        await _compare(table, plan, steps, words)
    return table


async def _compare(table: Table, plan: Plan, steps: dict[str, Side], words: int) -> None:
    """Add a row for each step but the first, compared with the step before it."""
    (before, base), *rest = steps.items()
    for name, side in rest:
        await table.compare(name, base, side, plan, units=words, base_name=before)
        row = table.rows[-1]
        table.facts[f"ns a token: {name}"] = row.measured.median - row.base.median
        before, base = name, side


if __name__ == "__main__":
    main(benchmark)
