"""MessagePromise: a message whose text streams while it is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Mapping
from types import MappingProxyType
from typing import Any

from miniagents.errors import MiniAgentsError
from miniagents.messages.message import Message
from miniagents.promising.freezing import freeze
from miniagents.promising.streamed import StreamCell, StreamedPromise

__all__ = ["MessageCell", "MessagePromise", "MessageTokenStreamer"]

MessageTokenStreamer = Callable[[dict[str, Any]], AsyncIterable[Any]]
"""An async generator function: gets a dict, which it may fill with fields of the resolved message, and yields str."""


class MessageCell(StreamCell[str, Message]):
    """Tokens, and what is known of the message beside its text."""

    message_class: type[Message] = Message
    known: Mapping[str, Any] | None = None
    """Fields known before the message is resolved; None of a message that was there from the beginning."""
    metadata: dict[str, Any] | None = None
    """What the token streamer has told of the message."""
    kept: MessagePromise | None = None
    """Holds the promise while a persistence handler waits for it, whoever else can read it or not."""

    def whole(self) -> Message:
        """The message the tokens make."""
        return self.message_class("".join(self.pieces), **{**(self.known or {}), **(self.metadata or {})})

    def settled(self, result: Any) -> None:
        """Nobody needs to keep the promise any more."""
        self.kept = None
        super().settled(result)

    def check(self, piece: Any) -> str:
        """A token is a str; subclasses of it are taken as they are."""
        if not isinstance(piece, str):
            raise TypeError(
                f"A token must be a str, not {piece!r:.100} of type {type(piece).__name__}: "
                f"yield plain strings from the token streamer"
            )
        return piece

    def fail(self, error: BaseException) -> None:
        """What had arrived goes along with errors of our own."""
        if not self.done and isinstance(error, MiniAgentsError) and error.partial is None:
            try:
                error.partial = self.whole()
            except (TypeError, ValueError):  # metadata that does not fit yet: the text is what must not be lost
                error.partial = Message("".join(self.pieces))
        super().fail(error)

    def abandon(self) -> None:
        """Nobody can read this any more: stop its source."""
        task, context = self.task, self.context
        if task is None or context is None or self.done:
            return
        try:
            here = asyncio.get_running_loop() is task.get_loop()
        except RuntimeError:
            here = False
        if here:
            self.cancel()
        else:  # the last reference went in another thread, or between two runs of the loop
            context.call_soon(self.cancel)


class MessagePromise(StreamedPromise[str, Message]):
    """A promise of a message: `async for token in promise` streams its text, `await promise` gives the `Message`.

    Made by `Message.promise(...)`. A token is a plain str, one delta of text. When nobody can read a promise any more,
    the source of its tokens is stopped.
    """

    __slots__ = ()

    _cell: MessageCell

    def __init__(
        self,
        message_token_streamer: MessageTokenStreamer,
        *,
        message_class: type[Message] = Message,
        start_soon: bool | None = None,
        batches: bool = False,
        known_beforehand: Mapping[str, Any] | None = None,
    ) -> None:
        if not callable(message_token_streamer):
            raise TypeError(
                f"message_token_streamer must be an async generator function of a dict, not {message_token_streamer!r}"
            )
        cell = self._cell = MessageCell(type(self))
        cell.message_class = message_class
        # frozen now: what its owner does to a list later must not show, and a value that cannot be kept is refused here
        cell.known = {name: freeze(value, name) for name, value in (known_beforehand or {}).items()}
        metadata: dict[str, Any] = {}
        cell.metadata = metadata
        if cell.context is not None and cell.context.keeps_results:
            cell.kept = self
        cell.pump_from(lambda: message_token_streamer(metadata), start_soon=start_soon, batches=batches)

    @classmethod
    def of_message(cls, message: Message) -> MessagePromise:
        """A promise that is resolved already; it costs no task."""
        cell = MessageCell(cls)
        cell.message_class = message.__class__
        if text := str(message):
            cell.pieces.append(text)
        cell.settle_unseen(message)
        promise = cls.__new__(cls)
        promise._cell = cell
        return promise

    @classmethod
    def of_error(cls, error: BaseException, *, observed: bool = False) -> MessagePromise:
        """A promise that has failed already."""
        cell = MessageCell(cls)
        cell.observed = observed
        cell.fail(error)
        return cls.of_cell(cell)

    @property
    def known_beforehand(self) -> Mapping[str, Any]:
        """Fields of the message that are known before it is resolved; all of a message that was there already."""
        cell = self._cell
        if cell.known is not None:
            return MappingProxyType(dict(cell.known))
        message = cell.value
        return {} if message is None else {name: value for name, value in message if name != "content"}

    @property
    def message_class(self) -> type[Message]:
        """The class of the message to come."""
        return self._cell.message_class

    def __del__(self) -> None:
        cell = getattr(self, "_cell", None)
        if cell is not None and not cell.done:
            cell.abandon()
