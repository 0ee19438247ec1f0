"""Three researchers look things up at once, and a critic says what is missing, until nothing is.

What to look at: a function is a tool as it is; `researcher` calls it for as many rounds as it needs, and `.last` is its
final answer. All topics are looked into at once, without a task. `output=Verdict` makes the critic's answer a value,
whose type the type checker knows. The history has the question and the notes of all rounds. `limits` stop a team that
goes on and on; the last line prints what the run took.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field

from miniagents import InMemoryChatHistory, InteractionContext, Limits, MiniAgents, UserMessage, miniagent
from miniagents.errors import MissingExtraError
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing import use_cassette

try:
    from openai import AsyncOpenAI
except ModuleNotFoundError as error:
    raise MissingExtraError.of("openai", "openai") from error

CASSETTE = Path(__file__).parent.parent / "cassettes" / "openai" / "research.yaml"
QUESTION = "Why do swifts hardly ever land?"
TOPICS = ["food", "wings", "sleep"]
ARTICLES = {
    "swift food": "Swifts catch insects and spiders in flight, and drink drops of rain.",
    "swift wings": "The wings are long and narrow, and save energy at high speed. The legs are very short.",
    "swift sleep": "Swifts climb to 2,500 m at dusk, and glide there with half of the brain asleep.",
    "swift nest": "Swifts land to breed: in holes high up in walls, from which they drop into flight.",
}


class Verdict(BaseModel):
    """What a critic says on notes."""

    missing: list[str] = Field(description="Topics to look into; empty if the notes answer the question.")


async def look_up(words: str) -> str:
    """Look up an article of the encyclopedia, by two words."""
    return ARTICLES.get(words, "There is no such article.")


@miniagent
async def team(ctx: InteractionContext, topics: list[str], client: AsyncOpenAI) -> None:
    """Look into all topics at once, and reply a note on each."""
    researcher = create_openai_agent(
        "gpt-4o", async_client=client, alias="RESEARCHER", tools=[look_up], system="Look it up. Then one sentence."
    )
    ctx.reply([researcher.trigger([ctx.message_promises, f"Topic: {topic}"]).last for topic in topics])


async def amain(client: AsyncOpenAI) -> None:
    """Let team and critic take turns, and print notes and verdicts."""
    critic = create_openai_agent(
        "gpt-4o", async_client=client, alias="CRITIC", output=Verdict, system="You check notes."
    )
    history = InMemoryChatHistory()
    await history.aappend(UserMessage(QUESTION))
    topics = TOPICS
    while topics:
        known = await history.aload_chat_history()
        notes = team.trigger(known, topics=topics, client=client, limits=Limits(requests=10, output_tokens=2_000))
        async for note in notes:
            async for token in note:
                print(token, end="", flush=True)
            print()
        await history.aappend(notes)
        verdict = await critic.trigger([await history.aload_chat_history(), "What is missing?"]).last
        topics = verdict.parsed.missing
        print(f"[missing: {', '.join(topics) or 'nothing'}]")
    usage = MiniAgents.get_current().usage
    print(f"{usage.requests} requests, {usage.input_tokens} tokens read, {usage.output_tokens} written.")


if __name__ == "__main__":
    with use_cassette(CASSETTE, pace=1):
        MiniAgents().run(amain(AsyncOpenAI(api_key="not needed")))
