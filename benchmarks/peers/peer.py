"""Measures of all frameworks: the same work for each, one measure a process, compared with the bare work.

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
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.bare import at_once, bare_call, bytes_a_call, generator, one_by_one
from benchmarks.measure import Plan, Row, Side, Table, circumstances

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from anthropic import AsyncAnthropic
    from openai import AsyncOpenAI

    Counted = Callable[[], Awaitable[int]]

AGENTS = 10
CHUNKS = 2_000


@dataclass(kw_only=True)
class Peer:
    """Functions with which one framework does the work; None for work that the framework cannot do."""

    packages: tuple[str, ...]
    """Packages whose versions are reported."""
    tokens: Callable[[int, int], Awaitable[int]]
    """Send a number of fixed tokens through a number of agents, and return the number of tokens that arrived."""
    call: Callable[[int], Awaitable[str]] | None = None
    """Let an agent echo "hello" after a number of steps of the loop."""
    at_once: Callable[[int], Side] | None = None
    """Make a number of calls at once; None to use `asyncio.gather`."""
    second_reader: Callable[[int], Awaitable[Counted]] | None = None
    """Read a stream of a number of tokens to its end, and return a function that reads it again."""
    openai: Callable[[AsyncOpenAI], Counted] | None = None
    """Return a function that reads an answer of the client token by token."""
    anthropic: Callable[[AsyncAnthropic], Counted] | None = None
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


def side_at_once(peer: Peer) -> Callable[[int], Side]:
    """Return the function that makes calls at once."""
    assert peer.call is not None
    return peer.at_once or functools.partial(at_once, peer.call)


async def calls_at_once(peer: Peer, table: Table, plan: Plan, count: int) -> None:
    """Measure calls at once."""
    size = plan.sized(count)
    sides = at_once(bare_call, size), side_at_once(peer)(size)
    await table.compare("", *sides, plan, units=size, unit="us a call")


async def memory(peer: Peer, table: Table, plan: Plan, count: int) -> None:
    """Measure the peak of memory of calls at once."""
    size = plan.sized(count)
    base = await bytes_a_call(functools.partial(at_once, bare_call), size)
    ours = await bytes_a_call(side_at_once(peer), size)
    table.add("", "bytes a call", [base], [ours], base_name="bare task")


async def provider_stream(peer: Peer, table: Table, plan: Plan, provider: str) -> None:
    """Measure reading a provider's answer, compared with the SDK."""
    from benchmarks import provider as wire  # not every peer needs the SDKs

    size = plan.sized(CHUNKS)
    if provider == "openai":
        assert peer.openai is not None
        client: Any = wire.openai_client(size)
        base, ours = wire.raw_openai(client, size), peer.openai(client)
    else:
        assert peer.anthropic is not None
        client = wire.anthropic_client(size)
        base, ours = wire.raw_anthropic(client, size), peer.anthropic(client)
    await table.compare("", base, checked(ours, size), plan, units=size, unit="us a chunk")


async def tools(peer: Peer, table: Table, plan: Plan) -> None:
    """Measure a loop of tools over a socket, compared with the SDK."""
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


def _measures() -> list[Measure]:
    part = functools.partial
    stream, call, provider = "Token pass-through", "Agent calls", "A provider's stream"
    return [
        Measure(stream, "1,000 tokens", part(tokens, count=1_000), "<= 4x", "tokens"),
        Measure(stream, "10,000", part(tokens, count=10_000), "<= 3x", "tokens"),
        Measure(stream, "100,000", part(tokens, count=100_000), "<= 3x", "tokens"),
        Measure(stream, "1,000,000", part(tokens, count=1_000_000), "<= 3x", "tokens"),
        Measure(stream, "second reader", second_reader, "<= 1.3x", "second_reader"),
        Measure(stream, "10,000 through 10 agents", part(tokens, count=10_000, agents=AGENTS), "", "tokens"),
        Measure(call, "one by one", calls, "<= 4x", "call"),
        Measure(call, "1,000 at once", part(calls_at_once, count=1_000), "<= 4x", "call"),
        Measure(call, "10,000 at once", part(calls_at_once, count=10_000), "<= 4x", "call"),
        Measure(call, "bytes each, 1,000 at once", part(memory, count=1_000), "", "call"),
        Measure(call, "bytes each, 10,000 at once", part(memory, count=10_000), "<= 6,000", "call"),
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


def give_up_after(limit: int) -> None:
    """End the process after `limit` seconds of CPU time. `RLIMIT_CPU` is not used: Linux counts it in coarse ticks."""
    while time.process_time() < limit:
        time.sleep(1)
    sys.stderr.write(f"not finished after {limit} s of CPU time\n")
    sys.stderr.flush()
    os._exit(1)


def main(peer: Peer) -> None:
    """Take the measure that the command line names, and write the result to the standard output as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("measure", type=int, help="number of the measure")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--seconds", type=float, default=3, help="seconds that the measure may take; slow measures have fewer rounds"
    )
    parser.add_argument("--limit", type=int, default=600, help="seconds of CPU time after which the measure is stopped")
    chosen = parser.parse_args()
    threading.Thread(target=give_up_after, args=[chosen.limit], daemon=True).start()
    row = asyncio.run(measured(peer, MEASURES[chosen.measure], Plan(chosen.quick, chosen.seconds)))
    result = {"row": asdict(row) if row else None, "versions": circumstances(peer.packages)["versions"]}
    sys.stdout.write(f"{json.dumps(result)}\n")
