"""The checks pass for correct objects: agents on all APIs, scripts, recordings, histories, messages, splitters."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any, ClassVar

import anthropic
import httpx2
import openai
import pytest
from live_agents import live_agents

from miniagents import (
    AssistantMessage,
    ChatHistory,
    InMemoryChatHistory,
    Message,
    ToolCall,
    Usage,
    join_messages,
    split_messages,
)
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing import ReplayTransport, ScriptedLLM, Step
from miniagents_testing.cassette import load
from miniagents_testing.checks import (
    check_agent,
    check_history,
    check_join_split,
    check_llm_agent,
    check_message_class,
    check_tool_loop,
)
from miniagents_testing.checks.conformance import (
    AgentConformance,
    HistoryConformance,
    LLMAgentConformance,
    MessageConformance,
    OutputConformance,
    SplitterConformance,
    ToolLoopConformance,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from miniagents import MiniAgent
    from miniagents_testing._script import API


def openai_agent(transport: httpx2.AsyncBaseTransport, **settings: Any) -> MiniAgent[Any]:
    """Return an agent on OpenAI's own client."""
    client = openai.AsyncOpenAI(api_key="none", http_client=httpx2.AsyncClient(transport=transport))
    return create_openai_agent(async_client=client, **{"model": "any", "retry": None, **settings})


class TestChat(LLMAgentConformance):
    """An agent on OpenAI's chat completions, with the real SDK."""

    def make_agent(self, transport: httpx2.AsyncBaseTransport) -> MiniAgent[Any]:
        return openai_agent(transport)


class TestResponses(LLMAgentConformance):
    """An agent on OpenAI's Responses, with the real SDK."""

    api: ClassVar[API] = "responses"

    def make_agent(self, transport: httpx2.AsyncBaseTransport) -> MiniAgent[Any]:
        return openai_agent(transport, api="responses")


class TestMessages(LLMAgentConformance):
    """An agent on Anthropic's messages, with the real SDK."""

    api: ClassVar[API] = "messages"

    def make_agent(self, transport: httpx2.AsyncBaseTransport) -> MiniAgent[Any]:
        client = anthropic.AsyncAnthropic(api_key="none", http_client=httpx2.AsyncClient(transport=transport))
        return create_anthropic_agent("any", async_client=client, retry=None)


class TestScripted(AgentConformance):
    """A scripted agent."""

    def make_agent(self) -> MiniAgent[Any]:
        return ScriptedLLM(lambda call: Step(f"You said: {call.text}", reasoning="Hm.")).agent()


class TestInMemory(HistoryConformance):
    """The history in memory."""

    reopens = False

    def make_history(self, folder: Path) -> ChatHistory:
        return InMemoryChatHistory()


class TestMarkdown(HistoryConformance):
    """The history in a Markdown file."""

    in_files = True

    def make_history(self, folder: Path) -> ChatHistory:
        return ChatHistoryMD(folder / "chat" / "history.md")


class Note(Message, class_="note of the checks"):
    """Message with fields of its own."""

    colour: str
    tags: list[str] | None = None

    if TYPE_CHECKING:

        def __init__(self, content: Any = None, /, **fields: Any) -> None: ...


class TestNote(MessageConformance):
    """A message class of an application."""

    def make_message(self) -> Message:
        return Note("text", colour="red", tags=["a"], more={"b": [Note(None, colour="blue")]})


class TestAnswer(MessageConformance):
    """The message class of a model's answers."""

    def make_message(self) -> Message:
        calls = [ToolCall(id="c", name="f", arguments="{}")]
        return AssistantMessage("text", usage=Usage(input_tokens=1), tool_calls=calls, choices=[AssistantMessage("x")])


class TestSplitMessages(SplitterConformance):
    """The framework's splitter."""

    split = staticmethod(split_messages)


class TestSplitAtDashes(SplitterConformance):
    """The framework's splitter with a delimiter that overlaps itself."""

    split = staticmethod(split_messages)
    delimiter = "--"


async def test_check_join_split_passes_for_the_frameworks_functions() -> None:
    """`check_join_split` passes for `join_messages` and `split_messages` of MiniAgents."""
    await check_join_split(join_messages, split_messages, ["one", "two\nlines", "é😀"])


async def test_check_join_split_refuses_parts_that_cannot_come_back() -> None:
    """If a part ends with half a delimiter, which no split can give back, `check_join_split` raises a `ValueError`."""
    with pytest.raises(ValueError, match="cannot come back"):
        await check_join_split(join_messages, split_messages, ["a\n", "b"])


def test_check_message_class_passes_for_fields_with_containers() -> None:
    """`check_message_class` passes for a message class whose fields have lists, dicts and sets, at any depth."""
    fields = {"content": ["a", {"type": "text"}], "colour": "red", "tags": ["x"], "deep": [{"a": [{1}]}]}
    check_message_class(lambda given: Note(**given), fields)


async def test_check_agent_passes_for_an_agent_on_a_recording(root: Path) -> None:
    """An agent on a recorded answer, played several times under the real SDK, passes the check."""
    (interaction, *_) = load(root / "cassettes/openai/conversation.yaml")
    transport = ReplayTransport([interaction] * 20)
    request = json.loads(interaction.request_body)
    settings = {name: value for name, value in request.items() if name not in ("messages", "model", "stream")}
    await check_agent(openai_agent(transport, model=request["model"], **settings), request["messages"])


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
async def test_check_llm_agent_passes_within_a_running_loop(api: API) -> None:
    """`check_llm_agent` runs all checks of an agent in an event loop that is running already."""
    makers: dict[str, Any] = {"chat": TestChat, "responses": TestResponses, "messages": TestMessages}
    await check_llm_agent(makers[api]().make_agent, api=api)


async def test_check_history_passes_within_a_running_loop() -> None:
    """`check_history` runs all checks of a history in an event loop that is running already."""
    await check_history(lambda folder: InMemoryChatHistory(), reopens=False)


LIVE = live_agents()  # read at import time, because a fixture removes the keys later


@pytest.mark.skipif(not LIVE, reason="live providers are asked only if MINIAGENTS_LIVE says so, with a key")
@pytest.mark.parametrize("make_agent", LIVE.values(), ids=LIVE)
def test_check_agent_passes_for_live_agents(make_agent: Callable[[], MiniAgent[Any]]) -> None:
    """An agent on a live provider passes `check_agent`, as agents on scripts and recordings do."""

    async def main() -> None:
        await check_agent(make_agent(), "Count from one to ten in words, then say goodbye in two languages.")

    asyncio.run(main())


def test_live_agents_are_made_only_for_named_models_with_a_key() -> None:
    """Live agents are made only for named models, and a wrong name or a missing key is an error."""
    environ = {"OPENAI_API_KEY": "k", "MINIAGENTS_LIVE": "openai:small"}
    assert live_agents("", environ=os.environ) == {}
    assert list(live_agents(environ=environ)) == ["openai:small"]
    assert list(live_agents("openai:a, openai:b", environ=environ)) == ["openai:a", "openai:b"]
    with pytest.raises(ValueError, match="need a key in ANTHROPIC_API_KEY"):
        live_agents("anthropic:m", environ=environ)
    for wrong in ("openai", "openai:", "other:m"):
        with pytest.raises(ValueError, match="names no live provider"):
            live_agents(wrong, environ=environ)


class TestChatTools(ToolLoopConformance):
    """An agent with tools on OpenAI's chat completions, with the real SDK."""

    def make_agent(self, transport: httpx2.AsyncBaseTransport, *, tools: list[Any]) -> MiniAgent[Any]:
        return openai_agent(transport, tools=tools)


class TestResponsesTools(ToolLoopConformance):
    """An agent with tools on OpenAI's Responses, with the real SDK."""

    api: ClassVar[API] = "responses"

    def make_agent(self, transport: httpx2.AsyncBaseTransport, *, tools: list[Any]) -> MiniAgent[Any]:
        return openai_agent(transport, api="responses", tools=tools)


class TestMessagesTools(ToolLoopConformance):
    """An agent with tools on Anthropic's messages, with the real SDK."""

    api: ClassVar[API] = "messages"

    def make_agent(self, transport: httpx2.AsyncBaseTransport, *, tools: list[Any]) -> MiniAgent[Any]:
        client = anthropic.AsyncAnthropic(api_key="none", http_client=httpx2.AsyncClient(transport=transport))
        return create_anthropic_agent("any", async_client=client, retry=None, tools=tools)


async def test_check_tool_loop_passes_within_a_running_loop() -> None:
    """`check_tool_loop` runs all checks of a tool loop in an event loop that is running already."""
    await check_tool_loop(TestChatTools().make_agent)


class TestChatOutput(OutputConformance):
    """An agent with an output on OpenAI's chat completions, with the real SDK."""

    def make_agent(self, transport: httpx2.AsyncBaseTransport, **settings: Any) -> MiniAgent[Any]:
        return openai_agent(transport, **settings)


class TestResponsesOutput(OutputConformance):
    """An agent with an output on OpenAI's Responses, with the real SDK."""

    api: ClassVar[API] = "responses"

    def make_agent(self, transport: httpx2.AsyncBaseTransport, **settings: Any) -> MiniAgent[Any]:
        return openai_agent(transport, api="responses", **settings)


class TestMessagesOutput(OutputConformance):
    """An agent with an output on Anthropic's messages, with the real SDK."""

    api: ClassVar[API] = "messages"

    def make_agent(self, transport: httpx2.AsyncBaseTransport, **settings: Any) -> MiniAgent[Any]:
        client = anthropic.AsyncAnthropic(api_key="none", http_client=httpx2.AsyncClient(transport=transport))
        return create_anthropic_agent("any", async_client=client, retry=None, **settings)
