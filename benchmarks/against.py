"""Comparison of two checkouts of this project: the CPU time of the same work, measured in turn, round by round.

    python -m benchmarks.against OLD NEW [--pairs 21] [--only tokens calls ...]

The rounds of both sides alternate, so a change in the machine's speed affects both. Each side has a new process after
some rounds. A row is within the limit if both quartiles of its ratio are. The option `--work` is internal: this script
starts the two processes with it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

Side = Callable[[], Awaitable[object]]
LIMIT = 1.05
"""Highest ratio of the new time to the old time that is accepted."""
PAIRS_A_PROCESS = 3
"""Pairs of rounds before both processes start anew: two processes of the same code may differ by a fifth."""


def tokens() -> Side:
    """Return the work of reading 20,000 tokens through an agent, as fast as they come."""
    from benchmarks.tokens import ours

    return ours(20_000)


def paced() -> Side:
    """Return the work of reading 3,000 tokens through an agent, with a step of the loop before each."""
    from benchmarks.tokens import ours

    return ours(3_000, paced=True)


def calls() -> Side:
    """Return the work of 1,000 calls of an agent, one after the other."""
    from benchmarks.bare import one_by_one
    from benchmarks.calls import agent_call

    return one_by_one(lambda turns: agent_call(turns), 1_000)


def calls_at_once() -> Side:
    """Return the work of 1,000 calls of an agent at once."""
    from benchmarks.calls import agents_at_once

    return agents_at_once(1_000)


def messages() -> Side:
    """Return the work of making, hashing and serializing 300 messages with nested fields."""
    from miniagents import Message

    fields: Any = {"steps": [{"id": f"step-{n}", "ms": n * 1.5, "tags": ["a", f"t{n}"]} for n in range(20)]}

    async def side() -> None:
        for number in range(300):
            message = Message("hello", number=number, **fields)
            assert message.hash_key
            message.serialize()

    return side


def dialog() -> Side:
    """Return the work of a dialog of 60 turns in which the agent is sent the whole history."""
    from benchmarks.messages import dialog

    return lambda: dialog(60)


def text() -> Side:
    """Return the work of joining and splitting messages of 10,000 tokens."""
    from benchmarks.messages import join, split

    async def side() -> None:
        await join(10_000)
        await split(10_000)

    return side


def openai() -> Side:
    """Return the work of reading 2,000 chunks of OpenAI's chat completions through an agent."""
    from benchmarks.decoding import through
    from benchmarks.provider import openai_client
    from miniagents.ext.llm.openai import create_openai_agent

    return through(create_openai_agent("gpt-4o", async_client=openai_client(2_000)), 2_000)


def anthropic() -> Side:
    """Return the work of reading 2,000 chunks of Anthropic's API through an agent."""
    from benchmarks.decoding import through
    from benchmarks.provider import anthropic_client
    from miniagents.ext.llm.anthropic import create_anthropic_agent

    return through(create_anthropic_agent("claude", max_tokens=9, async_client=anthropic_client(2_000)), 2_000)


def recording() -> Side:
    """Return the work of recording a stream of 500 chunks into a cassette."""
    import httpx2

    from benchmarks.provider import openai_chunks
    from miniagents_testing import use_cassette

    folder = tempfile.mkdtemp(prefix="benchmark-")
    chunks = openai_chunks(500)

    class Body(httpx2.AsyncByteStream):
        async def __aiter__(self) -> Any:
            for chunk in chunks:
                yield chunk

    class Transport(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Body())

    async def side() -> None:
        url = "https://api.openai.com/v1/chat/completions"
        path = Path(folder) / "recorded.yaml"
        with use_cassette(path, record_mode="all", also_patch=[Transport]):
            async with httpx2.AsyncClient(transport=Transport()) as client:
                async with client.stream("POST", url, json={"model": "m", "messages": []}) as response:
                    assert len([chunk async for chunk in response.aiter_raw()]) == len(chunks)

    return side


def playing() -> Side:
    """Return the work of reading a recording of 500 chunks through an agent."""
    from benchmarks.cassettes import replayed
    from benchmarks.decoding import through
    from benchmarks.provider import openai_chunks
    from miniagents.ext.llm.openai import create_openai_agent

    return through(create_openai_agent("gpt-4o", async_client=replayed(openai_chunks(500))), 500)


def loading() -> Side:
    """Return the work of loading a large cassette ten times."""
    from benchmarks.cassettes import interaction
    from benchmarks.provider import openai_chunks
    from miniagents_testing.cassette import load, save

    path = Path(tempfile.mkdtemp(prefix="benchmark-")) / "large.yaml"
    save(path, [interaction(f"{number} {'word ' * 200}", openai_chunks(450)) for number in range(10)])

    async def side() -> None:
        for _ in range(10):
            load(path)

    return side


def markdown() -> Side:
    """Return the work of 100 appends to a new Markdown history, and one load of it."""
    from miniagents import UserMessage
    from miniagents.ext.chat_history_md import ChatHistoryMD

    folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
    rounds = iter(range(1_000_000))

    async def side() -> None:
        history = ChatHistoryMD(folder / f"{next(rounds)}.md")
        for number in range(100):
            await history.aappend(UserMessage(f"Message {number}\n\nwith a second paragraph"))
        assert len(await history.aload_chat_history()) == 100

    return side


def schedules() -> Side:
    """Return the work of 100 random schedules of ten tasks that race for a counter, and repair what they lose."""
    from miniagents_testing import search_schedules

    async def race() -> None:
        counter = 0

        async def increment() -> None:
            nonlocal counter
            for _ in range(5):
                seen = counter
                await asyncio.sleep(0)
                counter = max(counter, seen + 1)

        await asyncio.gather(*[increment() for _ in range(10)])
        assert 5 <= counter <= 50

    return lambda: asyncio.to_thread(search_schedules, race, range(100))


def startup() -> Side:
    """Return the work of importing `miniagents` in three new processes."""

    async def side() -> None:
        for _ in range(3):
            command = [sys.executable, "-c", "from miniagents import MiniAgents, Message"]
            subprocess.run(command, check=True)  # noqa: ASYNC221 - nothing else runs in this loop

    return side


ROWS = {
    row.__name__: row
    for row in (
        *(tokens, paced, calls, calls_at_once, messages, dialog, text, openai, anthropic),
        *(recording, playing, loading, markdown, schedules, startup),
    )
}


async def work(row: str) -> None:
    """Run one round for each line of the standard input, and print its CPU seconds, those of children included."""
    import gc

    from miniagents import MiniAgents

    side = ROWS[row]()
    async with MiniAgents():
        await side()  # the first time fills caches
        for _ in sys.stdin:
            gc.collect()
            before = cpu_seconds()
            await side()
            print(cpu_seconds() - before, flush=True)


def cpu_seconds() -> float:
    """Return the CPU time that this process and its ended children have taken."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def start(checkout: Path, row: str) -> subprocess.Popen[str]:
    """Start the process that does the work of a row with the code of a checkout."""
    command = [sys.executable, "-P", __file__, "--work", row]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    return subprocess.Popen(
        command, cwd=checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def run_round(process: subprocess.Popen[str]) -> float:
    """Let a process run one round, and return its CPU seconds."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def measure_ratios(old: Path, new: Path, row: str, pairs: int) -> list[float]:
    """Return the ratio of the new time to the old time of each pair of rounds."""
    found: list[float] = []
    while len(found) < pairs:
        sides = [start(old, row), start(new, row)]
        for number in range(min(PAIRS_A_PROCESS, pairs - len(found))):
            times = [0.0, 0.0]
            for side in (0, 1) if number % 2 else (1, 0):
                times[side] = run_round(sides[side])
            found.append(times[1] / times[0])
        for process in sides:
            process.communicate()
    return found


def main() -> None:
    """Compare two checkouts, and print a table; or run the work of one side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "checkouts", nargs="*", type=Path, metavar="CHECKOUT", help="folder of the old checkout, then of the new one"
    )
    parser.add_argument("--pairs", type=int, default=21, help="rounds of each side (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--work", choices=ROWS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        asyncio.run(work(chosen.work))
        return
    old, new = (checkout.resolve() for checkout in chosen.checkouts)
    print(f"| work | new beside old: median (quartiles) of {chosen.pairs} pairs | within {LIMIT} |\n|---|---|---|")
    for row in chosen.only:
        lower, median, upper = statistics.quantiles(
            measure_ratios(old, new, row, chosen.pairs), n=4, method="inclusive"
        )
        verdict = "yes" if upper <= LIMIT else "no" if lower > LIMIT else "not sure"
        print(f"| {row} | {median:.3f} ({lower:.3f} to {upper:.3f}) | {verdict} |", flush=True)


if __name__ == "__main__":
    main()
