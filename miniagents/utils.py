"""Loops over agents: a dialog of two agents, and a chain of any number.

`join_messages` and `split_messages` are imported from here, too.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal

from miniagents.errors import INTERRUPTS, StopDialog, find_error
from miniagents.messages import (
    Message,
    MessagePromise,
    MessageSequence,
    MessageSequencePromise,
)
from miniagents.messages._text import join_messages, split_messages
from miniagents.miniagents import MiniAgent

if TYPE_CHECKING:
    from miniagents.messages import MessageType

__all__ = ["AWAIT", "CLEAR", "achain_loop", "adialog_loop", "join_messages", "split_messages"]


class _Step(Enum):
    """Step of a chain that is not an agent."""

    AWAIT = "AWAIT"
    CLEAR = "CLEAR"

    def __repr__(self) -> str:
        return self.name


AWAIT: Final = _Step.AWAIT
"""Step of a chain: wait until all messages sent so far are complete."""
CLEAR: Final = _Step.CLEAR
"""Step of a chain: drop the messages sent so far; the next agent is sent no messages."""

# A function may declare any type for the messages that it takes, hence `Any`.
_ChainLink = MiniAgent[Any] | Literal[_Step.AWAIT, _Step.CLEAR] | Callable[[Any], Any] | None


async def adialog_loop(user_agent: MiniAgent[Any], assistant_agent: MiniAgent[Any]) -> tuple[Message, ...]:
    """Run a dialog of two agents until one of them raises `StopDialog`; the user begins.

    The user's messages are complete before the assistant is called. The assistant's replies reach the user while they
    stream.

    Args:
        user_agent: agent that is called first, without messages, and then with the assistant's replies of each turn.
        assistant_agent: agent that is called with the user's replies of each turn.

    Returns:
        The messages of the turn in which the dialog ended.

    Raises:
        Exception: an agent raised an error other than `StopDialog`.
        KeyboardInterrupt: the user pressed Ctrl-C.
    """
    return await achain_loop([user_agent, AWAIT, assistant_agent])


async def achain_loop(agents: Iterable[_ChainLink], initial_input: MessageType | None = None) -> tuple[Message, ...]:
    """Send the replies of each agent to the next, and those of the last to the first, until `StopDialog` is raised.

    Args:
        agents: the links of the chain: agents, `AWAIT`, `CLEAR`, and functions. A function, async or not, gets the
            messages sent so far, and returns the messages to send instead. None is skipped.
        initial_input: messages that the first agent is sent in the first round.

    Returns:
        The messages of the turn in which the loop ended: those sent when `StopDialog` was raised.

    Raises:
        ValueError: the chain has no agent or no `AWAIT`, so its rounds would follow each other without an end.
        TypeError: a link is of another type, or a function returned something that cannot be sent.
        Exception: an agent or a function raised an error other than `StopDialog`.
    """
    chain = _check_chain(agents)
    messages: Any = initial_input
    try:
        while True:
            for link in chain:
                messages = await _apply_link(link, messages)
    except Exception as error:
        if find_error(error, StopDialog) is None:  # a task group raises it in a group
            raise
        return await _collect_complete_messages(messages)


def _check_chain(agents: Iterable[_ChainLink]) -> tuple[_ChainLink, ...]:
    """Return the links without None.

    Raises:
        TypeError: a link is neither an agent, a step such as AWAIT, nor a function.
        ValueError: there is no agent, or no AWAIT.
    """
    chain = tuple(link for link in agents if link is not None)
    for link in chain:
        if not isinstance(link, (MiniAgent, _Step)) and not callable(link):
            raise TypeError(f"A chain is made of agents, AWAIT, CLEAR, functions and None, not {link!r:.100}")
    if not any(isinstance(link, MiniAgent) for link in chain):
        raise ValueError("A chain needs at least one agent")
    if AWAIT not in chain:
        raise ValueError("A chain needs an AWAIT: without one, no round waits for the round before it")
    return chain


async def _apply_link(link: _ChainLink, messages: Any) -> Any:
    """Return the messages to send to the next link.

    An agent's replies are a promise, `AWAIT` awaits the messages, `CLEAR` drops them, and a function, sync or async,
    replaces them.
    """
    if isinstance(link, MiniAgent):
        return link.trigger(messages)
    if link is CLEAR:
        return None
    if link is AWAIT:
        await asyncio.sleep(0)  # awaiting complete messages takes no loop step, so let other tasks run here
        return await MessageSequence.turn_into_sequence_promise(messages)
    assert callable(link)
    result = link(messages)
    is_promise = isinstance(result, (MessagePromise, MessageSequencePromise))  # awaitable, but sent as it is
    return await result if inspect.isawaitable(result) and not is_promise else result


async def _collect_complete_messages(messages: MessageType | None) -> tuple[Message, ...]:
    """Return the messages that did not fail.

    Errors are dropped here: the first was `StopDialog`, and its reader has already marked the others as handled.
    """
    complete = []
    async for promise in MessageSequence.turn_into_sequence_promise(messages):
        try:
            complete.append(await promise)
        except INTERRUPTS:
            raise
        except BaseException:
            continue
    return tuple(complete)
