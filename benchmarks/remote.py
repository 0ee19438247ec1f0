"""Cost of remote agents: a crowd of calls on two workers beside one process, an echo and a token beside bare NATS.

CPU time is that of all processes: caller, workers and server. Needs the group `servers`, or a `nats-server` on PATH.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Plan, Table, main
from miniagents import InteractionContext, Message, MiniAgents, miniagent
from miniagents.ext.remote import remote, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from miniagents import MiniAgent

TOKENS = 100
PAUSE = 0.05
ALLOWED_ECHO = 0.02
"""Seconds that an echo may take beside ten bare requests: one pause of the sender."""
ECHOES = 100


@miniagent
async def talker(ctx: InteractionContext, count: int = TOKENS, pause: float = PAUSE) -> None:
    """Streams tokens with pauses, as a model does."""

    async def stream(_: dict[str, Any]) -> AsyncIterator[str]:
        for number in range(count):
            await asyncio.sleep(pause)
            yield f"token{number} "

    ctx.reply(Message.promise(message_token_streamer=stream))


@miniagent
async def echo(ctx: InteractionContext) -> None:
    """Replies its messages."""
    ctx.reply(ctx.message_promises)


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, int]]:
    """Run a NATS server, yield its URL and process id, and kill it at the end."""
    program = Path(sys.executable).with_name("nats-server")
    command = [str(program) if program.exists() else "nats-server", "-js", "-a", "127.0.0.1", "-p", "-1"]
    with subprocess.Popen(
        [*command, "-sd", str(folder / "data"), "--ports_file_dir", str(folder), "-l", str(folder / "log")]
    ) as process:
        try:
            ports = folder / f"nats-server_{process.pid}.ports"
            while not (ports.exists() and ports.read_text()):
                time.sleep(0.02)
            yield json.loads(ports.read_text())["nats"][0], process.pid
        finally:
            process.kill()


@contextmanager
def workers(url: str, number: int) -> Iterator[list[int]]:
    """Run workers in processes of their own, yield the process ids, and end the workers."""
    # tox sets PYTHONSAFEPATH, under which a program does not find the modules of its folder
    paths = filter(None, [os.environ.get("PYTHONPATH"), str(Path(__file__).resolve().parent.parent)])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "benchmarks.remote", "--serve", url]
    processes = [subprocess.Popen(command, env=environment) for _ in range(number)]
    try:
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def cpu_seconds(process: int) -> float:
    """Return the CPU seconds of another process so far, as Linux counts them."""
    values = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


async def crowd(agent: MiniAgent[Any], calls: int, processes: list[int], **arguments: Any) -> tuple[float, float]:
    """Make calls at once, check their texts, and return CPU seconds of all processes, and seconds on the clock."""
    before = time.process_time() + sum(map(cpu_seconds, processes))
    began = time.perf_counter()

    async def read(number: int) -> str:
        [promise] = [each async for each in agent.trigger(str(number), **arguments)]
        return "".join([token async for token in promise])

    texts = await asyncio.gather(*map(read, range(calls)))
    took = time.perf_counter() - began
    expected = "".join(f"token{number} " for number in range(arguments.get("count", TOKENS)))
    assert set(texts) == {expected}
    return time.process_time() + sum(map(cpu_seconds, processes)) - before, took


async def bare_tokens(client: Any, number: int, processes: list[int]) -> float:
    """Send tokens through a stream of JetStream to a subscriber; return the CPU seconds of both processes."""
    arrived, done = 0, asyncio.Event()

    async def on_message(_: Any) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == number:
            done.set()

    subscription = await client.subscribe("bare.token", cb=on_message)
    before = time.process_time() + sum(map(cpu_seconds, processes))
    for each in range(number):
        await client.publish("bare.token", b"token%d " % each)
    await done.wait()
    took = time.process_time() + sum(map(cpu_seconds, processes)) - before
    await subscription.unsubscribe()
    return took


async def measure_echo(client: Any, agent: MiniAgent[Any], number: int) -> tuple[float, float]:
    """Return the medians of the seconds that a bare request and an echo take, in turn."""

    async def respond(message: Any) -> None:
        await message.respond(message.data)

    subscription = await client.subscribe("bare.echo", cb=respond)
    bare, ours = [], []
    for _ in range(number):
        began = time.perf_counter()
        await client.request("bare.echo", b"x", timeout=10)
        bare.append(time.perf_counter() - began)
        began = time.perf_counter()
        [message] = await agent.trigger("x")
        ours.append(time.perf_counter() - began)
        assert str(message) == "x"
    await subscription.unsubscribe()
    return statistics.median(bare), statistics.median(ours)


async def benchmark(plan: Plan) -> Table:
    """Measure the crowd, echoes, and tokens that come without pauses."""
    import nats

    table = Table("Remote agents")
    calls = plan.sized(1000)
    with tempfile.TemporaryDirectory() as name, server(Path(name)) as (url, broker), workers(url, 2) as pids:
        processes = [*pids, broker]
        client = await nats.connect(url)
        await client.jetstream().add_stream(name="BARE", subjects=["bare.token"])
        async with MiniAgents():
            talking, echoing = remote(url, "TALKER"), remote(url, "ECHO")
            await crowd(talking, 20, processes, count=2)  # both workers are there
            rounds = [
                (await crowd(talker, calls, []), await crowd(talking, calls, processes))
                for _ in range(1 if plan.quick else 3)
            ]
            scale = 1e6 / (calls * TOKENS)
            table.add(
                f"{calls:,} calls at once, on two workers",
                "us of CPU a token",
                [base[0] * scale for base, _ in rounds],
                [ours[0] * scale for _, ours in rounds],
                base_name="one process",
                goal=10,
            )
            table.add(
                f"the same, time ({TOKENS * PAUSE:g} s at best)",
                "s on the clock",
                [base[1] for base, _ in rounds],
                [ours[1] for _, ours in rounds],
                base_name="one process",
                goal=1.5,
            )
            echoes = [await measure_echo(client, echoing, plan.sized(ECHOES)) for _ in range(1 if plan.quick else 3)]
            table.add(
                "an echo, median",
                "ms on the clock",
                [(ALLOWED_ECHO + 10 * bare) * 1e3 for bare, _ in echoes],
                [ours * 1e3 for _, ours in echoes],
                base_name="20 ms and 10 bare requests",
                goal=1,
            )
            number = plan.sized(20_000)
            await asyncio.sleep(0.1)
            tokens = [
                (
                    max(await bare_tokens(client, number, [broker]), 1e-6),
                    (await crowd(talking, 1, processes, count=number, pause=0))[0],
                )
                for _ in range(1 if plan.quick else 3)
            ]
            table.add(
                "a token of a stream without pauses",
                "us of CPU a token",
                [bare * 1e6 / number for bare, _ in tokens],
                [ours * 1e6 / number for _, ours in tokens],
                base_name="a message of bare NATS",
                goal=1,
            )
        await client.close()
    return table


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        MiniAgents().run(serve(sys.argv[2], talker, echo, concurrency=600, lease=2))
    else:
        main(benchmark)
