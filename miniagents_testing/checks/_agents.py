"""What must hold for the replies of every agent, whatever it does."""

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
    """All that can be checked of an agent without knowing what it answers, in seven calls of it.

    Args:
        agent: it must reply at least one message.
        messages: what it is sent.

    Raises:
        CheckFailedError: something does not hold.
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
    """The tokens of each reply, put together, are the text of its message."""
    case = Case(f"await check_stream_equals_resolved(agent, {messages!r})")
    async with case.no_error("reading the replies", timeout=timeout), MiniAgents():
        async for promise in _replies(case, agent, messages):
            tokens = [token async for token in promise]
            for token in tokens:
                case.true(isinstance(token, str), "a token is no text", expected="a str", came=repr(token))
            case.equal(str(await promise), "".join(tokens), "the message does not say what its tokens said")


async def check_rereading(
    agent: MiniAgent[Any], messages: MessageType = "Hello", *, timeout: float = DEFAULT_TIMEOUT
) -> None:
    """Every reader of a reply sees the same tokens: two at the same time, and one after the end."""
    case = Case(f"await check_rereading(agent, {messages!r})")
    async with case.no_error("reading the replies", timeout=timeout), MiniAgents():
        async for promise in _replies(case, agent, messages):
            first, second = await asyncio.gather(_tokens(promise), _tokens(promise))
            case.equal(second, first, "two readers at the same time saw different tokens")
            case.equal(await _tokens(promise), first, "a reader after the end saw other tokens")
            case.true(
                await promise is await promise,
                "awaiting twice gives two messages",
                expected="the same object",
                came="another one",
            )


async def check_tokens_before_completion(
    agent: MiniAgent[Any], messages: MessageType = "Hello", *, timeout: float = DEFAULT_TIMEOUT
) -> None:
    """The first token of a reply can be read while the message is not complete.

    For agents whose answers take time; one whose text is there at once has nothing to stream.
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
    """A reader that is cancelled, whenever, takes nothing from anybody else: not from readers, not from who awaits.

    Args:
        agent: called once for each of `steps`.
        messages: what it is sent.
        steps: after how many steps of the loop a reader is cancelled.
        timeout: seconds that a call may take.
    """
    for step in steps:
        case = Case(f"await check_reader_cancellation(agent, {messages!r}, steps=[{step}])")
        what = "a reader that was cancelled has ended the message for the others"
        async with case.no_error(what, timeout=timeout), MiniAgents():
            promise = await anext(_replies(case, agent, messages))
            readers = [asyncio.create_task(_tokens(promise)), asyncio.create_task(_whole(promise))]
            for _ in range(step):
                await asyncio.sleep(0)
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            tokens = await _tokens(promise)
            case.equal("".join(tokens), str(await promise), "after a reader was cancelled, others read less")


async def check_cancel_closes_source(
    agent: MiniAgent[Any],
    messages: MessageType = "Hello",
    *,
    closed: Callable[[], bool],
    timeout: float = DEFAULT_TIMEOUT,
) -> None:
    """`cancel()` on a reply that still streams stops what it comes from; readers get what had come, and an error.

    Args:
        agent: one whose reply has not ended when its first token has come.
        messages: what it is sent.
        closed: whether the source (a generator, a response) is closed; asked some steps of the loop after `cancel()`.
        timeout: seconds that it may take to the first token.
    """
    case = Case(f"await check_cancel_closes_source(agent, {messages!r}, closed=closed)")
    async with case.no_error("cancelling a reply", timeout=timeout), MiniAgents():
        promise = await anext(_replies(case, agent, messages))
        seen = [await anext(aiter(promise))]
        case.true(
            not promise.is_done, "nothing is left to cancel", expected="a reply that streams", came="one that has ended"
        )
        promise.cancel()
        for _ in range(CLOSING_STEPS):
            await asyncio.sleep(0)
        case.true(closed(), "cancel() left the source open", expected="closed", came="open")
        again: list[str] = []
        try:
            async for token in promise:
                again.append(token)  # noqa: PERF401 - what came before the error counts
        except PromiseCancelledError:
            case.equal(again[:1], seen, "cancel() took away what had come")
        else:
            case.fail("cancel() looks like an end", expected="PromiseCancelledError", came="the end of the tokens")


CLOSING_STEPS = 5
"""A generator is closed in the next step; the layers of an HTTP library may take one each."""


async def check_usage(
    agent: MiniAgent[Any], messages: MessageType = "Hello", *, timeout: float = DEFAULT_TIMEOUT
) -> None:
    """The reply of a model says how many tokens it took."""
    case = Case(f"await check_usage(agent, {messages!r})")
    async with case.no_error("reading the replies", timeout=timeout), MiniAgents():
        async for promise in _replies(case, agent, messages):
            usage = getattr(await promise, "usage", None)
            for name in ("input_tokens", "output_tokens"):
                count = getattr(usage, name, None)
                case.true(
                    isinstance(count, int) and count >= 0,
                    f"the message does not say its {name}",
                    expected=f"usage.{name}: a number",
                    came=repr(usage if usage is None else count),
                )


async def _replies(case: Case, agent: MiniAgent[Any], messages: MessageType) -> AsyncGenerator[MessagePromise]:
    """The replies as they come."""
    count = 0
    async for promise in agent.trigger(messages):
        count += 1
        yield promise
    case.true(count > 0, "the agent replied nothing", expected="at least one message", came="none")


async def _tokens(promise: MessagePromise) -> list[str]:
    return [token async for token in promise]


async def _whole(promise: MessagePromise) -> str:
    return str(await promise)
