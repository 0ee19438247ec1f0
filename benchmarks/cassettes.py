"""Cost of cassettes: recording a live stream, playing compared with bare bytes, and large cassettes.

Streams come from a mock transport. Only the time to the first token is measured over a socket, on this machine.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import runpy
import shutil
import statistics
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import yaml
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from benchmarks.decoding import through
from benchmarks.measure import Plan, Side, Table, main
from benchmarks.provider import http_client, openai_chunks, raw_openai
from miniagents import MiniAgents
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing import ProviderServer, ReplayTransport, Step, run_in_virtual_time, use_cassette
from miniagents_testing.cassette import Chunk, Interaction, Matching, Redaction, ResponseStream, load, save
from miniagents_testing.cassette._matching import Index
from miniagents_testing.errors import CassetteMissError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

URL = "https://api.openai.com/v1/chat/completions"
EVENTS = 500
LOOK_UPS = 200


def interaction(prompt: str, chunks: list[bytes], gap: float = 0.0) -> Interaction:
    """Make a recorded chat completion with `gap` seconds before each chunk."""
    body = {"messages": [{"role": "user", "content": prompt}], "model": "gpt-4o", "stream": True}
    headers = {"content-type": ["text/event-stream"]}
    answer = ResponseStream(tuple(Chunk.after(gap, chunk) for chunk in chunks), headers=headers)
    return Interaction("POST", URL, json.dumps(body).encode(), answer)


def copies(path: Path, recorded: Interaction, number: int) -> Iterator[Path]:
    """Save a recording in so many files, because what was parsed of a file before is kept in memory."""
    save(path, [recorded])
    paths = [path.with_name(f"{each}-{path.name}") for each in range(number)]
    for each in paths:
        shutil.copyfile(path, each)
    return iter(paths)


async def loading(table: Table, plan: Plan, folder: Path) -> None:
    """Measure loading a cassette of 1 MB, compared with parsing its YAML alone."""
    path = folder / "large.yaml"
    save(path, [interaction(f"{number} {'word ' * 200}", openai_chunks(plan.sized(450))) for number in range(10)])

    async def base() -> None:
        yaml.load(path.read_bytes(), yaml.CSafeLoader)

    async def ours() -> None:
        assert len(load(path)) == 10

    size = f"{path.stat().st_size / 1e6:.1f} MB"
    await table.compare(
        f"loading {size}", base, ours, plan, units=1, unit="us a file", base_name="CSafeLoader", repeat=5, goal=1.2
    )
    table.facts[f"ms to load {size} (goal: < 50)"] = table.rows[-1].measured.median / 1000

    async def opened() -> None:
        with use_cassette(path, unplayed="ignore"):
            pass

    await table.compare(
        f"opening {size}, parsed before",
        base,
        opened,
        plan,
        units=1,
        unit="us a file",
        base_name="CSafeLoader",
        repeat=5,
    )


async def looking_up(table: Table, plan: Plan) -> None:
    """Measure finding a request among 1,000, compared with finding it among 10."""

    def side(size: int) -> Side:
        recorded = [interaction(f"{number} {'word ' * 200}", []) for number in range(size)]
        match = Matching()
        index = Index(recorded, match, repeats=True)
        bodies = [recorded[number % size].request_body.replace(b'"stream"', b' "stream"') for number in range(LOOK_UPS)]

        async def side() -> None:
            for body in bodies:
                assert index.take(match.key("POST", URL, body), "") is not None

        return side

    name = "look-up among 1,000, against 10"
    await table.compare(
        name, side(10), side(1000), plan, units=LOOK_UPS, unit="us a request", base_name="among 10", repeat=5, goal=1.2
    )
    table.facts["us a look-up among 1,000 (goal: < 100)"] = table.rows[-1].measured.median


def time_of_a_miss(folder: Path) -> float:
    """Return the CPU milliseconds from a request with a changed prompt to the miss, in a cassette of 1,000."""
    path = folder / "thousand.yaml"
    save(path, [interaction(f"{number} {'word ' * 200}", [b"data: 1\n\n"]) for number in range(1000)])
    changed = json.loads(interaction(f"500 {'word ' * 199} other", []).request_body)
    with suppress(CassetteMissError), use_cassette(path) as session, httpx2.Client() as client:
        started = time.process_time()
        with suppress(CassetteMissError):
            client.post(URL, json=changed)
        took = time.process_time() - started
    assert "interaction 501 differs in 1" in str(session.misses[0])
    return took * 1000


async def scanning(table: Table, plan: Plan) -> None:
    """Measure the search of recordings for secrets, compared with parsing their JSON."""
    chunks = openai_chunks(plan.sized(EVENTS))
    events = [line[6:] for line in b"".join(chunks).splitlines() if line.startswith(b"data: {")]
    image = base64.b64encode(random.Random(1).randbytes(plan.sized(6_000_000))).decode()
    prose = "Some words of a long prompt, one after the other. " * plan.sized(160_000)
    redaction = Redaction({"an-other-Secret-1": "A_KEY", "an-other-Secret-2": "B_KEY"})

    def compared(name: str, documents: list[bytes], recorded: Interaction) -> Awaitable[None]:
        async def base() -> None:
            for document in documents:
                json.loads(document)

        async def ours() -> None:
            assert redaction.redact(recorded).replaced == []

        return table.compare(name, base, ours, plan, units=1, unit="us a scan", base_name="json.loads", repeat=3)

    await compared("scan 500 events", events, interaction("Hi", chunks))
    table.facts["ms to scan 500 events (goal: <= 5)"] = table.rows[-1].measured.median / 1000
    for kind, text in (("base64", image), ("prose", prose)):
        large = interaction(text, [b"data: {}\n\n"])
        # as the body of an answer: the last requests are remembered between look-up and recording
        await compared(
            f"scan 8 MB of {kind}", [large.request_body], replace(large, request_body=b"", response=answer(large))
        )
        table.facts[f"ms to scan 8 MB of {kind} (goal: <= 120)"] = table.rows[-1].measured.median / 1000


def answer(recorded: Interaction) -> ResponseStream:
    """Return a response whose body is that of a request."""
    return ResponseStream((Chunk(0, recorded.request_body),))


def replayed(chunks: list[bytes]) -> AsyncOpenAI:
    """Return a client whose requests are answered from one recording, any number of times."""
    request = {"messages": [{"role": "user", "content": "Tell me something"}], "model": "gpt-4o", "stream": True}
    transport = ReplayTransport([interaction("Tell me something", chunks)])
    transport.session._index._repeats = True
    assert json.loads(transport.session.interactions[0].request_body) == request
    return AsyncOpenAI(api_key="none", http_client=httpx2.AsyncClient(transport=transport))


async def playing(table: Table, plan: Plan) -> None:
    """Measure playing 500 events, compared with the same bytes from a plain mock transport."""
    words = plan.sized(EVENTS)
    chunks = openai_chunks(words)
    mock = AsyncOpenAI(api_key="none", http_client=http_client(chunks))
    recorded = replayed(chunks)
    agent = create_openai_agent("gpt-4o", async_client=recorded)
    sdk: dict[str, Any] = {"units": words, "unit": "us a chunk", "base_name": "SDK over a mock transport", "repeat": 3}
    async with MiniAgents(), mock, recorded:
        base = raw_openai(mock, words)
        await table.compare(
            "playing 500 events through the SDK", base, raw_openai(recorded, words), plan, goal=1.2, **sdk
        )
        await table.compare("playing 500 events through our agent", base, through(agent, words), plan, goal=0.1, **sdk)


async def playing_whole(table: Table, plan: Plan, folder: Path) -> None:
    """Measure playing 500 events with the opening of a new cassette and a client of its own, as a test does it."""
    words, repeat = plan.sized(EVENTS), 3
    chunks = openai_chunks(words)
    paths = copies(folder / "whole.yaml", interaction("Tell me something", chunks), plan.rounds * repeat + 1)

    async def mocked() -> None:
        async with AsyncOpenAI(api_key="none", http_client=http_client(chunks)) as client:
            await raw_openai(client, words)()

    async def played() -> None:
        with use_cassette(next(paths)):
            async with AsyncOpenAI(api_key="none") as client:
                await through(create_openai_agent("gpt-4o", async_client=client), words)()

    name = "a whole test: cassette, client, and our agent, 500 events"
    row: dict[str, Any] = {"units": 1, "unit": "us a test", "base_name": "SDK and client over a mock", "goal": 0.2}
    async with MiniAgents():
        await table.compare(name, mocked, played, plan, repeat=repeat, **row)


async def recording(table: Table, plan: Plan, folder: Path) -> None:
    """Measure the time to the first token of a live stream over a socket, with a recorder and without."""
    times: tuple[list[float], list[float]] = ([], [])
    numbers = count()
    rounds = 3 if plan.quick else 30
    with ProviderServer(lambda call: Step(["one"] * 30, first_wait=0.05, gap=0.005)) as server:
        async with AsyncOpenAI(api_key="none", base_url=server.openai_base_url) as client:
            await first_token(client)
            for _ in range(rounds):
                times[0].append(await first_token(client) * 1000)
                with use_cassette(folder / f"live-{next(numbers)}.yaml", record_mode="once"):
                    times[1].append(await first_token(client) * 1000)
    table.add("first token, recorded", "ms on the clock", *times, base_name="live", goal=1.1)


async def first_token(client: AsyncOpenAI) -> float:
    """Return the seconds until the first token has arrived, after reading the whole answer."""
    started, first = time.perf_counter(), 0.0
    messages: Any = [{"role": "user", "content": "Hi"}]
    async for chunk in await client.chat.completions.create(model="m", messages=messages, stream=True):
        if not first and chunk.choices[0].delta.content:
            first = time.perf_counter() - started
    return first


async def mean_error_of_gaps(plan: Plan, folder: Path) -> float:
    """Return the mean difference between played and recorded gaps of chunks, in milliseconds."""
    path, gap = folder / "paced.yaml", 0.005
    save(path, [interaction("Hi", openai_chunks(plan.sized(200)), gap)])
    with use_cassette(path, pace=1):
        async with httpx2.AsyncClient() as client:
            body = load(path)[0].request_body
            async with client.stream("POST", URL, content=body) as response:
                moments = [time.perf_counter() async for _ in response.aiter_raw()]
    return statistics.mean(abs(late - early - gap) for early, late in pairwise(moments)) * 1000


def time_of_a_recorded_minute(plan: Plan) -> float:
    """Return the milliseconds on the clock that four agents need to replay a minute in virtual time."""
    example = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "panel.py"))

    async def play() -> None:
        async with AsyncOpenAI(api_key="none") as openai, AsyncAnthropic(api_key="none") as anthropic, MiniAgents():
            await example["amain"](openai, anthropic, lambda name, token: None)
        assert asyncio.get_running_loop().time() > 50

    times = []
    for _ in range(plan.rounds + 1):  # the first time fills caches
        started = time.perf_counter()
        with use_cassette(example["CASSETTE"], pace=1):
            run_in_virtual_time(play())
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:]) * 1000


async def benchmark(plan: Plan) -> Table:
    """Measure loading, finding, the scan, playing, recording, pace, a miss, and a minute in virtual time."""
    table = Table("Cassettes")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await loading(table, plan, folder)
        await looking_up(table, plan)
        await scanning(table, plan)
        await playing(table, plan)
        await playing_whole(table, plan, folder)
        await recording(table, plan, folder)
        table.facts["ms of mean error of a gap of 5 ms, played at its pace (goal: < 3)"] = await mean_error_of_gaps(
            plan, folder
        )
        table.facts["ms until a miss among 1,000 is told (goal: < 50)"] = time_of_a_miss(folder)
    name = "ms to replay a minute of four agents in virtual time (goal: < 500)"
    table.facts[name] = await asyncio.to_thread(time_of_a_recorded_minute, plan)
    return table


if __name__ == "__main__":
    main(benchmark)
