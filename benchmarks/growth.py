"""Growth of cost: the cost of one unit when there are n, 2n, 4n and 8n of them. It stays the same if cost is linear."""

from __future__ import annotations

import asyncio
import gc
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.bare import at_once, bare_call, consume, generator
from benchmarks.calls import agents_at_once
from benchmarks.cassettes import interaction, replayed
from benchmarks.decoding import through as read_by
from benchmarks.measure import Curve, Plan, Side, Spread, Table, main, seconds
from benchmarks.messages import answer, dialog, dialog_without_agents, join, split
from benchmarks.provider import anthropic_client, openai_chunks, openai_client
from benchmarks.tokens import finished, ours, pass_on, stream_again, through
from miniagents import Message, MiniAgents
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing.cassette import load, save

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

FACTORS = (1, 2, 4, 8)
GOAL = 1.15
"""Highest accepted cost of a unit at 8n, divided by its cost at n. Linear is 1; ratios vary by up to 10 %."""


@dataclass(frozen=True)
class Work:
    """Work that is measured at several sizes."""

    name: str
    size: int
    """The smallest size, n."""
    unit: str
    of: Callable[[int], Side | Awaitable[Side]]
    """Function that prepares the work of one size; the preparation is not measured."""
    units: Callable[[int], int] = lambda size: size
    """Function that returns the number of units in the work of one size."""
    goal: float | None = GOAL


async def measure(work: Work, plan: Plan) -> Curve:
    """Measure the work at all sizes, in turn."""
    sizes = [plan.sized(work.size) * factor for factor in FACTORS]
    sides = []
    for size in sizes:
        side = work.of(size)
        sides.append(side if callable(side) else await side)
        await sides[-1]()
    scale = 1e9 if work.unit.startswith("ns") else 1e6
    rounds = [
        [await seconds(side) * scale / work.units(size) for side, size in zip(sides, sizes, strict=True)]
        for _ in range(min(plan.rounds, 5))  # the four sizes take long
    ]
    costs = [Spread.of(list(costs)) for costs in zip(*rounds, strict=True)]
    return Curve(work.name, work.unit, sizes, costs, Spread.of([costs[-1] / costs[0] for costs in rounds]), work.goal)


def side(work: Callable[[int], Awaitable[object]], size: int) -> Side:
    """Return the work of one size as a function without arguments."""
    return lambda: work(size)


async def second_reader(count: int) -> Side:
    """Return a side that reads a finished stream again."""
    promise = await finished(count)
    return lambda: consume(aiter(promise))


def ten_readers(count: int) -> Side:
    """Return a side where ten readers read one stream at once."""

    async def side() -> None:
        async for promise in through(count):
            await asyncio.gather(*(consume(aiter(promise)) for _ in range(10)))

    return side


def without_collector(count: int) -> Side:
    """Return a side that makes agent calls at once while the garbage collector is off."""

    async def side() -> None:
        gc.disable()
        try:
            await agents_at_once(count)()
        finally:
            gc.enable()

    return side


def one_token_through(agent: Any) -> Callable[[int], Side]:
    """Return a function that makes a side for a number of agents in a chain."""
    return lambda length: ours(1, *[agent] * length)


def deep(depth: int) -> Side:
    """Return a side that nests messages `depth` levels deep, and computes the hash."""

    async def side() -> None:
        message = Message("hello")
        for _ in range(depth):
            message = Message("hello", inner=message)
        assert message.hash_key

    return side


def wide(nodes: int) -> Side:
    """Return a side that makes one message of many nodes, and computes its hash."""
    fields = {"parts": [{"n": n} for n in range(nodes // 2)]}

    async def side() -> None:
        assert Message(**fields).hash_key

    return side


async def last_message_only(turns: int) -> None:
    """Run a dialog in which the agent is sent only the last message."""
    messages: list[Message] = [Message("Question 0")]
    for turn in range(turns):
        messages.extend(await answer.trigger(messages[-1], turn=turn))


def loading(folder: Path, count: int) -> Side:
    """Return a side that loads a cassette of `count` interactions."""
    path = folder / f"{count}.yaml"
    save(path, [interaction(str(number), openai_chunks(50)) for number in range(count)])

    async def side() -> None:
        assert len(load(path)) == count

    return side


def openai_stream(words: int) -> Side:
    """Return a side that reads an OpenAI answer through an agent."""
    return read_by(create_openai_agent("gpt-4o", async_client=openai_client(words)), words)


def anthropic_stream(words: int) -> Side:
    """Return a side that reads an Anthropic answer through an agent."""
    return read_by(create_anthropic_agent("claude", async_client=anthropic_client(words)), words)


def played(words: int) -> Side:
    """Return a side that reads a played recording through an agent."""
    return read_by(create_openai_agent("gpt-4o", async_client=replayed(openai_chunks(words))), words)


def squared(turns: int) -> int:
    """Return the number of messages read in a dialog whose whole history is read in each turn."""
    return turns * turns


def _works(folder: Path) -> list[Work]:
    """Return all works, with their smallest sizes and their goals; cassettes are made in `folder`."""
    token, chunk, read = "ns a token", "us a chunk", "us a message read"
    return [
        Work("tokens: bare generator", 25_000, token, generator, goal=None),
        Work("tokens: through an agent", 25_000, token, ours),
        Work("tokens: second reader", 25_000, token, second_reader),
        Work("tokens: 10 readers at once", 5_000, token, ten_readers, lambda count: 10 * count),
        Work("agents: one token by reference through n", 100, "us an agent", one_token_through(pass_on)),
        Work("agents: one token streamed again by n", 100, "us an agent", one_token_through(stream_again)),
        Work("agents: n bare tasks at once", 1_250, "us a call", partial(at_once, bare_call), goal=None),
        Work("agents: n calls at once", 1_250, "us a call", agents_at_once),
        Work("agents: n calls at once, no collector", 1_250, "us a call", without_collector),
        Work("streams: OpenAI chat", 500, chunk, openai_stream),
        Work("streams: Anthropic messages", 500, chunk, anthropic_stream),
        Work("messages: n nodes in one, and its hash", 1_000, "us a node", wide),
        Work("messages: n, each in another, and the hash", 500, "us a message", deep),
        Work("messages: join", 25_000, token, partial(side, join)),
        Work("messages: split", 25_000, token, partial(side, split)),
        Work("dialogs: the last message handed on", 100, "us a turn", partial(side, last_message_only)),
        Work("dialogs: all of it handed on", 50, read, partial(side, dialog), squared),
        Work("dialogs: all of it read, no agents", 50, read, partial(side, dialog_without_agents), squared, goal=None),
        Work("cassettes: loading", 10, "us an interaction", partial(loading, folder)),
        Work("cassettes: playing through an agent", 250, chunk, played),
    ]


async def benchmark(plan: Plan) -> Table:
    """Measure all works at all sizes."""
    table = Table("How cost grows")
    with tempfile.TemporaryDirectory() as folder:
        async with MiniAgents():
            for work in _works(Path(folder)):
                table.curves.append(await measure(work, plan))
    return table


if __name__ == "__main__":
    main(benchmark)
