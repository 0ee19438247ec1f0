"""One answer is split into its paragraphs while it streams, and each paragraph becomes a message.

What to look at: `split_messages` turns a stream into a stream of streams. A paragraph is printed from its first token
on, before the paragraph or the answer is complete.
"""

from __future__ import annotations

from pathlib import Path

from miniagents import MiniAgents
from miniagents.errors import MissingExtraError
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.utils import split_messages
from miniagents_testing import use_cassette

try:
    from openai import AsyncOpenAI
except ModuleNotFoundError as error:
    raise MissingExtraError.of("openai", "openai") from error

CASSETTE = Path(__file__).parent.parent / "cassettes" / "openai" / "split_stream.yaml"


async def amain(client: AsyncOpenAI) -> None:
    """Ask for three paragraphs, and print each with its number while it streams."""
    llm = create_openai_agent(model="gpt-4", async_client=client)
    number = 0
    async for paragraph in split_messages(llm.trigger("Tell me of a day at sea, in three short paragraphs.")):
        number += 1
        print(f"\n[{number}] ", end="", flush=True)
        async for token in paragraph:
            print(token, end="", flush=True)
        print()


if __name__ == "__main__":
    with use_cassette(CASSETTE, pace=1):
        MiniAgents().run(amain(AsyncOpenAI(api_key="not needed")))
