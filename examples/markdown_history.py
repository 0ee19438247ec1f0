"""A chat is kept in a readable Markdown file, and a second chat continues it.

What to look at: the second chat gets only the path of the file, and still sends the model the messages of the first
chat. Each message is written when it is complete; at the end of the program the file is printed unchanged.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from miniagents import MiniAgents, UserMessage
from miniagents.errors import MissingExtraError
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing import use_cassette

try:
    from openai import AsyncOpenAI
except ModuleNotFoundError as error:
    raise MissingExtraError.of("openai", "openai") from error

CASSETTE = Path(__file__).parent.parent / "cassettes" / "openai" / "markdown_history.yaml"


async def achat(client: AsyncOpenAI, path: Path, text: str) -> None:
    """Send the model the chat in the file and one more message, and store the answer."""
    chat_history = ChatHistoryMD(path)
    await chat_history.aappend(UserMessage(text))
    llm = create_openai_agent(model="gpt-4", async_client=client)
    await chat_history.aappend(llm.trigger(await chat_history.aload_chat_history()))


async def amain(client: AsyncOpenAI, path: Path) -> None:
    """Hold two chats with one file, and print the file."""
    await achat(client, path, "My cat is called Häppchen. 🐈")
    await achat(client, path, "What is my cat called?")
    print(path.read_text(encoding="utf-8"))  # noqa: ASYNC240 - no other task is running


if __name__ == "__main__":
    with use_cassette(CASSETTE, pace=1), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "chat.md"
        MiniAgents().run(amain(AsyncOpenAI(api_key="not needed"), file))
