"""A chat of you and a live model, in a dozen lines: `OPENAI_API_KEY=... python examples/live_conversation.py`.

What to look at: tokens are printed as they arrive; Ctrl-C stops an answer; "exit", Ctrl-D, and Ctrl-C at an empty
prompt end the program. To run it without a key, start `python -m miniagents_testing serve`: a local server that repeats
your words. It prints the `OPENAI_BASE_URL` to set.
"""

from miniagents.chat_history import InMemoryChatHistory
from miniagents.ext.console_user_agent import create_console_user_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.miniagents import MiniAgents
from miniagents.utils import adialog_loop


async def amain() -> None:
    chat_history = InMemoryChatHistory()
    try:
        print()
        await adialog_loop(
            user_agent=create_console_user_agent(chat_history=chat_history),
            assistant_agent=create_openai_agent(model="gpt-4"),
        )
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    MiniAgents().run(amain())
