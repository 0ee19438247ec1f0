"""Checks of the replies of any agent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from miniagents import MiniAgents, PromiseCancelledError
from miniagents_testing.checks._case import DEFAULT_TIMEOUT, Case
from miniagents_testing.checks._messages import check_message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from miniagents import MessagePromise, MessageType, MiniAgent


async def check_agent(agent: MiniAgent[Any], messages: MessageType = "Hello") -> None:
    """Run all checks of an agent that need no knowledge of its answers, with seven calls of the agent.

    Args:
        agent: an agent that replies at least one message.
        messages: messages that are sent to the agent.

    Raises:
        CheckFailedError: a check failed.
    """
    await check_stream_equals_resolved(agent, messages)
    await check_rereading(agent, messages)
    await check_tokens_before_completion(agent, messages)
    await check_reader_cancellation(agent, messages, steps=(0, 1, 5))
    case = Case(f"await check_agent(agent, {messages!r})")
    async with case.no_error("reading the replies"), MiniAgents():
        async for promise in _replies(case, agent, messages):
            check_message(await promise)


async def check_stream_equals_resolved(
    agent: MiniAgent[Any], messages: MessageType = "Hello", *, timeout: float = DEFAULT_TIMEOUT
) -> None:
    """Check that the tokens of each reply join to the text of its message.

    Args:
        agent: an agent that replies at least one message.
        messages: messages that are sent to the agent.
        timeout: seconds that the call may take.

    Raises:
        CheckFailedError: the tokens are another text.
    """
    case = Case(f"await check_stream_equals_resolved(agent, {messages!r})")
    async with case.no_error("reading the replies", timeout=timeout), MiniAgents():
        async for promise in _replies(case, agent, messages):
            tokens = [token async for token in promise]
            for token in tokens:
                case.true(isinstance(token, str), "a token is no text", expected="a str", came=repr(token))
            case.equal(str(await promise), "".join(tokens), "the text of the message differs from its tokens")


async def check_rereading(
    agent: MiniAgent[Any], messages: MessageType = "Hello", *, timeout: float = DEFAULT_TIMEOUT
) -> None:
    """Check that two readers at the same time, and one after the end, get the same tokens of each reply.

    Awaiting a reply twice must give the same message object.

    Args:
        agent: an agent that replies at least one message.
        messages: messages that are sent to the agent.
        timeout: seconds that the call may take.

    Raises:
        CheckFailedError: a reader got other tokens, or another message.
    """
    case = Case(f"await check_rereading(agent, {messages!r})")
    async with case.no_error("reading the replies", timeout=timeout), MiniAgents():
        async for promise in _replies(case, agent, messages):
            first, second = await asyncio.gather(_read_tokens(promise), _read_tokens(promise))
            case.equal(second, first, "two readers at the same time saw different tokens")
            case.equal(await _read_tokens(promise), first, "a reader after the end saw other tokens")
            case.true(
                await promise is await promise,
                "awaiting twice gives two messages",
                expected="the same object",
                came="another one",
            )


async def check_tokens_before_completion(
    agent: MiniAgent[Any], messages: MessageType = "Hello", *, timeout: float = DEFAULT_TIMEOUT
) -> None:
    """Check that the first token of each reply can be read while the message is not complete.

    For agents whose answers take time; an agent that has its text at once has nothing to stream.

    Args:
        agent: an agent that replies at least one message.
        messages: messages that are sent to the agent.
        timeout: seconds that the call may take.

    Raises:
        CheckFailedError: a message was complete when its first token came.
    """
    case = Case(f"await check_tokens_before_completion(agent, {messages!r})")
    async with case.no_error("reading the replies", timeout=timeout), MiniAgents():
        async for promise in _replies(case, agent, messages):
            async for _ in promise:
                case.true(
                    not promise.is_done,
                    "the first token came with the last one",
                    expected="a message that is not complete",
                    came="one that is",
                )
                break


async def check_reader_cancellation(
    agent: MiniAgent[Any],
    messages: MessageType = "Hello",
    *,
    steps: Iterable[int] = range(8),
    timeout: float = DEFAULT_TIMEOUT,
) -> None:
    """Check that a cancelled reader takes no token and no message from other readers.

    Args:
        agent: an agent that is called once for each of `steps`.
        messages: messages that are sent to the agent.
        steps: numbers of loop steps after which a reader is cancelled.
        timeout: seconds that a call may take.

    Raises:
        CheckFailedError: another reader got less, or an error.
    """
    for step in steps:
        case = Case(f"await check_reader_cancellation(agent, {messages!r}, steps=[{step}])")
        what = "a reader that was cancelled has ended the message for the others"
        async with case.no_error(what, timeout=timeout), MiniAgents():
            promise = await anext(_replies(case, agent, messages))
            readers = [asyncio.create_task(_read_tokens(promise)), asyncio.create_task(_read_text(promise))]
            for _ in range(step):
                await asyncio.sleep(0)
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            tokens = await _read_tokens(promise)
            case.equal("".join(tokens), str(await promise), "after a reader was cancelled, others read less")


async def check_cancel_closes_source(
    agent: MiniAgent[Any],
    messages: MessageType = "Hello",
    *,
    closed: Callable[[], bool],
    timeout: float = DEFAULT_TIMEOUT,
) -> None:
    """Check that `cancel()` of a streaming reply closes its source.

    Readers must then get the tokens that came before, and a `PromiseCancelledError`.

    Args:
        agent: an agent whose reply has not ended when its first token has come.
        messages: messages that are sent to the agent.
        closed: returns True if the source (a generator, a response) is closed; called some loop steps after `cancel()`.
        timeout: seconds that the call may take.

    Raises:
        CheckFailedError: the source stayed open, the first token was lost, or the reply ended early or without
                an error.
    """
    case = Case(f"await check_cancel_closes_source(agent, {messages!r}, closed=closed)")
    async with case.no_error("cancelling a reply", timeout=timeout), MiniAgents():
        promise = await anext(_replies(case, agent, messages))
        seen = [await anext(aiter(promise))]
        case.true(
            not promise.is_done,
            "the reply ended before it could be cancelled",
            expected="a reply that streams",
            came="one that has ended",
        )
        promise.cancel()
        for _ in range(_CLOSING_STEPS):
            await asyncio.sleep(0)
        case.true(closed(), "cancel() left the source open", expected="closed", came="open")
        again: list[str] = []
        try:
            async for token in promise:
                again.append(token)  # noqa: PERF401 - what came before the error counts
        except PromiseCancelledError:
            case.equal(again[:1], seen, "cancel() removed tokens that had come before it")
        else:
            case.fail(
                "a cancelled reply looks like a complete one",
                expected="PromiseCancelledError",
                came="the end of the tokens",
            )


_CLOSING_STEPS = 5
"""Loop steps after which a source must be closed: one for a generator, and one for each layer of an HTTP library."""


async def check_usage(
    agent: MiniAgent[Any], messages: MessageType = "Hello", *, timeout: float = DEFAULT_TIMEOUT
) -> None:
    """Check that each reply has the numbers of its input and output tokens.

    Args:
        agent: an agent that replies at least one message.
        messages: messages that are sent to the agent.
        timeout: seconds that the call may take.

    Raises:
        CheckFailedError: a number is missing.
    """
    case = Case(f"await check_usage(agent, {messages!r})")
    async with case.no_error("reading the replies", timeout=timeout), MiniAgents():
        async for promise in _replies(case, agent, messages):
            usage = getattr(await promise, "usage", None)
            for name in ("input_tokens", "output_tokens"):
                count = getattr(usage, name, None)
                case.true(
                    isinstance(count, int) and count >= 0,
                    f"the message has no number of {name}",
                    expected=f"usage.{name}: a number",
                    came=repr(usage if usage is None else count),
                )


async def _replies(case: Case, agent: MiniAgent[Any], messages: MessageType) -> AsyncGenerator[MessagePromise]:
    """Yield the replies as they come; fail if there is none."""
    count = 0
    async for promise in agent.trigger(messages):
        count += 1
        yield promise
    case.true(count > 0, "the agent replied nothing", expected="at least one message", came="none")


async def _read_tokens(promise: MessagePromise) -> list[str]:
    """Return all tokens of a message."""
    return [token async for token in promise]


async def _read_text(promise: MessagePromise) -> str:
    """Return the text of the resolved message."""
    return str(await promise)
