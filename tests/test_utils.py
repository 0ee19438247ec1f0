"""Loops over agents: the messages that each agent is sent, what ends a loop, and what a loop returns."""

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
    """Run each test in a context of agents."""
    async with MiniAgents():
        yield


def contents(messages: tuple[Message, ...]) -> list[str]:
    """Return the texts of messages."""
    return [str(message) for message in messages]


def speaker(name: str, heard: list[list[str]], rounds: int = 3) -> MiniAgent[Any]:
    """Make an agent that notes the messages it is sent, replies its name and the round, and stops after some rounds."""

    async def speak(ctx: InteractionContext) -> None:
        heard.append(contents(await ctx.message_promises))
        ctx.reply(f"{name}{len(heard)}")
        if len(heard) == rounds:
            raise StopDialog

    return MiniAgent(speak, alias=name)


@miniagent
async def echo(ctx: InteractionContext) -> None:
    """Reply the messages unchanged."""
    ctx.reply(ctx.message_promises)


async def test_chain_sends_the_replies_of_each_agent_to_the_next() -> None:
    """A chain sends the replies of each agent to the next, and of the last to the first, until an agent stops it."""
    heard_a: list[list[str]] = []
    heard_b: list[list[str]] = []
    last = await achain_loop([speaker("a", heard_a), AWAIT, speaker("b", heard_b)], "begin")
    assert heard_a == [["begin"], ["b1"], ["b2"]]
    assert heard_b == [["a1"], ["a2"]]
    assert contents(last) == ["a3"]


async def test_dialog_calls_the_user_first() -> None:
    """`adialog_loop` first calls the user without messages, and ends at the user's turn after `StopDialog`."""
    heard_user: list[list[str]] = []
    heard_assistant: list[list[str]] = []
    last = await adialog_loop(speaker("user", heard_user, rounds=9), speaker("assistant", heard_assistant, rounds=2))
    assert heard_user == [[], ["assistant1"]]
    assert heard_assistant == [["user1"], ["user2"]]
    assert contents(last) == []


async def test_dialog_streams_the_assistant_to_the_user() -> None:
    """In `adialog_loop`, the user agent reads a token of the assistant before the assistant's message is complete."""
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


async def test_await_starts_the_next_agent_after_the_one_before() -> None:
    """After an `AWAIT` in a chain, the next agent begins when the one before has finished; without it, at once."""
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


async def test_clear_drops_the_messages_sent_so_far() -> None:
    """In a chain, the agent after a `CLEAR` is sent no messages, in each round."""
    heard: list[list[str]] = []
    await achain_loop([echo, AWAIT, CLEAR, speaker("a", heard), AWAIT], "dropped")
    assert heard == [[], [], []]


async def test_chain_skips_none() -> None:
    """A link of a chain that is `None` is skipped, so that a condition can leave a link out."""
    heard: list[list[str]] = []
    await achain_loop([None, speaker("a", heard), None, AWAIT, None], "begin")
    assert heard == [["begin"], ["a1"], ["a2"]]


async def test_chain_sends_on_the_messages_that_a_function_returns() -> None:
    """A function, async or not, gets the messages, and its result is sent on; a returned promise is not awaited."""
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


async def test_C16_stop_dialog_passes_through_agents_that_forward_replies() -> None:
    """`StopDialog` ends the loop through agents that forward the replies; the messages around it are returned."""

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


async def test_function_can_stop_the_loop() -> None:
    """`StopDialog` raised by a function ends the loop, which returns the messages that the function got."""

    def stop(messages: object) -> None:
        raise StopDialog

    assert contents(await achain_loop([echo, AWAIT, stop], "hello")) == ["hello"]


async def test_stop_dialog_in_a_group_of_errors_ends_the_loop() -> None:
    """A task group of an agent wraps `StopDialog` into a group, which ends the loop as well."""

    async def stop() -> None:
        raise StopDialog

    @miniagent
    async def grouped(ctx: InteractionContext) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(stop())

    assert await achain_loop([grouped, AWAIT], initial_input="Hi") == ()


async def test_loop_raises_an_error_among_the_replies() -> None:
    """An error among an agent's replies ends the loop and is raised, even if the same agent then sends `StopDialog`."""

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
async def test_chain_without_an_agent_or_an_await_is_refused(chain: list[Any]) -> None:
    """Rounds without an agent or without an `AWAIT` would never end, so such a chain is refused before it starts."""
    with pytest.raises(ValueError, match="needs"):
        await achain_loop(chain)


@pytest.mark.parametrize("link", ["echo", 7, object()], ids=["str", "int", "object"])
async def test_chain_refuses_a_link_of_another_type(link: Any) -> None:
    """A link that is no agent, function, `AWAIT`, `CLEAR` or None is a `TypeError`, before any agent is called."""
    heard: list[list[str]] = []
    with pytest.raises(TypeError, match="A chain is made of agents, AWAIT, CLEAR"):
        await achain_loop([speaker("a", heard), AWAIT, link])
    with pytest.raises(TypeError):
        await adialog_loop(speaker("a", heard), link)
    assert heard == []


async def test_chain_of_complete_messages_lets_other_tasks_run() -> None:
    """A chain whose messages are always complete still lets other tasks of the loop run."""
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


def test_module_has_loops_and_text_functions_only() -> None:
    """The public names of the module are the two loops, `AWAIT` and `CLEAR`, and the functions that join and split."""
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
