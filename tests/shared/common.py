"""Helpers of many tests: small agents, streams of known tokens, steps of the loop, and a measure of leaks."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from typing import TYPE_CHECKING, Any

from miniagents.chat_history import InMemoryChatHistory
from miniagents.messages import Message, MessagePromise
from miniagents.miniagents import InteractionContext, miniagent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from miniagents.messages import MessageSequencePromise, MessageType

__all__ = [
    "Boom",
    "QuietHistory",
    "echo",
    "failing",
    "share_of_corpus",
    "smallest_growth",
    "steps",
    "streamed",
    "texts",
]


def share_of_corpus(paths: Sequence[Path]) -> Sequence[Path]:
    """Return the records of the corpus that this run tries: all, or each fifth at the default effort."""
    return paths if os.environ.get("MINIAGENTS_TEST_EFFORT", "default") in ("ci", "nightly") else paths[::5]


class Boom(Exception):  # noqa: N818 - a short name
    """Error that agents of tests raise."""


class QuietHistory(InMemoryChatHistory):
    """History whose `aappend` hides errors."""

    async def aappend(self, messages: MessageType) -> None:
        """Append, and ignore errors."""
        try:
            await super().aappend(messages)
        except Exception:
            return


@miniagent
async def echo(ctx: InteractionContext) -> None:
    """Reply the received messages."""
    ctx.reply(ctx.message_promises)


@miniagent
async def failing(ctx: InteractionContext) -> None:
    """Reply a message, and then fail."""
    ctx.reply("before")
    raise Boom("broken")


def streamed(
    *tokens: str, error: Exception | None = None, message_class: type[Message] = Message, **fields: Any
) -> MessagePromise:
    """Return a message that streams these tokens, gets these fields, and then fails if there is an error."""

    async def streamer(metadata: dict[str, Any]) -> AsyncIterator[str]:
        for token in tokens:
            await asyncio.sleep(0)
            yield token
        metadata.update(fields)
        if error is not None:
            raise error

    return message_class.promise(message_token_streamer=streamer)


async def texts(sequence: MessageSequencePromise) -> list[str]:
    """Return the text of each message, or the name of its error."""
    result = []
    async for promise in sequence:
        try:
            result.append(str(await promise))
        except Exception as error:
            result.append(type(error).__name__)
    return result


async def steps(count: int = 10) -> None:
    """Run the loop for some steps."""
    for _ in range(count):
        await asyncio.sleep(0)


async def smallest_growth(batch: Callable[[], Awaitable[object]], *, below: int, tries: int = 20) -> int:
    """Return the smallest number of memory blocks by which one of several calls of `batch` grew the process.

    A leak grows with each call. Caches, and what earlier tests left in the process, grow with some calls only.

    Args:
        batch: does the work that may leak.
        below: smallest growth that is a leak; after a call with less, `batch` is not called again.
        tries: calls of `batch` at most.
    """
    gc.collect()
    smallest, before = sys.maxsize, sys.getallocatedblocks()
    for _ in range(tries):
        await batch()
        gc.collect()
        after = sys.getallocatedblocks()
        smallest, before = min(smallest, after - before), after
        if smallest < below:
            break
    return smallest
