"""Chat histories: messages kept in their order, whatever became of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from miniagents.errors import HistoryError
from miniagents.messages import Message, MessagePromise, MessageSequence
from miniagents.miniagents import InteractionContext, MiniAgent

if TYPE_CHECKING:
    from collections.abc import Callable

    from miniagents.messages import MessageType

__all__ = ["ChatHistory", "InMemoryChatHistory", "areceive", "as_interrupted"]


class ChatHistory(ABC):
    """Where the messages of a chat are kept.

    To make one of your own, implement the two methods; `areceive` waits for a message and says how far it came.
    """

    @abstractmethod
    async def aload_chat_history(self) -> tuple[Message, ...]:
        """All messages in the order in which they were stored, the interrupted ones among them.

        Raises:
            HistoryError: it cannot be read.
        """

    @abstractmethod
    async def aappend(self, messages: MessageType) -> None:
        """Store messages in their order, each when it is complete.

        One that fails is stored as far as it came, with `interrupted=True`, which keeps it out of prompts; the
        messages after it are stored all the same.

        Raises:
            Exception: what the first message that failed has failed with, after everything is stored.
            HistoryWriteError: it could not be stored; the messages are still in memory, and are stored with the next
            ones. TypeError: a part of `messages` cannot be sent.
        """

    @property
    def logging_agent(self) -> MiniAgent[[]]:
        """An agent that stores what it is sent, and replies the same while it streams.

        A failed message is among the replies in its place; an error of the history itself is the last of them.
        """

        async def log(ctx: InteractionContext) -> None:
            ctx.reply(ctx.message_promises)
            try:
                await self.aappend(ctx.message_promises)
            except HistoryError:
                raise
            except Exception as error:
                async for promise in ctx.message_promises:
                    if await _failed_with(promise, error):
                        return  # the caller gets it where it happened
                raise

        return MiniAgent(
            log, alias="HISTORY_LOGGER", description="Stores the messages it is sent, and replies the same."
        )


class InMemoryChatHistory(ChatHistory):
    """A history that lives as long as the object does; each object is a history of its own."""

    def __init__(self) -> None:
        self._messages: list[Message] = []

    async def aload_chat_history(self) -> tuple[Message, ...]:
        """All messages stored so far; the very objects that were sent."""
        return tuple(self._messages)

    async def aappend(self, messages: MessageType) -> None:
        """Store messages, see `ChatHistory.aappend`."""
        failure: Exception | None = None
        async for promise in MessageSequence.turn_into_sequence_promise(messages):
            pieces: list[str] = []
            try:
                message, error = await areceive(promise, pieces.append)
            except BaseException:  # the program is being stopped: what was said was said
                self._store(as_interrupted(promise, "".join(pieces)))
                raise
            self._store(message)
            failure = failure or error
        if failure is not None:
            raise failure

    def _store(self, message: Message | None) -> None:
        if message is not None:
            self._messages.append(message)


async def areceive(
    promise: MessagePromise, take: Callable[[str], object] | None = None
) -> tuple[Message | None, Exception | None]:
    """Wait for a message.

    Args:
        promise: the message to come.
        take: called with its text, piece by piece as it comes.

    Returns:
        The message and None. Or, if it failed: what there is of it, marked as interrupted, and the error; None and the
        error if there is nothing of it.
    """
    text = ""
    try:
        async for batch in promise.batches():
            piece = "".join(batch)
            text += piece
            if take is not None:
                take(piece)
        return await promise, None
    except Exception as error:
        return as_interrupted(promise, text, error), error


async def _failed_with(promise: MessagePromise, error: Exception) -> bool:
    return (await areceive(promise))[1] is error


def as_interrupted(promise: MessagePromise, text: str, error: Exception | None = None) -> Message | None:
    """A message with the part of its text that came before `error`, and with what is known of it; None without text."""
    if not text:
        return None
    partial = getattr(error, "partial", None)
    if isinstance(partial, Message) and partial.content == text:  # it has the metadata that came with the tokens, too
        return partial.model_copy(update={"interrupted": True})
    fields = {**promise.known_beforehand, "interrupted": True}
    try:
        return promise.message_class(text, **fields)
    except (TypeError, ValueError):  # of a class with fields that did not come
        return Message(text, **fields)
