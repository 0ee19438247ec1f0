"""Lower bound: the least that a stream with several readers must do, with a list and a future that readers await.

The stream has no errors, cancellation, context or messages, so it is a measure for comparison and not for use.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from benchmarks.bare import consume, tokens_of
from benchmarks.peers.peer import Peer, main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from benchmarks.peers.peer import Counted


class Stream:
    """Stream that keeps its tokens in a list."""

    def __init__(self, source: AsyncIterator[str]) -> None:
        self.tokens: list[str] = []
        self.grown: asyncio.Future[None] | None = None
        self.task = asyncio.create_task(self.pump(source))
        self.ended = False

    async def pump(self, source: AsyncIterator[str]) -> None:
        async for token in source:
            self.tokens.append(token)
            if self.grown is not None:
                self.wake(self.grown)
        self.ended = True
        if self.grown is not None:
            self.wake(self.grown)

    def wake(self, grown: asyncio.Future[None]) -> None:
        self.grown = None
        grown.set_result(None)

    async def more(self) -> None:
        if self.grown is None:
            self.grown = asyncio.get_running_loop().create_future()
        await self.grown

    async def __aiter__(self) -> AsyncIterator[str]:
        index = 0
        while index < len(self.tokens) or not self.ended:
            if index == len(self.tokens):
                await self.more()
            unread = iter(self.tokens)
            unread.__setstate__(index)  # type: ignore[attr-defined]  # where a list iterator stands
            for token in unread:
                yield token
            index = len(self.tokens)

    async def batches(self) -> AsyncIterator[list[str]]:
        index = 0
        while index < len(self.tokens) or not self.ended:
            if index == len(self.tokens):
                await self.more()
            batch = self.tokens[index:]
            index += len(batch)
            yield batch


async def agent(count: int, links: int) -> Stream:
    """Pass the stream itself on through `links` tasks."""
    return await asyncio.create_task(agent(count, links - 1)) if links else Stream(tokens_of(count))


async def tokens(count: int, agents: int) -> int:
    stream = await asyncio.create_task(agent(count, agents - 1))
    await consume(aiter(stream))
    return len(stream.tokens)


async def second_reader(count: int) -> Counted:
    stream = Stream(tokens_of(count))
    await consume(aiter(stream))

    async def again() -> int:
        await consume(aiter(stream))
        return len(stream.tokens)

    return again


PEER = Peer(packages=(), tokens=tokens, second_reader=second_reader)

if __name__ == "__main__":
    main(PEER)
