"""A user and an assistant hold a conversation, and each token is printed as soon as it arrives.

The program plays a recording, so it needs no key and no network: `python examples/conversation.py`. The same with a
live model and your keyboard is `live_conversation.py`.

What to look at: `typing_user` is an agent like any other. It gets the assistant's answer as a promise, reads tokens
while the answer is still being written, and replies the whole chat. `adialog_loop` sends each agent the replies of the
other.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from miniagents import InMemoryChatHistory, InteractionContext, MiniAgents, StopDialog, UserMessage, miniagent
from miniagents.errors import MissingExtraError
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.utils import adialog_loop
from miniagents_testing import use_cassette

try:
    from openai import AsyncOpenAI
except ModuleNotFoundError as error:
    raise MissingExtraError.of("openai", "openai") from error

if TYPE_CHECKING:
    from collections.abc import Iterator

CASSETTE = Path(__file__).parent.parent / "cassettes" / "openai" / "conversation.yaml"
LINES = [
    "Hi! What is a promise, in this library?",
    "Nice. And if two agents want to read the same answer?",
    "Thank you, bye!",
]


@miniagent
async def typing_user(
    ctx: InteractionContext, chat_history: InMemoryChatHistory, lines: Iterator[str], seconds_per_key: float
) -> None:
    """Print the messages as they stream, then type the next of `lines`, and reply the whole chat."""
    async for promise in ctx.message_promises:
        print("\nASSISTANT: ", end="", flush=True)
        async for token in promise:
            print(token, end="", flush=True)
        print()
    await chat_history.aappend(ctx.message_promises)

    line = next(lines, None)
    if line is None:
        raise StopDialog
    print("\nUSER: ", end="", flush=True)
    for key in line:
        await asyncio.sleep(seconds_per_key)
        print(key, end="", flush=True)
    print()
    await chat_history.aappend(UserMessage(line))
    ctx.reply(await chat_history.aload_chat_history())


async def amain(client: AsyncOpenAI, seconds_per_key: float = 0.02) -> None:
    """Hold the conversation with the model that `client` reaches."""
    await adialog_loop(
        user_agent=typing_user.fork(
            chat_history=InMemoryChatHistory(), lines=iter(LINES), seconds_per_key=seconds_per_key
        ),
        assistant_agent=create_openai_agent(model="gpt-4", async_client=client),
    )


if __name__ == "__main__":
    with use_cassette(CASSETTE, pace=1):
        MiniAgents().run(amain(AsyncOpenAI(api_key="not needed")))
