"""A writer and a critic improve a line together, until the critic is content.

What to look at: `achain_loop` sends the replies of one agent to the next, round after round. At `AWAIT` the loop waits
until all messages are complete. The critic ends the loop by raising `StopDialog`; the writer does not need to check.
"""

from __future__ import annotations

from pathlib import Path

from miniagents import AWAIT, InteractionContext, MiniAgent, MiniAgents, StopDialog, miniagent
from miniagents.errors import MissingExtraError
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.utils import achain_loop
from miniagents_testing import use_cassette

try:
    from openai import AsyncOpenAI
except ModuleNotFoundError as error:
    raise MissingExtraError.of("openai", "openai") from error

CASSETTE = Path(__file__).parent.parent / "cassettes" / "openai" / "writer_critic.yaml"


@miniagent
async def speaker(ctx: InteractionContext, name: str, llm: MiniAgent[[]], last_word: str = "") -> None:
    """Print the answer of `llm` while it streams, and reply it; stop the loop if the answer has `last_word` in it."""
    print(f"\n{name}: ", end="", flush=True)
    text = ""
    async for token in llm.trigger(ctx.message_promises).as_single_text_promise():
        print(token, end="", flush=True)
        text += token
    print()
    if last_word and last_word in text:
        raise StopDialog
    ctx.reply(text)  # a text has no role, so the next model reads it as a user's message


async def amain(client: AsyncOpenAI) -> None:
    """Let the writer and the critic take turns."""
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
