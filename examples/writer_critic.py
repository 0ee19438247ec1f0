"""A writer and a critic improve a line together, until the critic is content.

What to look at: `achain_loop` sends what one agent replies to the next, round and round; `AWAIT` says where something
has to be complete before it goes on. The critic ends the loop by raising `StopDialog`, and nothing else has to know.
"""

from __future__ import annotations

from pathlib import Path

from openai import AsyncOpenAI

from miniagents import AWAIT, InteractionContext, MiniAgent, MiniAgents, StopDialog, miniagent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.utils import achain_loop
from miniagents_testing import use_cassette

CASSETTE = Path(__file__).parent.parent / "cassettes" / "openai" / "writer_critic.yaml"


@miniagent
async def speaker(ctx: InteractionContext, name: str, llm: MiniAgent[[]], last_word: str = "") -> None:
    """Says aloud what `llm` answers; a certain `last_word` in it ends the loop."""
    print(f"\n{name}: ", end="", flush=True)
    text = ""
    async for token in llm.trigger(ctx.message_promises).as_single_text_promise():
        print(token, end="", flush=True)
        text += token
    print()
    if last_word and last_word in text:
        raise StopDialog
    ctx.reply(text)  # without its role: to the next model it is something that a user says


async def amain(client: AsyncOpenAI) -> None:
    """Writer, critic, writer, critic."""
    writer = create_openai_agent(
        model="gpt-4", async_client=client, system="Write or improve one line about the sea. Only the line."
    )
    critic = create_openai_agent(
        model="gpt-4", async_client=client, system="Say in a few words what to improve in this line, or say: DONE"
    )
    await achain_loop(
        [
            speaker.fork(name="WRITER", llm=writer),
            AWAIT,
            speaker.fork(name="CRITIC", llm=critic, last_word="DONE"),
            AWAIT,
        ],
        initial_input="The sea is big.",
    )


if __name__ == "__main__":
    with use_cassette(CASSETTE, pace=1):
        MiniAgents().run(amain(AsyncOpenAI(api_key="not needed")))
