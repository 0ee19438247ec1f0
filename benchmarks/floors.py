"""Lower bounds for rows that miss their goals: the same work with only a list and a future, without any checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.bare import consume, generator, passed_on, tokens_of
from benchmarks.measure import Plan, Side, Table, main
from benchmarks.peers.limit import Stream
from benchmarks.tokens import LENGTH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


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


async def benchmark(plan: Plan) -> Table:
    """Compare minimal streams with bare generators."""
    table = Table("Floors: a list and a future, which check nothing")
    size = plan.sized(100_000)
    sides = generator(size), in_batches(size)
    await table.compare("in batches", *sides, plan, units=size, goal=1.1)
    links = LENGTH - 1
    sides = generator(size, links=links), token_by_token(size, links=links)
    await table.compare("streamed again by each of 10", *sides, plan, units=size, base_name="10 generators", goal=2)
    sides = generator(size, paced=True), token_by_token(size, paced=True)
    await table.compare("paced: a turn of the loop a token", *sides, plan, units=size, goal=2)
    return table


if __name__ == "__main__":
    main(benchmark)
