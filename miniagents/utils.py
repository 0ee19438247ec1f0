"""Loops over agents, and the tools for text that belong beside them."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal

from miniagents.errors import StopDialog
from miniagents.messages import (
    Message,
    MessagePromise,
    MessageSequence,
    MessageSequencePromise,
    join_messages,
    split_messages,
)
from miniagents.miniagents import MiniAgent

if TYPE_CHECKING:
    from miniagents.messages import MessageType

__all__ = ["AWAIT", "CLEAR", "achain_loop", "adialog_loop", "join_messages", "split_messages"]


class _Step(Enum):
    AWAIT = "AWAIT"
    CLEAR = "CLEAR"

    def __repr__(self) -> str:
        return self.name


AWAIT: Final = _Step.AWAIT
"""In a chain: wait here until everything that was sent so far is complete."""
CLEAR: Final = _Step.CLEAR
"""In a chain: drop what was sent so far; the next agent begins with nothing."""

# What stands for the messages in a callable's signature is its own business
ChainLink = MiniAgent[Any] | Literal[_Step.AWAIT, _Step.CLEAR] | Callable[[Any], Any] | None


async def adialog_loop(user_agent: MiniAgent[Any], assistant_agent: MiniAgent[Any]) -> tuple[Message, ...]:
    """Let two agents talk until one of them raises `StopDialog`; the user begins.

    Each turn of the user is complete before the assistant sees it; what the assistant says reaches the user as it
    streams.

    Returns:
        The messages of the turn in which the dialog ended.

    Raises:
        Exception: whatever else an agent raises.
        KeyboardInterrupt: Ctrl-C.
    """
    return await achain_loop([user_agent, AWAIT, assistant_agent])


async def achain_loop(agents: Iterable[ChainLink], initial_input: MessageType | None = None) -> tuple[Message, ...]:
    """Send the replies of each agent to the next one, round and round, until an agent raises `StopDialog`.

    Args:
        agents: agents, and between them `AWAIT`, `CLEAR`, or functions (async ones, too) that get the messages sent
        so far
            and return what is sent on. None is skipped.
        initial_input: what the first agent is sent in the first round.

    Returns:
        The messages of the turn in which the loop ended: what had been sent when `StopDialog` was raised.

    Raises:
        ValueError: there is no agent, or no `AWAIT`: the rounds would follow each other without an end.
        TypeError: something else is among the agents, or something was returned that cannot be sent.
        Exception: whatever else an agent raises.
    """
    chain = _checked(agents)
    messages: Any = initial_input
    try:
        while True:
            for link in chain:
                messages = await _next(link, messages)
    except StopDialog:
        return await _complete_ones(messages)


def _checked(agents: Iterable[ChainLink]) -> tuple[ChainLink, ...]:
    chain = tuple(link for link in agents if link is not None)
    for link in chain:
        if not isinstance(link, (MiniAgent, _Step)) and not callable(link):
            raise TypeError(f"A chain is made of agents, AWAIT, CLEAR, functions and None, not {link!r:.100}")
    if not any(isinstance(link, MiniAgent) for link in chain):
        raise ValueError("A chain needs at least one agent")
    if AWAIT not in chain:
        raise ValueError("A chain needs an AWAIT somewhere: without it, no round would wait for the one before")
    return chain


async def _next(link: ChainLink, messages: Any) -> Any:
    if isinstance(link, MiniAgent):
        return link.trigger(messages)
    if link is CLEAR:
        return None
    if link is AWAIT:
        await asyncio.sleep(0)  # what is complete already takes no time, and others must get theirs
        return await MessageSequence.turn_into_sequence_promise(messages)
    assert callable(link)
    result = link(messages)
    is_promise = isinstance(result, (MessagePromise, MessageSequencePromise))  # awaitable, but to be sent
    return await result if inspect.isawaitable(result) and not is_promise else result


async def _complete_ones(messages: MessageType | None) -> tuple[Message, ...]:
    """All that did not fail. The first failure was a `StopDialog`, whoever read it is responsible for the others."""
    complete = []
    async for promise in MessageSequence.turn_into_sequence_promise(messages):
        with contextlib.suppress(Exception):
            complete.append(await promise)
    return tuple(complete)
