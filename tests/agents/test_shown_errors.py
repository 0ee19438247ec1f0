"""Errors as messages: an error message follows a reply that fails (law 32)."""

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
    """Reply a message that streams these tokens and then raises `error`, if given, and a text after it."""

    async def stream(fields: dict[str, Any]) -> AsyncIterator[str]:
        fields["model"] = "m"
        for token in tokens:
            await asyncio.sleep(0)
            yield token
        if error is not None:
            raise error

    ctx.reply(AssistantMessage.promise(message_token_streamer=stream))
    ctx.reply("after it")


async def test_failed_stream_is_followed_by_its_error_message() -> None:
    """A reply that fails in its stream becomes its text so far, marked as interrupted, and an error message."""
    async with MiniAgents(errors_as_messages=True):
        replies = await model.trigger(tokens=("So ", "far"), error=StreamTruncatedError("cut"))
        assert replies == (
            AssistantMessage("So far", model="m", interrupted=True),
            ErrorMessage("StreamTruncatedError: cut"),
            Message("after it"),
        )


async def test_stream_that_fails_before_its_first_token_is_only_an_error_message() -> None:
    """A reply that fails before its first token becomes an error message only, without an empty message before it."""
    async with MiniAgents(errors_as_messages=True):
        replies = await model.trigger(tokens=(), error=ValueError("no key"))
        assert replies == (ErrorMessage("ValueError: no key"), Message("after it"))


async def test_stream_that_does_not_fail_is_unchanged() -> None:
    """With `errors_as_messages`, a reply that does not fail keeps its tokens, text, fields and class."""
    async with MiniAgents(errors_as_messages=True):
        replies = model.trigger(tokens=("a", "b"))
        promise = await anext(aiter(replies))
        assert [token async for token in promise] == ["a", "b"]
        assert await replies == (AssistantMessage("ab", model="m"), Message("after it"))
        assert (await model.trigger(tokens=()))[0] == AssistantMessage("", model="m")


async def test_errors_as_messages_delays_no_token() -> None:
    """With `errors_as_messages`, a reader gets the first token of a reply before the second one is made."""
    async with MiniAgents(errors_as_messages=True):
        gate: StreamAppender[str] = StreamAppender()

        @miniagent
        async def slow(ctx: InteractionContext) -> None:
            """Reply two words, the second one after the gate was closed."""

            async def stream(_: dict[str, Any]) -> AsyncIterator[str]:
                yield "first"
                await gate.promise
                yield "second"

            ctx.reply(Message.promise(message_token_streamer=stream))

        with gate:
            tokens = aiter(await anext(aiter(slow.trigger())))
            assert await anext(tokens) == "first"
        assert [token async for token in tokens] == ["second"]


async def test_stop_dialog_in_a_stream_is_no_error_message() -> None:
    """`StopDialog` in a stream is raised to the reader and is no error message, before and after the first token."""
    async with MiniAgents(errors_as_messages=True):
        for tokens in ((), ("a",)):
            with pytest.raises(StopDialog):
                await model.trigger(tokens=tokens, error=StopDialog())


async def test_exception_among_the_replies_becomes_an_error_message() -> None:
    """An exception object that an agent replies becomes an error message in its place among the replies."""
    async with MiniAgents(errors_as_messages=True):

        @miniagent
        async def sends(ctx: InteractionContext) -> None:
            """Reply an exception between two texts."""
            ctx.reply(["before", ValueError("sent"), "after"])

        assert [str(message) for message in await sends.trigger()] == ["before", "ValueError: sent", "after"]


async def test_errors_of_an_async_iterable_become_error_messages() -> None:
    """An error message follows a failed message of a replied async iterable, or stands for the iterable's error."""
    async with MiniAgents(errors_as_messages=True):

        async def tokens(_: dict[str, Any]) -> AsyncIterator[str]:
            yield "half"
            raise ValueError("lost")

        async def items() -> AsyncIterator[Any]:
            yield Message.promise(message_token_streamer=tokens)
            yield "whole"
            raise ConnectionError("gone")

        @miniagent
        async def sends(ctx: InteractionContext) -> None:
            """Reply an async iterable, and a text after it."""
            ctx.reply([items(), "after"])

        texts = [str(message) for message in await sends.trigger()]
        assert texts == ["half", "ValueError: lost", "whole", "ConnectionError: gone", "after"]
