"""How cost grows: for each table the cost of one unit at n, 2n, 4n and 8n of them. What is linear stays flat."""

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
"""Cost of a unit at 8n, beside that at n. Linear is 1; ratios repeat within 10 %."""


@dataclass(frozen=True)
class Work:
    """What is done at several sizes."""

    name: str
    size: int
    """n."""
    unit: str
    of: Callable[[int], Side | Awaitable[Side]]
    """The work at one size; preparing it is not measured."""
    units: Callable[[int], int] = lambda size: size
    """Units in work of a size."""
    goal: float | None = GOAL


async def measure(work: Work, plan: Plan) -> Curve:
    sizes = [plan.sized(work.size) * factor for factor in FACTORS]
    sides = []
    for size in sizes:
        side = work.of(size)
        sides.append(side if callable(side) else await side)
        await sides[-1]()
    scale = 1e9 if work.unit.startswith("ns") else 1e6
    rounds = [
        [await seconds(side) * scale / work.units(size) for side, size in zip(sides, sizes, strict=True)]
        for _ in range(plan.rounds)
    ]
    costs = [Spread.of(list(costs)) for costs in zip(*rounds, strict=True)]
    return Curve(work.name, work.unit, sizes, costs, Spread.of([costs[-1] / costs[0] for costs in rounds]), work.goal)


def side(work: Callable[[int], Awaitable[object]], size: int) -> Side:
    return lambda: work(size)


async def second_reader(count: int) -> Side:
    promise = await finished(count)
    return lambda: consume(aiter(promise))


def ten_readers(count: int) -> Side:
    async def side() -> None:
        async for promise in through(count):
            await asyncio.gather(*(consume(aiter(promise)) for _ in range(10)))

    return side


def without_collector(count: int) -> Side:
    """Many objects alive at once are looked through by the garbage collector again and again; here, they are not."""

    async def side() -> None:
        gc.disable()
        try:
            await agents_at_once(count)()
        finally:
            gc.enable()

    return side


def one_token_through(agent: Any) -> Callable[[int], Side]:
    return lambda length: ours(1, *[agent] * length)


def deep(depth: int) -> Side:
    """A message within a message within ..., and its hash."""

    async def side() -> None:
        message = Message("hello")
        for _ in range(depth):
            message = Message("hello", inner=message)
        assert message.hash_key

    return side


def wide(nodes: int) -> Side:
    fields = {"parts": [{"n": n} for n in range(nodes // 2)]}

    async def side() -> None:
        assert Message(**fields).hash_key

    return side


async def last_message_only(turns: int) -> None:
    """A dialog whose agent is shown what was said last."""
    messages: list[Message] = [Message("Question 0")]
    for turn in range(turns):
        messages.extend(await answer.trigger(messages[-1], turn=turn))


def loading(folder: Path, count: int) -> Side:
    path = folder / f"{count}.yaml"
    save(path, [interaction(str(number), openai_chunks(50)) for number in range(count)])

    async def side() -> None:
        assert len(load(path)) == count

    return side


def openai_stream(words: int) -> Side:
    return read_by(create_openai_agent("gpt-4o", async_client=openai_client(words)), words)


def anthropic_stream(words: int) -> Side:
    return read_by(create_anthropic_agent("claude", async_client=anthropic_client(words)), words)


def played(words: int) -> Side:
    return read_by(create_openai_agent("gpt-4o", async_client=replayed(openai_chunks(words))), words)


def squared(turns: int) -> int:
    """Messages that are read in a dialog of so many turns whose whole history is read in each."""
    return turns * turns


def _works(folder: Path) -> list[Work]:
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
    table = Table("How cost grows")
    with tempfile.TemporaryDirectory() as folder:
        async with MiniAgents():
            for work in _works(Path(folder)):
                table.curves.append(await measure(work, plan))
    return table


if __name__ == "__main__":
    main(benchmark)
