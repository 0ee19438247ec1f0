"""Chat histories: the interface, a history in memory, and helpers that keep the text of failed messages.

`miniagents.ext.chat_history_md` has a history in a Markdown file. This module is independent of files.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any

from miniagents.errors import INTERRUPTS, HistoryError
from miniagents.messages import Message, MessagePromise, MessageSequence
from miniagents.miniagents import InteractionContext, MiniAgent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from miniagents.messages import MessageSequencePromise, MessageType

__all__ = ["ChatHistory", "InMemoryChatHistory", "areceive", "as_interrupted"]

logger: logging.Logger = logging.getLogger("miniagents")


class ChatHistory(ABC):
    """Store of the messages of one chat, in the order in which they were sent.

    A new kind of history implements the two abstract methods. `areceive` helps: it waits for a message and returns the
    part that arrived if the message failed.
    """

    @abstractmethod
    async def aload_chat_history(self) -> tuple[Message, ...]:
        """Return all messages in the order in which they were stored, interrupted messages included.

        Raises:
            HistoryError: the history cannot be read.
        """

    @abstractmethod
    async def aappend(self, messages: MessageType) -> None:
        """Store messages in their order, each when it is complete.

        Of a message that fails, the part that arrived is stored with `interrupted=True`, which keeps the message out
        of prompts, but for calls of tools that have a result or may have taken effect. The messages after it are stored
        as usual. If the task that stores is cancelled, the messages that have arrived are stored.

        Args:
            messages: messages to store: anything that can be sent to an agent.

        Raises:
            Exception: the error of the first message that failed, raised after all messages are stored.
            HistoryWriteError: the messages could not be written; they stay in memory, and the next call writes them.
            TypeError: a part of `messages` cannot be sent.
        """

    @property
    def logging_agent(self) -> MiniAgent[[]]:
        """Agent that stores the messages it is sent, and replies the same messages while they stream.

        A failed message stands in its place among the replies. An error of the history itself is the last reply.
        """

        async def log(ctx: InteractionContext) -> None:
            ctx.reply(ctx.message_promises)
            try:
                await self.aappend(ctx.message_promises)
            except HistoryError:
                raise
            except INTERRUPTS:
                raise
            except BaseException as error:
                async for promise in ctx.message_promises:
                    if await _failed_with(promise, error):
                        return  # the caller gets this error from the reply that failed
                raise

        return MiniAgent(
            log, alias="HISTORY_LOGGER", description="Stores the messages it is sent, and replies the same."
        )


class StoringHistory(ChatHistory):
    """History that stores each message when it is complete; a subclass says how.

    Messages that cannot be written stay in memory, and are written together with the next ones.
    """

    def __init__(self) -> None:
        self._waiting: list[Message] = []
        """Messages that are not written yet."""

    @abstractmethod
    async def _awrite_waiting(self) -> None:
        """Write the messages in `self._waiting`, and remove those that are written.

        Several tasks may call this at once.

        Raises:
            HistoryError: they cannot be written.
        """

    async def aappend(self, messages: MessageType) -> None:
        """Store messages as `ChatHistory.aappend` describes; those that are complete at the same time go together.

        Read all messages first, then raise the store's first error, or else the first failure among the messages. A
        cancellation stores what has arrived.
        """
        failure: BaseException | None = None
        unwritten: HistoryError | None = None

        async def write() -> None:
            """Write the waiting messages, unless that has failed before: a store may need seconds to fail."""
            nonlocal unwritten
            if self._waiting and unwritten is None:
                try:
                    await self._awrite_waiting()
                except HistoryError as problem:
                    unwritten = problem

        sequence = MessageSequence.turn_into_sequence_promise(messages)
        count = 0
        try:
            for promise in sequence._cell.walk():
                if not (isinstance(promise, MessagePromise) and promise.is_resolved):
                    await write()  # before this task waits
                if not isinstance(promise, MessagePromise):
                    await promise.wait()  # until more messages are there
                    continue
                message, error = await areceive(promise)
                count += 1
                failure = failure or error
                if message is not None:
                    self._waiting.append(message)
            await write()
        except INTERRUPTS:  # the task is being cancelled: store what has arrived
            await self._astore_arrived(leaves_so_far(sequence, count))
            raise
        if unwritten is not None:
            raise unwritten
        if failure is not None:
            raise failure

    async def _astore_arrived(self, promises: Iterable[MessagePromise]) -> None:
        """Write the parts of messages that have arrived; an error is logged, not raised."""
        self._waiting.extend(message for each in promises if (message := as_far_as_arrived(each)) is not None)
        try:
            await self._awrite_waiting()
        except HistoryError as error:
            logger.warning("%s", error)


class InMemoryChatHistory(StoringHistory):
    """History in memory: each object holds one chat, for as long as the object exists."""

    def __init__(self) -> None:
        super().__init__()
        self._messages: list[Message] = []

    async def aload_chat_history(self) -> tuple[Message, ...]:
        """Return all messages stored so far: the objects that were sent, not copies."""
        return tuple(self._messages)

    async def _awrite_waiting(self) -> None:
        """Add the new messages to those of the chat."""
        self._messages += self._waiting
        self._waiting.clear()


async def areceive(
    promise: MessagePromise, take: Callable[[str], object] | None = None
) -> tuple[Message | None, BaseException | None]:
    """Wait until a message is complete or has failed.

    Args:
        promise: the message to wait for.
        take: called with each piece of the text as it arrives; its error counts as that of the message.

    Returns:
        The message and None. For a failed message: the part that arrived as an interrupted message, and the error;
        None and the error if neither text nor calls of tools arrived.
    """
    text = ""
    try:
        async for batch in promise.batches():
            piece = "".join(batch)
            text += piece
            if take is not None:
                take(piece)
        return await promise, None
    except INTERRUPTS:
        raise
    except BaseException as error:
        return as_interrupted(promise, text, error), error


async def _failed_with(promise: MessagePromise, error: BaseException) -> bool:
    """Wait until a message is complete or has failed, and return True if it failed with `error` itself."""
    return (await areceive(promise))[1] is error


def as_interrupted(promise: MessagePromise, text: str, error: BaseException | None = None) -> Message | None:
    """Make an interrupted message from the part of a message that arrived before `error`.

    Args:
        promise: the message that failed; its fields known beforehand are kept.
        text: the text that arrived.
        error: the failure; if it has a `partial` message with the same text, that message's fields are kept too.

    Returns:
        The message with `interrupted=True`. None if neither text nor a call of a tool arrived; a call is kept, because
        it may have had an effect. It is a plain `Message` if its class requires fields that have not arrived.
    """
    known = getattr(error, "partial", None)
    partial: Any = known if isinstance(known, Message) else _message_so_far(promise)
    if partial is not None and (partial.content or "") == text and (text or getattr(partial, "tool_calls", ())):
        message: Message = partial.model_copy(update={"interrupted": True})
        return message  # has the metadata that arrived with the tokens
    if not text:
        return None
    fields = {**promise.known_beforehand, "interrupted": True}
    try:
        return promise.message_class(text, **fields)
    except (TypeError, ValueError):  # the class requires fields that have not arrived
        return Message(text, **fields)


def _message_so_far(promise: MessagePromise) -> Message | None:
    """Return a message of the tokens and the fields that have arrived; None if these make no valid message."""
    try:
        return promise._cell.whole()
    except (TypeError, ValueError):
        return None


def as_far_as_arrived(promise: MessagePromise) -> Message | None:
    """Return a message without waiting for it: complete, or the part that has arrived as an interrupted message.

    Return None if nothing has arrived.
    """
    cell = promise._cell
    if promise.is_resolved:
        return cell.value
    error = None if cell.failure is None else cell.failure.error
    return as_interrupted(promise, "".join(cell.pieces), error)


def leaves_so_far(sequence: MessageSequencePromise, skip: int) -> Iterator[MessagePromise]:
    """Yield the messages of a sequence that are there already, without waiting, after the first `skip` of them."""
    there = takewhile(lambda each: isinstance(each, MessagePromise), sequence._cell.walk())
    return islice(there, skip, None)
