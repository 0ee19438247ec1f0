"""Three experts are asked at once, and their answers are shown in order while all of them are still being written.

What to look at: the program has no task, queue or `gather`. `trigger` returns at once, so all three experts work
before the first token is read. The answers are read one after the other, and tokens that arrive meanwhile are kept. The
last line prints the time that all three answers took together.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from miniagents import InteractionContext, MiniAgents, miniagent
from miniagents.errors import MissingExtraError
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing import use_cassette

try:
    from openai import AsyncOpenAI
except ModuleNotFoundError as error:
    raise MissingExtraError.of("openai", "openai") from error

CASSETTE = Path(__file__).parent.parent / "cassettes" / "openai" / "parallel_agents.yaml"
EXPERTS = ["a sailor", "a baker", "a programmer"]


@miniagent
async def panel(ctx: InteractionContext, client: AsyncOpenAI) -> None:
    """Ask all experts, and reply their answers in the order of `EXPERTS`, not of their speed."""
    for expert in EXPERTS:
        agent = create_openai_agent(model="gpt-4", async_client=client, system=f"You are {expert}. One sentence.")
        ctx.reply([f"{expert.capitalize()}: ", agent.trigger(ctx.message_promises), "\n"])


async def amain(client: AsyncOpenAI) -> None:
    """Ask the panel, and print its answers while they stream."""
    started = asyncio.get_running_loop().time()
    async for promise in panel.trigger("What is patience?", client=client):
        async for token in promise:
            print(token, end="", flush=True)
    took = asyncio.get_running_loop().time() - started
    print(f"\nThree answers in {took:.1f} s.")


if __name__ == "__main__":
    with use_cassette(CASSETTE, pace=1):
        MiniAgents().run(amain(AsyncOpenAI(api_key="not needed")))
