"""Four agents of two providers discuss a question, all at once, and a moderator says at the end where they agree.

The program needs the extra `anthropic`, too. The recording took a minute, and is played five times as fast; `python
examples/panel.py 1` plays it at its own pace. To watch all four streams at once: `python -m miniagents_testing play
cassettes/both/panel.yaml`.

What to look at: both rounds and the summary are set up before the first token has arrived. Each speaker is sent
promises of the other speakers' messages, and begins when those are complete. The program has no barrier, no `gather`.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miniagents import InteractionContext, MiniAgent, MiniAgents, miniagent
from miniagents.errors import MissingExtraError
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing import use_cassette

try:
    from openai import AsyncOpenAI
except ModuleNotFoundError as error:
    raise MissingExtraError.of("openai", "openai") from error
try:
    from anthropic import AsyncAnthropic
except ModuleNotFoundError as error:
    raise MissingExtraError.of("anthropic", "anthropic") from error

if TYPE_CHECKING:
    from collections.abc import Callable

CASSETTE = Path(__file__).parent.parent / "cassettes" / "both" / "panel.yaml"
QUESTION = "Our town can pay for one of two: fruit trees along Main Street, or a new playground. Which one?"
SYSTEM = "You are a {role} on a panel. Speak to the others, three short sentences at most. Do not say your name."


@miniagent
async def speaker(ctx: InteractionContext, name: str, llm: MiniAgent[Any], show: Callable[[str, str], object]) -> None:
    """Show each token of the answer of `llm` as soon as it arrives, and reply the whole answer after the name."""
    text = ""
    async for token in llm.trigger(ctx.message_promises).as_single_text_promise():
        show(name, token)
        text += token
    ctx.reply(f"{name}: {text}")


async def amain(openai: AsyncOpenAI, anthropic: AsyncAnthropic, show: Callable[[str, str], object]) -> None:
    """Hold the discussion; `show` is called with the speaker's name and each token."""
    models = {
        "Gardener": create_openai_agent("gpt-5.4-mini", async_client=openai),
        "Teacher": create_anthropic_agent("claude-sonnet-5-5", async_client=anthropic),
        "Treasurer": create_openai_agent("gpt-5.4-mini", async_client=openai, api="responses"),
        "Neighbour": create_anthropic_agent("claude-sonnet-5-5", async_client=anthropic),
        "Moderator": create_anthropic_agent("claude-sonnet-5-5", async_client=anthropic),
    }
    *panel, moderator = (
        speaker.fork(alias=name.upper(), name=name, llm=llm.fork(system=SYSTEM.format(role=name.lower())), show=show)
        for name, llm in models.items()
    )
    said: list[Any] = [QUESTION]
    for _ in range(2):
        said = [*said, *[each.trigger(said) for each in panel]]
    await moderator.trigger(said)


def print_sentences() -> Callable[[str, str], None]:
    """Return a `show` that prints whole sentences, so that four speakers at once stay readable."""
    begun: defaultdict[str, str] = defaultdict(str)

    def show(name: str, token: str) -> None:
        begun[name] += token
        if token.endswith((".", "!", "?")):
            print(f"{name:>9}: {begun.pop(name).strip()}", flush=True)

    return show


if __name__ == "__main__":
    print(f"{QUESTION}\n")
    with use_cassette(CASSETTE, pace=float(sys.argv[1]) if len(sys.argv) > 1 else 0.2):
        MiniAgents().run(
            amain(AsyncOpenAI(api_key="not needed"), AsyncAnthropic(api_key="not needed"), print_sentences())
        )
