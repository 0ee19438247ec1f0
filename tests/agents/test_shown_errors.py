"""Errors as messages: what fails among the replies of an agent is told in its place (law 32)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from miniagents import (
    AssistantMessage,
    ErrorMessage,
    InteractionContext,
    Message,
    MiniAgents,
    StopDialog,
    StreamAppender,
    miniagent,
)
from miniagents.errors import StreamTruncatedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@miniagent
async def model(ctx: InteractionContext, tokens: tuple[str, ...], error: Exception | None = None) -> None:
    """Answers as an LLM agent does: one promise, whose stream may fail."""

    async def stream(fields: dict[str, Any]) -> AsyncIterator[str]:
        fields["model"] = "m"
        for token in tokens:
            await asyncio.sleep(0)
            yield token
        if error is not None:
            raise error

    ctx.reply(AssistantMessage.promise(message_token_streamer=stream))
    ctx.reply("after it")


async def test_a_stream_that_fails_is_followed_by_its_error() -> None:
    """What had arrived is a message of its own, marked as interrupted; the error is never a part of its text."""
    async with MiniAgents(errors_as_messages=True):
        replies = await model.trigger(tokens=("So ", "far"), error=StreamTruncatedError("cut"))
        assert replies == (
            AssistantMessage("So far", model="m", interrupted=True),
            ErrorMessage("StreamTruncatedError: cut"),
            Message("after it"),
        )


async def test_a_stream_that_never_began_is_its_error_only() -> None:
    """No empty message stands for an answer that was not given."""
    async with MiniAgents(errors_as_messages=True):
        replies = await model.trigger(tokens=(), error=ValueError("no key"))
        assert replies == (ErrorMessage("ValueError: no key"), Message("after it"))


async def test_what_does_not_fail_is_the_same_message() -> None:
    """Text, fields, class, and the tokens one by one while they come."""
    async with MiniAgents(errors_as_messages=True):
        replies = model.trigger(tokens=("a", "b"))
        promise = await anext(aiter(replies))
        assert [token async for token in promise] == ["a", "b"]
        assert await replies == (AssistantMessage("ab", model="m"), Message("after it"))
        assert (await model.trigger(tokens=()))[0] == AssistantMessage("", model="m")


async def test_tokens_come_while_the_stream_goes_on() -> None:
    """Showing errors holds nothing back."""
    async with MiniAgents(errors_as_messages=True):
        gate: StreamAppender[str] = StreamAppender()

        @miniagent
        async def slow(ctx: InteractionContext) -> None:
            """Says two words, the second when the gate opens."""

            async def stream(_: dict[str, Any]) -> AsyncIterator[str]:
                yield "first"
                await gate.promise
                yield "second"

            ctx.reply(Message.promise(message_token_streamer=stream))

        with gate:
            tokens = aiter(await anext(aiter(slow.trigger())))
            assert await anext(tokens) == "first"
        assert [token async for token in tokens] == ["second"]


async def test_a_stop_stays_a_stop() -> None:
    """`StopDialog` is never converted, wherever in a stream it is raised."""
    async with MiniAgents(errors_as_messages=True):
        for tokens in ((), ("a",)):
            with pytest.raises(StopDialog):
                await model.trigger(tokens=tokens, error=StopDialog())


async def test_an_exception_that_was_sent_is_shown_too() -> None:
    """An exception object among the replies stands where an error message comes."""
    async with MiniAgents(errors_as_messages=True):

        @miniagent
        async def sends(ctx: InteractionContext) -> None:
            """Sends an exception."""
            ctx.reply(["before", ValueError("sent"), "after"])

        assert [str(message) for message in await sends.trigger()] == ["before", "ValueError: sent", "after"]
