"""Chat histories of every kind: which messages are stored, in which order, and what is stored of a failed message."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import common
import pytest
from databases import sqlite_engine

from miniagents.chat_history import ChatHistory, InMemoryChatHistory, areceive
from miniagents.errors import HistoryWriteError, StopDialog, StreamTruncatedError
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.ext.sql import SQLChatHistory
from miniagents.messages import AssistantMessage, Message, MessageType, SystemMessage, UserMessage
from miniagents.miniagents import InteractionContext, MiniAgents, miniagent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


@pytest.fixture(params=["memory", "markdown", "sqlite"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> ChatHistory:
    """Return a new history: in memory, in a Markdown file, or in SQLite."""
    if request.param == "sqlite":
        return SQLChatHistory(sqlite_engine(tmp_path), chat_id="chat")
    return InMemoryChatHistory() if request.param == "memory" else ChatHistoryMD(tmp_path / "chat.md")


class Note(Message):
    """Message with a required field."""

    colour: str


streamed = partial(common.streamed, message_class=AssistantMessage, model="test-1")


async def test_history_returns_messages_in_order_with_their_classes(history: ChatHistory) -> None:
    """Messages that are appended in several calls are loaded in that order, equal to the messages sent."""
    async with MiniAgents():
        await history.aappend([SystemMessage("Be brief."), ["Hi", UserMessage("there", mood="good")]])
        await history.aappend(streamed("Hel", "lo"))
        assert await history.aload_chat_history() == (
            SystemMessage("Be brief."),
            Message("Hi"),
            UserMessage("there", mood="good"),
            AssistantMessage("Hello", model="test-1"),
        )


async def test_new_history_is_empty(history: ChatHistory) -> None:
    """A new history has no messages, and appending an empty list changes nothing."""
    assert await history.aload_chat_history() == ()
    async with MiniAgents():
        await history.aappend([])
    assert await history.aload_chat_history() == ()


@pytest.mark.parametrize("error", [ValueError("boom"), StreamTruncatedError("cut")], ids=["any error", "our error"])
async def test_H2_history_stores_the_text_that_arrived_of_a_failed_message(
    history: ChatHistory, error: Exception
) -> None:
    """If a message fails, its text so far is stored as interrupted, the next message whole, and the error is raised."""
    async with MiniAgents():
        with pytest.raises(type(error)):
            await history.aappend([streamed("half an", " answ", error=error), "next"])
    partial, following = await history.aload_chat_history()
    assert (partial.content, partial.role, partial.interrupted) == ("half an answ", "assistant", True)
    assert type(partial) is AssistantMessage
    assert following == Message("next")


async def test_history_keeps_the_metadata_of_a_failed_message_in_partial(history: ChatHistory) -> None:
    """If an error has a `partial` message, its metadata is stored as well."""
    async with MiniAgents():
        with pytest.raises(StreamTruncatedError):
            await history.aappend(streamed("half", error=StreamTruncatedError("cut")))
    [partial] = await history.aload_chat_history()
    assert partial.model == "test-1"


async def test_history_stores_nothing_of_a_failed_message_without_text(history: ChatHistory) -> None:
    """A message that fails before its first token is not stored."""
    async with MiniAgents():
        with pytest.raises(ValueError, match="boom"):
            await history.aappend([streamed(error=ValueError("boom")), ValueError("boom too"), "next"])
    assert await history.aload_chat_history() == (Message("next"),)


async def test_history_stores_a_plain_message_when_required_fields_are_missing(history: ChatHistory) -> None:
    """The text of a failed message becomes a plain `Message` if its class requires fields that have not arrived."""
    async with MiniAgents():
        with pytest.raises(ValueError, match="boom"):
            await history.aappend(streamed("some text", error=ValueError("boom"), message_class=Note))
    assert await history.aload_chat_history() == (Message("some text", interrupted=True),)


async def test_logging_agent_replies_while_a_message_streams(history: ChatHistory) -> None:
    """The logging agent passes tokens on before the message is complete, and stores the whole message."""
    go_on = asyncio.Event()

    async def streamer(_: dict[str, Any]) -> AsyncIterator[str]:
        yield "first "
        await go_on.wait()
        yield "second"

    async with MiniAgents():
        replies = history.logging_agent.trigger(["question", Message.promise(message_token_streamer=streamer)])
        tokens = []
        async for promise in replies:
            async for token in promise:
                tokens.append(token)
                go_on.set()
        assert tokens == ["question", "first ", "second"]
        assert await replies == (Message("question"), Message("first second"))
        assert await history.aload_chat_history() == await replies


@pytest.mark.parametrize("error", [ValueError("boom"), StreamTruncatedError("cut"), StopDialog()], ids=repr)
async def test_logging_agent_replies_a_failed_message_in_its_place(history: ChatHistory, error: Exception) -> None:
    """A failed message is one reply in its place, and the messages around it are complete."""
    async with MiniAgents():
        outcomes: list[object] = []
        async for promise in history.logging_agent.trigger(["before", streamed("ha", "lf", error=error), "after"]):
            try:
                outcomes.append((await promise).content)
            except (ValueError, StreamTruncatedError, StopDialog) as raised:
                outcomes.append(raised)
        assert outcomes == ["before", error, "after"]
    assert [message.content for message in await history.aload_chat_history()] == ["before", "half", "after"]


class FullHistory(ChatHistory):
    """History whose disk is full."""

    async def aload_chat_history(self) -> tuple[Message, ...]:
        """Return no messages."""
        return ()

    async def aappend(self, messages: MessageType) -> None:
        """Raise the error of a full disk."""
        raise HistoryWriteError("disk full")


class BrokenHistory(FullHistory):
    """History that fails with an error that is no `HistoryError`."""

    async def aappend(self, messages: MessageType) -> None:
        """Raise an error that is no `HistoryError`."""
        raise ZeroDivisionError


@pytest.mark.parametrize(("make", "error"), [(FullHistory, HistoryWriteError), (BrokenHistory, ZeroDivisionError)])
async def test_logging_agent_replies_an_error_of_the_history_last(
    make: Callable[[], ChatHistory], error: type[Exception]
) -> None:
    """If the history cannot store messages, all messages are still replied, and the error of the history comes last."""
    async with MiniAgents():
        promises = [promise async for promise in make().logging_agent.trigger(["a", "b"])]
        assert [(await promise).content for promise in promises[:-1]] == ["a", "b"]
        with pytest.raises(error):
            await promises[-1]


async def test_history_keeps_the_text_that_arrived_when_the_run_ends(history: ChatHistory) -> None:
    """If an error ends the run in the middle of a message, the text that arrived is stored as interrupted."""

    async def endless(_: dict[str, Any]) -> AsyncIterator[str]:
        yield "the beginning"
        await asyncio.Event().wait()

    with pytest.raises(KeyError):
        async with MiniAgents():
            replies = history.logging_agent.trigger(UserMessage.promise(message_token_streamer=endless))
            async for promise in replies:
                async for _ in promise:
                    for _ in range(5):  # the history reads for itself
                        await asyncio.sleep(0)
                    raise KeyError
    [message] = await history.aload_chat_history()
    assert (message.content, message.role, message.interrupted) == ("the beginning", "user", True)


async def test_H13_histories_are_independent(tmp_path: Path) -> None:
    """A message that is stored in one history is in no other history."""
    histories: list[ChatHistory] = [
        InMemoryChatHistory(),
        InMemoryChatHistory(),
        ChatHistoryMD(tmp_path / "a.md"),
        ChatHistoryMD(tmp_path / "b.md"),
    ]
    async with MiniAgents():
        for number, history in enumerate(histories):
            await history.aappend(str(number))
    for number, history in enumerate(histories):
        assert await history.aload_chat_history() == (Message(str(number)),)


async def test_history_in_memory_returns_the_same_objects() -> None:
    """A history in memory copies no message, and a loaded tuple does not change later."""
    history, message = InMemoryChatHistory(), UserMessage("x")
    async with MiniAgents():
        await history.aappend(message)
        loaded = await history.aload_chat_history()
        await history.aappend("y")
    assert len(loaded) == 1
    assert loaded[0] is message


async def test_history_refuses_values_that_cannot_be_sent(history: ChatHistory) -> None:
    """A value of a wrong type is a `TypeError` at the call, and nothing is stored."""
    async with MiniAgents():
        with pytest.raises(TypeError):
            await history.aappend(["fine", 7])  # type: ignore[list-item]
    assert await history.aload_chat_history() == ()


async def test_history_keeps_messages_whole_when_several_tasks_append(history: ChatHistory) -> None:
    """Messages of concurrent calls do not mix: each is whole, and those of one task keep their order."""

    @miniagent
    async def talker(ctx: InteractionContext, name: str) -> None:
        ctx.reply([streamed(f"{name}{number} ", "x" * 50, "\n") for number in range(5)])

    async with MiniAgents():
        names = "abcdefg"
        await asyncio.gather(*(history.aappend(talker.trigger(name=name)) for name in names))
    contents = [str(message) for message in await history.aload_chat_history()]
    for name in names:
        assert [c for c in contents if c.startswith(name)] == [f"{name}{n} {'x' * 50}\n" for n in range(5)]
    assert len(contents) == 35


async def test_areceive_returns_the_message_or_its_text_and_error() -> None:
    """`areceive` passes text on, and returns message and None, or partial message (None without text) and error."""
    taken: list[str] = []
    async with MiniAgents():
        message, error = await areceive(streamed("a", "b"), taken.append)
        assert (str(message), error, "".join(taken)) == ("ab", None, "ab")
        failure = ValueError("boom")
        message, error = await areceive(streamed("a", error=failure))
        assert (str(message), error) == ("a", failure)
        assert await areceive(streamed(error=failure)) == (None, failure)
