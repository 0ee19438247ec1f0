"""A worker for tests: `worker_program.py URLS FILE [ALIAS] [--keep SECONDS] [--replicas NUMBER]`.

It serves the agents below, or TALKER under another alias, and adds a line to the file for each call of TALKER.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miniagents import InteractionContext, Message, MiniAgents, miniagent
from miniagents.ext.remote import NatsBroker, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_runs = Path("/dev/null")


def _note(line: str) -> None:
    """Add a line to the file; other workers may do so at the same time."""
    with _runs.open("a") as file:
        file.write(f"{line}\n")


@miniagent
async def talker(ctx: InteractionContext, count: int = 3, pause: float = 0.05) -> None:
    """Streams `count` tokens, with a pause of `pause` seconds after each."""
    name = str(await ctx.message_promises.last)
    _note(name)

    async def stream(fields: dict[str, Any]) -> AsyncIterator[str]:
        try:
            for number in range(count):
                yield f"t{number} "
                await asyncio.sleep(pause)
        except BaseException:
            _note(f"ended:{name}")
            raise
        fields["count"] = count

    ctx.reply(Message.promise(message_token_streamer=stream))


@miniagent(alias="ECHO.ä *>")
async def echo(ctx: InteractionContext) -> None:
    """Replies the messages that it gets."""
    ctx.reply(ctx.message_promises)


@miniagent
async def failing(ctx: InteractionContext) -> None:
    """Fails."""
    raise ZeroDivisionError("by hand")


@miniagent
async def blocker(ctx: InteractionContext, seconds: float) -> None:
    """Blocks the event loop, while other threads can run."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))
    ctx.reply("blocked")


async def _main(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM."""
    agents = [talker.fork(alias=arguments.alias)] if arguments.alias else [talker, echo, failing, blocker]
    broker = NatsBroker(arguments.urls.split(","), replicas=arguments.replicas)
    sys.stdout.write("started\n")
    sys.stdout.flush()
    await serve(broker, *agents, concurrency=600, lease=2, drain=30, keep=arguments.keep)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("urls")
    parser.add_argument("runs", type=Path)
    parser.add_argument("alias", nargs="?")
    parser.add_argument("--keep", type=float, default=3600)
    parser.add_argument("--replicas", type=int, default=1)
    parsed = parser.parse_args()
    _runs = parsed.runs
    MiniAgents().run(_main(parsed))
