"""The bare sides: the same work in plain asyncio.

No framework is imported here: each of them is measured beside these, in an environment of its own.
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
    """The same pre-made token again and again; when paced, one turn of the loop before each."""
    token = TOKEN
    for _ in range(count):
        if paced:
            await asyncio.sleep(0)
        yield token


async def passed_on(tokens: AsyncIterator[str]) -> AsyncIterator[str]:
    async for token in tokens:
        yield token


async def consume(tokens: AsyncIterator[Any]) -> None:
    async for _ in tokens:
        pass


def generator(count: int, *, paced: bool = False, links: int = 0) -> Side:
    """A bare async generator, and `links` more that pass its tokens on."""

    async def side() -> None:
        tokens = tokens_of(count, paced)
        for _ in range(links):
            tokens = passed_on(tokens)
        await consume(tokens)

    return side


async def bare_echo(message: object, turns: int) -> tuple[object]:
    for _ in range(turns):
        await asyncio.sleep(0)
    return (message,)


def bare_call(turns: int) -> Awaitable[Any]:
    return asyncio.create_task(bare_echo("hello", turns))


def one_by_one(call: Call, count: int) -> Side:
    async def side() -> None:
        for _ in range(count):
            await call(0)

    return side


def at_once(call: Call, count: int) -> Side:
    """All calls are alive at the same time: each lets the others run for a turn of the loop before it replies."""

    async def side() -> None:
        await asyncio.gather(*[call(1) for _ in range(count)])

    return side


async def bytes_a_call(side: Callable[[int], Side], count: int) -> int:
    """The highest use of memory while `count` calls run at once."""
    await side(10)()
    gc.collect()
    tracemalloc.start()
    try:
        await side(count)()
        return tracemalloc.get_traced_memory()[1] // count
    finally:
        tracemalloc.stop()
