"""Measures of all frameworks: the same work for each, one table a process, compared with the bare work.

A peer is a small script that defines how its framework does that work, and calls `main`.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import sys
import threading
import time
import traceback
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.bare import at_once, bare_call, bytes_a_call, generator, one_by_one
from benchmarks.measure import Plan, Row, Side, Table, circumstances

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI

    from benchmarks.provider import API, Answer

    Counted = Callable[[], Awaitable[int]]

AGENTS = 10
CHUNKS = 2_000
_HANGS = 5
"""Factor on the CPU limit that gives the limit on the clock, for a measure that hangs without using CPU time."""


@dataclass(kw_only=True)
class Peer:
    """Functions with which one framework does the work; None for work that the framework cannot do."""

    packages: tuple[str, ...]
    """Packages whose versions are reported."""
    tokens: Callable[[int, int], Awaitable[int]]
    """Send a number of fixed tokens through a number of agents, and return the number of tokens that arrived."""
    call: Callable[[int], Awaitable[str]] | None = None
    """Let an agent echo "hello" after a number of steps of the loop."""
    second_reader: Callable[[int], Awaitable[Counted]] | None = None
    """Read a stream of a number of tokens to its end, and return a function that reads it again."""
    openai: Callable[[AsyncOpenAI], Answer] | None = None
    """Return a function that asks the client's provider, and yields an item for each token of the answer."""
    anthropic: Callable[[AsyncAnthropic], Answer] | None = None
    tools: Callable[[AsyncOpenAI], Counted] | None = None
    """Return a function that answers a question with the tool of `benchmarks.by_hand.acting`, and counts the words."""
    output: Callable[[AsyncOpenAI], Callable[[], Awaitable[object]]] | None = None
    """Return a function that asks for the forecast of `benchmarks.by_hand.acting`, and returns its value."""
    context: Callable[[], AbstractAsyncContextManager[object]] = nullcontext


def checked(work: Counted, count: int) -> Side:
    """Return a side that does the work and fails unless all tokens arrived."""

    async def side() -> None:
        came = await work()
        if came != count:
            raise AssertionError(f"{came} of {count} tokens arrived")

    return side


async def tokens(peer: Peer, table: Table, plan: Plan, count: int, agents: int = 1) -> None:
    """Measure tokens through agents, compared with bare generators."""
    size = plan.sized(count)
    ours = checked(lambda: peer.tokens(size, agents), size)
    await table.compare("", generator(size, links=agents - 1), ours, plan, units=size, repeat=max(1, 20_000 // count))


async def second_reader(peer: Peer, table: Table, plan: Plan) -> None:
    """Measure reading a finished stream again."""
    size = plan.sized(100_000)
    assert peer.second_reader is not None
    ours = checked(await peer.second_reader(size), size)
    await table.compare("", generator(size), ours, plan, units=size)


async def calls(peer: Peer, table: Table, plan: Plan) -> None:
    """Measure calls one after the other."""
    size = plan.sized(1_000)
    assert peer.call is not None
    if (echo := await peer.call(0)) != "hello":
        raise AssertionError(f'the echo of "hello" is "{echo}"')
    sides = one_by_one(bare_call, size), one_by_one(peer.call, size)
    await table.compare("", *sides, plan, units=size, unit="us a call")


async def calls_at_once(peer: Peer, table: Table, plan: Plan, count: int) -> None:
    """Measure calls at once, both sides by `asyncio.gather`."""
    size = plan.sized(count)
    assert peer.call is not None
    sides = at_once(bare_call, size), at_once(peer.call, size)
    await table.compare("", *sides, plan, units=size, unit="us a call")


async def memory(peer: Peer, table: Table, plan: Plan, count: int) -> None:
    """Measure the peak of memory of calls at once."""
    size = plan.sized(count)
    assert peer.call is not None
    base = await bytes_a_call(functools.partial(at_once, bare_call), size)
    ours = await bytes_a_call(functools.partial(at_once, peer.call), size)
    table.add("", "bytes a call", [base], [ours], base_name="bare task")


async def answer_of_20(peer: Peer, table: Table, plan: Plan) -> None:
    """Measure a stream of 20 tokens through one agent, compared with a bare generator."""
    sides = generator(20), checked(lambda: peer.tokens(20, 1), 20)
    await table.compare("", *sides, plan, units=1, unit="us an answer", repeat=100)


def reading(ask: Callable[[Any], Answer]) -> Callable[[Any, int], Side]:
    """Return a function that returns a side which reads an answer of a client, and checks the number of tokens."""

    def side(client: Any, words: int) -> Side:
        answer = ask(client)

        async def count() -> int:
            came = 0
            async for _ in answer():
                came += 1
            return came

        return checked(count, words)

    return side


def asked(peer: Peer, provider: str) -> tuple[API, Callable[[Any], Answer]]:
    """Return the API of a provider, and the framework's function that asks it."""
    from benchmarks.provider import ANTHROPIC, OPENAI  # not every peer needs the SDKs

    ask: Callable[[Any], Answer] = getattr(peer, provider)
    return OPENAI if provider == "openai" else ANTHROPIC, ask


async def provider_stream(peer: Peer, table: Table, plan: Plan, provider: str) -> None:
    """Measure a chunk of a long answer whose bytes are all there, compared with the SDK."""
    api, ask = asked(peer, provider)
    size = plan.sized(CHUNKS)
    async with api.mocked(size) as client:
        sides = api.raw(client, size), reading(ask)(client, size)
        await table.compare("", *sides, plan, units=size, unit="us a chunk")


async def answer_unpaced(peer: Peer, table: Table, plan: Plan, provider: str, count: int) -> None:
    """Measure an answer of `count` chunks whose bytes are all there, compared with the SDK."""
    from benchmarks.provider import unpaced

    api, ask = asked(peer, provider)
    await unpaced(table, plan, api, reading(ask), count)


async def answers_paced(
    peer: Peer, table: Table, plan: Plan, provider: str, count: int, gap: float, at_once: int
) -> None:
    """Measure answers over a socket whose chunks are `gap` seconds apart, compared with the SDK."""
    from benchmarks.provider import over_a_socket

    api, ask = asked(peer, provider)
    await over_a_socket(table, plan, api, reading(ask), count, gap, at_once)


async def first_token(peer: Peer, table: Table, plan: Plan, provider: str) -> None:
    """Measure the time on the clock until the first token over a socket, compared with the SDK."""
    from benchmarks import provider as wire

    api, ask = asked(peer, provider)
    await wire.first_token(table, plan, api, ask)


async def tools(peer: Peer, table: Table, plan: Plan) -> None:
    """Measure a tool loop over a socket, compared with the SDK."""
    from benchmarks.by_hand import acting

    assert peer.tools is not None
    async with _acting_client() as client:
        ours = checked(peer.tools(client), acting.WORDS)
        await table.compare("", acting.tools(client), ours, plan, units=1, unit="us a run", repeat=10)


async def output(peer: Peer, table: Table, plan: Plan) -> None:
    """Measure an answer of a type over a socket, compared with the SDK."""
    from benchmarks.by_hand import acting

    assert peer.output is not None
    async with _acting_client() as client:
        ask = peer.output(client)

        async def side() -> None:
            value = await ask()
            if value != acting.FORECAST:
                raise AssertionError(f"the output is {value!r:.200}")

        await table.compare("", acting.output(client), side, plan, units=1, unit="us a run", repeat=10)


@asynccontextmanager
async def _acting_client() -> AsyncIterator[AsyncOpenAI]:
    """Start the provider of agents that act, and return a client of it."""
    from openai import AsyncOpenAI

    from benchmarks.served import acting_provider

    with acting_provider() as url:
        async with AsyncOpenAI(api_key="none", base_url=f"{url}/v1") as client:
            yield client


@dataclass(frozen=True)
class Measure:
    """One column of one table."""

    table: str
    name: str
    run: Callable[[Peer, Table, Plan], Awaitable[None]]
    goal: str
    needs: str
    """Attribute of a peer that the measure uses; a peer whose attribute is None is not measured."""


def _felt(name: str, provider: str, goals: tuple[str, str]) -> list[Measure]:
    """Return the measures of a provider's answers as a user feels them; `goals` are those of both unpaced measures."""
    part = functools.partial
    paced = part(answers_paced, provider=provider)
    works: list[tuple[str, Callable[..., Awaitable[None]], str]] = [
        ("20 chunks", part(answer_unpaced, provider=provider, count=20), goals[0]),
        ("1 chunk", part(answer_unpaced, provider=provider, count=1), goals[1]),
        ("300 over a socket, 1 ms apart", part(paced, count=300, gap=0.001, at_once=1), "<= 0.5x"),
        ("200 answers of 100 over a socket, 5 ms apart", part(paced, count=100, gap=0.005, at_once=200), "<= 0.25x"),
        ("first token over a socket", part(first_token, provider=provider), "<= 1.05x"),
    ]
    return [Measure(f"What a user feels of {name}", title, work, goal, provider) for title, work, goal in works]


def _measures() -> list[Measure]:
    """Return all measures, in the order in which their numbers are given to `main`."""
    part = functools.partial
    stream, call, provider = "Token pass-through", "Agent calls", "A provider's stream"
    return [
        *_felt("OpenAI chat", "openai", ("<= 0.35x", "")),
        *_felt("Anthropic messages", "anthropic", ("<= 0.8x", "<= 1.1x")),
        Measure(stream, "an answer of 20", answer_of_20, "<= 8x", "tokens"),
        Measure(stream, "1,000 tokens", part(tokens, count=1_000), "<= 4x", "tokens"),
        Measure(stream, "10,000", part(tokens, count=10_000), "<= 3x", "tokens"),
        Measure(stream, "100,000", part(tokens, count=100_000), "<= 3x", "tokens"),
        Measure(stream, "second reader", second_reader, "<= 1.3x", "second_reader"),
        Measure(stream, "10,000 through 10 agents", part(tokens, count=10_000, agents=AGENTS), "", "tokens"),
        Measure(call, "one by one", calls, "<= 3x", "call"),
        Measure(call, "1,000 by `gather`", part(calls_at_once, count=1_000), "<= 4x", "call"),
        Measure(call, "10,000 by `gather`", part(calls_at_once, count=10_000), "<= 4x", "call"),
        Measure(call, "bytes each, 1,000 by `gather`", part(memory, count=1_000), "<= 6,000", "call"),
        Measure(provider, "OpenAI chat", part(provider_stream, provider="openai"), "<= 0.10x", "openai"),
        Measure(provider, "Anthropic messages", part(provider_stream, provider="anthropic"), "<= 0.35x", "anthropic"),
        Measure("Agents that act", "2 requests, 3 calls", tools, "<= 1x", "tools"),
        Measure("Agents that act", "an answer of a type", output, "<= 1x", "output"),
    ]


MEASURES = _measures()


async def measured(peer: Peer, measure: Measure, plan: Plan) -> Row | None:
    """Take one measure, and return its row; None if the framework cannot do that work."""
    if getattr(peer, measure.needs) is None:
        return None
    table = Table(measure.table)
    async with peer.context():
        await measure.run(peer, table, plan)
    return table.rows[0]


class Watch:
    """Watch on the time of the running measure, which ends the process when a measure takes too long.

    `RLIMIT_CPU` is not used: Linux counts it in coarse ticks.

    Args:
        limit: seconds of CPU time that a measure may take.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._began = time.process_time(), time.perf_counter()
        threading.Thread(target=self._run, daemon=True).start()

    def restart(self) -> None:
        """Begin to count the time of another measure."""
        self._began = time.process_time(), time.perf_counter()

    def _run(self) -> None:
        while True:
            time.sleep(1)
            cpu, clock = self._began
            if time.process_time() - cpu > self._limit:
                self._end(f"not finished after {self._limit} s of CPU time")
            if time.perf_counter() - clock > _HANGS * self._limit:
                self._end(f"not finished after {_HANGS * self._limit} s on the clock")

    def _end(self, reason: str) -> None:
        sys.stderr.write(f"{reason}\n")
        sys.stderr.flush()
        os._exit(1)


def main(peer: Peer) -> None:
    """Take the measures that the command line names; write each result, as it comes, as a line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("measures", type=int, nargs="+", help="numbers of the measures")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--seconds", type=float, default=3, help="seconds that a measure may take; slow measures have fewer rounds"
    )
    parser.add_argument("--limit", type=int, default=600, help="seconds of CPU time after which a measure is stopped")
    chosen = parser.parse_args()
    watch = Watch(chosen.limit)
    for number in chosen.measures:
        watch.restart()
        try:
            row = asyncio.run(measured(peer, MEASURES[number], Plan(chosen.quick, chosen.seconds)))
            result: dict[str, Any] = {"row": asdict(row) if row else None}
        except Exception as error:  # the other measures go on
            traceback.print_exc()
            result = {"reason": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        print(json.dumps({**result, "versions": circumstances(peer.packages)["versions"]}), flush=True)
