"""Histories of tool loops: no effect is forgotten, whichever message breaks off or task is cancelled (law 8)."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from databases import sqlite_engine
from prompt_rules import check_prompt

from miniagents import (
    AssistantMessage,
    ChatHistory,
    InMemoryChatHistory,
    LLMError,
    Message,
    MiniAgents,
    PromiseCancelledError,
    ToolCall,
    ToolMessage,
)
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.ext.llm._prompts import chat_prompt, messages_for_model
from miniagents.ext.sql import SQLChatHistory
from miniagents_testing import ScriptedLLM, faults
from miniagents_testing._script import Step

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    MakeHistory = Callable[[], ChatHistory]

STOPPED = "stopped; whether it took effect is unknown"


@pytest.fixture(params=["memory", "markdown", "sqlite"])
def make_history(request: pytest.FixtureRequest, tmp_path: Path) -> MakeHistory:
    """Function that opens a history; each call opens the same file or database, but a new history in memory."""
    if request.param == "sqlite":
        return lambda: SQLChatHistory(sqlite_engine(tmp_path), chat_id="chat")
    return InMemoryChatHistory if request.param == "memory" else lambda: ChatHistoryMD(tmp_path / "chat.md")


def in_short(messages: tuple[Message, ...]) -> list[tuple[str, Any, list[str], bool]]:
    """Return, for each message, its role, content and names of calls, and if the message is interrupted."""
    return [
        (
            str(message.role),
            message.content,
            [str(call.name) for call in getattr(message, "tool_calls", ())],
            bool(getattr(message, "interrupted", False)),
        )
        for message in messages
    ]


async def test_history_keeps_a_loop_as_it_was(make_history: MakeHistory) -> None:
    """A history loads the replies of a tool loop unchanged, a failed result too; the next request has all of them."""

    async def double(number: int) -> int:
        """Double a number."""
        return number * 2

    llm = ScriptedLLM([Step("Well", tool_calls=[("double", {"number": 2}), ("double", {"number": "x"})]), "4", "ok"])
    agent = llm.agent(tools=[double])
    history = make_history()
    async with MiniAgents():
        replies = await history.logging_agent.trigger(agent.trigger("Hi"))
        stored = await history.aload_chat_history()
        assert stored == replies
        await agent.trigger(["Hi", *stored, "And now?"])
    result = stored[2]
    assert isinstance(result, ToolMessage)
    assert result.is_error
    assert len(llm.last_call.request["messages"]) == 6


async def test_history_keeps_a_broken_answer_with_calls_and_without_text(make_history: MakeHistory) -> None:
    """An answer that broke off after a call began is stored with its calls, although it has no text."""

    async def act() -> None:
        """Act."""

    llm = ScriptedLLM([Step(tool_calls=[("act", {})], then="truncate")])
    history = make_history()
    async with MiniAgents():
        with pytest.raises(LLMError):
            await history.aappend(llm.agent(tools=[act]).trigger("Hi"))
        assert in_short(await history.aload_chat_history()) == [("assistant", "", ["act"], True)]


async def test_history_forgets_a_broken_answer_without_text_and_calls(make_history: MakeHistory) -> None:
    """An answer that breaks off before any of it has arrived is not stored in the history."""
    llm = ScriptedLLM([Step("never", then="reset", after=0)])
    history = make_history()
    async with MiniAgents():
        with pytest.raises(LLMError):
            await history.aappend(llm.agent().trigger("Hi"))
        assert await history.aload_chat_history() == ()


def _stall_after_the_finish_reason(stream: Any) -> Any:
    """Return the response with silence in place of all that follows its finish reason.

    Without this finish reason, the response is unchanged.
    """
    place = next((n for n, chunk in enumerate(stream.chunks, 1) if b'"finish_reason":"tool_calls"' in chunk.data), 0)
    return faults.stall(after=place)(stream) if place else stream


def _stall_at_the_end(stream: Any) -> Any:
    """Return the response with silence in place of its end."""
    return faults.stall(after=len(stream.chunks))(stream)


def _stall_without_finish_reason(stream: Any) -> Any:
    """Return the response as from a server that ends an answer without a reason, with silence in place of its end."""
    chunks = tuple(
        chunk._replace(data=re.sub(rb'"(finish|stop)_reason":"[a-z_]+"', rb'"\1_reason":null', chunk.data))
        for chunk in stream.chunks
    )
    return _stall_at_the_end(replace(stream, chunks=chunks))


@pytest.mark.parametrize("victim", ["replies", "storing"])
async def test_history_keeps_effects_of_a_cancelled_loop(make_history: MakeHistory, victim: str) -> None:
    """After a tool loop is cancelled, the history has the answer with its calls, and each result that was complete."""
    stuck = asyncio.Event()
    done = asyncio.Event()

    async def send(to: str) -> str:
        """Send a letter."""
        if to == "Bob":
            stuck.set()
            await asyncio.Event().wait()
        done.set()
        return f"sent to {to}"

    calls = [("send", {"to": name}) for name in ("Ann", "Bob", "Cy")]
    llm = ScriptedLLM([Step(tool_calls=calls)], overlay=_stall_after_the_finish_reason)
    history = make_history()
    async with MiniAgents():
        replies = llm.agent(tools=[send]).trigger("Hi")
        storing = asyncio.create_task(history.aappend(replies))
        await stuck.wait()
        await done.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        (replies if victim == "replies" else storing).cancel()
        with pytest.raises(PromiseCancelledError if victim == "replies" else asyncio.CancelledError):
            await storing
        stored = await history.aload_chat_history()
        replies.cancel()
    assert in_short(stored) == [
        ("assistant", "", ["send"] * 3, True),
        ("tool", "sent to Ann", [], False),
        ("tool", "sent to Cy", [], False),
    ]
    prompt = chat_prompt(messages_for_model([Message("Hi"), *stored], "AGENT"))
    sent_to = [json.loads(call["function"]["arguments"])["to"] for call in prompt[1]["tool_calls"]]
    assert sent_to == ["Ann", "Bob", "Cy"]
    assert [message["content"] for message in prompt[2:]] == ["sent to Ann", STOPPED, "sent to Cy"]


@pytest.mark.parametrize("overlay", [None, _stall_at_the_end, _stall_without_finish_reason])
@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
@pytest.mark.parametrize("text", ["", "I pay."])
@pytest.mark.parametrize("victim", ["replies", "storing"])
async def test_history_keeps_an_effect_when_cancelled_in_the_step_in_which_the_tool_begins(
    make_history: MakeHistory, victim: str, text: str, api: str, overlay: Any
) -> None:
    """If a tool loop is cancelled as soon as a tool begins, the next prompt has the call, and a result for it.

    This result says that it is unknown if the call took effect.
    """
    begun = asyncio.Event()

    async def pay() -> None:
        """Pay."""
        begun.set()
        await asyncio.Event().wait()

    llm: Any = ScriptedLLM([Step(text, tool_calls=[("pay", {})])], overlay=overlay)
    agent = llm.agent(api=api, tools=[pay])
    history = make_history()
    async with MiniAgents():
        await history.aappend("Pay!")
        replies = agent.trigger("Pay!")
        storing = asyncio.create_task(history.aappend(replies))
        await begun.wait()
        (replies if victim == "replies" else storing).cancel()
        with pytest.raises(PromiseCancelledError if victim == "replies" else asyncio.CancelledError):
            await storing
        replies.cancel()
        later: Any = ScriptedLLM(["ok"])
        await later.agent(api=api, tools=[pay]).trigger([*await history.aload_chat_history(), "And now?"])
    request = json.loads(json.dumps(later.last_call.request, default=dict))
    prompt = request.get("messages") or request["input"]
    check_prompt(api, prompt)
    assert str(prompt).count(STOPPED) == 1


async def test_history_keeps_what_has_arrived_when_storing_is_cancelled(make_history: MakeHistory) -> None:
    """If a task that stores a streaming message is cancelled, its text so far and the messages behind it are stored."""
    go_on = asyncio.Event()

    async def words(_: dict[str, Any]) -> Any:
        yield "half"
        await go_on.wait()

    history = make_history()
    async with MiniAgents():
        streaming = Message.promise(message_token_streamer=words, role="user")
        storing = asyncio.create_task(history.aappend(["one", streaming, "three"]))
        await anext(aiter(streaming))
        for _ in range(10):
            await asyncio.sleep(0)
        storing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await storing
        streaming.cancel()
    async with MiniAgents():
        stored = await (history if isinstance(history, InMemoryChatHistory) else make_history()).aload_chat_history()
    assert [str(each.content) for each in stored] == ["one", "half", "three"]


async def test_loaded_answer_of_an_earlier_process_is_paired(tmp_path: Path) -> None:
    """If a history has calls without results, the next prompt has a result for each: "stopped", with unknown effect."""
    history = ChatHistoryMD(tmp_path / "chat.md")
    answer = AssistantMessage("", tool_calls=[ToolCall(id="a", name="act", arguments="{}")])
    llm = ScriptedLLM(["ok"])
    async with MiniAgents():
        await history.aappend(["Hi", answer])
        await llm.agent().trigger(await ChatHistoryMD(history.path).aload_chat_history())
    result = llm.last_call.request["messages"][2]
    assert (result["role"], result["tool_call_id"]) == ("tool", "a")
    assert result["content"] == STOPPED


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
async def test_history_of_a_killed_process_gives_a_complete_prompt(api: str, tmp_path: Path) -> None:
    """Wherever a kill truncates the file of a tool loop, an agent can go on from the file: each call has one result."""

    async def send(to: str) -> str:
        """Send a letter."""
        return f"sent to {to}"

    calls = [("send", {"to": name}) for name in ("Ann", "Bob", "Cy")]
    llm: Any = ScriptedLLM([Step("Well", tool_calls=calls), Step(tool_calls=calls[:1]), "done"])
    history = ChatHistoryMD(tmp_path / "whole.md")
    async with MiniAgents():
        await history.aappend(["Hi", llm.agent(api=api, tools=[send]).trigger("Hi")])
    data = history.path.read_bytes()
    ends = {match.end() for match in re.finditer(rb"<!-- /miniagents -->\n", data)}
    assert len(ends) == 8
    for length in {*ends, *range(0, len(data), 97)}:
        cut = ChatHistoryMD(tmp_path / f"{length}.md")
        cut.path.write_bytes(data[:length])
        again: Any = ScriptedLLM(["Let us go on."])
        async with MiniAgents():
            await again.agent(api=api, tools=[send]).trigger([*await cut.aload_chat_history(), "And now?"])
        request = json.loads(json.dumps(again.last_call.request, default=dict))
        check_prompt(api, request.get("messages") or request["input"])
