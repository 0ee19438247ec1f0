"""Longest time that a stream keeps another task of the loop waiting, for each kind of stream whose source never waits.

The other task is ready at each step of the loop, so its wait is the time of a step. CPU time, because on the clock it
would also wait for other programs. The collector stays on: its full collections are a part of a step.
"""

from __future__ import annotations

import asyncio
import gc
import time
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from benchmarks.answers import answer_of, anthropic_agent, openai_agent
from benchmarks.bare import consume, tokens_of
from benchmarks.measure import Plan, Table, main
from benchmarks.provider import anthropic_chunks, http_client, openai_chunks
from benchmarks.tokens import LENGTH, pass_on, source, stream_again
from miniagents import Message, MiniAgents, join_messages, split_messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from miniagents import MessagePromise, MessageSequencePromise

    Tokens = Callable[[], AsyncIterator[Any]]
    """Function that starts a stream, and returns an iterator over its tokens."""

ALLOWED = 5.0
"""Milliseconds that another task may wait, and the reader for the first token."""
MANY = 1_000_000
LESS = 300_000
"""More tokens than any model answers with."""
CHUNKS = 20_000
READ = 65_536
"""Bytes that HTTP libraries read from a socket at once."""


async def of_all(messages: MessageSequencePromise) -> AsyncIterator[str]:
    """Yield the tokens of all messages."""
    async for promise in messages:
        async for token in promise:
            yield token


async def paragraphs(count: int) -> AsyncIterator[str]:
    """Yield tokens of which each thousandth ends a paragraph."""
    for number in range(count):
        yield "word\n\n" if number % 1_000 == 999 else "word "


def streamed(count: int, **options: Any) -> MessagePromise:
    """Return a message of `count` tokens whose source never waits."""
    return Message.promise(message_token_streamer=lambda _: tokens_of(count), **options)


def through(count: int, *agents: Any) -> AsyncIterator[str]:
    """Send a message through agents, and return its tokens."""
    replies = source.trigger(count=count)
    for agent in agents:
        replies = agent.trigger(replies)
    return of_all(replies)


def split(count: int) -> AsyncIterator[str]:
    """Split a message into paragraphs, and return the tokens of all."""
    return of_all(split_messages(Message.promise(message_token_streamer=lambda _: paragraphs(count))))


def joined(count: int) -> AsyncIterator[str]:
    """Join two messages, and return the tokens of the result."""
    return aiter(join_messages([streamed(count // 2), streamed(count // 2)], reference_original_messages=False))


async def by_many(count: int) -> AsyncIterator[str]:
    """Yield the tokens that one of ten readers of a message reads."""
    promise = streamed(count)
    others = [asyncio.create_task(consume(aiter(promise))) for _ in range(LENGTH - 1)]
    async for token in promise:
        yield token
    await asyncio.gather(*others)


async def waits(tokens: Tokens) -> tuple[float, float]:
    """Read a stream to its end; return the longest wait of another task and the time to the first token, in ms."""
    gc.collect()
    steps = [time.process_time()]

    async def other() -> None:
        while True:
            await asyncio.sleep(0)
            steps.append(time.process_time())

    task = asyncio.create_task(other())
    await asyncio.sleep(0)
    began, first = time.process_time(), 0.0
    async for _ in tokens():
        first = first or time.process_time()
    await asyncio.sleep(0)
    task.cancel()
    return max(after - before for before, after in pairwise(steps)) * 1000, (first - began) * 1000


async def add(table: Table, plan: Plan, name: str, tokens: Tokens) -> None:
    """Add a row for the wait of another task, and one for that of the reader until the first token."""
    rounds = [await waits(tokens) for _ in range(plan.rounds)]
    allowed = [ALLOWED] * len(rounds)
    row: dict[str, Any] = {"base_name": "ms allowed", "goal": 1}
    table.add(f"{name}: another task waits at most", "ms", allowed, [wait for wait, _ in rounds], **row)
    table.add(f"{name}: the reader waits for the first", "ms", allowed, [first for _, first in rounds], **row)


def cut(chunks: list[bytes]) -> list[bytes]:
    """Return the same bytes as an HTTP library reads them when all are there."""
    whole = b"".join(chunks)
    return [whole[start : start + READ] for start in range(0, len(whole), READ)]


async def _of_programs(table: Table, plan: Plan) -> None:
    """Measure streams whose source is a generator of the program."""
    size = plan.sized(MANY)
    finished = streamed(size)
    await finished
    kinds: dict[str, Tokens] = {
        "a token streamer": lambda: aiter(streamed(size)),
        "a token streamer, on demand": lambda: aiter(streamed(size, start_soon=False)),
        "a token streamer, in batches": lambda: streamed(size).batches(),
        "a token streamer, ten readers": partial(by_many, size),
        "passed on by 9 agents": partial(through, size, *[pass_on] * (LENGTH - 1)),
        "streamed again by an agent": partial(through, size, stream_again),
        "split into 1,000 parts": partial(split, size),
        "two messages joined": partial(joined, size),
        "a finished message": lambda: aiter(finished),
    }
    for name, tokens in kinds.items():
        await add(table, plan, f"{name}, {MANY:,} tokens", tokens)
    less = plan.sized(LESS)
    shorter: dict[str, Tokens] = {
        "a token streamer, ten readers": partial(by_many, less),
        "streamed again by an agent": partial(through, less, stream_again),
        "split into 300 parts": partial(split, less),
        "two messages joined": partial(joined, less),
    }
    for name, tokens in shorter.items():
        await add(table, plan, f"{name}, {LESS:,} tokens", tokens)
    tokens = partial(through, plan.sized(MANY // LENGTH), *[stream_again] * (LENGTH - 1))
    await add(table, plan, f"streamed again by 9 agents, {MANY // LENGTH:,} tokens each", tokens)


async def _of_providers(table: Table, plan: Plan) -> None:
    """Measure answers of providers whose bytes are all there."""
    words = plan.sized(CHUNKS)
    for kind, cut_up in (("a read for each", list), ("in reads of 64 KB", cut)):
        openai = AsyncOpenAI(api_key="none", http_client=http_client(cut_up(openai_chunks(words))))
        anthropic = AsyncAnthropic(api_key="none", http_client=http_client(cut_up(anthropic_chunks(words))))
        async with openai, anthropic:
            for provider, agent in (("OpenAI", openai_agent(openai)), ("Anthropic", anthropic_agent(anthropic))):
                name = f"{provider}, {CHUNKS:,} chunks, {kind}"
                await add(table, plan, name, answer_of(agent))


async def benchmark(plan: Plan) -> Table:
    """Measure streams of the program's own sources, and answers of providers."""
    table = Table("What a user feels: other tasks beside a stream that never waits")
    async with MiniAgents():
        await _of_programs(table, plan)
        await _of_providers(table, plan)
    return table


if __name__ == "__main__":
    main(benchmark)
