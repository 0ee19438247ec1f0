"""The replies of one call: the cell that carries them to their readers, and errors among them as messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

from miniagents._promising.sequence_cell import SequenceCell
from miniagents.errors import INTERRUPTS, StopDialog, find_error, is_failure, text_of_error
from miniagents.messages import ErrorMessage, Message, MessagePromise, MessageSequencePromise

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

    from miniagents._agents.interaction import InteractionContext
    from miniagents._promising.promise import Promise


class ReplyCell(SequenceCell):
    """Cell of the replies of one call, which ends with the agent's task."""

    scope: InteractionContext
    """The context of the call, in place of the scope that made the call."""
    errors_as_messages = False
    is_abandoned = False
    """True if no reader can reach these replies any more: the cell then drops what the agent replies."""

    def add(self, pieces: list[Any]) -> None:
        """Append messages and sequences in order to the replies; drop them if no reader can reach the replies.

        With `errors_as_messages`, a message that fails is followed by an `ErrorMessage`, also one of an async iterable.
        Replies of another agent stay as they are: the call of that agent says how they show errors.
        """
        if self.is_abandoned:
            return
        if self.errors_as_messages:
            pieces = [_each_followed_by_error(piece) if _is_own(piece) else piece for piece in pieces]
        SequenceCell.add(self, pieces)

    def add_out_of_order(self, pieces: list[Any]) -> None:
        """Append messages at once, and those of a sequence as they come; drop all if no reader can reach them.

        With `errors_as_messages`, each sequence, and each message that may fail, becomes a sequence in which errors are
        messages.
        """
        if self.is_abandoned:
            return
        if self.errors_as_messages:
            pieces = [_each_followed_by_error(piece) if _is_pending(piece) else piece for piece in pieces]
        super().add_out_of_order(pieces)

    def handle_lost_promise(self) -> None:
        """Drop the replies so far and all later ones, because no reader can reach them any more; the agent goes on."""
        self.is_abandoned = True
        self.drop_pieces()

    def leaf_of_error(self, error: BaseException) -> Promise[Any]:
        """Return the agent's error as its last reply: a failed message, or an `ErrorMessage` if errors are messages."""
        if self.errors_as_messages and find_error(error, StopDialog) is None:
            return MessagePromise.of_message(_message_of_error(error))
        return super().leaf_of_error(error)

    def task_ended(self, task: asyncio.Task[Any]) -> None:
        """End the replies with the agent's task: with its error, as cancelled, or normally.

        An interrupt of the task counts as a cancellation.

        Each call ends here, also one that is cancelled before its first step.
        """
        if self.context is not None:
            self.context.forget(task)
        self.task = None
        if task.cancelled():
            self.settle_as_cancelled()
        elif (error := task.exception()) is None:
            self.finish()
        elif is_failure(error):
            self.fail(error)
        else:
            self.settle_as_cancelled()
        self.scope.release()


def _may_fail(piece: Any) -> TypeGuard[MessagePromise]:
    """Return True if a piece of the replies is a message promise that has no result yet, or has failed."""
    return isinstance(piece, MessagePromise) and not piece.is_resolved


def _is_own(piece: Any) -> TypeGuard[MessagePromise | MessageSequencePromise]:
    """Return True if a piece of the replies is a message that may fail, or the sequence of an async iterable."""
    is_iterable = isinstance(piece, MessageSequencePromise) and piece._cell.stops_without_readers
    return is_iterable or _may_fail(piece)


def _is_pending(piece: Any) -> TypeGuard[MessagePromise | MessageSequencePromise]:
    """Return True if a piece of the replies is a sequence, or a message that may fail."""
    return isinstance(piece, MessageSequencePromise) or _may_fail(piece)


def _message_of_error(error: BaseException) -> ErrorMessage:
    """Return an `ErrorMessage` with the type and the text of an error."""
    return ErrorMessage(f"{type(error).__name__}: {text_of_error(error)}")


def _followed_by_error(promise: MessagePromise) -> MessageSequencePromise:
    """Return a sequence of the message, and of an `ErrorMessage` after it if the message fails.

    A message that fails is resolved with the tokens that had arrived, marked as `interrupted`; without any tokens, it
    is left out. `StopDialog` is no failure: the message fails with it. The stream of the message goes on to its end
    also without a reader, because this sequence waits for its error.
    """

    async def message_and_error() -> AsyncIterator[Any]:
        """Yield the message with the text that arrived, and then an `ErrorMessage` if the message fails.

        A message that fails without text is left out. With `StopDialog` it fails, and is the last item.
        """
        batches = promise._cell.read_batches_for_events()
        try:
            first: list[str] | None = []
            while first is not None and not first:  # an event, without a token
                first = await anext(batches, None)
            if first is None:
                yield await promise
                return
        except StopDialog:
            yield promise
            return
        except INTERRUPTS:
            raise
        except BaseException as error:
            yield _message_of_error(error)
            return
        failed: list[BaseException] = []

        async def tokens(fields: dict[str, Any]) -> AsyncIterator[list[str]]:
            """Yield the tokens of the message, and put its other fields into `fields`.

            A failure ends the tokens without an error, goes to `failed`, and marks the message as interrupted;
            `StopDialog` is raised.
            """
            yield first
            try:
                async for batch in batches:
                    yield batch
                fields.update(_fields_besides_content(await promise))
            except StopDialog:
                raise
            except INTERRUPTS:
                raise
            except BaseException as error:
                failed.append(error)
                fields.update(_fields_besides_content(getattr(error, "partial", None)), interrupted=True)

        resolved_anyway = MessagePromise(
            tokens,
            message_class=promise.message_class,
            batches=True,
            known_beforehand=promise.known_beforehand,
            may_call_tools=promise.may_call_tools,
        )
        resolved_anyway._cell.share_events_of(promise._cell)
        yield resolved_anyway
        try:
            await resolved_anyway
        except INTERRUPTS:
            raise
        except BaseException:
            return  # a StopDialog, which the readers of the message get
        if failed:
            yield _message_of_error(failed[0])

    return MessageSequencePromise.of_async_iterable(message_and_error())


def _each_followed_by_error(piece: MessagePromise | MessageSequencePromise) -> MessageSequencePromise:
    """Return a sequence of a message, or of all messages of a sequence, each followed by its error."""
    if isinstance(piece, MessagePromise):
        return _followed_by_error(piece)

    async def messages_and_errors() -> AsyncIterator[Any]:
        """Yield each message of the sequence as `_followed_by_error` returns it."""
        async for promise in piece:
            yield promise if promise.is_resolved else _followed_by_error(promise)

    return MessageSequencePromise.of_async_iterable(messages_and_errors())


def _fields_besides_content(message: Message | None) -> dict[str, Any]:
    """Return all fields of a message but its content; an empty dict if there is no message."""
    return {} if message is None else {name: value for name, value in message if name != "content"}
