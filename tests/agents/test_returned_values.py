"""Values that agents return: each is the agent's last reply (law 32)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from common import Boom, echo, steps, texts

from miniagents.errors import AppenderClosedError
from miniagents.messages import Message, UserMessage
from miniagents.miniagents import InteractionContext, MiniAgents, miniagent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.mark.parametrize(
    ("returned", "replies"),
    [
        ("hello", ["hello"]),
        ("", [""]),
        ([], []),
        (UserMessage("one"), ["one"]),
        (["one", ["two"], {"content": "three"}], ["one", "two", "three"]),
        (None, []),
    ],
)
async def test_returned_value_is_a_reply(returned: Any, replies: list[str]) -> None:
    """Anything that can be sent is a reply when an agent returns it; None is no reply."""

    @miniagent
    async def agent(ctx: InteractionContext) -> Any:
        return returned

    async with MiniAgents():
        assert await texts(agent.trigger()) == replies


async def test_returned_value_is_the_last_reply() -> None:
    """A returned value comes after all other replies, even those that awaitables of `make_sure_to_wait` send."""

    @miniagent
    async def agent(ctx: InteractionContext) -> str:
        async def helper() -> None:
            await steps(5)
            ctx.reply("helped")

        ctx.make_sure_to_wait(helper())
        ctx.reply("first")
        return "returned"

    async with MiniAgents():
        assert await texts(agent.trigger()) == ["first", "helped", "returned"]


async def test_returned_value_is_replied_when_an_awaitable_fails() -> None:
    """The error of an awaitable comes after the returned value, which is not lost."""

    @miniagent
    async def agent(ctx: InteractionContext) -> str:
        async def helper() -> None:
            await steps(3)
            raise Boom

        ctx.make_sure_to_wait(helper())
        return "returned"

    async with MiniAgents():
        assert await texts(agent.trigger()) == ["returned", "Boom"]


async def test_returned_stream_is_read_while_it_comes() -> None:
    """A message promise in a returned list streams its tokens; another agent's replies in the list come after it."""
    go_on = asyncio.Event()

    async def words(_: dict[str, Any]) -> AsyncIterator[str]:
        yield "one"
        await go_on.wait()
        yield "two"

    @miniagent
    async def agent(ctx: InteractionContext) -> Any:
        return [Message.promise(message_token_streamer=words), echo.trigger("three")]

    async with MiniAgents():
        replies = [promise async for promise in agent.trigger()]
        tokens = aiter(replies[0])
        assert await anext(tokens) == "one"
        go_on.set()
        assert [token async for token in tokens] == ["two"]
        assert str(await replies[1]) == "three"


@pytest.mark.parametrize("returned", [5, b"bytes", {1: "x"}, object(), ["fine", {1, 2}]])
async def test_returned_value_that_cannot_be_sent_is_a_type_error_in_the_replies(returned: object) -> None:
    """If an agent returns a value that cannot be sent, its replies end with a `TypeError` that names the agent."""

    @miniagent
    async def adder(ctx: InteractionContext) -> Any:
        ctx.reply("first")
        return returned

    async with MiniAgents():
        promises = [promise async for promise in adder.trigger()]
        assert str(await promises[0]) == "first"
        with pytest.raises(TypeError, match="Agent ADDER returned a value that is no reply"):
            await promises[1]
        assert len(promises) == 2


async def test_value_of_a_class_agent_is_a_reply() -> None:
    """A class with an async `__call__` replies what that method returns."""

    class Greeter:
        def __init__(self, ctx: InteractionContext, name: str) -> None:
            self.name = name

        async def __call__(self) -> str:
            return f"Hello, {self.name}"

    async with MiniAgents():
        assert await texts(miniagent(Greeter).trigger(name="Ann")) == ["Hello, Ann"]


async def test_value_returned_after_an_early_end_of_the_replies_is_an_error() -> None:
    """A value returned after `afinish_early` reaches no reader, so it is an unobserved error of the run."""

    @miniagent
    async def agent(ctx: InteractionContext) -> str:
        await ctx.afinish_early()
        return "too late"

    with pytest.raises(ExceptionGroup) as caught:
        async with MiniAgents():
            assert await texts(agent.trigger()) == []
    assert isinstance(caught.value.exceptions[0], AppenderClosedError)


async def test_returned_replies_stop_with_the_call() -> None:
    """Cancelling the replies closes the stream of a message promise that the agent's function has returned."""
    closed: list[str] = []

    async def words(_: dict[str, Any]) -> AsyncIterator[str]:
        try:
            yield "one"
            await asyncio.Event().wait()
        finally:
            closed.append("yes")

    @miniagent
    async def agent(ctx: InteractionContext) -> Any:
        return Message.promise(message_token_streamer=words)

    async with MiniAgents():
        replies = agent.trigger()
        promise = await anext(aiter(replies))
        await anext(aiter(promise))
        replies.cancel()
        await steps(3)
        assert closed
