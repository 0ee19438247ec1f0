"""`errors_as_messages`: what failed among the replies of an agent, told as a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miniagents.errors import StopDialog
from miniagents.messages import ErrorMessage, Message, MessagePromise, MessageSequencePromise

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["error_message", "with_its_error_shown"]


def error_message(error: BaseException) -> ErrorMessage:
    """An error as a message that nobody can take for a model's text."""
    return ErrorMessage(f"{type(error).__name__}: {error}")


def with_its_error_shown(promise: MessagePromise) -> MessageSequencePromise:
    """The message, and if it fails, an `ErrorMessage` behind what had arrived of it, which is marked `interrupted`.

    `StopDialog` is no failure and stays where it is. Somebody has to see whether the message fails, so its stream goes
    on to its end even when nobody can read it any more.
    """

    async def parts() -> AsyncIterator[Any]:
        batches = promise.batches()
        try:
            first = await anext(batches, None)
            if first is None:
                yield await promise
                return
        except StopDialog:
            yield promise
            return
        except Exception as error:
            yield error_message(error)
            return
        failed: list[Exception] = []

        async def tokens(fields: dict[str, Any]) -> AsyncIterator[list[str]]:
            yield first
            try:
                async for batch in batches:
                    yield batch
                fields.update(_fields(await promise))
            except StopDialog:
                raise
            except Exception as error:
                failed.append(error)
                fields.update(_fields(getattr(error, "partial", None)), interrupted=True)

        shown = MessagePromise(
            tokens, message_class=promise.message_class, batches=True, known_beforehand=promise.known_beforehand
        )
        yield shown
        try:
            await shown
        except Exception:
            return  # a StopDialog: it is in its place
        if failed:
            yield error_message(failed[0])

    return MessageSequencePromise.pumped(parts())


def _fields(message: Message | None) -> dict[str, Any]:
    return {} if message is None else {name: value for name, value in message if name != "content"}
