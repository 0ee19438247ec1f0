"""Loops: who hears what, what ends them, and what they return."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import miniagents.utils
from miniagents.errors import StopDialog
from miniagents.messages import AssistantMessage, Message, MessageSequencePromise, MessageType, UserMessage
from miniagents.messages._text import join_messages, split_messages
from miniagents.miniagents import InteractionContext, MiniAgent, MiniAgents, miniagent
from miniagents.utils import AWAIT, CLEAR, achain_loop, adialog_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(autouse=True)
async def _agents() -> AsyncIterator[None]:
    async with MiniAgents():
        yield


def contents(messages: tuple[Message, ...]) -> list[str]:
    """The texts of messages."""
    return [str(message) for message in messages]


def speaker(name: str, heard: list[list[str]], rounds: int = 3) -> MiniAgent[Any]:
    """An agent that notes what it hears, says its name and the round, and in the end stops the dialog."""

    async def speak(ctx: InteractionContext) -> None:
        heard.append(contents(await ctx.message_promises))
        ctx.reply(f"{name}{len(heard)}")
        if len(heard) == rounds:
            raise StopDialog

    return MiniAgent(speak, alias=name)


@miniagent
async def echo(ctx: InteractionContext) -> None:
    """Replies what it is sent."""
    ctx.reply(ctx.message_promises)


async def test_each_agent_hears_the_one_before() -> None:
    """Replies go to the next agent, those of the last to the first, until one of them stops the loop."""
    heard_a: list[list[str]] = []
    heard_b: list[list[str]] = []
    last = await achain_loop([speaker("a", heard_a), AWAIT, speaker("b", heard_b)], "begin")
    assert heard_a == [["begin"], ["b1"], ["b2"]]
    assert heard_b == [["a1"], ["a2"]]
    assert contents(last) == ["a3"]


async def test_a_dialog_is_the_user_then_the_assistant() -> None:
    """The user begins with nothing; a stop of the assistant reaches the user, whose turn ends the dialog."""
    heard_user: list[list[str]] = []
    heard_assistant: list[list[str]] = []
    last = await adialog_loop(speaker("user", heard_user, rounds=9), speaker("assistant", heard_assistant, rounds=2))
    assert heard_user == [[], ["assistant1"]]
    assert heard_assistant == [["user1"], ["user2"]]
    assert contents(last) == []


async def test_the_assistant_is_heard_while_it_speaks() -> None:
    """Only the user's turn is awaited: tokens of the assistant reach the user before the message is complete."""
    go_on = asyncio.Event()
    tokens: list[str] = []

    @miniagent
    async def user(ctx: InteractionContext) -> None:
        async for promise in ctx.message_promises:
            async for token in promise:
                tokens.append(token)
                go_on.set()
            raise StopDialog
        ctx.reply(UserMessage("hello"))

    @miniagent
    async def assistant(ctx: InteractionContext) -> None:
        async def streamer(_: dict[str, Any]) -> AsyncIterator[str]:
            yield "first "
            await go_on.wait()
            yield "second"

        ctx.reply(AssistantMessage.promise(message_token_streamer=streamer))

    await adialog_loop(user, assistant)
    assert tokens == ["first ", "second"]


async def test_await_resolves_what_was_sent() -> None:
    """After an AWAIT the next agent is not started before the one in front of it has finished."""
    order: list[str] = []

    async def slow(ctx: InteractionContext) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        order.append("slow has finished")
        ctx.reply("x")

    async def after(ctx: InteractionContext) -> None:
        order.append("after begins")
        raise StopDialog

    await achain_loop([MiniAgent(slow), AWAIT, MiniAgent(after), AWAIT])
    assert order == ["slow has finished", "after begins"]
    order.clear()
    await achain_loop([MiniAgent(slow), MiniAgent(after), AWAIT])
    assert order[0] == "after begins"


async def test_clear_drops_what_was_sent() -> None:
    """The agent after a CLEAR hears nothing of what was said before it."""
    heard: list[list[str]] = []
    await achain_loop([echo, AWAIT, CLEAR, speaker("a", heard), AWAIT], "dropped")
    assert heard == [[], [], []]


async def test_none_is_skipped() -> None:
    """A link that is None is not there, so that links can be left out by a condition."""
    heard: list[list[str]] = []
    await achain_loop([None, speaker("a", heard), None, AWAIT, None], "begin")
    assert heard == [["begin"], ["a1"], ["a2"]]


async def test_functions_in_a_chain_get_the_messages() -> None:
    """A function, async or not, gets what was sent so far, and what it returns is sent on; a promise is not awaited."""
    heard: list[list[str]] = []
    seen: list[object] = []

    def shout(messages: Any) -> MessageType:
        seen.append(messages)
        return [str(message).upper() for message in messages] + ["!"]

    async def whisper(messages: MessageSequencePromise) -> MessageType:
        return [str(message).lower() + "." for message in await messages]

    def through_an_agent(messages: MessageType) -> MessageSequencePromise:
        return echo.trigger(messages)

    await achain_loop([speaker("a", heard, rounds=2), AWAIT, shout, through_an_agent, whisper])
    assert heard == [[], ["a1.", "!."]]
    assert seen == [(Message("a1"),)]


async def test_C16_a_stop_passes_through_those_who_reply_it_again() -> None:
    """`StopDialog` from deep inside ends the loop through all who re-reply; what came with it is returned."""

    @miniagent
    async def stopping(ctx: InteractionContext) -> None:
        ctx.reply(["last", "words"])
        raise StopDialog

    @miniagent
    async def passing_on(ctx: InteractionContext) -> None:
        ctx.reply(stopping.trigger())
        ctx.reply("after")

    last = await achain_loop([passing_on, echo, AWAIT])
    assert contents(last) == ["last", "words", "after"]


async def test_a_function_may_stop_the_loop() -> None:
    """`StopDialog` raised by a function of the chain ends it with what it was given."""

    def stop(messages: object) -> None:
        raise StopDialog

    assert contents(await achain_loop([echo, AWAIT, stop], "hello")) == ["hello"]


async def test_any_other_error_is_let_through() -> None:
    """An error ends the loop and reaches its caller, also when a `StopDialog` comes after it."""

    @miniagent
    async def failing(ctx: InteractionContext) -> None:
        ctx.reply([ValueError("boom"), StopDialog()])

    with pytest.raises(ValueError, match="boom"):
        await achain_loop([failing, AWAIT])
    with pytest.raises(ValueError, match="boom"):
        await adialog_loop(failing, echo)
    with pytest.raises(ValueError, match="boom"):
        await adialog_loop(echo, failing)


@pytest.mark.parametrize(
    "chain",
    [[], [AWAIT], [echo], [echo, CLEAR], [AWAIT, CLEAR, None], [AWAIT, lambda messages: messages]],
    ids=["empty", "await-only", "agent-only", "no-await", "nothing", "function-only"],
)
async def test_a_chain_needs_an_agent_and_an_await(chain: list[Any]) -> None:
    """Without an agent, or without an AWAIT, the rounds would never end: refused before anything is started."""
    with pytest.raises(ValueError, match="needs"):
        await achain_loop(chain)


@pytest.mark.parametrize("link", ["echo", 7, object()], ids=["str", "int", "object"])
async def test_what_is_no_link_is_refused(link: Any) -> None:
    """Something that is neither an agent nor a function is a clear error, before any agent is called."""
    heard: list[list[str]] = []
    with pytest.raises(TypeError, match="A chain is made of agents, AWAIT, CLEAR"):
        await achain_loop([speaker("a", heard), AWAIT, link])
    with pytest.raises(TypeError):
        await adialog_loop(speaker("a", heard), link)
    assert heard == []


async def test_a_chain_without_waiting_lets_others_run() -> None:
    """A chain whose messages are always complete does not keep the loop for itself."""
    others = asyncio.ensure_future(asyncio.sleep(0))
    rounds = 0

    def count(messages: object) -> str:
        nonlocal rounds
        rounds += 1
        if others.done():
            raise StopDialog
        return "again"

    await achain_loop([echo, CLEAR, AWAIT, count])
    assert rounds < 10


def test_the_room_stays_small() -> None:
    """The module has the loops, their sentinels, join and split, and nothing else."""
    assert set(miniagents.utils.__all__) == {
        "AWAIT",
        "CLEAR",
        "achain_loop",
        "adialog_loop",
        "join_messages",
        "split_messages",
    }
    assert miniagents.utils.join_messages is join_messages
    assert miniagents.utils.split_messages is split_messages
    assert (repr(AWAIT), repr(CLEAR)) == ("AWAIT", "CLEAR")
