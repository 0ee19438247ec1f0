"""Program of `tox -e no-extras`, where only pydantic is installed: agents work, and other parts name their extras."""

from __future__ import annotations

import importlib.util
from typing import Any

from miniagents import InteractionContext, MiniAgents, miniagent
from miniagents.errors import MissingExtraError, install_line
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.ext.mcp import mcp_tools
from miniagents.ext.opentelemetry import trace_agents
from miniagents.ext.remote import remote
from miniagents.ext.sql import SQLChatHistory


@miniagent
async def echo(ctx: InteractionContext) -> None:
    """Reply the received messages."""
    ctx.reply(ctx.message_promises)


async def amain() -> None:
    (message,) = await echo.trigger("Hello")
    assert message.content == "Hello"
    for create, extra in ((create_openai_agent, "openai"), (create_anthropic_agent, "anthropic")):
        try:
            await create(model="any").trigger("Hello")
        except MissingExtraError as error:
            assert install_line(extra) in str(error), error
        else:
            raise AssertionError(f"{extra} answered without its SDK")
    try:
        SQLChatHistory("sqlite://", chat_id="chat")
    except MissingExtraError as error:
        assert install_line("sql") in str(error), error
    else:
        raise AssertionError("a history in SQL was made without SQLAlchemy")
    try:
        await remote("nats://127.0.0.1:1", "ECHO").trigger("Hello")
    except MissingExtraError as error:
        assert install_line("nats") in str(error), error
    else:
        raise AssertionError("a remote agent was called without nats-py")
    try:
        trace_agents()
    except MissingExtraError as error:
        assert install_line("opentelemetry") in str(error), error
    else:
        raise AssertionError("spans were made without the API of OpenTelemetry")
    no_client: Any = None  # there is none without the package
    try:
        await mcp_tools(no_client)
    except MissingExtraError as error:
        assert install_line("mcp") in str(error), error
    else:
        raise AssertionError("tools of a server came without mcp")


if __name__ == "__main__":
    installed = [
        name
        for name in ("openai", "anthropic", "mcp", "nats", "opentelemetry", "prompt_toolkit", "pytest", "sqlalchemy")
        if importlib.util.find_spec(name)
    ]
    assert not installed, f"this environment is for running without {installed}"
    MiniAgents().run(amain())
    print("The framework works with pydantic only.")
