"""One agent runs in a worker, and programs elsewhere call it and read its replies, while it works or later.

Start a NATS server (`nats-server -js`), and in terminals of their own, on any hosts:

    python examples/remote_agents.py worker
    python examples/remote_agents.py ask job-1 "a lighthouse"
    python examples/remote_agents.py read job-1

What to look at: `ask` and `read` get the same tokens. End the program `ask` in the middle, and `read` shows the whole
story: the worker goes on. Press Ctrl-C in `ask`, and the worker stops. Start two workers, and each takes some of the
calls. `NATS_URL` says where the server is.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

from miniagents import InteractionContext, Message, MiniAgents, miniagent
from miniagents.ext.remote import remote, reopen, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from miniagents import MessageSequencePromise

URL = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
STORY = "There was once {}, and it stood where nothing else stood. It waited. One day it was found, and that was all."


@miniagent
async def storyteller(ctx: InteractionContext, pause: float = 0.1) -> None:
    """Tells a story about what it is sent; an agent on a model would stream in the same way."""
    hero = await ctx.message_promises.last

    async def words(_: dict[str, Any]) -> AsyncIterator[str]:
        for word in STORY.format(hero).split():
            yield f"{word} "
            await asyncio.sleep(pause)

    ctx.reply(Message.promise(message_token_streamer=words))


async def show(replies: MessageSequencePromise) -> None:
    """Print replies while they stream."""
    async for promise in replies:
        async for token in promise:
            print(token, end="", flush=True)
        print()


async def amain(role: str, *arguments: str) -> None:
    """Serve the agent as a worker, call the agent, or read the replies to an earlier call."""
    match role, arguments:
        case "worker", ():
            await serve(URL, storyteller)
        case "ask", (call_id, hero):
            await show(remote(URL, storyteller).trigger(hero, call_id=call_id))
        case "read", (call_id,):
            await show(await reopen(URL, call_id))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    MiniAgents().run(amain(*(sys.argv[1:] or [""])))
