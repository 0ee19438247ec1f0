"""Chat histories of every kind: what is stored, in which order, and what a failed message leaves behind."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import common
import pytest

from miniagents.chat_history import ChatHistory, InMemoryChatHistory, areceive
from miniagents.errors import HistoryWriteError, StopDialog, StreamTruncatedError
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.messages import AssistantMessage, Message, MessageType, SystemMessage, UserMessage
from miniagents.miniagents import InteractionContext, MiniAgents, miniagent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


@pytest.fixture(params=["memory", "markdown"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> ChatHistory:
    """A history of each kind."""
    return InMemoryChatHistory() if request.param == "memory" else ChatHistoryMD(tmp_path / "chat.md")


class Note(Message):
    """A message with a field that must be given."""

    colour: str


streamed = partial(common.streamed, message_class=AssistantMessage, model="test-1")


async def test_messages_come_back_in_their_order_with_their_classes(history: ChatHistory) -> None:
    """What is appended, in however many calls, is loaded in that order, each message equal to what was sent."""
    async with MiniAgents():
        await history.aappend([SystemMessage("Be brief."), ["Hi", UserMessage("there", mood="good")]])
        await history.aappend(streamed("Hel", "lo"))
        assert await history.aload_chat_history() == (
            SystemMessage("Be brief."),
            Message("Hi"),
            UserMessage("there", mood="good"),
            AssistantMessage("Hello", model="test-1"),
        )


async def test_a_new_history_is_empty(history: ChatHistory) -> None:
    """Nothing stored, nothing loaded; appending nothing changes that."""
    assert await history.aload_chat_history() == ()
    async with MiniAgents():
        await history.aappend([])
    assert await history.aload_chat_history() == ()


@pytest.mark.parametrize("error", [ValueError("boom"), StreamTruncatedError("cut")], ids=["any error", "our error"])
async def test_H2_a_failed_message_is_stored_as_far_as_it_came(history: ChatHistory, error: Exception) -> None:
    """The text before the error is kept and marked, what follows is stored too, and the error is raised at the end."""
    async with MiniAgents():
        with pytest.raises(type(error)):
            await history.aappend([streamed("half an", " answ", error=error), "next"])
    partial, following = await history.aload_chat_history()
    assert (partial.content, partial.role, partial.interrupted) == ("half an answ", "assistant", True)
    assert type(partial) is AssistantMessage
    assert following == Message("next")


async def test_a_failed_message_keeps_what_our_errors_know_of_it(history: ChatHistory) -> None:
    """The metadata that came before one of our own errors is stored as well."""
    async with MiniAgents():
        with pytest.raises(StreamTruncatedError):
            await history.aappend(streamed("half", error=StreamTruncatedError("cut")))
    [partial] = await history.aload_chat_history()
    assert partial.model == "test-1"


async def test_a_failed_message_without_text_leaves_nothing(history: ChatHistory) -> None:
    """An error that came before the first token has no message to store."""
    async with MiniAgents():
        with pytest.raises(ValueError, match="boom"):
            await history.aappend([streamed(error=ValueError("boom")), ValueError("boom too"), "next"])
    assert await history.aload_chat_history() == (Message("next"),)


async def test_a_failed_message_whose_fields_did_not_come_is_stored_as_a_plain_one(history: ChatHistory) -> None:
    """A class that asks for more than what had arrived does not cost the text."""
    async with MiniAgents():
        with pytest.raises(ValueError, match="boom"):
            await history.aappend(streamed("some text", error=ValueError("boom"), message_class=Note))
    assert await history.aload_chat_history() == (Message("some text", interrupted=True),)


async def test_the_logging_agent_replies_while_it_streams(history: ChatHistory) -> None:
    """The logging agent passes tokens on before the message is complete, and stores the whole."""
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
async def test_the_logging_agent_replies_errors_in_their_place(history: ChatHistory, error: Exception) -> None:
    """A failed message comes out where it went in, once, and the messages around it are whole."""
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
    """A history whose disk is full."""

    async def aload_chat_history(self) -> tuple[Message, ...]:
        """Nothing could be stored."""
        return ()

    async def aappend(self, messages: MessageType) -> None:
        """Fail."""
        raise HistoryWriteError("disk full")


class BrokenHistory(FullHistory):
    """A history with a mistake in it."""

    async def aappend(self, messages: MessageType) -> None:
        """Fail in another way."""
        raise ZeroDivisionError


@pytest.mark.parametrize(("make", "error"), [(FullHistory, HistoryWriteError), (BrokenHistory, ZeroDivisionError)])
async def test_an_error_of_the_history_is_the_last_reply(
    make: Callable[[], ChatHistory], error: type[Exception]
) -> None:
    """A history that cannot store loses no reply: its own error comes after all of them."""
    async with MiniAgents():
        promises = [promise async for promise in make().logging_agent.trigger(["a", "b"])]
        assert [(await promise).content for promise in promises[:-1]] == ["a", "b"]
        with pytest.raises(error):
            await promises[-1]


async def test_a_history_that_is_cut_off_keeps_what_was_said(history: ChatHistory) -> None:
    """When the run ends in the middle of a message, the part that came is there, marked as interrupted."""

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
    """What is stored in one history is not in another."""
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


async def test_a_history_in_memory_gives_back_the_objects_it_was_given() -> None:
    """Nothing is copied, and the tuple that was loaded does not change."""
    history, message = InMemoryChatHistory(), UserMessage("x")
    async with MiniAgents():
        await history.aappend(message)
        loaded = await history.aload_chat_history()
        await history.aappend("y")
    assert len(loaded) == 1
    assert loaded[0] is message


async def test_what_cannot_be_sent_is_refused(history: ChatHistory) -> None:
    """A wrong type is an error at the call, and stores nothing."""
    async with MiniAgents():
        with pytest.raises(TypeError):
            await history.aappend(["fine", 7])  # type: ignore[list-item]
    assert await history.aload_chat_history() == ()


async def test_several_tasks_may_append_at_once(history: ChatHistory) -> None:
    """Messages of concurrent appends do not mix: each is whole, and those of one task keep their order."""

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


async def test_receiving_a_message_tells_how_far_it_came() -> None:
    """`areceive` gives the message and its text as it comes, or what there is of it and the error."""
    taken: list[str] = []
    async with MiniAgents():
        message, error = await areceive(streamed("a", "b"), taken.append)
        assert (str(message), error, "".join(taken)) == ("ab", None, "ab")
        failure = ValueError("boom")
        message, error = await areceive(streamed("a", error=failure))
        assert (str(message), error) == ("a", failure)
        assert await areceive(streamed(error=failure)) == (None, failure)
