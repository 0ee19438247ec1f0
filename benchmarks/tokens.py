"""Cost of a token through agents, compared with a bare async generator that yields the same strings."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.bare import consume, generator, passed_on, tokens_of
from benchmarks.measure import Plan, Side, Table, main
from miniagents import InteractionContext, Message, MessagePromise, MessageSequencePromise, MiniAgents, miniagent

LENGTH = 10
"""Number of agents in a chain, and of readers of one stream."""


@miniagent
async def source(ctx: InteractionContext, count: int, paced: bool = False) -> None:
    """Reply one message of `count` tokens."""
    ctx.reply(Message.promise(message_token_streamer=lambda _: tokens_of(count, paced)))


@miniagent
async def pass_on(ctx: InteractionContext) -> None:
    """Reply the messages by reference."""
    ctx.reply(ctx.message_promises)


@miniagent
async def stream_again(ctx: InteractionContext) -> None:
    """Reply a new message for each message, and stream its tokens again."""
    async for promise in ctx.message_promises:
        ctx.reply(Message.promise(message_token_streamer=lambda _, tokens=promise: passed_on(tokens)))  # type: ignore[misc]


def through(count: int, *agents: Any, paced: bool = False) -> MessageSequencePromise:
    """Send a message of `count` tokens through a chain of agents, and return the last replies."""
    replies = source.trigger(count=count, paced=paced)
    for agent in agents:
        replies = agent.trigger(replies)
    return replies


def ours(count: int, *agents: Any, paced: bool = False) -> Side:
    """Return a side that reads `count` tokens after a chain of agents."""

    async def side() -> None:
        async for promise in through(count, *agents, paced=paced):
            await consume(aiter(promise))

    return side


async def finished(count: int) -> MessagePromise:
    """Return a message of `count` tokens whose stream has ended."""
    async for promise in through(count):
        await promise
        return promise
    raise AssertionError("the agent replied nothing")


async def benchmark(plan: Plan) -> Table:
    """Measure numbers of tokens, readers, chains, and paced streams."""
    table = Table("Token pass-through")
    async with MiniAgents():
        for count in (1_000, 10_000, 100_000, 1_000_000):
            size = plan.sized(count)
            goal = 4 if count == 1_000 else 3
            repeat = max(1, 100_000 // count)
            sides = generator(size), ours(size)
            await table.compare(f"{count:,} tokens", *sides, plan, units=size, repeat=repeat, goal=goal)
        await _growth(table, plan)
        await _other_readers(table, plan)
        await _chains(table, plan)
        size = plan.sized(100_000)
        await table.compare(
            "paced: a turn of the loop a token",
            generator(size, paced=True),
            ours(size, paced=True),
            plan,
            units=size,
            goal=2,
        )
    return table


async def _growth(table: Table, plan: Plan) -> None:
    """Compare the cost of a token in one long message with that in many short ones."""
    small, large = plan.sized(10_000), plan.sized(1_000_000)
    name = "1,000,000 tokens against 10,000, each ours"
    times = large // small

    async def many_small() -> None:
        for _ in range(times):
            await ours(small)()

    await table.compare(name, many_small, ours(large), plan, units=large, base_name="ours, 10,000", goal=1.1)


async def _other_readers(table: Table, plan: Plan) -> None:
    """Compare a second reader, ten readers at once, and a reader of batches with a bare generator."""
    size = plan.sized(100_000)
    read_before = await finished(size)

    async def again() -> None:
        await consume(aiter(read_before))

    async def in_batches() -> None:
        async for promise in through(size):
            await consume(promise.batches())

    async def at_once() -> None:
        async for promise in through(size):
            await asyncio.gather(*(consume(aiter(promise)) for _ in range(LENGTH)))

    base = generator(size)
    await table.compare("second reader of a finished stream", base, again, plan, units=size, goal=1.3)
    await table.compare("10 readers at once", base, at_once, plan, units=size, our_units=size * LENGTH, goal=1.4)
    await table.compare("in batches", base, in_batches, plan, units=size, goal=1.1)


async def _chains(table: Table, plan: Plan) -> None:
    """Compare chains of ten agents, by reference and streamed again, with one agent and with generators."""
    size = plan.sized(100_000)
    by_reference, streamed = [pass_on] * (LENGTH - 1), [stream_again] * (LENGTH - 1)
    name = "10 agents in a chain, by reference"
    await table.compare(
        name, ours(size), ours(size, *by_reference), plan, units=size, base_name="ours, 1 agent", goal=1.2
    )
    bare_chain = generator(size, links=LENGTH - 1)
    name = "streamed again by each of 10 agents"
    await table.compare(name, bare_chain, ours(size, *streamed), plan, units=size, base_name="10 generators", goal=2)


if __name__ == "__main__":
    main(benchmark)
