"""Base sides of the comparisons: the same work in plain asyncio.

Independent of all frameworks: each framework is compared with this code, in a virtual environment of its own.
"""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from benchmarks.measure import Side

    Call = Callable[[int], Awaitable[Any]]

TOKEN = "word "


async def tokens_of(count: int, paced: bool = False) -> AsyncIterator[str]:
    """Yield the same string `count` times; when paced, let the loop run one step before each."""
    token = TOKEN
    for _ in range(count):
        if paced:
            await asyncio.sleep(0)
        yield token


async def passed_on(tokens: AsyncIterator[str]) -> AsyncIterator[str]:
    """Yield the tokens of another iterator."""
    async for token in tokens:
        yield token


async def consume(tokens: AsyncIterator[Any]) -> None:
    """Read all tokens, and drop them."""
    async for _ in tokens:
        pass


def generator(count: int, *, paced: bool = False, links: int = 0) -> Side:
    """Return a side that reads a bare async generator through `links` more generators that pass its tokens on."""

    async def side() -> None:
        tokens = tokens_of(count, paced)
        for _ in range(links):
            tokens = passed_on(tokens)
        await consume(tokens)

    return side


async def bare_echo(message: object, turns: int) -> tuple[object]:
    """Return the message after some steps of the loop."""
    for _ in range(turns):
        await asyncio.sleep(0)
    return (message,)


def bare_call(turns: int) -> Awaitable[Any]:
    """Start `bare_echo` as a task, and return the task."""
    return asyncio.create_task(bare_echo("hello", turns))


def one_by_one(call: Call, count: int) -> Side:
    """Return a side that makes the calls one after the other."""

    async def side() -> None:
        for _ in range(count):
            await call(0)

    return side


def at_once(call: Call, count: int) -> Side:
    """Return a side that makes all calls at once.

    Each call lets the others run for a step of the loop before it replies, so all are alive.
    """

    async def side() -> None:
        await asyncio.gather(*[call(1) for _ in range(count)])

    return side


async def bytes_a_call(side: Callable[[int], Side], count: int) -> int:
    """Return the peak of memory, in bytes for each call, while `count` calls run at once."""
    await side(10)()
    gc.collect()
    tracemalloc.start()
    try:
        await side(count)()
        return tracemalloc.get_traced_memory()[1] // count
    finally:
        tracemalloc.stop()
