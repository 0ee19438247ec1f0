"""Lower bounds for rows that miss their goals: the same work with only tasks, lists and futures, without any checks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from benchmarks.bare import bare_echo, consume, generator, passed_on, tokens_of
from benchmarks.calls import compare_calls
from benchmarks.measure import Plan, Side, Table, main
from benchmarks.peers.limit import Stream
from benchmarks.tokens import LENGTH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator


class Call:
    """Minimal call that any number of readers can await, with a future for each, because a reader may be cancelled."""

    __slots__ = ("futures", "task")

    def __init__(self, turns: int) -> None:
        self.futures: list[asyncio.Future[Any]] = []
        self.task = asyncio.create_task(bare_echo("hello", turns))
        self.task.add_done_callback(self.wake)

    def wake(self, task: asyncio.Task[Any]) -> None:
        """Give the result of the task to the readers."""
        for future in self.futures:
            future.set_result(task.result())

    def __await__(self) -> Generator[Any, None, Any]:
        if self.task.done():
            return self.task.result()
        future: asyncio.Future[Any] = asyncio.Future()
        self.futures.append(future)
        return (yield from future)


def in_batches(count: int) -> Side:
    """Return a side that reads a minimal stream in batches."""

    async def side() -> None:
        await consume(Stream(tokens_of(count)).batches())

    return side


def token_by_token(count: int, *, paced: bool = False, links: int = 0) -> Side:
    """Return a side that reads a minimal stream through `links` more streams, each of which can be read twice."""

    async def side() -> None:
        tokens: AsyncIterator[str] = tokens_of(count, paced)
        for _ in range(links):
            tokens = passed_on(aiter(Stream(tokens)))
        await consume(aiter(Stream(tokens)))

    return side


async def answer(count: int) -> Stream:
    """Return a minimal stream, as an agent returns its answer."""
    return Stream(tokens_of(count))


def answered(count: int) -> Side:
    """Return a side that reads a minimal stream, which a task has made."""

    async def side() -> None:
        await consume(aiter(await asyncio.create_task(answer(count))))

    return side


async def benchmark(plan: Plan) -> Table:
    """Compare minimal streams with bare generators, and minimal calls with bare tasks."""
    table = Table("Floors: a list and a future, which check nothing")
    size = plan.sized(100_000)
    sides = generator(size), in_batches(size)
    await table.compare("in batches", *sides, plan, units=size, goal=1.1)
    links = LENGTH - 1
    sides = generator(size, links=links), token_by_token(size, links=links)
    await table.compare("streamed again by each of 10", *sides, plan, units=size, base_name="10 generators", goal=2)
    sides = generator(size, paced=True), token_by_token(size, paced=True)
    await table.compare("paced: a turn of the loop a token", *sides, plan, units=size, goal=2)
    name = "an answer of 20 tokens, a task and a stream"
    sides = generator(20), answered(20)
    await table.compare(name, *sides, plan, units=1, unit="us an answer", repeat=2_000, goal=8)
    await compare_calls(table, Call, plan)
    return table


if __name__ == "__main__":
    main(benchmark)
